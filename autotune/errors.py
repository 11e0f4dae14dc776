"""Every error that autotune raises on purpose.

    AutotuneError                 one line for a person; the command line prints it and exits `exit_code`
    ├── UsageError                what the caller gave is wrong (exit 2)
    │   ├── UnknownNameError      a name that nothing answers to; suggests the closest
    │   ├── ProblemError          a workload's dimensions do not make a problem
    │   ├── SpaceError            a search space's declaration is wrong or empty
    │   ├── ModelError            a model configuration lacks what a plan needs
    │   ├── ConfigError           a settings file is wrong
    │   └── MissingExtraError     an optional dependency is not installed
    ├── StateError                the state folder or a database cannot be used as it is (exit 2)
    │   ├── StateDirError         missing, unwritable, on a network file system, or full
    │   ├── HistoryLockedError    another process is the writer
    │   └── DatabaseError         foreign, damaged or of a newer version
    ├── FleetError                the fleet's database cannot be reached or used (exit 2)
    ├── TrialError                a trial did not end well; carries its verdict (never reaches the user)
    └── InternalError             our own mistake (exit 1)

Only the standard library is imported here: look-ups load this module.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class AutotuneError(Exception):
    """Base of all; `str()` of it is one line that says what was wrong, where, and what to do."""

    exit_code = 1


class UsageError(AutotuneError):
    """What the caller gave is wrong."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that nothing answers to.

    Args:
        kind: what the name was meant to name, e.g. `"workload"`.
        name: the name given.
        valid: the names that would have been right.
        where: the file and place the name stands in, if it came from a file.
    """

    def __init__(self, kind: str, name: str, valid: Iterable[str], where: str = "") -> None:
        choices = sorted(str(choice) for choice in valid)
        prefix = f"{where}: " if where else ""
        super().__init__(f"{prefix}unknown {kind} {name!r}{suggestion(name, choices)}")


class ProblemError(UsageError):
    """A workload's dimensions do not make a problem."""


class SpaceError(UsageError):
    """A search space's declaration is wrong, or holds no valid configuration."""


class ModelError(UsageError):
    """A model configuration lacks what a plan needs."""


class ConfigError(UsageError):
    """A settings file is wrong."""


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""

    def __init__(self, needed_by: str, extra: str, missing: str) -> None:
        super().__init__(f"{needed_by} needs {missing}: pip install 'autotune[{extra}]'")


class StateError(AutotuneError):
    """The state folder or a database cannot be used as it is."""

    exit_code = 2


class StateDirError(StateError):
    """The state folder is missing, unwritable, on a network file system, or full."""


class HistoryLockedError(StateError):
    """Another process is the writer of the history."""


class DatabaseError(StateError):
    """A database is foreign, damaged or of a newer version."""


class FleetError(AutotuneError):
    """The fleet's database cannot be reached or used; the node works on without it."""

    exit_code = 2


class TrialError(AutotuneError):
    """A trial did not end well.

    Args:
        verdict: one of the failing values of `autotune.store.records.Verdict`.
        reason: one line for the history.
        slot: the worker's slot that failed, if known; it matters when several ran side by side.
    """

    def __init__(self, verdict: str, reason: str, slot: str = "") -> None:
        super().__init__(f"{verdict}: {reason}")
        self.verdict = verdict
        self.reason = reason
        self.slot = slot


class InternalError(AutotuneError):
    """Our own mistake."""


def suggestion(name: str, valid: Iterable[str]) -> str:
    """The tail of a message about a wrong name: the closest valid names, or all when few."""
    from difflib import get_close_matches

    choices = list(valid)
    close = get_close_matches(str(name), choices, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    if not choices:
        return ""
    shown = ", ".join(choices[:12]) + (", ..." if len(choices) > 12 else "")
    return f"; expected one of {shown}"
