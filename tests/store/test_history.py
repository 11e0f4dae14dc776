"""The history: what is written comes back, studies resume, and one winner at a time is current."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from autotune.errors import HistoryLockedError, InternalError, UnknownNameError
from autotune.store import open_history, read_history, schema
from autotune.store.records import Measurement, Verdict
from tests.store.factories import (
    CPU,
    CPU_FACTS,
    EPOCH,
    GPU,
    OTHER_STACK,
    STACK,
    STACK_FACTS,
    AnyDevice,
    choice,
    configuration,
    gpu,
    problem,
    promote,
    record_host,
    run_python,
    study_key,
    trial,
    winner,
)

if TYPE_CHECKING:
    from autotune.store import History


def begin(history: History, m: int = 16, **changes: object) -> int:
    record_host(history)
    return history.begin_study(study_key(m, **changes), problem(m).dimensions)


def test_every_trial_comes_back_as_it_was_recorded(history: History) -> None:
    study = begin(history)
    trials = [trial(number, verdict) for number, verdict in enumerate(Verdict)]
    for each in trials:
        history.add_trial(study, each)
    assert trials == history.trials(study)
    assert trials[3] == history.trial(study, 3)
    assert [trials[4]] == history.trials(study, verdict=trials[4].verdict)
    assert trials[:2] == history.trials(study, limit=2)


def test_a_measurement_without_samples_comes_back(history: History) -> None:
    """All samples of a throttled device may be thrown away."""
    study = begin(history)
    empty = trial(measurement=Measurement((), stopped="time_cap", timer="cuda_events", discarded=40))
    history.add_trial(study, empty)
    assert [empty] == history.trials(study)


def test_what_was_recorded_outlives_its_writer(state: Path) -> None:
    with open_history(str(state)) as history:
        study = promote(history)
    with open_history(str(state)) as history:
        assert [trial(number) for number in range(3)] == history.trials(study)
        assert winner() == history.incumbent(CPU, STACK, "linear", problem().key, "latency")


def test_a_study_with_the_same_key_is_resumed(history: History) -> None:
    study = begin(history)
    history.add_trial(study, trial(0))
    history.end_study(study, "budget")
    assert ("ended", "budget") == (history.study(study).state, history.study(study).end_reason)
    assert study == begin(history)
    assert ("running", 1) == (history.study(study).state, history.study(study).trials)


@pytest.mark.parametrize("changed", [{"max_error": 0.01}, {"max_error": 0.0}, {"space": "other"}, {"m": 1}])
def test_a_study_with_another_key_is_another(history: History, changed: dict[str, object]) -> None:
    assert begin(history) != begin(history, **changed)
    assert begin(history, **changed) == begin(history, **changed)


def test_a_study_whose_process_was_killed_is_interrupted(state: Path) -> None:
    with open_history(str(state)) as history:
        study = begin(history)
    with open_history(str(state)) as history:
        assert "interrupted" == history.study(study).state


def test_studies_are_found_by_what_they_are_about(history: History) -> None:
    first, second = begin(history, 1), begin(history, 16)
    history.add_trial(second, trial(0, Verdict.CRASHED))
    history.add_trial(second, trial(1))
    assert [second, first] == [study.id for study in history.studies()]
    assert [first] == [study.id for study in history.studies(problem=problem(1).key)]
    assert [first] == [study.id for study in history.studies(dimensions={"m": "1", "k": 2048})]
    assert [second] == [study.id for study in history.studies(verdict=Verdict.CRASHED)]
    assert [first] == [study.id for study in history.studies(limit=1, offset=1)]
    assert [] == history.studies(workload="attention") + history.studies(stack=OTHER_STACK)
    found = history.study(second)
    assert (study_key(16), 2, problem(16).dimensions) == (found.key, found.trials, found.dimensions)
    assert trial(1).measurement.p50_ns == found.best_ns
    assert {Verdict.CRASHED: 1, Verdict.OK: 1} == history.verdicts(second)


def test_an_unknown_study_or_trial_is_told_with_those_there_are(history: History) -> None:
    study = begin(history)
    with pytest.raises(UnknownNameError, match=f"unknown study '99'; expected one of {study}"):
        history.study(99)
    with pytest.raises(UnknownNameError, match="study 1: unknown trial '0'"):
        history.trial(study, 0)


def test_configurations_that_did_harm_are_quarantined(history: History) -> None:
    study = begin(history)
    for number, verdict in enumerate(Verdict):
        history.add_trial(study, trial(number, verdict))
    harmful = [Verdict.WRONG, Verdict.CRASHED, Verdict.HUNG, Verdict.OUT_OF_MEMORY]
    expected = [configuration(number) for number, verdict in enumerate(Verdict) if verdict in harmful]
    assert expected == history.quarantined(CPU, STACK, "linear", problem().key)
    assert [] == history.quarantined(CPU, OTHER_STACK, "linear", problem().key)
    assert [] == history.quarantined(CPU, STACK, "linear", problem(1).key)


def test_what_was_only_too_inaccurate_is_free_again_where_that_error_is_allowed(history: History) -> None:
    study = begin(history)
    history.add_trial(study, trial(0, Verdict.WRONG, error=0.01))
    history.add_trial(study, trial(1, Verdict.WRONG, error=None))
    where = (CPU, STACK, "linear", problem().key)
    assert [configuration(0), configuration(1)] == history.quarantined(*where, allowed_error=0.001)
    assert [configuration(1)] == history.quarantined(*where, allowed_error=0.02)


def test_a_promotion_supersedes_the_incumbent_and_keeps_it(history: History) -> None:
    promote(history, latency_ns=4e5, decided_at=EPOCH)
    promote(history, latency_ns=3e5, decided_at=EPOCH + 1)
    later, earlier = history.decisions(workload="linear")
    assert ("current", winner(latency_ns=3e5, decided_at=EPOCH + 1)) == (later.state, later.winner)
    assert ("superseded", winner(latency_ns=4e5)) == (earlier.state, earlier.winner)
    assert "decided again by study 1" == earlier.note
    assert later.winner == history.incumbent(CPU, STACK, "linear", problem().key, "latency")


def test_a_promotion_is_an_event_and_the_same_configuration_confirms(history: History) -> None:
    study = begin(history)
    other = winner(choices=(choice(0, settings=configuration(5)),))
    for each in (winner(), winner(latency_ns=3e5), other):
        history.promote(study, each)
    kinds = [event.kind for event in history.events(subject=f"linear({problem().key})")]
    assert ["promoted", "confirmed", "promoted"] == kinds
    newest = history.events(kind="promoted", limit=1)[0]
    assert (study, configuration(5)) == (newest.detail["study"], newest.detail["configuration"])


@pytest.mark.parametrize("wrong", [winner(m=1), winner(choices=()), winner(choices=(choice(1),))])
def test_a_winner_that_is_not_the_studys_is_refused(history: History, wrong: object) -> None:
    study = begin(history)
    with pytest.raises(InternalError):
        history.promote(study, wrong)
    assert [] == history.decisions()


def test_a_failed_write_changes_nothing_and_is_told_in_one_line(history: History) -> None:
    study = begin(history)
    history.add_trial(study, trial(0))
    with pytest.raises(InternalError, match=r"history.db: UNIQUE constraint failed"):
        history.add_trial(study, trial(0))
    with pytest.raises(InternalError, match="FOREIGN KEY constraint failed"):
        history.begin_study(study_key(device="unknown"), problem().dimensions)
    with pytest.raises(InternalError, match="CHECK constraint failed"):
        history.add_trial(study, trial(1, stage="nowhere"))
    history.add_trial(study, trial(1))
    assert 2 == history.study(study).trials


def test_neighbours_are_the_winners_at_other_sizes_nearest_first(history: History) -> None:
    for number, m in enumerate((1, 64, 2, 1024)):
        study = begin(history, m)
        history.promote(study, winner(m, choices=(choice(0, settings=configuration(number)),)))
    assert [configuration(n) for n in (1, 2, 0, 3)] == history.neighbours(CPU, problem(16), "latency")
    assert [] == history.neighbours(CPU, problem(16, n=1), "latency")
    baseline = winner(64, choices=(choice(0, is_baseline=True, trial=None),))
    history.promote(begin(history, 64), baseline)
    assert [configuration(n) for n in (2, 0, 3)] == history.neighbours(CPU, problem(16), "latency")


def test_equal_devices_share_a_digest_and_the_first_index(history: History) -> None:
    history.record_devices([gpu(1), gpu(0), gpu(2, "91" * 8), AnyDevice()])
    assert [(GPU, 0), ("91" * 8, 2), (CPU, 0)] == [(d.digest, d.local_index) for d in history.devices()]
    history.record_device(AnyDevice(index=-1, digest="00" * 8))
    assert None is history.device("00" * 8).local_index
    history.record_devices([AnyDevice()])
    assert (None, 0) == (history.device(GPU).local_index, history.device(CPU).local_index)
    assert CPU_FACTS == history.device(CPU).facts
    record_host(history)
    assert STACK_FACTS == history.stack(STACK).facts


def test_a_second_writer_is_told_who_the_first_is(history: History, state: Path) -> None:
    script = "import sys; from autotune.store import open_history; open_history(sys.argv[1])"
    done = run_python(script, state)
    assert f"{state}: the history is being written by pid {os.getpid()} (" in done.stderr
    with pytest.raises(HistoryLockedError, match=f"pid {os.getpid()}"):
        open_history(str(state))


def test_the_lock_ends_with_its_process(state: Path) -> None:
    script = "import os, sys; from autotune.store import open_history; open_history(sys.argv[1]); os._exit(9)"
    run_python(script, state)
    with open_history(str(state)) as history:
        assert [] == history.notices


def test_a_reader_sees_what_the_writer_has_committed(history: History, state: Path) -> None:
    study = promote(history)
    with read_history(str(state)) as reader:
        assert 3 == len(reader.trials(study))
        history.add_trial(study, trial(3))
        assert 4 == len(reader.trials(study))
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.connection.execute("DELETE FROM trial")


def test_a_reader_outlives_writers_that_come_and_go(state: Path) -> None:
    with open_history(str(state)) as history:
        study = promote(history)
    with read_history(str(state)) as reader:
        assert 3 == len(reader.trials(study))
        with open_history(str(state)) as history:
            history.add_trial(study, trial(3))
            assert 4 == len(reader.trials(study))
        assert 4 == len(reader.trials(study))
    with open_history(str(state)) as history:
        assert ([], 4) == (history.notices, len(history.trials(study)))


def test_a_reader_recovers_what_a_writer_left_that_was_killed_while_closing(state: Path) -> None:
    with open_history(str(state)) as history:
        study = promote(history)
    script = (
        "import os, sqlite3, sys\n"
        "writer = sqlite3.connect(sys.argv[1] + '/history.db', isolation_level=None)\n"
        "for sql in ('PRAGMA cache_size = 1', 'BEGIN IMMEDIATE', 'DELETE FROM event', 'DELETE FROM trial'):\n"
        "    writer.execute(sql)\n"
        "os._exit(9)"
    )
    run_python(script, state)
    assert (state / "history.db-journal").stat().st_size
    with read_history(str(state)) as reader:
        assert 3 == len(reader.trials(study))


def test_a_user_who_may_not_write_the_folder_reads_the_history() -> None:
    """Beside its writer, after it ended, and after it was killed."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        state = Path(folder) / "state"
        with open_history(str(state)) as history:
            promote(history)
            assert "3" == _read_as_nobody(state)
        assert "3" == _read_as_nobody(state)
        killed = (
            "import os, sys; from tests.store.factories import promote\n"
            "from autotune.store import open_history\n"
            "history = open_history(sys.argv[1]); promote(history); os._exit(9)"
        )
        run_python(killed, state)
        assert (state / "history.db-wal").exists()
        assert "6" == _read_as_nobody(state)


