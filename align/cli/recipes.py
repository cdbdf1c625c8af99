"""`align recipes ls | show | copy`: the recipes that come with the package."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from align.cli.commands import AsJson, Command, Debug, console, print_json
from align.errors import UsageError

app = typer.Typer(help="The recipes that come with the package.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A shipped recipe's name.")]


@app.command("ls", cls=Command)
def list_recipes(as_json: AsJson = False, debug: Debug = False) -> None:
    """List them."""
    from rich.table import Table

    from align.recipe import shipped
    from align.recipe.document import parse

    contents = {name: parse(path.read_text(encoding="utf-8"), str(path)).values for name, path in shipped().items()}
    rows = {name: (str(values.get("description") or ""), list(values["stages"])) for name, values in contents.items()}
    if as_json:
        print_json([{"name": name, "description": text, "stages": stages} for name, (text, stages) in rows.items()])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "stages", "description"):
        table.add_column(column, overflow="fold")
    for name, (text, stages) in rows.items():
        table.add_row(name, " ".join(stages), " ".join(text.split()))
    console().print(table)


@app.command(cls=Command)
def show(name: Name, debug: Debug = False) -> None:
    """Print one."""
    typer.echo(_shipped(name).read_text(encoding="utf-8"), nl=False)


@app.command(cls=Command)
def copy(
    name: Name,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A new file, or a directory.")],
    debug: Debug = False,
) -> None:
    """Copy one, to make it yours."""
    source = _shipped(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists():
        raise UsageError(f"{target} exists already; give another name, or remove it first")
    if not target.parent.is_dir():
        raise UsageError(f"there is no directory {target.parent}; make it first")
    shutil.copyfile(source, target)
    typer.echo(f"{target} is yours now. Change it, then: align check {target}, align run {target}")


def _shipped(name: str) -> Path:
    from align.recipe import shipped
    from align.recipe.document import suggest

    known = shipped()
    if name not in known:
        raise UsageError(f"no shipped recipe is called {name!r}{suggest(name, known)} (there is: {', '.join(known)})")
    return known[name]
