"""Publishing: one whole file at a time, generations kept, and nothing acknowledged is lost to a crash."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from autotune.errors import StateDirError, UnknownNameError
from autotune.lookup.published import Published
from autotune.store import open_history, snapshot
from autotune.store.backup import check
from autotune.store.snapshot import generations, pin, publish, unpin
from tests.store.factories import CPU, EPOCH, STACK, gpu, problem, promote, winner

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.store import History


def published(path: Path) -> list[dict[str, Any]]:
    """The rows of a snapshot's choices."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM choice")]


def latencies(path: Path) -> dict[str, float]:
    """The published latency of each problem's winner."""
    return {row["problem"]: row["latency_ns"] for row in published(path) if row["rank"] == 0}


def serving(state: Path) -> int:
    """The generation that `best.db` holds."""
    found = snapshot.published_generation(str(state / "best.db"))
    assert found is not None
    return found


def test_a_winner_is_published_with_its_proof(history: History, state: Path) -> None:
    study = promote(history)
    assert 1 == publish(history, "why")
    best, other = published(state / "best.db")
    decided, proof = winner().choices[0], winner().choices[0].proof
    assert (0, 1) == (best["rank"], other["rank"])
    assert ("linear", problem().key, "latency", CPU, STACK) == tuple(
        best[name] for name in ("workload", "problem", "objective", "device", "stack")
    )
    assert (decided.latency_ns, decided.measurement.p99_ns) == (best["latency_ns"], best["p99_ns"])
    interval = proof.against_baseline
    assert (interval.ratio, interval.low, interval.high) == (
        best["speedup"],
        best["speedup_low"],
        best["speedup_high"],
    )
    assert (study, 0, EPOCH, None) == (best["study"], best["trial"], best["decided_at"], other["p99_ns"])
    assert not check(str(state / "best.db")).faults


def test_look_ups_read_what_is_published(history: History, state: Path) -> None:
    history.record_devices([gpu(0)])
    promote(history)
    promote(history, m=1)
    publish(history, "why")
    reader = Published(str(state / "best.db"))
    rows = reader.tuned(problem(), "latency", CPU)
    assert (1, 2) == (reader.generation, len(rows))
    assert winner().choices[0].configuration == reader.configuration(rows[0])
    assert [problem(1).key] * 2 == [row["problem"] for row in reader.neighbours(problem(), "latency", CPU)]
    assert [(0, gpu().digest)] == reader.accelerators()
    reader.close()


def test_only_current_winners_are_published(history: History, state: Path) -> None:
    promote(history, latency_ns=4e5)
    promote(history, latency_ns=3e5, decided_at=EPOCH + 1)
    publish(history, "why")
    assert {problem().key: 3e5} == latencies(state / "best.db")


def test_each_generation_is_kept_under_its_number(history: History, state: Path) -> None:
    for number in (1, 2, 3):
        promote(history, latency_ns=number * 1e5, decided_at=EPOCH + number)
        assert number == publish(history, f"reason {number}")
    for number in (1, 2, 3):
        assert {problem().key: number * 1e5} == latencies(state / "generations" / f"best-{number:08d}.db")
    told = [(generation.number, generation.reason, generation.kept) for generation in generations(history)]
    assert [(3, "reason 3", True), (2, "reason 2", True), (1, "reason 1", True)] == told
    assert snapshot.digest_of(str(state / "best.db")) == generations(history)[0].digest


def test_old_generations_are_deleted_unless_pinned(
    history: History, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "KEPT", 3)
    publish(history, "first")
    pin(history, 1, "job 7 runs on it")
    for _ in range(5):
        publish(history, "more")
    assert [1, 4, 5, 6] == snapshot.generation_files(history.state)
    assert [False, False, True] == [generation.kept for generation in generations(history)[3:]]
    assert "job 7 runs on it" == generations(history)[-1].pin_reason
    with pytest.raises(UnknownNameError, match="unknown generation '2'; expected one of 1, 4, 5, 6"):
        pin(history, 2, "too late")
    unpin(history, 1)
    publish(history, "more")
    assert [5, 6, 7] == snapshot.generation_files(history.state)


def test_a_published_file_can_be_read_by_everybody(state: Path) -> None:
    before = os.umask(0o077)
    try:
        with open_history(str(state)) as history:
            publish(history, "why")
    finally:
        os.umask(before)
    readable = [state / "best.db", state / "history.db", state / "generations" / "best-00000001.db"]
    assert [0o644] * 3 == [path.stat().st_mode & 0o777 for path in readable]
    assert [0o755] * 2 == [path.stat().st_mode & 0o777 for path in (state, state / "generations")]


