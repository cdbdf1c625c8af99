"""`align registry`: what is there, where it came from, is it sound, what may go, and how it travels."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from align.cli.commands import AsJson, Command, Debug, RegistryOption, console, print_json, readable
from align.errors import UsageError, VerificationError

if TYPE_CHECKING:
    from rich.tree import Tree

    from align.registry import Lineage, Registry

app = typer.Typer(help="The artifacts that stages have published.", no_args_is_help=True, rich_markup_mode=None)

UrlArgument = Annotated[
    str, typer.Argument(metavar="URL", help="A directory, file:///backup, s3://bucket/folder, or what fsspec knows.")
]
ReferenceArgument = Annotated[str, typer.Argument(metavar="REF", help="name, name@v3, name@latest or name@alias.")]


@app.command("ls", cls=Command)
def list_artifacts(registry: RegistryOption = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """List all artifacts."""
    store = _open(registry)
    artifacts, damaged = store.survey()
    names = {artifact.name for artifact in artifacts}
    tagged, latest = {name: _aliases(store, name) for name in names}, {name: store.versions(name)[-1] for name in names}
    pinned = {name: store.pins(name) for name in names}
    rows = [
        {
            "name": artifact.name,
            "version": artifact.version,
            "kind": artifact.manifest.kind,
            "created": artifact.manifest.created,
            "size": sum(file.size for file in artifact.manifest.files),
            "digest": artifact.digest,
            "aliases": [alias for alias, version in tagged[artifact.name].items() if version == artifact.version]
            + ["latest"] * (artifact.version == latest[artifact.name]),
            "pinned": artifact.version in pinned[artifact.name],
        }
        for artifact in artifacts
    ]
    if as_json:
        print_json(rows)
    elif rows:
        typer.echo("\n".join(_aligned([_HEAD, *map(_cells, rows)])))
    elif not damaged:
        typer.echo(f"{store.root} holds no artifacts yet; align run publishes some")
    if damaged:
        raise VerificationError("\n".join(map(str, damaged)))


def _aliases(store: Registry, name: str) -> dict[str, str]:
    """None of a name of which one is damaged: that is among the problems."""
    try:
        return store.aliases(name)
    except VerificationError:
        return {}


_HEAD = ["artifact", "kind", "created", "size", "digest", "aliases"]


def _cells(row: dict[str, Any]) -> list[str]:
    size, name = f"{readable(row['size'])}B", f"{row['name']}@{row['version']}"
    named = " ".join([*row["aliases"], *["(pinned)"] * row["pinned"]])
    return [name, row["kind"], row["created"], size, row["digest"][:12], named]


def _aligned(rows: list[list[str]]) -> list[str]:
    """Lines of columns, sizes to the right. By hand: a rich table of 1,000 rows takes a second."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    line = " ".join(
        f"{{:{'>' if head == 'size' else '<'}{width + 1}}}" for head, width in zip(_HEAD, widths, strict=True)
    )
    return [line.format(*row).rstrip() for row in rows]


