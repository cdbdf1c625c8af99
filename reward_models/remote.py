"""A reward model behind HTTP: the other side may be any language and any machine.

    POST {address}/score   {"request": id, "items": [{"id": 0, "prompt": "…", "response": "…", "reference": "…"}, …]}
    200                    {"request": id, "scores": [{"id": 0, "score": 1.25}, …]}

`request` is a hash of the items, so that a server can recognise a repeated request. Scores come back in the order of
the items. Other statuses than 200 are errors; 429 and 5xx, and connections that break, are tried again. Redirects are
never followed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reward_models.base import RewardError
from reward_models.endpoint import Endpoint

MOST_BYTES = 4 * 2**20
"""Of items in one request, if they are more than one: half of what `align reward serve` takes."""


class Remote:
    """Scores by asking a server. Only this machine's own addresses, unless `allow_remote` says otherwise."""

    def __init__(self, address: str, *, batch_size: int = 64, **options: Any) -> None:
        """Nothing is sent yet.

        Args:
            address: `http://host:port`, with a path before `/score` if there is one.
            batch_size: the most items in one request; fewer where texts are so long that they pass 4 MiB.
            options: `allow_remote`, `key`, `connect_timeout`, `read_timeout`, `timeout`, `retries`: see `Endpoint`.
        """
        self.name = address
        self.batch_size = batch_size
        self._endpoint = Endpoint(address, **options)

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None = None
    ) -> list[float]:
        """One number per response, as the server gives them.

        Raises:
            RewardError: the server cannot be reached, refuses, or answers something else than was asked.
        """
        items: list[dict[str, Any]] = [
            {"id": index, "prompt": prompt, "response": response}
            for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
        ]
        for item, reference in zip(items, references or [], strict=references is not None):
            item["reference"] = reference
        scores: list[float] = []
        for ids, content in _requests(items):
            request = hashlib.sha256(content.encode()).hexdigest()
            answer = self._endpoint.post("/score", f'{{"request": "{request}", "items": {content}}}'.encode())
            scores += self._scores(answer, request, ids)
        return scores

    def describe(self) -> dict[str, Any]:
        """Where it is; what the number means only the server knows."""
        return {"kind": "remote", "address": self.name, "digest": None}

    def _scores(self, content: bytes, request: str, ids: Sequence[int]) -> list[float]:
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RewardError(
                f"reward model {self.name} did not answer with JSON, but {self._endpoint.shown(content)}"
            ) from error
        if not isinstance(answer, dict) or not isinstance(answer.get("scores"), list):
            raise RewardError(f'reward model {self.name} must answer {{"request": …, "scores": [{{"id", "score"}}]}}')
        if answer.get("request") != request:
            raise RewardError(f"reward model {self.name} answered another request than the one it was asked")
        rows = answer["scores"]
        if not all(isinstance(row, dict) and row.keys() == {"id", "score"} for row in rows):
            raise RewardError(f'reward model {self.name}: each of its scores must be {{"id": …, "score": …}}')
        if [(type(row["id"]), row["id"]) for row in rows] != [(int, one) for one in ids]:  # False is not 0
            raise RewardError(
                f"reward model {self.name} answered items {_few([row['id'] for row in rows])}, but was asked for "
                f"{_few(ids)}, in this order"
            )
        return [row["score"] for row in rows]


def _requests(items: Sequence[Mapping[str, Any]]) -> Iterator[tuple[list[int], str]]:
    """The ids and the JSON of as many items as fit into each request."""
    ids: list[int] = []
    rows: list[str] = []
    size = 0
    for item in items:
        row = json.dumps(item, sort_keys=True)
        if rows and size + len(row) > MOST_BYTES:
            yield ids, f"[{', '.join(rows)}]"
            ids, rows, size = [], [], 0
        ids.append(item["id"])
        rows.append(row)
        size += len(row)
    yield ids, f"[{', '.join(rows)}]"


def _few(ids: Sequence[object]) -> str:
    return ", ".join(map(str, ids[:8])) + (", …" if len(ids) > 8 else "")
