"""One node of a study that several search: a device that replays a recorded landscape, in real time.

    python benchmarks/shared_node.py LANDSCAPE STATE_DIR [--fleet SETTINGS.json] [--seed N] [--trials N]
                                     [--trial-seconds S] [--name NAME]

It prints `ready`, begins when it reads a line, and prints one JSON object for each configuration that it
measured: `at`, seconds of the machine's monotonic clock, `row` of the landscape and its `time` in
milliseconds. The last one says what became of the study: whether it was `decided` here, and how the others
were `lost` on the way. A trial takes the time that it is given, whatever the landscape says of the kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

for knob in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(knob, "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import msgspec  # noqa: E402
import numpy as np  # noqa: E402

from autotune.config import FleetSettings  # noqa: E402
from autotune.errors import AutotuneError, TrialError  # noqa: E402
from autotune.fingerprint import Device  # noqa: E402
from autotune.measure.comparison import Rules, compare  # noqa: E402
from autotune.search import proposals  # noqa: E402
from autotune.search.final import BASELINE  # noqa: E402
from autotune.search.landscape import Landscape, read_cache, read_landscape  # noqa: E402
from autotune.search.study import Budget, Study  # noqa: E402
from autotune.space.problem import Problem  # noqa: E402
from autotune.space.searchspace import SearchSpace  # noqa: E402
from autotune.store import open_history  # noqa: E402
from autotune.store.records import Feasibility, Measurement, StudyKey, Verdict  # noqa: E402
from autotune.worker.messages import Built, Prepared  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.measure.comparison import Comparison
    from autotune.store.records import Configuration

STACK = "5" * 16
NOISE = 0.004
SAMPLES = 20


class ReplayingWorker:
    """What a study asks of a worker; measuring sleeps for as long as a trial is to take."""

    deadline: float | None = None
    start_seconds = 0.0

    def __init__(self, landscape: Landscape, trial_seconds: float, seed: int) -> None:
        self._landscape = landscape
        self._trial_seconds = trial_seconds
        self._random = np.random.default_rng(seed)
        self._slots: dict[str, int] = {}

    def stack(self) -> dict[str, Any]:
        return {"torch": "replayed"}

    def kill(self) -> None:
        self._slots.clear()

    def prepare(self, *_: Any) -> Prepared:
        return Prepared(flops=1, bytes=1, dtype="float32", seconds=0.0, compilers=1)

    def compile(self, configurations: Sequence[Configuration], *_: Any) -> list[Feasibility]:
        return [Feasibility()] * len(configurations)

    def build(self, slot: str, configuration: Configuration, **_: Any) -> Built:
        row = self._landscape.pool.find(configuration)
        assert row is not None, "the space is the landscape's"
        if np.isnan(self._landscape.times[row]):
            time.sleep(self._trial_seconds)
            raise TrialError(Verdict.COMPILE_ERROR, "failed when it was recorded")
        self._slots[slot] = row
        return Built(0.0, 0, 0.0)

    def check(self, *_: Any) -> float:
        return 1e-3

    def release(self, slot: str) -> None:
        self._slots.pop(slot, None)

    def measure(self, slot: str, **_: Any) -> Measurement:
        time.sleep(self._trial_seconds)
        row = self._slots[slot]
        samples = tuple(round(self._sample(slot)) for _ in range(SAMPLES))
        if slot != BASELINE:
            tell({"at": time.monotonic(), "row": row, "time": float(self._landscape.times[row])})
        return Measurement(samples, "converged", "replayed")

    def compare(
        self, slots: Sequence[str], *, baseline: str, incumbent: str | None, rules: Rules, seed: int
    ) -> Comparison:
        return compare(
            lambda i: self._sample(slots[i]),
            slots,
            baseline=baseline,
            incumbent=incumbent,
            rules=rules,
            seed=seed,
            clock=lambda: 0.0,
        )

    def _sample(self, slot: str) -> float:
        return 1e6 * self._landscape.times[self._slots[slot]] * np.exp(NOISE * self._random.standard_normal())


def space_of(path: Path, landscape: Landscape) -> SearchSpace:
    """The landscape as a search space; its baseline is the recorded one, or one of median time."""
    recorded = read_cache(path).get("autotune", {}).get("baseline")
    row = landscape.pool.find(recorded) if recorded else None
    if row is None or np.isnan(landscape.times[row]):
        row = int(np.nanargmin(abs(landscape.times - np.nanmedian(landscape.times))))
    baseline = landscape.pool.configuration(row)
    return SearchSpace(Problem("replayed", {"m": 1}), landscape.pool, baseline, (), {}, "5pace")


def tell(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("landscape", type=Path)
    parser.add_argument("state", type=Path)
    parser.add_argument(
        "--fleet", type=Path, help="the section [fleet] as JSON; without it the node is alone"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--trial-seconds", type=float, default=0.5)
    parser.add_argument("--name", default="node")
    options = parser.parse_args()
    # What is measured is when it is found, not when a search would have given up.
    proposals.PATIENCE = sys.maxsize
    lost: list[str] = []
    try:
        landscape = read_landscape(options.landscape)
        sharing = None
        if options.fleet is not None:
            from autotune.fleet.studies import sharing_of

            settings = msgspec.json.decode(options.fleet.read_bytes(), type=FleetSettings)
            sharing = sharing_of(msgspec.structs.replace(settings, name=options.name), lost.append)
            if sharing is not None:
                with sharing.open():  # so that what it imports is not measured
                    pass
        space = space_of(options.landscape, landscape)
        device = Device("cpu", 0, "replayed", "replayed", {"memory_bytes": 1 << 30}, "d" * 16)
        key = StudyKey("replayed", space.problem.key, device.digest, STACK, "latency", space.digest)
        with open_history(str(options.state)) as history:
            history.record_device(device)
            history.record_stack(STACK, {"torch": "replayed"})
            worker = ReplayingWorker(landscape, options.trial_seconds, options.seed)
            budget = Budget(3600.0, options.trials, screen_seconds=options.trial_seconds, final_share=0.05)
            study = Study(key, space, worker, history, budget, seed=options.seed, sharing=sharing)
            print("ready", flush=True)
            sys.stdin.readline()
            winner = study.run()
    except AutotuneError as error:
        print(f"shared_node: {error}", file=sys.stderr)
        return error.exit_code
    chosen = None if winner is None else landscape.pool.find(winner.choices[0].configuration)
    tell({"decided": winner is not None, "row": chosen, "why": study.progress.end_reason, "lost": lost})
    return 0


if __name__ == "__main__":
    sys.exit(main())
