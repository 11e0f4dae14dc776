"""What a look-up says when the disk keeps it from answering: one warning per process and cause."""

from __future__ import annotations

MOST_CAUSES = 64

_given: set[str] = set()


class AutotuneWarning(UserWarning):
    """A look-up answered with the declared baseline because something on the disk was not as it should be."""


def warn_once(cause: str, message: str) -> None:
    """Warn of `message`, unless `cause` was warned of before in this process.

    Where warnings are turned into errors the line goes to stderr instead: a look-up never fails for the state
    of the disk.
    """
    if cause in _given or len(_given) >= MOST_CAUSES:
        return
    _given.add(cause)
    import sys
    import warnings

    line = f"autotune: {message}"
    try:
        warnings.warn(line, AutotuneWarning, stacklevel=_callers_level(sys._getframe()))
    except Exception:
        if sys.stderr is not None and not sys.stderr.closed:
            print(line, file=sys.stderr)


def _callers_level(frame: object) -> int:
    """How many frames up the code stands that asked: the first outside this package."""
    level = 1
    while frame is not None and getattr(frame, "f_globals", {}).get("__name__", "").startswith("autotune."):
        frame, level = getattr(frame, "f_back", None), level + 1
    return level
