"""Names that people give to versions (`best`, `production`): the only thing in a registry that changes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from align.errors import VerificationError
from align.registry import files


class Tagging(BaseModel):
    """Which version, since when (UTC, ISO 8601)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    since: str


class Alias(Tagging):
    """One alias file: what it stands for now, and what it stood for before, the oldest first."""

    history: list[Tagging] = []


def read(path: Path) -> Alias | None:
    """The alias in this file; None if there is no such file. Raises `VerificationError` if it is damaged."""
    try:
        return Alias.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise VerificationError(f"{path} is damaged. Remove it and set the alias again.") from error


def read_all(directory: Path) -> dict[str, str]:
    """Alias -> version, of every alias in a directory."""
    found = {path.stem: read(path) for path in sorted(directory.glob("[!.]*.json"))}
    return {name: alias.version for name, alias in found.items() if alias is not None}


def point(path: Path, version: str) -> None:
    """Let the alias stand for this version, and what it stood for join its history."""
    before = read(path)
    history = [*before.history, Tagging(version=before.version, since=before.since)] if before else []
    now = datetime.now(UTC).isoformat(timespec="seconds")
    files.replace(path, Alias(version=version, since=now, history=history).model_dump_json(indent=2) + "\n")
