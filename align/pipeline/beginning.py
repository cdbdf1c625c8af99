"""What a stage's workspace was begun with, so that nothing is resumed that was begun with something else.

A workspace bears the stage's fingerprint, which knows inputs by how they are made and not by their bytes; and a forced
stage starts anew, but not once more each time that it is interrupted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from align.registry import InputRecord, Registry, files
from align.workspace import Workspace

if TYPE_CHECKING:
    from align.pipeline.planning import Step

logger = logging.getLogger(__name__)


def workspace(registry: Registry, step: Step, inputs: Mapping[str, InputRecord]) -> Workspace:
    """The step's workspace: with the checkpoints of a run that took the same inputs, or empty."""
    found = registry.workspace(step.name, step.fingerprint)
    wanted = {"forced": step.forced, "inputs": {place: taken.digest for place, taken in inputs.items()}}
    begun = of(found)
    if begun.get("inputs") == wanted["inputs"] and (begun["forced"] or not step.forced):
        return found
    if any(found.checkpoints.iterdir()) and not step.forced:
        logger.warning("%s: its checkpoints were made with other inputs or data; it starts over", step.name)
    registry.discard(found)
    found = registry.workspace(step.name, step.fingerprint)
    files.replace(found.begun, json.dumps(wanted))
    return found


def of(workspace: Workspace) -> dict[str, Any]:
    """Whether the stage was forced, and the digests of its inputs. Empty where it was not begun."""
    try:
        content: dict[str, Any] = json.loads(workspace.begun.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content
