"""The nightly look after the history: read everything, and back it up.

The daemon runs it as a process of its own, `python -m autotune.daemon.upkeep`, and goes on writing beside it.
"""

from __future__ import annotations

import os
import sys

from autotune import paths
from autotune.config import load_settings
from autotune.errors import AutotuneError, DatabaseError
from autotune.store import read_history
from autotune.store.backup import backup, check
from autotune.store.statedir import StateDir

DAMAGED = 3
"""Exit status where history or snapshot are damaged."""
NICENESS = 10
"""Added to that of the daemon: whatever else runs goes first."""


def run() -> list[str]:
    """Check history and snapshot, and make a backup that was read back; returns what to log, a line each.

    Raises:
        DatabaseError: something is damaged; earlier backups are kept.
        StateError: there is no room, or a file cannot be read or written.
    """
    keep = load_settings().retention.backups
    state = StateDir(paths.state_dir())
    for path in (state.history, state.snapshot):
        if os.path.exists(path):
            _require_whole(path)
    with read_history() as history:
        if not history.rows("SELECT 1 FROM trial LIMIT 1"):
            return ["the history is whole, and has nothing to back up yet"]
        return [f"the history is whole, and backed up as {backup(history, keep)}"]


def _require_whole(path: str) -> None:
    faults = check(path).faults
    if faults:
        raise DatabaseError(f"{path}: is damaged ({faults[0]})")


def main() -> int:
    """Run once; the last line tells of a failure."""
    os.nice(NICENESS)
    try:
        print("\n".join(run()))
    except AutotuneError as error:
        print(error)
        return DAMAGED if isinstance(error, DatabaseError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
