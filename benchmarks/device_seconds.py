"""Real tuning against exhaustive measurement: device seconds until within 5 % of the exhaustive optimum.

    python benchmarks/device_seconds.py [LANDSCAPE...] [--seeds 5] [--trials 40] [--results FOLDER] [--json]

A LANDSCAPE is what `autotune record` wrote on this very machine; by default a `linear` and a `fused_moe`
space (`benchmarks/spaces/`) are recorded under --results first, which takes some minutes and goes on where it
stopped. Then, once per seed, a fresh study searches the same space for real: worker, correctness checks,
screening that stops what is clearly slower, and a final.

Counted are the seconds in which the device is busy with a configuration, checked and sampled, against one
round over all: until the study, were it to end there, would choose one within 5 % of the optimum. What it
would choose is the best of its finalists, and the shortest final that can prove anything of them is counted
too. Building is told apart. Times of an exhaustive measurement lie minutes apart and scatter by as much as is
asked here, so the fastest ten of it and all finalists are measured again, in turn, in rounds of random order:
these times judge, and the least of them is the optimum. In the median, a search that never came there counts
as one that takes forever. Fails when a median is above 1/20 of exhaustive measuring.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.cli import main as autotune
from autotune.cli.output import configuration, console, latency, table
from autotune.config import load_settings
from autotune.errors import AutotuneError, UsageError
from autotune.fingerprint import device_named
from autotune.fingerprint.stack import stack_digest
from autotune.measure.comparison import Rules
from autotune.search.final import ACCURACY_SLACK, Contender, least_seconds, select_finalists
from autotune.search.landscape import read_cache
from autotune.search.study import Budget, Study
from autotune.space.declaration import read_declaration
from autotune.space.searchspace import SearchSpace
from autotune.store import open_history
from autotune.store.records import StudyKey
from autotune.worker.configured import configured_worker
from autotune.workloads.registry import declaration

if TYPE_CHECKING:
    from autotune.worker.worker import Worker

WITHIN = 1.05
MOST_SHARE = 1 / 20

CANDIDATES = 10
"""Fastest configurations of the exhaustive measurement that may be the optimum."""
ROUNDS, ROUND_SECONDS = 9, 0.1

SPACES = Path(__file__).parent / "spaces"
PROBLEMS = {
    "linear": "m=16,n=4096,k=2048",
    "fused_moe": "tokens=16,experts=16,top_k=4,hidden=1024,intermediate=512",
}


@dataclass(frozen=True)
class Exhaustive:
    """A recorded landscape, and the space that it is of.

    Attributes:
        times: milliseconds by row of the space's pool; failed ones are absent.
        device_seconds: checking and sampling of each once.
        build_seconds: building of each once.
        noise: a configuration's longest round over its shortest, minus 1, in the median; None with one round.
        drift: the baseline's longest median over its shortest, minus 1.
    """

    path: Path
    space: SearchSpace
    times: dict[int, float]
    device_seconds: float
    build_seconds: float
    baseline_seconds: float
    sample_seconds: float
    max_error: float | None
    noise: float | None
    drift: float

    @property
    def fastest(self) -> list[int]:
        """Rows, fastest first."""
        return sorted(self.times, key=self.times.__getitem__)


@dataclass(frozen=True)
class Held:
    """What would go to the final of a study that ended after some trials.

    Attributes:
        rows: of the pool; the baseline's is always among them.
        trials: how many had been tried.
        device_seconds: spent by then, the baseline's measurement and the final included.
        build_seconds: spent by then.
    """

    rows: tuple[int, ...]
    trials: int
    device_seconds: float
    build_seconds: float


@dataclass(frozen=True)
class Run:
    """One search, judged.

    Attributes:
        trials: until it was there; None if it never was.
        device_seconds: until then, or in all.
        build_seconds: until then, or in all.
        share: of the exhaustive measurement's device seconds.
        ratio: the time of its best finalist then over the optimum's, both measured afresh.
    """

    seed: int
    trials: int | None
    device_seconds: float
    build_seconds: float
    share: float
    ratio: float


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("landscapes", nargs="*", type=Path, metavar="LANDSCAPE")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=40, help="most configurations that a search tries")
    parser.add_argument("--results", type=Path, default=Path("device_seconds"), help="folder for recordings")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results: list[tuple[Exhaustive, list[Run]]] = []
    try:
        files = options.landscapes or recorded(options.results)
        with configured_worker(load_settings().worker, device_named("cpu")) as worker:
            for file in files:
                exhaustive = read(file, worker)
                searches = [search(exhaustive, worker, seed, options.trials) for seed in range(options.seeds)]
                results.append((exhaustive, judge(exhaustive, worker, searches)))
    except AutotuneError as error:
        print(f"device_seconds: {error}", file=sys.stderr)
        return error.exit_code
    return report(results, options.json)


def recorded(folder: Path) -> list[Path]:
    """The default problems' landscapes, recorded now as far as they are not yet."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for workload, dimensions in PROBLEMS.items():
        file = folder / f"{workload}.json.gz"
        space = SPACES / f"{workload}.toml"
        status = autotune(["record", workload, "-p", dimensions, "--space", str(space), "--out", str(file)])
        if status:
            raise UsageError(f"{workload} was not recorded; see above")
        files.append(file)
    return files