def test_an_open_reader_keeps_its_generation(history: History, state: Path) -> None:
    promote(history)
    publish(history, "first")
    with closing(sqlite3.connect(f"file:{state}/best.db?mode=ro&immutable=1", uri=True)) as reader:
        generation = "SELECT value FROM meta WHERE key = 'generation'"
        assert [("1",)] == reader.execute(generation).fetchall()
        promote(history, m=1)
        publish(history, "second")
        assert [("1",)] == reader.execute(generation).fetchall()
        assert 2 == len(reader.execute("SELECT * FROM choice").fetchall())


def test_what_a_killed_publisher_left_is_removed(history: History, state: Path) -> None:
    for name in (".best.db.new", ".best.db.new-journal"):
        (state / name).write_bytes(b"half a snapshot")
    publish(history, "why")
    assert ["backups", "best.db", "generations"] == sorted(
        path.name for path in state.iterdir() if not path.name.startswith("history")
    )


class Killed(BaseException):
    """Stands for a SIGKILL between two steps."""


@pytest.mark.parametrize("step", ["_write", "sync_file", "_record", "_put_in_place"])
@pytest.mark.parametrize("before", [True, False])
def test_a_promotion_is_published_whenever_its_publisher_dies(
    state: Path, monkeypatch: pytest.MonkeyPatch, step: str, before: bool
) -> None:
    real = getattr(snapshot, step)

    def dies(*arguments: Any) -> None:
        if not before:
            real(*arguments)
        raise Killed

    with open_history(str(state)) as history:
        promote(history)
        publish(history, "first")
        promote(history, latency_ns=3e5, decided_at=EPOCH + 1)
        with monkeypatch.context() as patched:
            patched.setattr(snapshot, step, dies)
            with pytest.raises(Killed):
                publish(history, "second")
        old, new = {problem().key: 4e5}, {problem().key: 3e5}
        assert latencies(state / "best.db") in (old, new)
    with open_history(str(state)) as history:
        assert [] == history.notices
        assert new == latencies(state / "best.db")
        assert serving(state) == generations(history)[0].number
        assert not check(str(state / "best.db")).faults
        present = serving(state)
    with open_history(str(state)):
        assert present == serving(state)


@pytest.mark.parametrize("step", ["link", "replace"])
def test_a_crash_between_the_names_is_mended(state: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def dies(*_: Any) -> None:
        raise Killed

    with open_history(str(state)) as history:
        promote(history)
        with monkeypatch.context() as patched:
            patched.setattr(snapshot.os, step, dies)
            with pytest.raises(Killed):
                publish(history, "first")
        assert not (state / "best.db").exists()
    with open_history(str(state)) as history:
        assert {problem().key: 4e5} == latencies(state / "best.db")
        assert 2 == serving(state)


def test_a_missing_snapshot_is_published_again(state: Path) -> None:
    with open_history(str(state)) as history:
        promote(history)
        publish(history, "first")
    (state / "best.db").unlink()
    with open_history(str(state)):
        assert ({problem().key: 4e5}, 2) == (latencies(state / "best.db"), serving(state))


@pytest.mark.parametrize("content", [b"", b"not a database", None])
def test_a_damaged_snapshot_is_set_aside_and_published_again(state: Path, content: bytes | None) -> None:
    with open_history(str(state)) as history:
        promote(history)
        publish(history, "first")
        whole = (state / "best.db").read_bytes()
        # Another inode: the kept generation is the same file.
        (state / "best.db").unlink()
        (state / "best.db").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with open_history(str(state)) as history:
        assert ({problem().key: 4e5}, 2) == (latencies(state / "best.db"), serving(state))
        (notice,) = history.notices
        assert f"{state}/best.db: was damaged and is published again" in notice
    assert 1 == len(list(state.glob("best.db.damaged-*")))


def test_a_history_that_nobody_promoted_in_publishes_nothing(state: Path) -> None:
    with open_history(str(state)):
        pass
    with open_history(str(state)):
        assert not (state / "best.db").exists()


def test_where_files_cannot_be_linked_generations_are_copied(
    history: History, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(snapshot.os, "link", refuses)
    promote(history)
    publish(history, "why")
    assert published(state / "best.db") == published(state / "generations" / "best-00000001.db")


def test_a_snapshot_that_cannot_be_renamed_is_told_and_published_later(state: Path) -> None:
    with open_history(str(state)) as history:
        promote(history)
        (state / "best.db").mkdir()
        with pytest.raises(StateDirError, match=f"{state}/.*best.db"):
            publish(history, "why")
    with open_history(str(state)):
        assert {problem().key: 4e5} == latencies(state / "best.db")
