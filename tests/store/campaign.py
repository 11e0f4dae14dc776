"""The two parties of the kill campaign: a writer that promotes without end, and a reader that trusts nobody.

`python -m tests.store.campaign FOLDER` is the reader. It imports the standard library alone, as look-ups do.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autotune.store import History

SIZES = tuple(range(1, 13))
"""The problems, by their `m`."""


def write(folder: str, acknowledge: int, seed: int) -> None:
    """Open, promote, publish and close until killed; each promotion that returned is one line `m decided_at`.

    Args:
        folder: the state folder.
        acknowledge: file descriptor that the lines go to.
        seed: of the order of problems.
    """
    import random

    from autotune.store import open_history
    from autotune.store.snapshot import publish

    order = random.Random(seed)
    while True:
        with open_history(folder) as history:
            for _ in range(order.randrange(8)):
                m, decided_at = order.choice(SIZES), time.time()
                _promote(history, m, decided_at)
                os.write(acknowledge, f"{m} {decided_at!r}\n".encode())
                publish(history, "campaign")


def _promote(history: History, m: int, decided_at: float) -> None:
    from tests.store.factories import choice, problem, record_host, study_key, trial, winner

    record_host(history)
    study = history.begin_study(study_key(m), problem(m).dimensions)
    first = history.study(study).trials
    for number in range(first, first + 2):
        history.add_trial(study, trial(number))
    # Every row of one decision says so: a mixture of two would show.
    settings = {"implementation": "torch", "decided_at": decided_at}
    choices = tuple(choice(rank, settings={**settings, "rank": rank}) for rank in range(3))
    history.promote(study, winner(m, decided_at=decided_at, choices=choices))


def read(folder: str) -> int:
    """Read `best.db` over and over until the folder holds a file `stop`; returns how often it was read.

    Raises:
        AssertionError: what was read is not one whole generation, or is older than one read before.
    """
    reads = newest = 0
    while not os.path.exists(os.path.join(folder, "stop")):
        with suppress(FileNotFoundError):
            os.stat(os.path.join(folder, "best.db"))
            newest = _read_once(os.path.join(folder, "best.db"), newest)
            reads += 1
        time.sleep(0.02)  # ten of these share two cores with the writer
    return reads


def _read_once(path: str, newest: int) -> int:
    import json

    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        rows = connection.execute("SELECT problem, rank, decided_at, configuration FROM choice").fetchall()
        assert [("ok",)] == connection.execute("PRAGMA quick_check").fetchall()
    assert int(meta["choices"]) == len(rows), f"{len(rows)} rows of {meta['choices']}"
    for problem, rank, decided_at, configuration in rows:
        said = json.loads(configuration)
        assert (rank, decided_at) == (said["rank"], said["decided_at"]), f"{problem}: a mixture"
    assert len(rows) == 3 * len({row[0] for row in rows}), "a part of a decision"
    generation = int(meta["generation"])
    assert newest <= generation, f"generation {generation} after {newest}"
    return generation


if __name__ == "__main__":
    print(read(sys.argv[1]))
