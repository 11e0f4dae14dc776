"""What tuning is worth on a GPU: one run on the machine that has it, everything in one folder.

    python benchmarks/gpu.py --out build/gpu [--device cuda:0] [--budget 60] [--only linear,moe,fused]

Tunes Kimi K2.5's problems at TP8 into `OUT/state`, measures what the goals below need, and writes
`OUT/gpu.json` after every problem, so that a run that is cut short keeps what it has. Exits 1 when a goal is
missed or could not be measured. It has not run on a GPU yet.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from autotune.config import load_settings
from autotune.errors import AutotuneError
from autotune.exports import formats
from autotune.exports.moe import vllm_default
from autotune.fingerprint import device_named
from autotune.fingerprint.management import library_for
from autotune.measure.comparison import Rules
from autotune.search.imported import fitted
from autotune.search.study import Budget
from autotune.search.tuning import Goal, Tuner
from autotune.store import open_history
from autotune.worker.configured import configured_worker
from autotune.workloads.registry import declaration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from autotune.store.records import Winner

BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
LINEAR = ((2112, 7168), (1536, 1536), (7168, 1024), (4608, 7168), (512, 7168), (7168, 256), (20480, 7168))
"""(n, k) per rank at TP8: qkv_a, q_b, o, dense gate_up, shared gate_up and down, lm_head."""
EXPERTS = {"experts": 384, "intermediate": 256, "hidden": 7168, "top_k": 8}
FUSED = (
    ("rms_norm", {"hidden": 7168, "residual": "add"}, (4096, 16384)),
    ("silu_and_mul", {"intermediate": 4608}, (4096, 16384)),
)
REPEATS = 20
STAYS_BYTES = 32 << 20


class Target(NamedTuple):
    """A goal: a figure of the results and what it must reach.

    Attributes:
        name: for people.
        figure: computes it; None where nothing was measured.
        least: that it must be, or
        most: that it may be.
    """

    name: str
    figure: Callable[[dict[str, Any]], float | None]
    least: float = -math.inf
    most: float = math.inf


def geometric_mean(values: Iterable[float]) -> float | None:
    """None of none."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _rows(results: dict[str, Any], step: str, **only: Any) -> list[dict[str, Any]]:
    """The measured rows of a step."""
    rows = [row for row in results.get(step, []) if "failure" not in row]
    return [row for row in rows if all(row.get(name) == value for name, value in only.items())]


def _least(values: Iterable[float]) -> float | None:
    return min(values, default=None)


TARGETS = (
    Target(
        "linear: slowest winner over cuBLAS",
        lambda r: _least(row["speedup"] for row in _rows(r, "linear", weight_format="native")),
        least=1.0,
    ),
    Target(
        "linear: geometric mean over cuBLAS, m <= 64",
        lambda r: geometric_mean(
            row["speedup"] for row in _rows(r, "linear", weight_format="native") if row["m"] <= 64
        ),
        least=1.25,
    ),
    Target(
        "linear: least share of copy bandwidth, memory-bound",
        lambda r: _least(
            row["bandwidth_share"]
            for row in _rows(r, "linear", weight_format="native")
            if row["memory_bound"]
        ),
        least=0.85,
    ),
    Target(
        "W4A16 over bf16, least, m <= 16",
        lambda r: _least(row["over_bf16"] for row in _rows(r, "linear", weight_format="int4_g32")),
        least=2.5,
    ),
    Target(
        "fused_moe: geometric mean over vLLM's default",
        lambda r: geometric_mean(row["over_default"] for row in _rows(r, "moe")),
        least=1.3,
    ),
    Target(
        "fused_moe: slowest winner over vLLM's default",
        lambda r: _least(row["over_default"] for row in _rows(r, "moe")),
        least=1.0,
    ),
    Target(
        "rms_norm, silu_and_mul: least share of copy bandwidth",
        lambda r: _least(row["bandwidth_share"] for row in _rows(r, "fused")),
        least=0.9,
    ),
    Target(
        "tuning: share of an exhaustive sweep's device time to within 5 % of its best",
        lambda r: max((row["share"] for row in _rows(r, "cost")), default=None),
        most=1 / 50,
    ),
    Target(
        "yield: longest time until a killed worker's memory is free, in seconds",
        lambda r: max((row["longest"] for row in _rows(r, "yield")), default=None),
        most=1.0,
    ),
    Target(
        f"noise: spread of {REPEATS} final decisions' ratios",
        lambda r: max((row["spread"] for row in _rows(r, "noise")), default=None),
        most=0.01,
    ),
)


def judged(results: dict[str, Any]) -> list[tuple[str, float | None, bool]]:
    """Name, figure and whether it is reached, of every goal; one that was not measured is missed."""
    found = []
    for target in TARGETS:
        figure = target.figure(results)
        found.append((target.name, figure, figure is not None and target.least <= figure <= target.most))
    return found


