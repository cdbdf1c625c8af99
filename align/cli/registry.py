"""`align registry ls | show | path | lineage | verify | tag`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from align.cli.commands import AsJson, Command, Debug, RegistryOption, console, print_json
from align.errors import VerificationError

if TYPE_CHECKING:
    from rich.tree import Tree

    from align.registry import Lineage, Registry

app = typer.Typer(help="The artifacts that stages have published.", no_args_is_help=True, rich_markup_mode=None)

ReferenceArgument = Annotated[str, typer.Argument(metavar="REF", help="name, name@v3, name@latest or name@alias.")]


@app.command("ls", cls=Command)
def list_artifacts(registry: RegistryOption = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """List all artifacts."""
    from rich.table import Table

    store = _open(registry)
    rows: list[dict[str, Any]] = []
    for artifact in store.artifacts():
        version, manifest = artifact.version, artifact.manifest
        aliases = [alias for alias, of in store.aliases(artifact.name).items() if of == version]
        if version == store.versions(artifact.name)[-1]:
            aliases.append("latest")
        rows.append(
            {
                "name": artifact.name,
                "version": version,
                "kind": manifest.kind,
                "created": manifest.created,
                "size": sum(file.size for file in manifest.files),
                "digest": artifact.digest,
                "aliases": aliases,
            }
        )
    if as_json:
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("artifact", "kind", "created", "size", "digest", "aliases"):
        table.add_column(column, justify="right" if column == "size" else "left", overflow="fold")
    for row in rows:
        table.add_row(
            f"{row['name']}@{row['version']}",
            row["kind"],
            row["created"],
            f"{row['size'] / 1e6:.1f} MB",
            row["digest"][:12],
            " ".join(row["aliases"]),
        )
    console().print(table if rows else f"{store.root} holds no artifact yet; align run makes some")
    if damaged := store.verify(full=False):
        raise VerificationError("\n".join(map(str, damaged)))


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
    printer.print(f"path         {artifact.path}", soft_wrap=True)
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
    reference: ReferenceArgument, registry: RegistryOption = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Show all that an artifact was made from."""
    found = _open(registry).lineage(reference)
    if as_json:
        print_json(_lineage_json(found))
    else:
        console().print(_lineage_tree(found))


@app.command(cls=Command)
def verify(
    reference: Annotated[str | None, typer.Argument(metavar="[REF]", help="Default: all artifacts.")] = None,
    registry: RegistryOption = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Hash every byte, and say what is not as it was published. Exit code 3 if anything is."""
    store = _open(registry)
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
    typer.echo(f"{artifact.name}@{alias} is {artifact.reference} now")


def _open(path: str | None) -> Registry:
    from align.pipeline import open_registry

    return open_registry(path=path)


def _lineage_json(found: Lineage) -> dict[str, Any]:
    return {
        "reference": found.reference,
        "digest": found.digest,
        "kind": found.artifact.manifest.kind if found.artifact else None,
        "problem": found.problem,
        "inputs": {place: _lineage_json(parent) for place, parent in found.inputs.items()},
    }


def _lineage_tree(found: Lineage, place: str = "") -> Tree:
    from rich.markup import escape
    from rich.tree import Tree

    kind = f" ({found.artifact.manifest.kind})" if found.artifact else ""
    problem = f" [red]{escape(found.problem)}[/red]" if found.problem else ""
    label = f"{escape(place)}: " if place else ""
    tree = Tree(f"{label}[bold]{escape(found.reference)}[/bold]{kind} {escape(found.digest[:12])}{problem}")
    for name, parent in found.inputs.items():
        tree.add(_lineage_tree(parent, name))
    return tree
