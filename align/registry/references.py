"""How artifacts are named and referred to: `name`, `name@v3`, `name@latest`, `name@alias`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from align.errors import UsageError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
VERSION = re.compile(r"v[1-9][0-9]*")
FINGERPRINT = re.compile(r"[0-9a-f]{16,64}")
LATEST = "latest"


def parse(reference: str) -> tuple[str, str]:
    """Name and selector (a version, an alias or `latest`) of a reference. Raises `UsageError` if it is none."""
    name, at, selector = reference.partition("@")
    if not NAME.fullmatch(name) or (at and not NAME.fullmatch(selector)):
        raise UsageError(
            f"{reference!r} does not refer to an artifact. Write name, name@v3, name@latest or name@alias; "
            "names and aliases are made of a-z 0-9 . _ -"
        )
    return name, selector or LATEST


def number(version: str) -> int:
    """`v12` -> 12."""
    return int(version[1:])


def check_name(name: str) -> None:
    """Raises `UsageError` unless an artifact may have this name."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"an artifact cannot be named {name!r}: use up to 64 of a-z 0-9 . _ - with a letter or digit in front"
        )


def check_alias(alias: str) -> None:
    """Raises `UsageError` unless a version may bear this alias."""
    if not NAME.fullmatch(alias) or alias == LATEST or re.fullmatch(r"v\d+", alias):
        raise UsageError(
            f"{alias!r} cannot be an alias: use up to 64 of a-z 0-9 . _ - with a letter or digit in front, and neither "
            f"`{LATEST}`, which always is the newest version, nor a version such as v3"
        )


def suggestion(wanted: str, available: Sequence[str], shown: int = 12) -> str:
    """` Did you mean …? There is: …`, the end of a message about something that does not exist."""
    close = difflib.get_close_matches(wanted, available, n=1)
    meant = f" Did you mean {close[0]!r}?" if close else ""
    more = f", and {len(available) - shown} more" if len(available) > shown else ""
    return f"{meant} There is: {', '.join(available[:shown]) or 'nothing'}{more}."
