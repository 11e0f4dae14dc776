"""Recording a space with a real worker: what is written is what happened, and any reader can replay it."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.errors import UsageError
from autotune.search.landscape import read_landscape
from autotune.search.landscape_file import LandscapeFile
from autotune.search.recording import BASELINE_EVERY, Recorder, drawn_rows
from autotune.space import Dimension, Implementation, SearchSpace, SpaceDeclaration
from autotune.space.pool import INACTIVE
from autotune.store.records import Verdict
from autotune.worker.worker import Limits, Worker

MODULE = str(Path(__file__).parents[1] / "worker" / "misbehaving.py")
DIMENSIONS = {"m": Dimension("m", nearest=True), "n": Dimension("n")}
FACTS = {
    "workload": "misbehaving",
    "problem": {"m": 8, "n": 64},
    "device": "d",
    "stack": "s",
    "max_error": None,
    "seed": 0,
    "sample_seconds": 0.02,
}
TOLD = {
    "crashed": "RuntimeFailedConfig",
    "hung": "RuntimeFailedConfig",
    "wrong": "RuntimeFailedConfig",
    "compile_error": "CompilationFailedConfig",
}


@pytest.fixture(scope="module")
def worker():
    with Worker(modules=[MODULE], memory_bytes=1 << 29, limits=Limits(check=4.0, measure=4.0)) as worker:
        yield worker


def space_of(**implementations: Implementation) -> SearchSpace:
    offered = {"right": Implementation(), **implementations}
    declaration = SpaceDeclaration("misbehaving", DIMENSIONS, offered, {"implementation": "right"})
    return SearchSpace.build(declaration, declaration.problem({"m": 8, "n": 64}), {"kind": "cpu", "cores": 2})


def file_of(path: Path, space: SearchSpace, **facts: Any) -> LandscapeFile:
    return LandscapeFile(path, space, "a CPU", {**FACTS, "space": space.digest, **facts})


def recorder_of(
    space: SearchSpace, worker: Worker, file: LandscapeFile, part: int | None = None, rounds: int = 1
) -> Recorder:
    part = part or len(space)
    return Recorder(
        space, worker, file, part=part, rounds=rounds, max_error=None, sample_seconds=0.02, seed=0
    )


def conditional_space(slowest: int = 3) -> SearchSpace:
    """Two implementations, one of which has a parameter of its own."""
    seconds = [round(0.001 * step, 3) for step in range(slowest)]
    return space_of(slowed=Implementation(parameters={"seconds": seconds}))


@pytest.mark.parametrize("name", ["space.json", "space.json.gz"])
def test_a_recorded_space_is_read_back_with_its_inactive_parameters(tmp_path, worker, name) -> None:
    space = conditional_space()
    recorder_of(space, worker, file_of(tmp_path / name, space)).run()

    landscape = read_landscape(tmp_path / name)

    recorded = [landscape.pool.configuration(row) for row in range(len(landscape))]
    assert sorted(map(str, recorded)) == sorted(
        map(str, (space.pool.configuration(row) for row in range(len(space))))
    )
    assert recorded[0] == space.baseline
    assert (landscape.kernel, landscape.device) == ("misbehaving", "a CPU")
    assert [0.0, 0.001, 0.002] == list(landscape.pool.parameters[1].values)
    assert [row for row in range(4) if landscape.pool.codes[row, 1] == INACTIVE] == [0]
    assert landscape.times[landscape.pool.find({"implementation": "slowed", "seconds": 0.002})] > 2


def test_each_failure_is_told_as_kernel_tuner_tells_it_and_why(tmp_path, worker) -> None:
    harm = ("segfaults", "loops", "returns_nan", "does_not_build", "packed")
    space = space_of(**dict.fromkeys(harm, Implementation()))
    file = file_of(tmp_path / "space.json", space)
    recorder_of(space, worker, file).run()

    entries = json.loads((tmp_path / "space.json").read_text())["cache"]

    assert {"crashed": 1, "hung": 1, "wrong": 1, "compile_error": 1} == dict(file.failures)
    for entry in entries.values():
        if entry["verdict"] in TOLD:
            assert TOLD[entry["verdict"]] == entry["time"]
            assert entry["reason"]
        else:
            assert entry["time"] > 0
            assert entry["benchmark_time"] > 0
    assert np.isfinite(read_landscape(tmp_path / "space.json").times).sum() == 2


def test_the_baseline_is_measured_again_now_and_then(tmp_path, worker) -> None:
    space = conditional_space(slowest=BASELINE_EVERY + 5)
    file = file_of(tmp_path / "space.json", space)
    recorder_of(space, worker, file, part=BASELINE_EVERY + 2).run()

    measured = json.loads((tmp_path / "space.json").read_text())["autotune"]["baseline_measurements"]

    assert [0, BASELINE_EVERY, BASELINE_EVERY + 2] == [one["after"] for one in measured]
    times = [one["time"] for one in measured]
    assert file.drift == max(times) / min(times) - 1


def test_a_part_begins_with_the_baseline_and_is_the_beginning_of_a_larger_part() -> None:
    space = conditional_space(slowest=30)
    assert drawn_rows(space, 31, seed=5)[:7] == drawn_rows(space, 7, seed=5)
    assert drawn_rows(space, 7, seed=5)[0] == space.baseline_row
    assert sorted(drawn_rows(space, 31, seed=5)) == list(range(31))
    assert drawn_rows(space, 31, seed=5) != drawn_rows(space, 31, seed=6)


def test_a_recording_goes_on_where_it_stopped(tmp_path, worker) -> None:
    space, path = conditional_space(), tmp_path / "space.json.gz"
    recorder_of(space, worker, file_of(path, space), part=2).run()
    before = json.loads(gzip.decompress(path.read_bytes()))

    again = file_of(path, space)
    recorder = recorder_of(space, worker, again)
    assert len(recorder.missing) == 2
    recorder.run()

    after = json.loads(gzip.decompress(path.read_bytes()))
    assert list(after["cache"])[:2] == list(before["cache"])
    assert before["cache"].items() <= after["cache"].items()
    assert len(after["cache"]) == after["autotune"]["recorded"] == after["autotune"]["configurations"] == 4
    measured = [facts["autotune"]["baseline_measurements"] for facts in (before, after)]
    assert measured[1][: len(measured[0])] == measured[0]
    assert not recorder_of(space, worker, file_of(path, space)).missing


def test_each_round_measures_everything_again_but_what_failed(tmp_path, worker) -> None:
    path = tmp_path / "space.json"
    space = space_of(returns_nan=Implementation(), slowed=Implementation(parameters={"seconds": [0.001]}))
    recorder_of(space, worker, file_of(path, space)).run()
    again = recorder_of(space, worker, file_of(path, space), rounds=3)
    assert len(again.missing) == 4
    again.run()

    file = file_of(path, space)

    assert {"wrong": 1} == dict(file.failures)
    assert [3, 3] == [len(entry["rounds"]) for entry in file.measured]
    for entry in file.measured:
        assert sorted(one["time"] for one in entry["rounds"])[1] == entry["time"]
    assert file.noise is not None
    assert not recorder_of(space, worker, file, rounds=3).missing


def test_the_middle_round_counts_and_a_later_failure_does_too(tmp_path) -> None:
    space = conditional_space()
    file = file_of(tmp_path / "space.json", space)
    for time in (9.0, 1.0, 2.0):
        file.add(space.baseline, Verdict.OK, {"error": time}, {"time": time, "std": time})
    (entry,) = file.measured
    assert (2.0, 2.0, 9.0) == (entry["time"], entry["std"], entry["error"])
    assert 8.0 == file.noise
    file.add(space.baseline, Verdict.CRASHED, {"reason": "signal 11"})
    assert not file.measured
    assert {"crashed": 1} == dict(file.failures)


@pytest.mark.parametrize("fact", ["device", "stack", "seed", "max_error", "sample_seconds"])
def test_what_was_recorded_otherwise_is_not_mixed_in(tmp_path, fact) -> None:
    space, path = conditional_space(), tmp_path / "space.json"
    file_of(path, space).save()
    with pytest.raises(UsageError, match=f"was recorded with {fact}") as refusal:
        file_of(path, space, **{fact: "other"})
    assert "\n" not in str(refusal.value)


def test_a_file_of_another_make_is_left_alone(tmp_path) -> None:
    path = tmp_path / "space.json"
    path.write_text('{"cache": {}}')
    with pytest.raises(UsageError, match="was not made by 'autotune record'"):
        file_of(path, conditional_space())
    assert '{"cache": {}}' == path.read_text()


def test_a_file_is_replaced_in_one_step_and_nothing_is_left_beside_it(tmp_path) -> None:
    space = conditional_space()
    file = file_of(tmp_path / "space.json", space)
    file.add(space.baseline, Verdict.OK, {}, {"time": 1.0})
    with (tmp_path / "space.json").open() as held:
        file.add({"implementation": "slowed", "seconds": 0.001}, Verdict.CRASHED, {"reason": "signal 11"})
        assert len(json.load(held)["cache"]) == 1
    assert len(json.loads((tmp_path / "space.json").read_text())["cache"]) == 2
    assert [tmp_path / "space.json"] == list(tmp_path.iterdir())


# It warns of the kernel's arguments, which a replay does not have.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("strategy", ["random_sample", "genetic_algorithm", "adaptive_tabu_greywolf"])
def test_kernel_tuner_replays_a_recording(tmp_path, strategy) -> None:
    kernel_tuner = pytest.importorskip("kernel_tuner", reason="needs autotune[bench]")
    values = [8, 16, 32, 64]
    space = space_of(
        torch=Implementation(qualifiers={"layout": ["nk", "kn"], "packed": [False, True]}),
        native=Implementation(parameters={"tile": values, "unroll": values}),
    )
    file = file_of(tmp_path / "space.json", space)
    for row in range(len(space)):
        configuration = space.pool.configuration(row)
        failed = configuration.get("tile") == 64
        latency = configuration.get("tile", 100) / configuration.get("unroll", 1)
        stages = {"compile_time": 1.0, "verification_time": 1.0, "benchmark_time": 1.0}
        verdict = Verdict.WRONG if failed else Verdict.OK
        facts = {"reason": "relative error 1 exceeds 0.1"} if failed else {}
        file.add(configuration, verdict, {**facts, **stages}, None if failed else {"time": latency})
    content = json.loads((tmp_path / "space.json").read_text())
    names = content["tune_params_keys"]

    def recorded(*chosen: Any, **named: Any) -> bool:
        if chosen and isinstance(chosen[0], dict):
            named = chosen[0]
        return (
            ",".join(str(v) for v in ([named[name] for name in names] if named else chosen)) in file.entries
        )

    random.seed(1)
    np.random.seed(1)
    with contextlib.redirect_stdout(io.StringIO()):
        results, _ = kernel_tuner.tune_kernel(
            "misbehaving",
            "__global__ void misbehaving() {}",
            content["problem_size"],
            [],
            content["tune_params"],
            restrictions=[recorded],
            lang="CUDA",
            strategy=strategy,
            strategy_options={"max_fevals": 12},
            cache=str(tmp_path / "space.json"),
            simulation_mode=True,
            quiet=True,
            seed=1,
        )

    assert len({str([result[name] for name in names]) for result in results}) >= 3
    for result in results:
        entry = file.entries[",".join(str(result[name]) for name in names)]
        assert result["time"] == entry["time"]
        assert ("__error__" in result) == (entry["verdict"] == "wrong")