def read(path: Path, worker: Worker) -> Exhaustive:
    """A landscape of this machine.

    Raises:
        UsageError: it was recorded elsewhere, in part, or under another declaration.
    """
    content = read_cache(path)
    facts, device = content.get("autotune", {}), device_named("cpu")
    here = {"device": device.digest, "stack": stack_digest(device.kind, worker.stack())}
    if any(facts.get(name) != digest for name, digest in here.items()):
        raise UsageError(f"{path}: was not recorded on this device and stack; record it here")
    workload, wide = facts["workload"], SPACES / f"{facts['workload']}.toml"
    declared = [declaration(workload), *([read_declaration(str(wide))] if wide.exists() else [])]
    spaces = [
        SearchSpace.build(one, one.problem(facts["problem"]), device.facts, facts["max_error"])
        for one in declared
    ]
    space = next((space for space in spaces if space.digest == facts["space"]), None)
    if space is None:
        raise UsageError(f"{path}: {workload}'s declaration has changed since; record it again")
    entries = list(content["cache"].values())
    if len(entries) < len(space):
        raise UsageError(f"{path}: holds {len(entries)} of {len(space)} configurations; record the rest")
    by_row: dict[int, dict[str, Any]] = {}
    for entry in entries:
        row = space.pool.find(
            {name: entry[name] for name in content["tune_params_keys"] if entry[name] is not None}
        )
        assert row is not None, "the digests agree"
        by_row[row] = entry
    busy = {
        row: (entry["verification_time"] + entry["benchmark_time"]) / 1e3 for row, entry in by_row.items()
    }
    rounds = [
        [one["time"] for one in entry["rounds"]] for entry in entries if not isinstance(entry["time"], str)
    ]
    spreads = [max(times) / min(times) for times in rounds if len(times) > 1]
    baseline = [measured["time"] for measured in facts["baseline_measurements"]]
    return Exhaustive(
        path,
        space,
        {row: entry["time"] for row, entry in by_row.items() if not isinstance(entry["time"], str)},
        sum(busy.values()),
        sum(entry["compile_time"] for entry in entries) / 1e3,
        busy[space.baseline_row],
        facts["sample_seconds"],
        facts["max_error"],
        statistics.median(spreads) - 1 if spreads else None,
        max(baseline) / min(baseline) - 1,
    )


def search(exhaustive: Exhaustive, worker: Worker, seed: int, trials: int) -> list[Held]:
    """Search the space for real, from nothing; returns what it held after each trial."""
    space, device, facts = exhaustive.space, device_named("cpu"), worker.stack()
    stack = stack_digest(device.kind, facts)
    key = StudyKey(
        workload=space.problem.workload,
        problem=space.problem.key,
        device=device.digest,
        stack=stack,
        objective="latency",
        space=space.digest,
        max_error=exhaustive.max_error,
    )
    # The trials are the limit, not the time; and of the final, which is not counted, a few rounds will do.
    budget, rules = Budget(600.0, trials, exhaustive.sample_seconds, final_share=0.02), Rules(round_cap=20)
    with tempfile.TemporaryDirectory() as state, open_history(state) as history:
        history.record_device(device)
        history.record_stack(stack, facts)
        study = Study(key, space, worker, history, budget, rules=rules, seed=seed)
        study.run()
        tried = history.trials(study.id)
    accurate = max(study.baseline.error * (1 + ACCURACY_SLACK), exhaustive.max_error or 0.0)
    held = []
    for count in range(len(tried) + 1):
        trials = tried[:count]
        chosen = select_finalists(trials, accurate, study.baseline_value, [space.baseline])
        rows = [space.pool.find(trial.configuration) for trial in chosen]
        final = least_seconds([study.baseline_value, *(Contender.of(trial).screened for trial in chosen)])
        held.append(
            Held(
                (space.baseline_row, *(row for row in rows if row is not None)),
                count,
                exhaustive.baseline_seconds + sum(trial.measure_seconds for trial in trials) + final,
                sum(trial.compile_seconds for trial in trials),
            )
        )
    return held


