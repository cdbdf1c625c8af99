"""What an artifact was made from, as a tree of its inputs and theirs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from align.errors import UsageError, VerificationError
from align.registry import references
from align.registry.manifest import Artifact

if TYPE_CHECKING:
    from align.registry.store import Registry


@dataclass(frozen=True)
class Lineage:
    """An artifact, or something from outside the registry, with all that it was made from."""

    reference: str
    digest: str
    artifact: Artifact | None = None
    """None if it comes from outside, or is not what it was when it was taken."""
    problem: str | None = None
    """Why the artifact cannot be shown: missing, changed or damaged."""
    inputs: dict[str, Lineage] = field(default_factory=dict)
    """By their place in the stage's configuration."""

    def walk(self) -> list[Lineage]:
        """Everything in the tree, each after its own inputs; what was taken twice comes once."""
        found: dict[tuple[str, str], Lineage] = {}

        def visit(node: Lineage) -> None:
            if (node.reference, node.digest) not in found:
                for parent in node.inputs.values():
                    visit(parent)
                found[node.reference, node.digest] = node

        visit(self)
        return [*found.values()]


def trace(registry: Registry, reference: str, digest: str, traced: dict[tuple[str, str], Lineage]) -> Lineage:
    """The lineage of an input: of its reference if that bears the digest with which it was taken, else of the same
    content under another number, as a stage publishes it again after a damaged version was moved aside.

    `traced`: what was traced before; each is looked up once, however many were made from it."""
    if (reference, digest) not in traced:
        traced[reference, digest] = _traced(registry, reference, digest, traced)
    return traced[reference, digest]


def _traced(registry: Registry, reference: str, digest: str, traced: dict[tuple[str, str], Lineage]) -> Lineage:
    name, _, version = reference.partition("@")
    if not references.NAME.fullmatch(name) or not references.VERSION.fullmatch(version):
        return Lineage(reference, digest)  # from outside: nothing to look up
    try:
        artifact = registry.resolve(reference)
        problem = None if artifact.digest == digest else f"changed: its digest is {artifact.digest} now"
    except UsageError:
        problem = "missing"
    except VerificationError as error:
        problem = str(error)
    if problem:
        if other := registry.with_digest(name, digest):
            return trace(registry, other.reference, digest, traced)
        return Lineage(reference, digest, problem=problem)
    inputs = artifact.manifest.inputs.items()
    parents = {place: trace(registry, taken.reference, taken.digest, traced) for place, taken in inputs}
    return Lineage(reference, digest, artifact, inputs=parents)


def complete(registry: Registry, reference: str) -> list[Artifact]:
    """An artifact with all that it was made from in the registry, each after its own inputs, every byte checked.

    Raises `VerificationError` if any of it is missing, changed or damaged.
    """
    nodes = registry.lineage(reference).walk()
    if broken := {f"{node.reference} is {node.problem}" for node in nodes if node.problem}:
        raise VerificationError(f"{reference} cannot leave the registry without its lineage: {'; '.join(broken)}")
    found = {node.artifact.reference: node.artifact for node in nodes if node.artifact}
    for artifact in found.values():
        registry.check(artifact)
    return list(found.values())


def mermaid(root: Lineage) -> str:
    """The lineage as a Mermaid flowchart, from what came first to the artifact; what was taken twice is drawn once."""
    nodes = {(node.reference, node.digest): node for node in root.walk()}
    ids = {key: f"n{number}" for number, key in enumerate(nodes)}
    lines = ["flowchart LR"]
    for key, node in nodes.items():
        says = node.problem and ("missing" if node.problem == "missing" else "damaged or changed")
        kind = says or (node.artifact.manifest.kind if node.artifact else "outside")
        lines.append(f'    {ids[key]}["{_escaped(node.reference)}<br/>{kind}"]')
    for key, node in nodes.items():
        for place, parent in node.inputs.items():
            lines.append(f"    {ids[parent.reference, parent.digest]} -->|{_escaped(place)}| {ids[key]}")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return "".join(character if character.isalnum() or character in "@._-:/ " else "_" for character in text)