@app.command(cls=Command)
def show(
    reference: ReferenceArgument, registry: RegistryOption = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Show an artifact's manifest: where it came from, what it holds, what was measured."""
    from rich.pretty import Pretty

    artifact = _open(registry).resolve(reference)
    manifest = artifact.manifest.model_dump(mode="json")
    if as_json:
        print_json({**manifest, "path": str(artifact.path)})
        return
    printer = console()
    printer.print(f"{artifact.reference} ({artifact.manifest.kind}), made {artifact.manifest.created}", style="bold")
    printer.print(f"path         {artifact.path}", soft_wrap=True, markup=False)
    printer.print(f"digest       {artifact.digest}")
    printer.print(f"fingerprint  {artifact.manifest.fingerprint}")
    for part in ("inputs", "metrics", "config", "environment"):
        printer.print(part, style="bold")
        printer.print(Pretty(manifest[part], expand_all=True))
    printer.print("files", style="bold")
    for file in artifact.manifest.files:
        printer.print(f"  {file.sha256[:12]}  {file.size:>12,}  {file.path}", soft_wrap=True, markup=False)


@app.command(cls=Command)
def path(
    reference: ReferenceArgument, registry: RegistryOption = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Print the directory of an artifact's files, for `from_pretrained`."""
    artifact = _open(registry).resolve(reference)
    if as_json:
        print_json({"reference": artifact.reference, "path": str(artifact.path)})
    else:
        typer.echo(str(artifact.path))


@app.command(cls=Command)
def lineage(
    reference: ReferenceArgument,
    registry: RegistryOption = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print a Mermaid flowchart.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show all that an artifact was made from."""
    from align.registry import lineage

    found = _open(registry).lineage(reference)
    if as_json:
        print_json(_lineage_json(found))
    elif mermaid:
        typer.echo(lineage.mermaid(found))
    else:
        console().print(_lineage_tree(found))


@app.command(cls=Command)
def verify(
    reference: Annotated[str | None, typer.Argument(metavar="[REF]", help="Default: all artifacts.")] = None,
    registry: RegistryOption = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Hash every byte, and list what is not as it was published. Exit code 3 if anything differs."""
    store = _existing(registry)
    problems = store.verify(reference)
    if as_json:
        print_json([asdict(problem) for problem in problems])
        if problems:
            raise typer.Exit(VerificationError.exit_code)
    elif problems:
        raise VerificationError("\n".join(map(str, problems)))
    else:
        typer.echo(f"{reference or f'all {len(store.artifacts())} artifacts'}: as published")


@app.command(cls=Command)
def tag(
    reference: ReferenceArgument,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="best, production, ...")],
    registry: RegistryOption = None,
    debug: Debug = False,
) -> None:
    """Let name@ALIAS stand for this artifact."""
    artifact = _open(registry).tag(reference, alias)
    typer.echo(f"{artifact.name}@{alias} now points to {artifact.reference}")


@app.command(cls=Command)
def diff(
    one: Annotated[str, typer.Argument(metavar="A")],
    other: Annotated[str, typer.Argument(metavar="B")],
    registry: RegistryOption = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show how two artifacts differ: configuration, inputs, data, metrics, environment, files."""
    from rich.table import Table
    from rich.text import Text

    from align.registry.comparison import differences

    store = _open(registry)
    artifacts = store.resolve(one), store.resolve(other)
    found = differences(*artifacts)
    if as_json:
        print_json(found)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("", *(artifact.reference for artifact in artifacts)):
        table.add_column(column, overflow="fold")
    for part, keys in found.items():
        for key, values in keys.items():
            shown = (value[:12] if part == "files" and value else value for value in values)
            table.add_row(Text(f"{part}: {key}"), *(Text("-" if value is None else str(value)) for value in shown))
    console().print(table if table.rows else f"{artifacts[0].reference} and {artifacts[1].reference} do not differ")


@app.command(cls=Command)
def pin(reference: ReferenceArgument, registry: RegistryOption = None, debug: Debug = False) -> None:
    """Keep an artifact, whatever gc finds."""
    typer.echo(f"{_open(registry).pin(reference).reference} is pinned")


@app.command(cls=Command)
def unpin(reference: ReferenceArgument, registry: RegistryOption = None, debug: Debug = False) -> None:
    """Let go of a pinned artifact."""
    typer.echo(f"{_open(registry).unpin(reference)} is no longer pinned")


@app.command(cls=Command)
def gc(
    delete: Annotated[bool, typer.Option("--delete", "--yes", help="Remove it. Without this, only list it.")] = False,
    older: Annotated[float, typer.Option("--older-than", metavar="DAYS", min=0, help="Keep what is younger.")] = 0.0,
    registry: RegistryOption = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Find versions that no alias, pin, run or later artifact needs. Removes them only with --delete."""
    from align.registry import collection

    store = _existing(registry)
    seconds = older * collection.DAY
    garbage = collection.collect(store, seconds) if delete else collection.find(store, seconds)
    references = [artifact.reference for artifact in garbage.artifacts]
    if as_json:
        leftovers = [str(path.relative_to(store.root)) for path in garbage.leftovers]
        lists = {"garbage": references, "leftovers": leftovers, "bytes": garbage.size, "kept": garbage.kept}
        print_json({"deleted": delete, **lists})
        return
    for reference in references:
        typer.echo(f"{'removed' if delete else 'not needed'}: {reference}")
    for path in garbage.leftovers:
        typer.echo(f"{'removed' if delete else 'left over'}: {path}")
    if references or garbage.leftovers:
        freed = "" if delete else f" ({readable(garbage.size)}B); align registry gc --delete removes them"
        typer.echo(f"{len(references)} artifacts of {len(references) + len(garbage.kept)} are not needed{freed}")
    else:
        typer.echo(f"all {len(garbage.kept)} artifacts are needed, or new")


@app.command(cls=Command)
def export(
    reference: ReferenceArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The tar file to write.")],
    registry: RegistryOption = None,
    debug: Debug = False,
) -> None:
    """Write an artifact and all that it was made from into one file. The same artifact gives the same bytes."""
    from align.registry import archive

    artifacts = archive.export(_open(registry), reference, file)
    size = readable(file.stat().st_size)
    typer.echo(f"{file} ({size}B) holds {', '.join(artifact.reference for artifact in artifacts)}")


@app.command("import", cls=Command)
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What align registry export wrote.")],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Another name for the artifact.")] = None,
    registry: RegistryOption = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Import an artifact, and all that it was made from, from a file. Every byte is verified first."""
    from align.registry import archive

    references = [artifact.reference for artifact in archive.import_(_open(registry), file, name)]
    if as_json:
        print_json({"reference": references[-1], "artifacts": references})
    else:
        typer.echo(
            f"{references[-1]} is here" + (f", made from {', '.join(references[:-1])}" if references[1:] else "")
        )


@app.command(cls=Command)
def push(reference: ReferenceArgument, url: UrlArgument, registry: RegistryOption = None, debug: Debug = False) -> None:
    """Copy an artifact and all that it was made from to a mirror."""
    from align.registry.mirror import Mirror

    for pushed, new in Mirror(_lasting(url)).push(_open(registry), reference).items():
        typer.echo(f"{pushed}: {'pushed' if new else 'was there'}")


@app.command(cls=Command)
def pull(reference: ReferenceArgument, url: UrlArgument, registry: RegistryOption = None, debug: Debug = False) -> None:
    """Copy an artifact, and all that it was made from, from a mirror. Every byte is verified first."""
    from align.registry.mirror import Mirror

    artifact = Mirror(_lasting(url)).pull(_open(registry), reference)
    typer.echo(f"{artifact.reference} is at {artifact.path}")


def _open(path: str | None) -> Registry:
    from align.registry import Registry

    return Registry.at(path)


def _existing(path: str | None) -> Registry:
    """For what makes sense only where something has been published."""
    store = _open(path)
    if not any((store.root / part).exists() for part in ("registry.json", "artifacts")):
        raise UsageError(f"there is no registry at {store.root}; name another with --registry")
    return store


def _lasting(url: str) -> str:
    if url.startswith("memory:"):
        raise UsageError(f"{url} is gone when this command ends: name a place that lasts")
    return url


def _lineage_json(found: Lineage) -> dict[str, Any]:
    return {
        "reference": found.reference,
        "digest": found.digest,
        "kind": found.artifact.manifest.kind if found.artifact else None,
        "problem": found.problem,
        "inputs": {place: _lineage_json(parent) for place, parent in found.inputs.items()},
    }


def _lineage_tree(found: Lineage, place: str = "", shown: set[str] | None = None) -> Tree:
    """What was taken twice is shown with its inputs where it comes first."""
    from rich.markup import escape
    from rich.tree import Tree

    kind = f" ({found.artifact.manifest.kind})" if found.artifact else ""
    problem = f" [red]{escape(found.problem)}[/red]" if found.problem else ""
    label = f"{escape(place)}: " if place else ""
    tree = Tree(f"{label}[bold]{escape(found.reference)}[/bold]{kind} {escape(found.digest[:12])}{problem}")
    shown = set() if shown is None else shown
    if found.inputs and found.digest in shown:
        tree.label = f"{tree.label}, made as above"
        return tree
    shown.add(found.digest)
    for name, parent in found.inputs.items():
        tree.add(_lineage_tree(parent, name, shown))
    return tree
