"""Bytes that change, vanish or turn to zero: readers are told in one line, and the next writer mends it."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from autotune.errors import DatabaseError, StateError
from autotune.store import open_history, read_history
from autotune.store.backup import backup, check
from autotune.store.snapshot import generations, publish
from tests.store.factories import CPU, STACK, problem, promote

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.store import HistoryReader


@pytest.fixture
def lived(state: Path) -> Path:
    """A state folder with three generations and a backup."""
    with open_history(str(state)) as history:
        for m in (1, 2, 4):
            promote(history, m)
            publish(history, "grown")
        backup(history)
    return state


def spoil(path: Path, chance: random.Random) -> None:
    """Cut a file, change some of its bytes, or clear a stretch of it; another inode, as a disk's fault is not
    a change that a hard link shares."""
    content = bytearray(path.read_bytes())
    match chance.randrange(4):
        case 0:
            del content[chance.randrange(len(content)) :]
        case 1:
            start = chance.randrange(len(content))
            stretch = content[start : start + chance.randrange(4096)]
            content[start : start + len(stretch)] = bytes(len(stretch))
        case _:
            for _ in range(chance.choice((1, 1, 3, 20))):
                content[chance.randrange(len(content))] = chance.randrange(256)
    path.unlink()
    path.write_bytes(content)


def read_everything(history: HistoryReader) -> None:
    for study in history.studies():
        history.trials(study.id)
        history.verdicts(study.id)
        history.quarantined(CPU, STACK, "linear", study.key.problem)
    history.decisions()
    history.neighbours(CPU, problem(), "latency")
    history.devices()
    history.stacks()
    history.events()
    generations(history)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_happens_to_the_files_nobody_sees_a_traceback(lived: Path, seed: int) -> None:
    chance = random.Random(seed)
    for number in range(8):
        state = lived.parent / str(number)
        shutil.copytree(lived, state)
        for name in chance.choice((["history.db"], ["best.db"], ["history.db", "best.db"])):
            spoil(state / name, chance)
        with suppress(StateError), read_history(str(state)) as reader:
            read_everything(reader)
        # A header that lost its identity is refused instead: it could be anybody's.
        with suppress(DatabaseError), open_history(str(state)) as history:
            read_everything(history)
            publish(history, "after the damage")
            assert () == check(str(state / "best.db")).faults
            assert () == check(str(state / "history.db")).faults
        shutil.rmtree(state)


def test_a_changed_byte_within_a_value_is_found(lived: Path) -> None:
    """SQLite itself does not see it."""
    history = lived / "history.db"
    content = history.read_bytes()
    assert 1 < content.count(b'"onednn_packed"')
    history.write_bytes(content.replace(b'"onednn_packed"', b'"onednn_p\xff\xff\xffed"'))
    faults = check(str(history)).faults
    assert any(fault.startswith("trial: row 2 is damaged: Could not decode") for fault in faults)
    with read_history(str(lived)) as reader, pytest.raises(DatabaseError, match=r"history\.db: is damaged"):
        reader.trials(1)
    with open_history(str(lived)) as mended:
        assert "restored from" in mended.notices[0]
        assert 3 == len(mended.trials(1))


def test_a_changed_byte_within_the_schema_is_found(lived: Path) -> None:
    """SQLite itself only sees what it cannot parse."""
    history = lived / "history.db"
    history.write_bytes(history.read_bytes().replace(b"speedup_low REAL", b"speedup_lew REAL"))
    assert ("choice: lacks its column speedup_low",) == check(str(history)).faults
    with open_history(str(lived)) as mended:
        assert "restored from" in mended.notices[0]


def test_a_table_that_somebody_added_is_no_damage(lived: Path) -> None:
    with closing(sqlite3.connect(lived / "history.db")) as connection:
        connection.executescript("CREATE VIEW mine AS SELECT 1; CREATE TABLE 'their own'(facts, samples);")
        connection.execute("INSERT INTO 'their own' VALUES ('no JSON', 'no samples')")
        connection.commit()
    assert () == check(str(lived / "history.db")).faults
    with open_history(str(lived)) as history:
        assert [] == history.notices


def test_a_snapshot_that_was_changed_is_published_again(lived: Path) -> None:
    best = lived / "best.db"
    content = best.read_bytes()
    best.unlink()
    best.write_bytes(content.replace(b'"nk"', b'"kn"'))
    assert not check(str(best)).faults
    with open_history(str(lived)) as history:
        assert "best.db: was damaged and is published again" in history.notices[0]
        assert 4 == generations(history)[0].number
    assert b'"nk"' in best.read_bytes()