def _read_as_nobody(state: Path) -> str:
    script = (
        "import os, sys; from autotune.store import read_history, reading, schema\n"
        "schema.migrations(); os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(len(read_history(sys.argv[1]).trials(1)))"
    )
    done = run_python(script, state)
    return done.stdout.strip() or done.stderr


def test_the_schema_is_strict_and_says_whose_it_is(history: History, state: Path) -> None:
    with closing(sqlite3.connect(state / "history.db")) as connection:
        assert (0x41545548,) == connection.execute("PRAGMA application_id").fetchone()
        assert (schema.latest_version(),) == connection.execute("PRAGMA user_version").fetchone()
        tables = connection.execute("PRAGMA table_list").fetchall()
    ours = [row for row in tables if row[0] == "main" and not row[1].startswith(("sqlite_", "_sqlite"))]
    assert 8 < len(ours)
    assert [] == [row[1] for row in ours if not row[5]]


def test_a_history_of_an_earlier_schema_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = str(tmp_path / "state")
    first = schema.migrations()[:1]
    with monkeypatch.context() as earlier:
        earlier.setattr(schema, "migrations", lambda: first)
        schema.columns.cache_clear()
        with open_history(state) as history:
            record_host(history)
            study = history.begin_study(study_key(16), problem(16).dimensions)
    schema.columns.cache_clear()
    with closing(sqlite3.connect(f"{state}/history.db")) as connection, connection:
        assert (1,) == connection.execute("PRAGMA user_version").fetchone()
        connection.execute(
            "INSERT INTO trial(study, number, configuration, verdict, stage, reason, compile_seconds,"
            " measure_seconds, started_at) VALUES (?, 0, '{}', 'hung', 'compile', '', 0.0, 0.0, 0.0)",
            (study,),
        )
    with open_history(state) as history:
        assert [Verdict.HUNG] == [each.verdict for each in history.trials(study)]
        measured = Measurement((5,), "converged", "monotonic", joules=2.5)
        history.add_trial(study, replace(trial(1), measurement=measured))
        assert measured == history.trial(study, 1).measurement


def test_a_migration_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = (schema.Migration(1, "0001_a", "CREATE TABLE a(x); CREATE TABLE b(x);"),)
    broken = (*steps, schema.Migration(2, "0002_b", "CREATE TABLE c(x); INSERT INTO nowhere VALUES (1);"))
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as connection:
        monkeypatch.setattr(schema, "migrations", lambda: broken)
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            schema.apply(connection, 7)
        assert [] == connection.execute("SELECT * FROM sqlite_schema").fetchall()
        monkeypatch.setattr(schema, "migrations", lambda: steps)
        schema.apply(connection, 7)
        schema.apply(connection, 7)
        assert (1,) == connection.execute("PRAGMA user_version").fetchone()
        assert [("0001_a",)] == connection.execute("SELECT name FROM _sqlite_migrations").fetchall()
