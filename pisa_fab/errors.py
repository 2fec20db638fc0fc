"""Errors that a user can cause.

Every expected failure is a `PisaError`: a message of one line, a tip, an exit code. The tasks turn it into
`invoke.Exit`. Anything else that is raised is a bug and shows its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INVALID = 2
EXIT_NO_HOST = 3
EXIT_INTERRUPTED = 130


class PisaError(Exception):
    """Something that a user did, or can mend.

    Attributes:
        message: one line that says what is wrong.
        hint: one line that says what to do, or "".
        exit_code: what the program ends with (see the `EXIT_` constants).
    """

    exit_code = EXIT_INVALID

    def __init__(self, message: str, hint: str = "", exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code

    def __str__(self) -> str:
        """Give the message, and the tip on a line of its own."""
        return f"{self.message}\n  tip: {self.hint}" if self.hint else self.message


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a file that a person wrote. `line` and `column` count from 1; 0 is unknown."""

    file: Path
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """Give `file:line:column`, as editors and compilers do."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else str(self.file)


class SpecError(PisaError):
    """A mistake in a jobs file or a cluster file; nothing has been written and no host touched."""

    def __init__(self, position: Position, problem: str, hint: str = "") -> None:
        super().__init__(f"{position}: {problem}", hint)
        self.position = position
        self.problem = problem


class UsageError(PisaError):
    """An option of the command line that cannot be meant so."""


class RunError(PisaError):
    """The run directory cannot be used: another head holds it, it is full, it is not ours."""


class PoolError(PisaError):
    """No host of the pool is left to do the work."""

    exit_code = EXIT_NO_HOST
