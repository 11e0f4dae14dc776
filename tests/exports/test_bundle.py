"""Bundles: what comes out goes in, whatever is wrong changes nothing, and nothing imported is published."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.cli import main
from autotune.errors import UsageError
from autotune.exports import bundle as bundles
from autotune.search.objective import LATENCY
from autotune.search.transfer import FromBundles
from autotune.store import open_history, read_history
from autotune.store.bundles import candidates, entries, forget, imported_winners, take
from autotune.store.snapshot import publish
from tests.store.factories import (
    CPU,
    OTHER_STACK,
    STACK,
    AnyDevice,
    choice,
    configuration,
    gpu,
    problem,
    promote,
    record_host,
    study_key,
    trial,
    winner,
)

OFTEN = settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A bundle of two winners with their trials."""
    with open_history(str(tmp_path_factory.mktemp("there"))) as history:
        promote(history)
        promote(history, m=64)
        return bundles.write(bundles.collect(history, trials=True))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a history of its own, one winner published."""
    state = tmp_path / "here"
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(state))
    monkeypatch.setenv("AUTOTUNE_CONFIG", os.devnull)
    with open_history(str(state)) as history:
        promote(history, m=1)
        publish(history, "own")
    return state


@pytest.fixture
def file(made: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "there.bundle"
    path.write_bytes(made)
    return path


def content_of(data: bytes) -> dict[str, Any]:
    return dict(json.loads(zlib.decompress(data.partition(b"\n")[2], 31)))


def signed(content: Any) -> bytes:
    """Content with a header that fits it, as a forger makes it."""
    encoded = content if isinstance(content, bytes) else msgspec.json.encode(content)
    header = bundles.Header(
        bundles.FORMAT, bundles.VERSION, len(encoded), hashlib.sha256(encoded).hexdigest()
    )
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    return msgspec.json.encode(header) + b"\n" + compressor.compress(encoded) + compressor.flush()


def published(state: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(state / "best.db")) as connection:
        return connection.execute("SELECT * FROM choice").fetchall()


def test_what_was_written_is_read(made: bytes) -> None:
    content, digest = bundles.read(made, "x")
    assert [problem(64).key, problem().key] == [one.problem for one in content.winners]
    assert [3, 3] == [len(study.trials) for study in content.studies]
    assert [CPU] == [device.digest for device in content.devices]
    assert digest == hashlib.sha256(msgspec.json.encode(content)).hexdigest()


def test_an_import_is_shown_taken_listed_and_taken_back(capsys, here: Path, file: Path) -> None:
    before = published(here)
    assert 0 == main(["import", "bundle", str(file), "--dry-run"])
    assert "2 winners, 6 trials" in capsys.readouterr().out
    with read_history() as reader:
        assert [] == entries(reader)
    assert 0 == main(["import", "bundle", str(file), "--yes", "--json"])
    assert 1 == json.loads(capsys.readouterr().out)["bundle"]
    assert 0 == main(["import", "list", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert {"unproven"} == {one["state"] for one in told["winners"]}
    assert [(2, 6)] == [(one["winners"], one["trials"]) for one in told["bundles"]]
    assert before == published(here)
    with open_history(str(here)) as history:
        assert 1 == len(history.decisions())
        publish(history, "after")
    assert before == published(here)
    assert 0 == main(["import", "undo", "1"])
    with read_history() as reader:
        assert ([], []) == (entries(reader), imported_winners(reader))
        for table in ("bundle", "imported_winner", "imported_study", "imported_trial"):
            assert 0 == reader.rows(f"SELECT count(*) FROM {table}")[0][0]
        assert ["import_undone", "imported"] == [
            event.kind for event in reader.events(limit=2) if event.kind.startswith("import")
        ]


def test_without_an_answer_nothing_is_imported(capsys, here: Path, file: Path) -> None:
    assert 2 == main(["import", "bundle", str(file)])
    assert "nothing was imported" in capsys.readouterr().err
    with read_history() as reader:
        assert [] == entries(reader)


def test_the_same_bundle_is_imported_once(capsys, here: Path, file: Path) -> None:
    assert 0 == main(["import", "bundle", str(file), "--yes"])
    assert 2 == main(["import", "bundle", str(file), "--yes"])
    assert "imported already" in capsys.readouterr().err


def test_this_machines_own_decision_proves_or_refutes(here: Path, made: bytes) -> None:
    content, digest = bundles.read(made, "x")
    with open_history(str(here)) as history:
        take(history, content, digest)
        assert {"unproven"} == {one.state for one in imported_winners(history)}
        record_host(history)
        for m, settings_ in ((16, configuration(0)), (64, configuration(3))):
            study = history.begin_study(study_key(m), problem(m).dimensions)
            chosen = (choice(0, settings=settings_),)
            history.promote(study, winner(m, choices=chosen, decided_at=9e9))
        assert {problem(16).key: "proven here", problem(64).key: "another won here"} == {
            one.problem: one.state for one in imported_winners(history)
        }


def test_what_was_decided_before_the_import_says_nothing_of_it(here: Path, made: bytes) -> None:
    content, digest = bundles.read(made, "x")
    with open_history(str(here)) as history:
        promote(history)
        take(history, content, digest)
        assert {"unproven"} == {one.state for one in imported_winners(history)}


def test_imported_winners_are_candidates_on_machines_like_theirs(here: Path, made: bytes) -> None:
    content, digest = bundles.read(made, "x")
    with open_history(str(here)) as history:
        number = take(history, content, digest)
        like = ("cpu", "x86-avx512", CPU)
        assert [configuration(0)] == candidates(history, problem(), "latency", *like)
        assert [] == candidates(history, problem(2), "latency", *like)
        assert [] == candidates(history, problem(), "latency", "cuda", "nvidia-h200", "x")
        forget(history, number)
        assert [] == candidates(history, problem(), "latency", *like)


def test_imported_trials_are_where_a_search_begins(here: Path, made: bytes) -> None:
    content, digest = bundles.read(made, "x")
    with open_history(str(here)) as history:
        take(history, content, digest)
        source = FromBundles(history, AnyDevice(), STACK)
        found = list(source(problem(16), LATENCY))
        assert [0.0, 2.0] == [one.distance for one in found]
        assert [3, 3] == [len(one.study.values) for one in found]
        other = FromBundles(history, AnyDevice(digest="ab" * 8), OTHER_STACK)
        assert [2.5, 4.5] == [one.distance for one in other(problem(16), LATENCY)]
        arm = AnyDevice(family="arm", digest="ab" * 8)
        assert [] == list(FromBundles(history, arm, STACK)(problem(16), LATENCY))
        assert [] == list(FromBundles(history, gpu(), STACK)(problem(16), LATENCY))


def test_studies_of_this_family_are_not_crowded_out(here: Path, made: bytes, monkeypatch) -> None:
    monkeypatch.setattr("autotune.search.transfer.MOST_READ", 1)
    content, digest = bundles.read(made, "x")
    with open_history(str(here)) as history:
        take(history, content, digest)
        with history.writing() as connection:
            latest = "(SELECT max(id) FROM imported_study)"
            connection.execute(f"UPDATE imported_study SET family = 'arm' WHERE id = {latest}")
        assert 1 == len(list(FromBundles(history, AnyDevice(digest="ab" * 8), STACK)(problem(16), LATENCY)))


def test_paths_stay_at_home(tmp_path: Path) -> None:
    with open_history(str(tmp_path)) as history:
        record_host(history)
        study = history.begin_study(study_key(), problem().dimensions)
        history.add_trial(study, trial(0, reason="/home/somebody/x.cpp: error"))
        history.promote(study, winner())
        other = history.begin_study(study_key(workload="/etc/passwd"), problem().dimensions)
        history.promote(other, winner(workload="/etc/passwd"))
        content = bundles.collect(history, trials=True)
    assert ["linear"] == [one.workload for one in content.winners]
    assert b"/" not in msgspec.json.encode(content)
    bundles.read(bundles.write(content), "x")


CHANGES: list[tuple[str, Any]] = [
    ("winners.0.workload", "../../etc/passwd"),
    ("winners.0.workload", "x" * 1000),
    ("winners.0.problem", "m=17"),
    ("winners.0.device", "ffffffffffffffff"),
    ("winners.0.stack", "not a digest"),
    ("winners.0.decided_at", -1.0),
    ("winners.0.decided_at", 1e300),
    ("winners.0.baseline_error", -0.5),
    ("winners.0.choices", []),
    ("winners.0.choices.0.rank", 3),
    ("winners.0.choices.0.latency_ns", 0.0),
    ("winners.0.choices.0.memory_bytes", -1),
    ("winners.0.choices.0.configuration", {"threads": 1}),
    ("winners.0.choices.0.configuration.threads", [1, 2]),
    ("winners.0.choices.0.configuration.threads", 2**60),
    ("winners.0.choices.0.configuration.implementation", "a\nb"),
    ("winners.0.choices.0.proof.rounds", -1),
    ("winners.0.choices.0.proof.against_baseline.low", 9.0),
    ("winners.0.choices.0.measurement.samples_ns", [0]),
    ("winners.0.choices.0.measurement.samples_ns", [-5]),
    ("studies.0.trials.0.number", 5),
    ("studies.0.trials.0.verdict", "fine"),
    ("studies.0.trials.0.reason", "C:\\temp"),
    ("studies.0.trials.0.compile_seconds", -1.0),
    ("studies.0.key.device", "ffffffffffffffff"),
    ("devices.0.digest", "../x"),
    ("devices.0.kind", "tpu"),
    ("devices", []),
    ("made_at", 0.0),
    ("unknown", 1),
    ("winners.0.unknown", 1),
    ("winners", {}),
]


@pytest.mark.parametrize(("place", "value"), CHANGES, ids=lambda value: str(value)[:40])
def test_what_is_not_sound_is_refused_though_its_checksum_fits(made: bytes, place: str, value: Any) -> None:
    content = content_of(made)
    at: Any = content
    *above, last = place.split(".")
    for name in above:
        at = at[int(name)] if name.isdigit() else at[name]
    at[last] = value
    with pytest.raises(UsageError) as refused:
        bundles.read(signed(content), "there.bundle")
    assert str(refused.value).startswith("there.bundle: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin with its header"),
        (b"\n", "does not begin with its header"),
        (b"PK\x03\x04" * 200, "does not begin with its header"),
        (b'{"format":"x","version":1,"bytes":1,"sha256":""}\n', "expected autotune bundle of version 1"),
        (b'{"format":"autotune bundle","version":2,"bytes":1,"sha256":""}\n', "expected autotune bundle"),
        (b'{"format":"autotune bundle","version":1,"bytes":9999999999,"sha256":""}\n', "which no bundle has"),
        (b'{"format":"autotune bundle","version":1,"bytes":10,"sha256":""}\nxx', "is damaged"),
    ],
)
def test_what_is_no_bundle_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bundles.read(data, "x")


def test_a_small_file_that_unpacks_without_end_is_refused(made: bytes) -> None:
    header = made.partition(b"\n")[0]
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = compressor.compress(bytes(16 << 20)) + compressor.flush()
    with pytest.raises(UsageError, match="cut off or has something appended"):
        bundles.read(header + b"\n" + bomb, "x")


@OFTEN
@given(data=st.data())
def test_no_changed_byte_goes_unnoticed(made: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(made) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != made[at]))
    try:
        content, _ = bundles.read(made[:at] + bytes([value]) + made[at + 1 :], "x")
    except UsageError:
        return
    # The gzip header has a few bytes, such as the time, that say nothing of the content.
    assert content == bundles.read(made, "x")[0]


@OFTEN
@given(length=st.integers(0, 4000), data=st.binary(max_size=400))
def test_cut_extended_and_invented_files_are_refused(made: bytes, length: int, data: bytes) -> None:
    for candidate in (made[: min(length, len(made) - 1)], made + (data or b"x"), data, signed(data)):
        with pytest.raises(UsageError):
            bundles.read(candidate, "x")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@OFTEN
@given(data=st.data(), value=VALUES)
def test_any_value_at_any_place_is_taken_whole_or_refused(
    made: bytes, data: st.DataObject, value: Any
) -> None:
    content = content_of(made)
    at: Any = content
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(at[key], dict | list) and at[key] and data.draw(st.booleans()):
            at = at[key]
            continue
        at[key] = value
        break
    try:
        read, _ = bundles.read(signed(json.dumps(content).encode()), "x")
    except UsageError:
        return
    bundles.read(bundles.write(read), "x")


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_nothing_is_applied_by_half(made: bytes, tmp_path: Path, rows: int) -> None:
    """A step of the import that fails leaves the history as it was."""
    content, digest = bundles.read(made, "x")
    with open_history(str(tmp_path)) as history:
        broken = msgspec.structs.replace(
            content,
            winners=[*content.winners[:rows], msgspec.structs.replace(content.winners[0], device="gone")],
        )
        with pytest.raises(KeyError):
            take(history, broken, digest)
        assert [] == entries(history)
        for table in ("imported_winner", "imported_study", "imported_trial"):
            assert 0 == history.rows(f"SELECT count(*) FROM {table}")[0][0]
        assert 1 == take(history, content, digest)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("import", "bundle", "nowhere.bundle"), "is not a file"),
        (("import", "bundle", "a\0b"), "is not a file"),
        (("import", "undo", "7"), "unknown bundle '7'"),
        (("export", "bundle", "--to", "{there}"), "is there already"),
        (("export", "bundle", "--to", "{new}", "--workload", "none"), "no winner is meant"),
        (("export", "bundle", "--to", "/nowhere/at/all"), "cannot be written"),
        (("export", "optuna", "--to", "studies.db"), "is no storage"),
        (("export", "optuna", "--to", "nosuch://x"), "cannot be opened as a storage"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    capsys, here: Path, file: Path, words: tuple[str, ...], message: str
) -> None:
    given_ = [word.replace("{there}", str(file)).replace("{new}", str(file) + "2") for word in words]
    assert 2 == main(given_)
    told = capsys.readouterr()
    assert message in told.err
    assert 1 == told.err.count("\n")


def test_shipped_seeds_are_sound() -> None:
    from autotune import paths

    seeds = sorted(Path(paths.data_dir("db"), "seed").glob("*.bundle"))
    assert seeds
    for path in seeds:
        content, _ = bundles.read(path.read_bytes(), path.name)
        assert content.winners


def test_studies_are_opened_by_optuna(capsys, here: Path, tmp_path: Path) -> None:
    import optuna

    url = f"sqlite:///{tmp_path}/studies.db"
    assert 0 == main(["export", "optuna", "--to", url, "--json"])
    assert [1] == json.loads(capsys.readouterr().out)["written"]
    assert 0 == main(["export", "optuna", "--to", url, "--json"])
    assert [1] == json.loads(capsys.readouterr().out)["there_already"]
    storage = optuna.storages.RDBStorage(url)
    (name,) = optuna.study.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    with read_history() as reader:
        ours = reader.trials(1)
    assert [one.measurement.p50_ns / 1e6 for one in ours if one.measurement] == pytest.approx(
        [one.value for one in study.trials]
    )
    assert [one.configuration for one in ours] == [one.params for one in study.trials]
    assert "linear" == study.user_attrs["workload"]
    storage.engine.dispose()
