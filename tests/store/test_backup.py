"""Checks and backups: a backup is whole and stands alone, and a check finds what is wrong."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from autotune.errors import DatabaseError
from autotune.store import open_history
from autotune.store.backup import BACKUP_AGE_SECONDS, KEPT, backup, backups, check, newest_whole
from autotune.store.schema import latest_version
from autotune.store.snapshot import publish
from autotune.store.statedir import StateDir
from tests.store.damage import break_a_page
from tests.store.factories import promote

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.store import History


def test_a_backup_is_whole_and_stands_alone(history: History, state: Path) -> None:
    study = promote(history)
    path = backup(history)
    promote(history, m=1)
    assert (("history", ())) == (check(path).kind, check(path).faults)
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
        assert [(study, 3)] == connection.execute("SELECT study, count(*) FROM trial GROUP BY 1").fetchall()
        assert [("delete",)] == connection.execute("PRAGMA journal_mode").fetchall()
    assert [os.path.basename(path)] == [entry.name for entry in (state / "backups").iterdir()]
    assert path.startswith(f"{state}/backups/history-20")


def test_the_newest_backups_are_kept(history: History) -> None:
    promote(history)
    made = [backup(history) for _ in range(KEPT + 2)]
    assert made[: -KEPT - 1 : -1] == backups(history.state)


def test_a_damaged_history_does_not_become_a_backup(history: History, state: Path) -> None:
    promote(history)
    good = backup(history)
    history.connection.execute("PRAGMA foreign_keys = OFF")
    history.connection.execute("DELETE FROM device")
    with pytest.raises(
        DatabaseError, match=r"history\.db: is damaged, not backed up: study row 1: names a device"
    ):
        backup(history)
    assert [good] == backups(history.state)
    assert [os.path.basename(good)] == [entry.name for entry in (state / "backups").iterdir()]


def test_a_damaged_backup_is_passed_over(history: History) -> None:
    promote(history)
    good, bad = backup(history), backup(history)
    break_a_page(bad)
    assert good == newest_whole(history.state)
    assert check(bad).faults


def test_a_writer_makes_the_backup_that_is_due(state: Path) -> None:
    """Once there are trials, and then once a day."""
    with open_history(str(state)) as history:
        assert [] == backups(history.state)
        promote(history)
    with open_history(str(state)) as history:
        (first,) = backups(history.state)
    with open_history(str(state)) as history:
        assert [first] == backups(history.state)
        yesterday = time.time() - BACKUP_AGE_SECONDS - 60
        os.utime(first, (yesterday, yesterday))
    with open_history(str(state)) as history:
        assert 2 == len(backups(history.state))


def test_a_check_reads_histories_and_snapshots(history: History, state: Path) -> None:
    promote(history)
    publish(history, "why")
    for name, kind, version in (("history.db", "history", latest_version()), ("best.db", "snapshot", 2)):
        checked = check(str(state / name))
        assert (kind, version, ()) == (checked.kind, checked.version, checked.faults)
        assert (state / name).stat().st_size == checked.size_bytes


def test_a_check_finds_a_row_that_is_missing_from_a_snapshot(history: History, state: Path) -> None:
    promote(history)
    publish(history, "why")
    with closing(sqlite3.connect(state / "best.db")) as connection:
        connection.execute("DELETE FROM choice WHERE rank = 1")
        connection.commit()
    assert ("has 1 choices, but says 2",) == check(str(state / "best.db")).faults


def test_a_check_finds_a_page_that_broke_and_a_file_that_is_cut(history: History, state: Path) -> None:
    promote(history)
    history.close()
    whole = (state / "history.db").read_bytes()
    break_a_page(state / "history.db")
    assert check(str(state / "history.db")).faults
    (state / "history.db").write_bytes(whole[: len(whole) // 2])
    assert check(str(state / "history.db")).faults
    (state / "history.db").write_bytes(b"")
    assert ("is empty",) == check(str(state / "history.db")).faults
    (state / "history.db").write_bytes(b"not a database, but long enough to hold a header" * 100)
    assert ("file is not a database",) == check(str(state / "history.db")).faults


def test_a_check_of_what_is_no_file_is_told_in_one_line(state: Path) -> None:
    state.mkdir()
    with pytest.raises(DatabaseError, match=r"history\.db: is missing; `autotune tune` makes it"):
        check(str(state / "history.db"))
    with pytest.raises(DatabaseError, match="is not a regular file"):
        check(str(state))


def test_a_writer_keeps_as_many_backups_as_the_settings_say(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And deletes none while the settings cannot be read."""
    config = tmp_path / "config.toml"
    monkeypatch.setenv("AUTOTUNE_CONFIG", str(config))
    with open_history(str(state)) as history:
        promote(history)
        made = [backup(history, keep=None) for _ in range(KEPT + 2)]
    for text, kept in (
        ("retention = 1", KEPT + 3),
        ("[retention]\nbackups = 9", 9),
        ("[retention]\nbackups = 2", 2),
    ):
        config.write_text(text)
        yesterday = time.time() - BACKUP_AGE_SECONDS - 60
        for path in backups(StateDir(str(state))):
            os.utime(path, (yesterday, yesterday))
        with open_history(str(state)) as history:
            assert kept == len(backups(history.state))
    assert not any(map(os.path.exists, made))
