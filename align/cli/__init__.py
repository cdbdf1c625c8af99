"""The command line. Each command parses, calls and prints; nothing heavy is imported before it is needed."""

from __future__ import annotations

import typer

from align.cli import doctor, recipes, registry, reward, run
from align.cli.commands import Command

app = typer.Typer(
    name="align",
    help="One recipe from a base language model to an aligned one.",
    epilog="Start with: align recipes ls, then align run quickstart",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich would double the time that it takes
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (run.check, run.plan, run.run, doctor.doctor):
    app.command(cls=Command)(command)
app.add_typer(recipes.app, name="recipes")
app.add_typer(registry.app, name="registry")
app.add_typer(reward.app, name="reward")


def main() -> None:
    """The entry point of `align` and `python -m align`."""
    app(prog_name="align")