class Bench:
    """One run.

    Args:
        tuner: on the device.
        seconds: for each problem.
    """

    def __init__(self, tuner: Tuner, seconds: float) -> None:
        self.tuner = tuner
        self.seconds = seconds
        self.ceilings = tuner.ceilings()
        self.bf16: dict[tuple[int, int, int], float] = {}

    def tuned(self, workload: str, dimensions: dict[str, Any]) -> tuple[Winner, dict[str, Any]]:
        """The winner of a problem, tuned unless it was before, and the row that tells of it."""
        problem = declaration(workload).problem(dimensions)
        goal = Goal()
        winner = self.tuner.decided(problem, goal) or self.tuner.tune(problem, goal, self.budget())
        best = winner.choices[0]
        cost = self.tuner.worker.prepare(problem, 0)
        moving = cost.bytes / self.ceilings.memory_bandwidth_bytes_per_s
        row = {
            **problem.dimensions,
            "configuration": best.configuration,
            "is_baseline": best.is_baseline,
            "latency_ns": best.latency_ns,
            "baseline_ns": best.proof.baseline_ns,
            "speedup": best.proof.against_baseline.ratio,
            "interval": [best.proof.against_baseline.low, best.proof.against_baseline.high],
            "timer": best.measurement.timer if best.measurement else None,
            "discarded": best.measurement.discarded if best.measurement else None,
            "error": best.error,
            "bandwidth_share": 1e9 * moving / best.latency_ns,
            "memory_bound": moving >= self.ceilings.least_seconds(cost.flops, 0, cost.dtype),
        }
        return winner, row

    def budget(self) -> Budget:
        """Of one study."""
        return Budget(self.seconds, 1000, load_settings().measure.screen_seconds)

    def linear(self) -> Iterator[dict[str, Any]]:
        """bf16 at every batch, then 4 bits at the small ones."""
        for n, k in LINEAR:
            for m in BATCHES:
                with_failure = _attempt(
                    lambda m=m, n=n, k=k: self.tuned("linear", {"m": m, "n": n, "k": k})[1]
                )
                if "failure" not in with_failure:
                    self.bf16[m, n, k] = with_failure["baseline_ns"]
                yield {"m": m, "n": n, "k": k, "weight_format": "native", **with_failure}
        for (m, n, k), bf16_ns in self.bf16.items():
            if m <= 16:
                given = {"m": m, "n": n, "k": k, "weight_format": "int4_g32"}
                row = _attempt(lambda given=given: self.tuned("linear", given)[1])
                over = {} if "failure" in row else {"over_bf16": bf16_ns / row["latency_ns"]}
                yield {**given, **row, **over}

    def moe(self) -> Iterator[dict[str, Any]]:
        """Winners beside the same kernel at vLLM's default configuration, in one comparison each."""
        for stored in ("native", "fp8_block128x128"):
            for tokens in BATCHES:
                given = {**EXPERTS, "tokens": tokens, "weight_format": stored}
                yield {**given, **_attempt(lambda given=given: self._over_default(given))}

    def _over_default(self, given: dict[str, Any]) -> dict[str, Any]:
        winner, row = self.tuned("fused_moe", given)
        problem = declaration("fused_moe").problem(given)
        space = self.tuner.space(problem, Goal())
        kind = formats.quantisation(problem.dimensions)
        wanted = vllm_default(given["experts"], given["top_k"], kind, rocm=False)(given["tokens"])
        default = fitted(space, wanted)
        if default is None:
            raise AutotuneError(f"the space does not hold vLLM's default {wanted}")
        comparison = self._compared(default, winner.choices[0].configuration)
        proof = comparison.proofs["winner"].against_baseline
        return {**row, "over_default": proof.ratio, "over_default_interval": [proof.low, proof.high]}

    def _compared(self, default: dict[str, Any], best: dict[str, Any], seed: int = 0) -> Any:
        worker = self.tuner.worker
        worker.build("default", default)
        worker.build("winner", best)
        rules = Rules(budget_seconds=5.0)
        return worker.compare(["default", "winner"], baseline="default", rules=rules, seed=seed)

    def fused(self) -> Iterator[dict[str, Any]]:
        """Against the bandwidth of a copy."""
        for workload, shape, rows in FUSED:
            for count in rows:
                given = {"rows": count, **shape}
                row = _attempt(lambda w=workload, given=given: self.tuned(w, given)[1])
                yield {"workload": workload, **given, **row}

    def cost(self) -> Iterator[dict[str, Any]]:
        """Device time of a fresh study to within 5 % of the best of a recorded sweep: `OUT/landscapes`."""
        yield from _attempt_all(self._sweeps)

    def _sweeps(self) -> Iterator[dict[str, Any]]:
        for path in sorted(Path(os.environ["AUTOTUNE_GPU_LANDSCAPES"]).glob("*.json*")):
            from autotune.search.landscape import read_cache

            content = read_cache(path)
            facts = content["autotune"]
            entries = list(content["cache"].values())
            timed = [entry for entry in entries if isinstance(entry["time"], int | float)]
            best = min(entry["time"] for entry in timed)
            sweep = sum(entry.get("compile_time", 0) + entry.get("benchmark_time", 0) for entry in entries)
            problem = declaration(facts["workload"]).problem(facts["problem"])
            winner = self.tuner.decided(problem, Goal()) or self.tuner.tune(problem, Goal(), self.budget())
            study = self.tuner.history.studies(workload=problem.workload, problem=problem.key, limit=1)[0]
            spent = 0.0
            for trial in self.tuner.history.trials(study.id):
                spent += 1e3 * (trial.compile_seconds + trial.measure_seconds)
                if trial.measurement and trial.measurement.p50_ns / 1e6 <= 1.05 * best:
                    break
            else:
                spent = math.inf
            yield {
                "file": path.name,
                "problem": str(problem),
                "share": spent / sweep,
                "latency_ns": winner.choices[0].latency_ns,
                "best_ms": best,
            }

    def noise(self) -> Iterator[dict[str, Any]]:
        """The same final over and over: how far its ratio strays."""
        given = {"m": 16, "n": 2112, "k": 7168}
        yield {**given, **_attempt(lambda: self._repeated(given))}

    def make_room(self) -> Iterator[dict[str, Any]]:
        """From killing a worker that holds memory on the device until the driver counts it as free again."""
        yield _attempt(self._yielded)

    def _yielded(self) -> dict[str, Any]:
        problem = declaration("linear").problem({"m": 16, "n": 20480, "k": 7168})
        seconds = []
        with library_for(self.tuner.device.kind) as library:
            device = library.device(self.tuner.device.index)
            for _ in range(REPEATS):
                self.tuner.worker.close()
                before = device.memory().used
                self.tuner.worker.prepare(problem, 0)
                start = time.monotonic()
                self.tuner.worker.kill()
                # What the driver itself has come to hold with the first context stays.
                while device.memory().used > before + STAYS_BYTES and time.monotonic() - start < 30:
                    time.sleep(0.001)
                seconds.append(time.monotonic() - start)
        return {"seconds": seconds, "longest": max(seconds)}

    def _repeated(self, given: dict[str, Any]) -> dict[str, Any]:
        winner, _ = self.tuned("linear", given)
        space = self.tuner.space(declaration("linear").problem(given), Goal())
        ratios = []
        for seed in range(REPEATS):
            comparison = self._compared(space.baseline, winner.choices[0].configuration, seed)
            ratios.append(comparison.proofs["winner"].against_baseline.ratio)
        return {"ratios": ratios, "spread": max(ratios) / min(ratios) - 1}


