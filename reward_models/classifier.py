"""Any sequence classifier of transformers as a reward model: the label chosen by name, the number by a transform.

A directory may hold `reward_model.json` beside its `config.json`, with the defaults that its training declared:

    {"label": "nontoxic", "transform": "log_odds", "input": "response", "max_length": 256, "append_eos": true}

and, as `moments`, the mean and standard deviation by which the score so declared is shifted and scaled; as `probes`,
pairs (better response, worse response) by which a label read upside down is found out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from reward_models import first_token, pretrained
from reward_models.base import DECLARATION, RewardError, is_number
from reward_models.batching import batches, filled, of_one_length
from reward_models.compiling import compiled
from reward_models.options import Input, Transform, renamed
from reward_models.options import check as check_options
from reward_models.reading import Reading, reading
from reward_models.unpadded import in_one_row, unpadded

_DECLARABLE = ("label", "names", "transform", "sign", "input", "max_length", "append_eos", "moments", "probes")
_DEFAULT_MAX_LENGTH = 512
_BATCH_TOKENS = {"cpu": 1_024}
"""What is fastest: on a CPU larger batches fall out of its caches (more than twice the time at 16,384)."""
_BATCH_TOKENS_ELSEWHERE = 16_384


class Classifier:
    """A sequence classifier with its own tokenizer. A score depends on its text alone, not on its batch."""

    kind = "classifier"

    def __init__(
        self,
        name: str,
        model: Any,
        tokenizer: Any,
        reading: Reading,
        *,
        input: Input = "response",
        max_length: int = _DEFAULT_MAX_LENGTH,
        append_eos: bool = False,
        batch_tokens: int | None = None,
        digest: str | None = None,
        moments: Mapping[str, float] | None = None,
        probes: Sequence[Sequence[str]] = (),
    ) -> None:
        self.name = name
        self._model = model.eval()
        self._forward: Callable[..., Any] = model
        self._unpadded: Callable[..., torch.Tensor] | None = None
        self._tokenizer = tokenizer
        self._reading = reading
        self._input = input
        self._max_length = max_length
        self._append_eos = append_eos
        self._batch_tokens = batch_tokens or _BATCH_TOKENS.get(model.device.type, _BATCH_TOKENS_ELSEWHERE)
        self._digest = digest
        self._mean, self._std = (moments["mean"], moments["std"]) if moments else (0.0, 1.0)
        self._probes = probes
        self._pads = True
        self._pad_token_id = _pad_token_id(name, model, tokenizer)
        self._segments = _segments(tokenizer)
        if input == "chat" and not tokenizer.chat_template:
            raise RewardError(f"reward model {name}: input is chat, but its tokenizer has no chat template")
        # What must be read at the end of the text must not be cut off: a long dialogue loses its beginning instead.
        tokenizer.truncation_side = "right" if input == "response" else "left"

    @classmethod
    def load(
        cls,
        source: str,
        name: str,
        *,
        revision: str | None = None,
        label: str | None = None,
        names: Mapping[str | int, str] | None = None,
        transform: Transform | None = None,
        sign: int | None = None,
        input: Input | None = None,
        max_length: int | None = None,
        append_eos: bool | None = None,
        batch_tokens: int | None = None,
        device: str | None = None,
        torch_compile: bool = False,
    ) -> Classifier:
        """From a directory, or a Hub id at a revision. What is not given is taken from `reward_model.json`.

        Args:
            source: what `from_pretrained` understands.
            name: what errors and logs call the model.
            revision: of a Hub id.
            label: the name of the label that is scored, as the model's `id2label` (or `names`) has it; upper and
                lower case are the same. A model of one logit needs none.
            names: names for labels that have none: `{LABEL_0: nothate, LABEL_1: hate}`.
            transform: of the logits into the score; `log_odds` unless declared otherwise.
            sign: -1 where a high score is bad, as with the label `toxic`.
            input: `response` alone; `prompt_and_response`, a space between them; or `chat`, both as turns of the
                tokenizer's chat template.
            max_length: tokens; longer texts are cut at the end, or, with their prompt, at the start.
            append_eos: close every text with the end-of-text token (default: where the model pools there).
            batch_tokens: tokens, padding included, in one forward pass (default: 1,024 on a CPU, 16,384 elsewhere).
            device: `cpu`, `cuda:1`, … (default: the GPU if there is one).
            torch_compile: see `compiled`. Worth its time where many texts are scored.

        Raises:
            RewardError: there is no classifier, no such label, or an option makes no sense.
        """
        given = {
            "label": label,
            "names": names,
            "transform": transform,
            "sign": sign,
            "input": input,
            "max_length": max_length,
            "append_eos": append_eos,
        }
        declared = declaration(source, name, revision)
        moments = _moments(name, declared.pop("moments", None))
        options = {**declared, **{key: value for key, value in given.items() if value is not None}}
        said = {key: options[key] for key in given if key in options}
        check_options(name, said | {"batch_tokens": batch_tokens, "torch_compile": torch_compile})
        model, tokenizer = pretrained.classifier(source, name, revision)
        first_token.compute_alone(model)
        config = model.config
        usual = {"input": cls.usual_input(tokenizer)}
        options = {**usual, **options}
        if sign is None and _is_another_label(name, config, declared, options):
            options["sign"] = 1  # the one declared is the other label's
        if not _reads_alike(name, config, {**usual, **declared}, options):
            moments = None  # They are those of another number.
        made = cls(
            name,
            pretrained.moved(name, model, device or ("cuda" if torch.cuda.is_available() else "cpu")),
            tokenizer,
            reading(name, config, options),
            input=options["input"],
            max_length=_max_length(name, model, tokenizer, options.get("max_length")),
            append_eos=options.get("append_eos", options["input"] != "chat" and cls.usually_closed(config)),
            batch_tokens=batch_tokens,
            digest=pretrained.digest(Path(source)) if Path(source).is_dir() else pretrained.commit(source, revision),
            moments=moments,
            probes=options.get("probes", ()),
        )
        made._pads = not made._padding_is_read()
        made._unpadded = made._without_padding()
        if torch_compile and made._unpadded:
            made._unpadded = compiled(made._unpadded)
        elif torch_compile:
            made._forward = compiled(model)
        return made

    @classmethod
    def usual_input(cls, tokenizer: Any) -> Input:
        """What is read where neither the spec nor the model says."""
        return "response"

    @classmethod
    def usually_closed(cls, config: Any) -> bool:
        """Whether the end-of-text token closes each text, where nothing says so."""
        return bool(config.is_encoder_decoder)

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str] | None = None
    ) -> list[float]:
        """One number per response."""
        texts = [self._text(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        token_ids = self._token_ids(texts)
        divided = filled if self._unpadded else batches if self._pads else of_one_length
        scores = torch.empty(len(texts), dtype=torch.float64)
        with torch.inference_mode():
            for indices in divided([len(ids) for ids in token_ids], self._batch_tokens):
                scores[indices] = self._reading.scores(self._logits([token_ids[index] for index in indices])).cpu()
        result: list[float] = ((scores - self._mean) / self._std).tolist()
        return result

    def probes(self) -> Sequence[Sequence[str]]:
        """Those that the model declares."""
        return self._probes

    def describe(self) -> dict[str, Any]:
        """The label and transform that the number stands for, its range, and the digest of the files."""
        return {
            "kind": self.kind,
            "label": self._reading.label,
            "transform": self._reading.transform,
            "sign": self._reading.sign,
            "input": self._input,
            "max_length": self._max_length,
            "range": [None if end is None else (end - self._mean) / self._std for end in self._reading.range()],
            "moments": {"mean": self._mean, "std": self._std},
            "digest": self._digest,
        }

    def _text(self, prompt: str, response: str) -> str:
        if self._input == "response":
            return response
        if self._input == "prompt_and_response":
            return joined(prompt, response)
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        for turn in turns:  # what spells out a token of the template is made to read otherwise
            for token in self._special_tokens():
                turn["content"] = turn["content"].replace(token, f"{token[0]} {token[1:]}")
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False))

    def _special_tokens(self) -> list[str]:
        """What a template can be made of: those with a role (`eos_token`), and those that the vocabulary alone marks.
        Longest first, so that none is broken up as part of another."""
        marked = {token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special}
        return sorted({*marked, *self._tokenizer.all_special_tokens} - {""}, key=lambda token: (-len(token), token))

    def _token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        # split_special_tokens: a text that spells out "</s>" is text, and cannot forge the token of that name. The
        # tokens of a chat template are meant.
        encoded = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self._max_length,
            split_special_tokens=self._input != "chat",
            add_special_tokens=self._input != "chat",
            return_attention_mask=False,
        )
        return [self._closed(self._begun(text, ids)) for text, ids in zip(texts, encoded["input_ids"], strict=True)]

    def _begun(self, text: str, ids: list[int]) -> list[int]:
        """With the beginning-of-text token that a chat template writes, where cutting the text's start took it away."""
        bos = self._tokenizer.bos_token_id
        if self._input == "chat" and bos is not None and len(ids) > 1 and text.startswith(self._tokenizer.bos_token):
            return [bos, *ids[1:]]
        return ids

    def _closed(self, ids: list[int]) -> list[int]:
        eos = self._tokenizer.eos_token_id
        if self._append_eos and eos is not None and (not ids or ids[-1] != eos):
            room = self._max_length - 1
            if self._input == "response":
                ids = ids[:room]
            elif len(ids) > room:
                start = ids[:1] if room > 1 and ids[0] == self._tokenizer.bos_token_id else []
                ids = [*start, *ids[len(ids) - room + len(start) :]]
            ids = [*ids, eos]
        return ids or [self._pad_token_id if eos is None else eos]

    def _padding_is_read(self) -> bool:
        """Whether the model says otherwise of a short text beside a longer one. XLNet takes the last position for the
        end of the text, and FNet knows no mask."""
        short, long = self._two_lengths()
        try:
            with torch.inference_mode():
                alone, beside = self._logits([short]), self._logits([short, long])[:1]
        except Exception:
            return False  # scoring will say why
        return not torch.allclose(alone, beside, rtol=1e-4, atol=1e-4)

    def _without_padding(self) -> Callable[..., torch.Tensor] | None:
        """The model called without padding; None where nobody knows how, where it then says otherwise than it does by
        itself, and on a GPU, which would compute the attention of one text after another."""
        found = unpadded(self._model) if self._model.device.type == "cpu" else None
        rows = self._two_lengths()
        try:
            with torch.inference_mode():
                if found and torch.allclose(self._logits(rows), self._in_one_row(found, rows), rtol=1e-4, atol=1e-4):
                    return found
        except Exception:
            return None  # of other parts than its kind has: it is called as transformers does
        return None

    def _two_lengths(self) -> list[list[int]]:
        return self._token_ids(["No.", "Thank you, that was kind of you. " * 3])

    def _logits(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        if self._unpadded:
            return self._in_one_row(self._unpadded, rows)
        longest = max(map(len, rows))
        device = self._model.device
        ids = torch.tensor([[*row, *[self._pad_token_id] * (longest - len(row))] for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = (torch.arange(longest, device=device) < lengths[:, None]).long()
        segments = {}
        if self._segments:
            of_rows = torch.zeros_like(ids)
            for token, segment in self._segments.items():
                of_rows[ids == token] = segment
            segments = {"token_type_ids": of_rows}
        logits: torch.Tensor = self._forward(input_ids=ids, attention_mask=mask, **segments).logits
        return logits

    def _in_one_row(self, forward: Callable[..., torch.Tensor], rows: Sequence[Sequence[int]]) -> torch.Tensor:
        return forward(**in_one_row(rows, self._segments))


def joined(prompt: str, response: str) -> str:
    """As one text, with white space between."""
    return prompt + response if not prompt or prompt[-1].isspace() else f"{prompt} {response}"


def declaration(source: str, name: str, revision: str | None) -> dict[str, Any]:
    """What `reward_model.json` says, without what it leaves open; nothing where there is no such file.

    Raises:
        RewardError: it cannot be read, or holds what it may not.
    """
    path = pretrained.file_if_there(source, DECLARATION, name, revision)
    try:
        declared = json.loads(path.read_text(encoding="utf-8-sig")) if path else {}
    except (OSError, ValueError) as error:
        raise RewardError(f"reward model {name}: cannot read its {DECLARATION}: {error}") from error
    unknown = set(declared) - set(_DECLARABLE) if isinstance(declared, dict) else {repr(declared)}
    if unknown:
        raise RewardError(
            f"reward model {name}: {DECLARATION} may hold {', '.join(_DECLARABLE)}, not {', '.join(sorted(unknown))}"
        )
    return {key: value for key, value in declared.items() if value is not None}


def _moments(name: str, moments: Any) -> dict[str, float] | None:
    if moments is None:
        return None
    numbers = moments.values() if isinstance(moments, Mapping) and moments.keys() == {"mean", "std"} else [None]
    if not all(map(is_number, numbers)) or moments["std"] <= 0:
        raise RewardError(f"reward model {name}: moments in {DECLARATION} must be a mean and a std above 0: {moments}")
    return {"mean": float(moments["mean"]), "std": float(moments["std"])}


def _reads_alike(name: str, config: Any, declared: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether what is declared by itself reads the same number as what is asked."""
    try:
        check_options(name, {key: value for key, value in declared.items() if key != "probes"})
        return bool(declared["input"] == asked["input"]) and (
            reading(name, config, declared) == reading(name, config, asked)
        )
    except RewardError:  # no reading without what is asked
        return False


def _is_another_label(name: str, config: Any, declared: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether the label that is asked for is not the declared one: neither of that name, nor that one renamed."""
    if "label" not in declared or str(asked["label"]).casefold() == str(declared["label"]).casefold():
        return False
    own = {int(index): str(found) for index, found in config.id2label.items()}
    own = renamed(own, declared.get("names") or {})
    if str(asked["label"]).casefold() in {found.casefold() for found in own.values()}:
        return True  # a name that the model has for another label, wherever the recipe puts it
    try:
        check_options(name, {"label": declared["label"]})
        return reading(name, config, declared).index != reading(name, config, asked).index
    except RewardError:  # no label has that name, or none has any
        return True


def most_tokens(model: Any, tokenizer: Any) -> int:
    """Tokens that the model can read: RoBERTa and its kin start counting positions after the padding token's id."""
    limit: int = tokenizer.model_max_length
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        first = max(
            (
                module.padding_idx + 1
                for place, module in model.named_modules()
                if place.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
            ),
            default=0,
        )
        limit = min(limit, positions - first)
    return limit


def without_room(tokenizer: Any, max_length: int) -> str | None:
    """Why no text fits into so many tokens; None where some does."""
    special = tokenizer.num_special_tokens_to_add()
    if max_length > special:
        return None
    return f"max_length {max_length} leaves no room for text beside {special} special tokens"


def _max_length(name: str, model: Any, tokenizer: Any, wanted: int | None) -> int:
    limit = most_tokens(model, tokenizer)
    if wanted is not None and wanted > limit:
        raise RewardError(f"reward model {name} reads at most {limit} tokens: max_length {wanted} is too long")
    if wanted is not None and (problem := without_room(tokenizer, wanted)):
        raise RewardError(f"reward model {name}: {problem}")
    return int(min(limit, _DEFAULT_MAX_LENGTH) if wanted is None else wanted)


def _segments(tokenizer: Any) -> dict[int, int]:
    """Tokens that are of another segment than the text is, and which: XLNet's and Funnel's `<cls>`."""
    if "token_type_ids" not in tokenizer.model_input_names:
        return {}
    encoded = tokenizer("No.", return_token_type_ids=True)
    ids, segments = encoded["input_ids"], encoded["token_type_ids"]
    return {token: segment for token, segment in zip(ids, segments, strict=True) if segment}


def _pad_token_id(name: str, model: Any, tokenizer: Any) -> int:
    """What fills up short rows. Decoder-only classifiers find the end of a text by it, so the model must know it."""
    config = model.config.get_text_config()  # of models that read pictures as well; of others, the config itself
    candidates = (config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
    known = range(model.get_input_embeddings().weight.shape[0])  # some configs say -1 for none
    pad_token_id = next((candidate for candidate in candidates if candidate in known), None)
    if pad_token_id is None:
        raise RewardError(f"reward model {name}: its tokenizer has neither a padding nor an end-of-text token")
    config.pad_token_id = pad_token_id
    return int(pad_token_id)
