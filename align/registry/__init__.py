"""The hand-off between stages: a directory of immutable, verified artifacts. Knows nothing of models."""

from align.registry.inspection import Problem
from align.registry.lineage import Lineage
from align.registry.manifest import Artifact, FileRecord, InputRecord, Manifest
from align.registry.store import Registry

__all__ = ["Artifact", "FileRecord", "InputRecord", "Lineage", "Manifest", "Problem", "Registry"]
