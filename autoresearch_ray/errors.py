"""Everything that can go wrong and that a human must fix.

    AutoresearchError
    ├── ProgramError    program.md (or autoresearch.toml) does not read, or contradicts itself
    ├── SetupError      this machine, folder or flag is not ready: a tag in use, nowhere to write
    ├── RepoError       the git repository cannot be used as it stands
    ├── LedgerError     the ledger cannot be read or written
    ├── AgentError      the coding agent is not installed, not logged in, or fails every time
    ├── GpuError        the GPUs that were asked for cannot be had or cannot be read
    └── ClusterError    Ray cannot be reached, or cannot seat the workers that were asked for

What goes wrong with *one experiment* is not here: that is a `model.Failure`, a value in the ledger.

Every error says what is wrong in its message and what to do in its `hint`, and survives pickling, because it travels
between Ray actors.
"""

from __future__ import annotations

from typing import Any


class AutoresearchError(Exception):
    """The root. `exit_status` is what the command line returns: 2: fix something first, 1: a retry may help."""

    exit_status = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class ProgramError(AutoresearchError):
    """The program cannot be read. Carries the file and the line, and an example of what was expected there."""

    def __init__(self, message: str, hint: str = "", *, file: str = "", line: int = 0) -> None:
        super().__init__(message, hint)
        self.file = file
        self.line = line

    def __reduce__(self) -> tuple[Any, ...]:
        return _program_error, (self.message, self.hint, self.file, self.line)

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        return where + super().__str__()


def _program_error(message: str, hint: str, file: str, line: int) -> ProgramError:
    return ProgramError(message, hint, file=file, line=line)


class SetupError(AutoresearchError):
    """This machine, folder or flag is not ready."""


class RepoError(AutoresearchError):
    """The git repository cannot be used as it stands."""


class LedgerError(AutoresearchError):
    """The ledger cannot be read or written; a retry may help once the disk has room again."""

    exit_status = 1


class AgentError(AutoresearchError):
    """The coding agent is not there, or fails every time."""


class GpuError(AutoresearchError):
    """The GPUs that were asked for cannot be had or cannot be read."""


class ClusterError(AutoresearchError):
    """Ray cannot be reached or cannot seat the workers."""
