"""The errors that people see. Each says what is wrong, where, and what to do; each knows its exit code.

Nothing here prints: the command line turns an `AlignError` into its message and its exit code, and shows a traceback
only with `--debug`.
"""

from __future__ import annotations


class AlignError(Exception):
    """Something went wrong that a person can do something about, such as a stage that failed. Exit code 1."""

    exit_code = 1


class UsageError(AlignError):
    """What was asked for cannot be done: a bad recipe, reference, option, data file or argument. Exit code 2.

    Most are found before any work starts. The rest come from what only a stage can see, such as too few rows.
    """

    exit_code = 2


class VerificationError(AlignError):
    """An artifact is not what its manifest says. Exit code 3."""

    exit_code = 3


class Interrupted(AlignError):
    """A signal asked the run to end, and it ended after a checkpoint. Exit code 128 + the signal's number."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