def judge(exhaustive: Exhaustive, worker: Worker, searches: list[list[Held]]) -> list[Run]:
    """See when each search was within 5 % of the optimum."""
    rows = {row for search in searches for held in search for row in held.rows}
    times = afresh(exhaustive, worker, sorted(rows | set(exhaustive.fastest[:CANDIDATES])))
    optimum = min(times.values())
    runs = []
    for seed, search in enumerate(searches):
        ratios = [min(times[row] for row in held.rows) / optimum for held in search]
        there = next((i for i, ratio in enumerate(ratios) if ratio <= WITHIN), None)
        held = search[-1 if there is None else there]
        runs.append(
            Run(
                seed,
                None if there is None else held.trials,
                held.device_seconds,
                held.build_seconds,
                held.device_seconds / exhaustive.device_seconds,
                ratios[-1 if there is None else there],
            )
        )
    return runs


def afresh(exhaustive: Exhaustive, worker: Worker, rows: list[int]) -> dict[int, float]:
    """Times of some configurations in nanoseconds, measured in turn in rounds of random order."""
    worker.prepare(exhaustive.space.problem, 0)
    for row in rows:
        worker.build(str(row), exhaustive.space.pool.configuration(row))
    medians: dict[int, list[float]] = {row: [] for row in rows}
    for number in range(ROUNDS):
        for row in random.Random(number).sample(rows, len(rows)):
            medians[row].append(worker.measure(str(row), budget_seconds=ROUND_SECONDS).p50_ns)
    return {row: statistics.median(times) for row, times in medians.items()}


def report(results: list[tuple[Exhaustive, list[Run]]], as_json: bool) -> int:
    """Print what was seen; 1 when the requirement is missed."""
    missed, listed = 0, []
    for exhaustive, runs in results:
        median = statistics.median(math.inf if run.trials is None else run.share for run in runs)
        reached = sum(run.trials is not None for run in runs)
        missed += median > MOST_SHARE
        fastest = exhaustive.fastest[0]
        near = sum(time <= WITHIN * exhaustive.times[fastest] for time in exhaustive.times.values())
        told = {
            "problem": str(exhaustive.space.problem),
            "configurations": len(exhaustive.space),
            "within_5_percent": near,
            "optimum": exhaustive.space.pool.configuration(fastest),
            "optimum_ms": exhaustive.times[fastest],
            "exhaustive_device_seconds": exhaustive.device_seconds,
            "exhaustive_build_seconds": exhaustive.build_seconds,
            "noise": exhaustive.noise,
            "baseline_drift": exhaustive.drift,
            "median_share": median if math.isfinite(median) else None,
            "reached": reached,
        }
        listed.append({**told, "runs": [asdict(run) for run in runs]})
        if not as_json:
            _print(told, runs)
    if as_json:
        print(json.dumps(listed, indent=2))
    return int(missed > 0)


def _print(told: dict[str, Any], runs: list[Run]) -> None:
    noise = "one round" if told["noise"] is None else f"rounds of one differ by {told['noise']:.1%}"
    console.print(told["problem"])
    console.print(
        f"exhaustive: {told['configurations']} configurations, {told['within_5_percent']} within 5 %, "
        f"{told['exhaustive_device_seconds']:.0f} device seconds, {told['exhaustive_build_seconds']:.0f} s "
        f"of building; {noise}, the baseline by {told['baseline_drift']:.0%}"
    )
    console.print(f"fastest: {latency(1e6 * told['optimum_ms'])} {configuration(told['optimum'])}")
    columns = ("seed", "trials", "device s", "of exhaustive", "building s", "time / optimum")
    shown = table(*columns, right=columns)
    for run in runs:
        shown.add_row(
            str(run.seed),
            "not there" if run.trials is None else str(run.trials),
            f"{run.device_seconds:.1f}",
            f"1/{1 / run.share:.0f}",
            f"{run.build_seconds:.1f}",
            f"{run.ratio:.3f}",
        )
    console.print(shown)
    share = told["median_share"]
    median = "never there in the median" if share is None else f"median 1/{1 / share:.0f} of exhaustive"
    console.print(f"{median}; there in {told['reached']} of {len(runs)} runs\n")


if __name__ == "__main__":
    sys.exit(main())