def _attempt(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row, or why there is none."""
    try:
        return measure()
    except AutotuneError as error:
        return {"failure": str(error)}


def _attempt_all(measure: Callable[[], Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    try:
        yield from measure()
    except (AutotuneError, KeyError) as error:
        yield {"failure": str(error)}


STEPS = {
    "linear": Bench.linear,
    "moe": Bench.moe,
    "fused": Bench.fused,
    "cost": Bench.cost,
    "noise": Bench.noise,
    "yield": Bench.make_room,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each problem")
    parser.add_argument("--only", default=",".join(STEPS), help=f"of {', '.join(STEPS)}")
    arguments = parser.parse_args()
    try:
        device = device_named(arguments.device)
        if device.index < 0 or device.kind == "cpu":
            raise AutotuneError(f"--device {arguments.device!r} is no GPU of this host")
    except AutotuneError as error:
        print(f"benchmarks/gpu.py: {error}", file=sys.stderr)
        return 2
    steps = [step for step in arguments.only.split(",") if step in STEPS]
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("AUTOTUNE_GPU_LANDSCAPES", str(arguments.out / "landscapes"))
    path = arguments.out / "gpu.json"
    settings = load_settings()
    with (
        open_history(str(arguments.out / "state")) as history,
        configured_worker(settings.worker, device) as worker,
    ):
        bench = Bench(Tuner(history, worker, device), arguments.budget)
        results: dict[str, Any] = {
            "device": {"name": device.name, "digest": device.digest, "facts": device.facts},
            "stack": worker.stack(),
            "copy_bandwidth": bench.ceilings.memory_bandwidth_bytes_per_s,
            "matmul_flops": dict(bench.ceilings.matmul_flops),
            "started_at": time.time(),
        }
        for step in steps:
            results[step] = []
            for row in STEPS[step](bench):
                results[step].append(row)
                path.write_text(json.dumps(results, indent=1, default=str))
                told = (
                    row.get("failure")
                    or f"{row.get('speedup', row.get('share', row.get('longest', row.get('spread', 0)))):.3g}"
                )
                print(
                    f"{step:8} {json.dumps({k: row[k] for k in list(row)[:5]}, default=str)}: {told}",
                    flush=True,
                )
    verdicts = judged(results)
    results["goals"] = [{"goal": name, "figure": figure, "reached": ok} for name, figure, ok in verdicts]
    path.write_text(json.dumps(results, indent=1, default=str))
    for name, figure, reached in verdicts:
        shown = "not measured" if figure is None else f"{figure:.3g}"
        print(f"{'ok  ' if reached else 'MISS'} {name}: {shown}")
    return 0 if all(reached for _, _, reached in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
