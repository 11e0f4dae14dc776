"""Opening: what is damaged is mended, what is not ours is refused in one line, and nothing is lost."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from autotune.errors import DatabaseError, StateDirError, StateError
from autotune.store import open_history, read_history, restore_history
from autotune.store.backup import backup, check
from autotune.store.snapshot import generations, publish
from tests.store.damage import break_a_page
from tests.store.factories import CPU, EPOCH, STACK, problem, promote
from tests.store.test_snapshot import latencies, published, serving

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = 4e5, 3e5
"""Latency of a winner before and after the last backup."""


@pytest.fixture
def lived(state: Path) -> Path:
    """A state folder with a backup, and with two promotions after it that were published."""
    with open_history(str(state)) as history:
        promote(history, latency_ns=OLD)
        publish(history, "first")
        backup(history)
        promote(history, latency_ns=NEW, decided_at=EPOCH + 1)
        promote(history, m=1, latency_ns=NEW, decided_at=EPOCH + 2)
        publish(history, "second")
    return state


def test_a_damaged_history_is_restored_and_no_published_winner_is_lost(lived: Path) -> None:
    before = published(lived / "best.db")
    break_a_page(lived / "history.db")
    with open_history(str(lived)) as history:
        damage, taken = history.notices
        assert f"{lived}/history.db: was damaged (" in damage
        assert f"restored from {lived}/backups/history-" in damage
        assert "took over the winners of generation 2" in taken
        assert 3 == len(history.trials(1))
        assert before == published(lived / "best.db")
        states = {(d.winner.problem, d.winner.decided_at): d.state for d in history.decisions()}
        assert {
            (problem().key, EPOCH): "superseded",
            (problem().key, EPOCH + 1): "current",
            (problem(1).key, EPOCH + 2): "current",
        } == states
        assert ["restored"] == [event.kind for event in history.events(kind="restored")]
        assert 3 == publish(history, "as before")
        assert {problem().key: NEW, problem(1).key: NEW} == latencies(lived / "best.db")
    assert 1 == len(list(lived.glob("history.db.damaged-*")))
    with open_history(str(lived)) as history:
        assert [] == history.notices


def test_without_a_backup_the_published_winners_make_the_new_history(lived: Path) -> None:
    before = [{**row, "study": None, "trial": None} for row in published(lived / "best.db")]
    for path in (lived / "backups").iterdir():
        path.unlink()
    break_a_page(lived / "history.db")
    with open_history(str(lived)) as history:
        damage, taken = history.notices
        assert "there is no whole backup, so a new history was begun" in damage
        assert "took over the winners of generation 2" in taken
        assert 2 == serving(lived)
        publish(history, "as before")
        assert before == published(lived / "best.db")
        incumbent = history.incumbent(CPU, STACK, "linear", problem().key, "latency")
        assert (NEW, EPOCH + 1) == (incumbent.choices[0].latency_ns, incumbent.decided_at)
        assert {None} == {decision.study for decision in history.decisions()}
        study = promote(history, latency_ns=2e5, decided_at=EPOCH + 3)
        assert ["superseded"] == [
            d.state for d in history.decisions(problem=problem().key) if d.study != study
        ]


@pytest.mark.parametrize("content", [None, b""])
def test_a_history_that_is_gone_takes_over_what_is_published(lived: Path, content: bytes | None) -> None:
    (lived / "history.db").unlink()
    if content is not None:
        (lived / "history.db").write_bytes(content)
    with open_history(str(lived)) as history:
        assert 2 == len(history.decisions(state="current"))
        promote(history, m=64, decided_at=EPOCH + 3)
        publish(history, "one more")
        assert {problem(m).key for m in (1, 16, 64)} == latencies(lived / "best.db").keys()


def test_when_history_and_snapshot_are_gone_the_newest_kept_generation_comes_back(lived: Path) -> None:
    (lived / "history.db").unlink()
    (lived / "best.db").unlink()
    (lived / "generations" / "best-00000002.db").write_bytes(b"torn")
    with open_history(str(lived)) as history:
        assert ({problem().key: OLD}, 3) == (latencies(lived / "best.db"), serving(lived))
        assert [3, 1] == [generation.number for generation in generations(history)]


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_log_left_by_a_killed_writer_goes_aside_with_its_damaged_history(lived: Path, suffix: str) -> None:
    (lived / "history.db").write_bytes(b"not a database at all" * 400)
    (lived / f"history.db{suffix}").write_bytes(b"left")
    with open_history(str(lived)) as history:
        assert 3 == len(history.trials(1))
    assert not check(str(lived / "history.db")).faults


def test_a_restore_takes_the_newest_backup_and_keeps_what_was_there(lived: Path) -> None:
    with restore_history(str(lived)) as history:
        assert f"{lived}/history.db: restored from {lived}/backups/history-" in history.notices[0]
        assert 3 == len(history.trials(1))
        assert {problem().key: NEW, problem(1).key: NEW} == latencies(lived / "best.db")
        assert 2 == len(history.decisions(state="current"))
    (kept,) = lived.glob("history.db.replaced-*")
    with closing(sqlite3.connect(kept)) as connection:
        assert (3,) == connection.execute("SELECT count(*) FROM winner").fetchone()


def test_a_restore_without_a_whole_backup_changes_nothing(lived: Path) -> None:
    (only,) = (lived / "backups").iterdir()
    break_a_page(only)
    with pytest.raises(DatabaseError, match=r"backups: holds no backup that is whole"):
        restore_history(str(lived))
    with pytest.raises(DatabaseError, match=f"{only}: .*; choose another backup"):
        restore_history(str(lived), str(only))
    with pytest.raises(DatabaseError, match=r"nowhere.db: is missing; choose another backup"):
        restore_history(str(lived), str(lived / "nowhere.db"))
    with pytest.raises(DatabaseError, match=r"best.db: is no history; choose another backup"):
        restore_history(str(lived), str(lived / "best.db"))
    with open_history(str(lived)) as history:
        assert [] == history.notices
        assert 3 == len(history.decisions())


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA application_id = 1; CREATE TABLE theirs(x);")


def newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (foreign, r"history.db: is of another program; move it away"),
        (newer, r"history.db: this history has version 99, .* up to [0-9]+; install the newer autotune"),
    ],
)
@pytest.mark.parametrize("use", [open_history, read_history])
def test_a_foreign_or_newer_history_is_refused_and_left_alone(
    lived: Path, spoil: object, told: str, use: object
) -> None:
    spoil(lived / "history.db")
    before = (lived / "history.db").read_bytes()
    with pytest.raises(DatabaseError, match=told) as raised:
        use(str(lived))
    assert 1 == len(str(raised.value).splitlines())
    assert before == (lived / "history.db").read_bytes()
    assert [] == list(lived.glob("*damaged*"))


def test_a_snapshot_in_the_place_of_the_history_is_refused(lived: Path) -> None:
    (lived / "history.db").write_bytes((lived / "best.db").read_bytes())
    with pytest.raises(DatabaseError, match=r"history.db: is a snapshot, expected a history; move it away"):
        open_history(str(lived))


def test_a_newer_snapshot_is_refused_and_left_alone(lived: Path) -> None:
    newer(lived / "best.db")
    before = (lived / "best.db").read_bytes()
    with pytest.raises(DatabaseError, match=r"best.db: this snapshot has version 99"):
        open_history(str(lived))
    assert before == (lived / "best.db").read_bytes()


def test_a_refused_history_is_not_left_locked(lived: Path) -> None:
    newer(lived / "history.db")
    for _ in range(2):
        with pytest.raises(DatabaseError, match="version 99"):
            open_history(str(lived))


def test_a_reader_of_no_history_is_told_how_to_make_one(state: Path) -> None:
    for made in (False, True):
        with pytest.raises(DatabaseError, match=r"history.db: there is no history yet; `autotune tune`"):
            read_history(str(state))
        if not made:
            state.mkdir()
            (state / "history.db").touch()


def test_a_reader_of_a_damaged_history_is_told_the_remedy(lived: Path) -> None:
    (lived / "history.db").write_bytes(b"garbage " * 4096)
    with pytest.raises(DatabaseError, match=r"history.db: is damaged .*`autotune db restore`"):
        read_history(str(lived))


def test_an_older_history_is_upgraded_by_its_next_writer(state: Path) -> None:
    """As one is that was killed after the file was made and before it had a schema."""
    state.mkdir()
    with closing(sqlite3.connect(state / "history.db")) as connection:
        connection.executescript("PRAGMA journal_mode = WAL; PRAGMA application_id = 0x41545548;")
    with pytest.raises(DatabaseError, match=r"history.db: needs an upgrade"):
        read_history(str(state))
    with open_history(str(state)) as history:
        promote(history)
    with read_history(str(state)) as reader:
        assert 3 == len(reader.trials(1))


def test_a_backup_that_fails_does_not_stop_the_writer(lived: Path) -> None:
    (only,) = (lived / "backups").iterdir()
    only.unlink()
    with open_history(str(lived)) as history:
        assert 1 == len(list((lived / "backups").iterdir()))
        assert [] == history.notices


def test_a_pipe_in_the_place_of_the_snapshot_keeps_nobody_waiting(lived: Path) -> None:
    (lived / "best.db").unlink()
    os.mkfifo(lived / "best.db")
    with open_history(str(lived)):
        assert {problem().key: NEW, problem(1).key: NEW} == latencies(lived / "best.db")


def test_a_pipe_in_the_place_of_the_history_is_told_in_one_line(state: Path) -> None:
    state.mkdir()
    os.mkfifo(state / "history.db")
    with pytest.raises(StateError, match=r"history.db: "):
        open_history(str(state))
    with pytest.raises(StateError, match=r"history.db: "):
        read_history(str(state))


def test_a_folder_in_the_place_of_the_history_is_told_in_one_line(state: Path) -> None:
    (state / "history.db").mkdir(parents=True)
    with pytest.raises(StateDirError, match=r"history.db: cannot be opened"):
        open_history(str(state))
