"""Imports beside a daemon: done by a process of its own, proven by the daemon, whole or not at all."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from autotune.daemon.control import Answer, ForgetBundle, KeepImports, Requests, TakeBundle
from autotune.errors import AutotuneError, StateError, UsageError
from autotune.exports import bundle as bundles
from autotune.fingerprint import device_named
from autotune.search.imported import Import, encoded
from autotune.space.problem import Problem
from autotune.store import read_history
from autotune.store.bundles import entries, imported_winners
from autotune.store.records import Interval, Proof
from autotune.worker.framing import read_frame
from tests.daemon.running import RunningDaemon
from tests.store.factories import choice, problem, study_key, trial, winner

THERE = "ab" * 8
TABLES = ("bundle", "imported_winner", "imported_study", "imported_trial")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    with RunningDaemon(tmp_path_factory.mktemp("d")) as running:
        yield running


def steady(rows: int, pause_ms: int) -> Any:
    """What another machine would have decided for `steady`."""
    solved = Problem("steady", {"rows": rows, "width": 8}, ("rows",))
    proof = Proof(40, 0.99, 0.01, 3e7, 15e7, Interval(5.0, 4.9, 5.1), stopped="decided")
    best = choice(0, 3e7, {"implementation": "function", "pause_ms": pause_ms}, proof=proof, trial=None)
    return winner(
        workload="steady",
        problem=solved.key,
        dimensions=solved.dimensions,
        neighbourhood=solved.neighbourhood,
        device=THERE,
        choices=(best,),
    )


def proven_elsewhere(*winners: Any) -> tuple[bytes, str]:
    """A bundle of a machine like this one, and its digest."""
    family = device_named("cpu").family
    device = bundles.BundledDevice(THERE, "cpu", "another machine", family)
    data = bundles.write(bundles.Bundle(1.0, "0.1.0", [device], list(winners)))
    return data, bundles.read(data, "x")[1]


def large(number: int, trials: int) -> tuple[bytes, str]:
    """A bundle with trials, of a machine unlike this one."""
    device = bundles.BundledDevice(THERE, "cuda", f"machine {number}", "nowhere")
    study = bundles.BundledStudy(
        study_key(device=THERE),
        problem().dimensions,
        [msgspec.structs.replace(trial(0), number=place) for place in range(trials)],
    )
    data = bundles.write(bundles.Bundle(1.0, "0.1.0", [device], [winner(device=THERE)], [study]))
    return data, bundles.read(data, "x")[1]


def counts(daemon: RunningDaemon) -> tuple[int, ...]:
    """Rows of what was imported."""
    with read_history(str(daemon.state)) as history:
        return tuple(history.rows(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES)


def test_what_is_imported_beside_a_daemon_is_proven_by_it(daemon, tmp_path) -> None:
    data, _ = proven_elsewhere(steady(4, 30))
    (tmp_path / "there.bundle").write_bytes(data)
    done = daemon.command("import", "bundle", str(tmp_path / "there.bundle"), "--yes", "--json")
    assert 1 == json.loads(done.stdout)["bundle"]
    again = daemon.command("import", "bundle", str(tmp_path / "there.bundle"), "--yes", check=False)
    assert (2, 1) == (again.returncode, again.stderr.count("\n"))
    assert "is imported already" in again.stderr

    def states() -> dict[str, str]:
        with read_history(str(daemon.state)) as history:
            return {one.problem: one.state for one in imported_winners(history)}

    assert ["rows=4,width=8"] == list(states())
    daemon.wait_until(lambda: "unproven" not in states().values())
    assert {"rows=4,width=8": "proven here"} == states()
    daemon.wait_until(lambda: [] == daemon.ask(Requests())["agenda"])
    match, found = daemon.look_up("steady", rows=4, width=8)
    assert ("exact", 30) == (match, found["pause_ms"])
    assert "taken back" in daemon.command("import", "undo", "1").stdout
    assert (0, 0, 0, 0) == counts(daemon)
    refused = daemon.command("import", "undo", "1", check=False)
    assert (2, 1) == (refused.returncode, refused.stderr.count("\n"))
    assert {"rows=4,width=8"} == {one.problem for one in standing(daemon)}
    daemon.wait_until(lambda: set() == daemon.below())


def test_imports_of_other_systems_files_are_kept_by_a_daemon(daemon) -> None:
    imports = [
        Import("linear", {"m": m}, "cpu", "nowhere", [{"threads": 1}], [], "file.json", 1.0) for m in (1, 2)
    ]
    kept = daemon.ask(KeepImports(str(daemon.state)), encoded(imports))["imports"]
    assert imports == [msgspec.json.decode(Path(path).read_bytes(), type=Import) for path in kept]
    with pytest.raises(UsageError, match="does not understand"):
        daemon.ask(KeepImports(str(daemon.state)), b'[{"workload": 1}]')


def test_what_comes_with_a_question_must_be_a_file_and_the_one_that_was_shown(daemon) -> None:
    state = str(daemon.state)
    data, digest = proven_elsewhere(steady(4, 30))
    for question, content, told in (
        (TakeBundle(state, digest), None, "without the file"),
        (TakeBundle(state, digest), b"", "does not begin with its header"),
        (TakeBundle(state, digest), data[:-1], "cut off"),
        (TakeBundle(state, "0" * 64), data, "not the one that was shown"),
        (TakeBundle(str(daemon.folder), digest), data, "keeps the history in"),
        (ForgetBundle(state, 7), None, "unknown bundle '7'"),
    ):
        with pytest.raises(UsageError, match=told):
            daemon.ask(question, content)
    reading, writing = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(daemon.folder / "run" / "control.sock"))
        asked = msgspec.json.encode(TakeBundle(state, digest))
        socket.send_fds(connection, [struct.pack(">I", len(asked)) + asked], [reading, writing])
        os.close(reading)
        os.close(writing)
        answer = msgspec.json.decode(read_frame(connection.fileno()) or b"", type=Answer)
    assert "is no file" in answer.refusal
    assert (0, 0, 0, 0) == counts(daemon)
    # The daemon keeps nothing of all that open.
    open_files = [
        os.readlink(f"/proc/{daemon.process.pid}/fd/{fd}")
        for fd in os.listdir(f"/proc/{daemon.process.pid}/fd")
    ]
    assert [] == [name for name in open_files if "memfd" in name or name == f"pipe:[{reading}]"]


def standing(daemon: RunningDaemon) -> list[Any]:
    """What is decided here, whoever proposed it."""
    with read_history(str(daemon.state)) as history:
        return list(history.standing(device_named("cpu").digest))


def importing(daemon: RunningDaemon) -> psutil.Process | None:
    """The process that imports, once it is more than a fork of the daemon."""
    for pid in daemon.below():
        try:
            if "autotune.daemon.intake_process" in psutil.Process(pid).cmdline():
                return psutil.Process(pid)
        except psutil.NoSuchProcess:
            continue
    return None


def killed(daemon: RunningDaemon, number: int, trials: int, after: float, *, whole: bool) -> bool:
    """Kill an import, or the daemon with it, after some seconds; whether it was applied all the same."""
    data, digest = large(number, trials)
    before = counts(daemon)
    told: list[Any] = []

    def asked() -> None:
        try:
            told.append(daemon.ask(TakeBundle(str(daemon.state), digest), data))
        except AutotuneError as error:
            told.append(error)

    asking = threading.Thread(target=asked)
    asking.start()
    daemon.wait_until(lambda: importing(daemon) or told)
    time.sleep(after)
    victim = daemon.process.pid if whole else getattr(importing(daemon), "pid", None)
    if victim is not None:
        os.kill(victim, signal.SIGKILL)
    asking.join()
    if whole:
        daemon.process.wait()
        daemon.start()
    applied = counts(daemon) != before
    one = (1, 1, 1, trials)
    assert counts(daemon) == (tuple(a + b for a, b in zip(before, one, strict=True)) if applied else before)
    assert applied or isinstance(told[0], StateError | UsageError)
    return applied


def test_an_import_that_is_killed_is_whole_or_not_there(daemon) -> None:
    for number, (after, whole) in enumerate(((0.0, False), (0.5, False), (0.7, True))):
        killed(daemon, number, 3000, after, whole=whole)
    data, digest = large(9, 10)
    applied = counts(daemon)[0]
    assert applied + 1 == len([daemon.ask(TakeBundle(str(daemon.state), digest), data)]) + applied
    with read_history(str(daemon.state)) as history:
        assert digest in {entry.digest for entry in entries(history)}
    daemon.ask(ForgetBundle(str(daemon.state), 1 + applied))


@pytest.mark.slow
def test_imports_killed_at_any_moment_are_whole_or_not_there(daemon) -> None:
    applied = [
        killed(daemon, number, 20_000, number * 0.05, whole=number % 3 == 0)
        for number in itertools.islice(itertools.count(), 60)
    ]
    assert {True, False} == set(applied)
