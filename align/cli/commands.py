"""What all commands share: their common options, and how errors end them."""

from __future__ import annotations

import errno
import json
import logging
import shlex
import sys
import traceback
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from align import interrupt
from align.errors import AlignError, Interrupted

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130
_GIVEN = "align.arguments"


class WandbMode(StrEnum):
    """Where W&B runs go."""

    online = "online"
    offline = "offline"
    disabled = "disabled"


RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or a shipped recipe's name (align recipes ls).")
]
Stages = Annotated[list[str] | None, typer.Argument(metavar="STAGE", help="Only these, and what they need.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key: stages.sft.train.max_steps=10")
]
RegistryOption = Annotated[
    str | None,
    typer.Option(
        "--registry",
        metavar="DIR",
        help="The registry. Default: $ALIGN_REGISTRY, else what the recipe says, else ./registry",
    ),
]
Force = Annotated[
    list[str] | None, typer.Option("--force", metavar="STAGE", help="Run this stage again, cached or not.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class Command(TyperCommand):
    """A command that turns an `AlignError` into its message and its exit code, and a file system's error into words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the arguments as they were given: whoever interrupts a run is told how to go on."""
        ctx.meta[_GIVEN] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        _log_to_stderr()
        try:
            with interrupt.terminable():
                return super().invoke(ctx)
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever read the output has seen enough
                raise
            if ctx.params.get("debug"):
                traceback.print_exc()
            place = f" ({error.filename})" if error.filename else ""
            _to_stderr(f"error: {error.strerror or error}{place}")
            raise typer.Exit(AlignError.exit_code) from None
        except Interrupted as error:
            interrupt.leave_at_once_if_repeated()
            if ctx.params.get("debug"):
                traceback.print_exc()
            _to_stderr(f"{error}\n{_command_line(ctx)}")
            raise typer.Exit(error.exit_code) from None
        except AlignError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            _to_stderr(str(error) if "\n" in str(error) else f"error: {error}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            interrupt.leave_at_once_if_repeated()
            if ctx.params.get("debug"):
                traceback.print_exc()
            _to_stderr(f"interrupted; run the same command again to resume\n{_command_line(ctx)}")
            raise typer.Exit(INTERRUPTED) from None


def print_json(value: Any) -> None:
    """The machine's view of a listing, alone on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def readable(number: float) -> str:
    """`1.23 M` of 1,234,567: three digits and a unit of thousands."""
    for unit in ("", "k", "M", "G"):
        if round(number) < 1000:
            return f"{number:.3g} {unit}" if unit else f"{number:.3g} "
        number /= 1000
    return f"{number:.3g} T"


def console() -> Console:
    """For tables on stdout; wide where nobody's terminal sets the width."""
    from rich.console import Console

    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=120)


def _to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _command_line(ctx: Any) -> str:
    """The command that was called, as a shell takes it."""
    return f"  {ctx.command_path} {shlex.join(ctx.meta[_GIVEN])}"


class _ToStderr(logging.Handler):
    """Writes plain lines to whatever `sys.stderr` is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        _to_stderr(record.getMessage())


def _log_to_stderr() -> None:
    for name in ("align", "reward_models"):
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(_ToStderr())
        logger.setLevel(logging.INFO)
        logger.propagate = False
