"""What tuning is worth: every published winner against its baseline, paired, in one run.

    python benchmarks/outcome.py [--state DIR] [--budget 25] [--rounds 10] [--only TEXT] [--json]

Problems of Kimi K2.5, Llama 3.1 8B and Qwen3, decoding, are tuned into a state folder (those already decided
there are not tuned again). Then, in a fresh process, what get_best_config() answers runs against the baseline
in interleaved rounds of random order, with the caches evicted before every call. Fails when the geometric
mean is below 2.0, or a winner is slower than its baseline beyond doubt.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple

from autotune import get_best_config
from autotune.cli.output import configuration, console, latency, speedup, table
from autotune.config import load_settings
from autotune.errors import TrialError
from autotune.fingerprint import device_named
from autotune.measure.comparison import Rules
from autotune.search.study import Budget
from autotune.search.tuning import Goal, Tuner
from autotune.space.searchspace import SearchSpace
from autotune.store import open_history
from autotune.store.records import Interval
from autotune.worker.configured import configured_worker
from autotune.workloads.registry import declaration

if TYPE_CHECKING:
    from autotune.space.problem import Problem

LEAST_GEOMETRIC_MEAN = 2.0

KIMI = {"kv_lora_rank": 512, "qk_nope": 128, "qk_rope": 64, "v_dim": 128}

PROBLEMS: list[tuple[str, str, dict[str, Any]]] = [
    # Kimi K2.5 at TP8
    *[
        (f"kimi-k2.5 {role}", "linear", {"m": m, "n": n, "k": k})
        for role, n, k in (
            ("qkv_a", 2112, 7168),
            ("q_b", 1536, 1536),
            ("o", 7168, 1024),
            ("dense gate_up", 4608, 7168),
            ("shared gate_up", 512, 7168),
        )
        for m in (1, 16)
    ],
    ("kimi-k2.5 lm_head", "linear", {"m": 1, "n": 20480, "k": 7168}),
    *[
        ("kimi-k2.5 attention", "mla_decode", {"batch": b, "context": 4096, "heads": 8, **KIMI})
        for b in (1, 16)
    ],
    *[("kimi-k2.5 norm", "rms_norm", {"rows": m, "hidden": 7168, "residual": "add"}) for m in (1, 16)],
    *[("kimi-k2.5 shared act", "silu_and_mul", {"rows": m, "intermediate": 256}) for m in (1, 16)],
    *[
        (
            "kimi-k2.5 experts",
            "fused_moe",
            {
                "tokens": tokens,
                "experts": 48,
                "top_k": 8,
                "hidden": 7168,
                "intermediate": 256,
                "weight_format": "int4_g32",
            },
        )
        for tokens in (1, 16)
    ],
    # Llama 3.1 8B on one device
    *[
        (f"llama-3.1-8b {role}", "linear", {"m": m, "n": n, "k": k})
        for role, n, k in (("qkv", 6144, 4096), ("down", 4096, 14336))
        for m in (1, 16)
    ],
    *[
        (
            "llama-3.1-8b attention",
            "attention",
            {"batch": b, "q_len": 1, "kv_len": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128},
        )
        for b in (1, 16)
    ],
    ("llama-3.1-8b act", "silu_and_mul", {"rows": 16, "intermediate": 14336}),
    # Qwen3 30B-A3B on one device
    *[
        (
            "qwen3-30b-a3b experts",
            "fused_moe",
            {"tokens": tokens, "experts": 128, "top_k": 8, "hidden": 2048, "intermediate": 768},
        )
        for tokens in (1, 16)
    ],
    ("qwen3-30b-a3b norm", "rms_norm", {"rows": 16, "hidden": 2048, "residual": "add"}),
]


class Row(NamedTuple):
    """One problem's result."""

    role: str
    problem: Problem
    settings: dict[str, Any]
    is_baseline: bool
    winner_ns: float
    baseline_ns: float
    gain: Interval
    error: float
    baseline_error: float

    @property
    def verdict(self) -> str:
        """`faster` or `slower` where the interval excludes 1, else `even`."""
        if self.gain.low > 1:
            return "faster"
        return "slower" if self.gain.high < 1 else "even"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--state", help="state folder to tune into and to keep; a temporary one by default")
    parser.add_argument("--budget", type=float, default=25.0, help="seconds of tuning per problem")
    parser.add_argument("--rounds", type=float, default=8.0, help="seconds of interleaved rounds per problem")
    parser.add_argument("--only", default="", help="problems whose role or workload contains this text")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chosen = [entry for entry in PROBLEMS if options.only in f"{entry[0]} {entry[1]}"]
    problems = [(role, declaration(workload).problem(given)) for role, workload, given in chosen]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["AUTOTUNE_STATE_DIR"] = options.state or scratch
        failures = tune([problem for _, problem in problems], options.budget)
        rows = [row for role, problem in problems if (row := run(role, problem, options))]
    return report(rows, failures, options.json)


def tune(problems: list[Problem], budget: float) -> int:
    """Tune what is not decided yet; returns how many failed."""
    settings, device, failures = load_settings(), device_named("cpu"), 0
    with open_history() as history, configured_worker(settings.worker, device) as worker:
        tuner = Tuner(history, worker, device)
        for outcome in tuner.tune_all(problems, Goal(), Budget(budget), budget * len(problems) * 2):
            failures += bool(outcome.failure)
            told = outcome.failure or ("decided now" if outcome.fresh else "decided before")
            print(f"{outcome.problem}: {told}", file=sys.stderr, flush=True)
    return failures


def run(role: str, problem: Problem, options: argparse.Namespace) -> Row | None:
    """What look-ups answer against the baseline, in a process of its own."""
    device = device_named("cpu")
    best = get_best_config(problem.workload, device="cpu", **problem.dimensions)  # type: ignore[arg-type]
    if best.match != "exact":
        return None
    baseline = SearchSpace.build(declaration(problem.workload), problem, device.facts).baseline
    with configured_worker(load_settings().worker, device) as worker:
        try:
            worker.prepare(problem, options.seed)
            worker.build("baseline", baseline)
            worker.build("winner", dict(best))
            errors = [worker.check(slot, options.seed) for slot in ("baseline", "winner")]
            # A margin of 0: the question is whether it is slower at all, not whether it should be promoted.
            rules = Rules(budget_seconds=options.rounds, margin=0.0)
            compared = worker.compare(
                ["baseline", "winner"], baseline="baseline", rules=rules, seed=options.seed
            )
        except TrialError as error:
            print(f"{problem}: {error}", file=sys.stderr)
            return None
    proof = compared.proofs["winner"]
    gain = Interval(1.0, 1.0, 1.0) if dict(best) == baseline else proof.against_baseline
    return Row(
        role,
        problem,
        dict(best),
        dict(best) == baseline,
        proof.latency_ns,
        proof.baseline_ns,
        gain,
        errors[1],
        errors[0],
    )


def report(rows: list[Row], failures: int, as_json: bool) -> int:
    """Print the table; 1 when a requirement is missed."""
    mean = math.exp(sum(math.log(row.gain.ratio) for row in rows) / len(rows)) if rows else 0.0
    worst = min((row.gain.ratio for row in rows), default=0.0)
    slower = sum(row.verdict == "slower" for row in rows)
    below = sum(row.gain.ratio < 1 for row in rows)
    less_accurate = sum(row.error > row.baseline_error * 1.02 for row in rows)
    cpu = device_named("cpu")
    summary = {
        "machine": f"{platform.machine()}, {cpu.name}, {cpu.facts['cores']} cores",
        "problems": len(rows),
        "failures": failures,
        "geometric_mean": mean,
        "worst": worst,
        "below_1_in_the_median": below,
        "slower_beyond_doubt": slower,
        "less_accurate": less_accurate,
    }
    if as_json:
        listed = [
            {
                "role": row.role,
                "workload": row.problem.workload,
                "problem": row.problem.dimensions,
                "configuration": row.settings,
                "latency_ns": row.winner_ns,
                "baseline_ns": row.baseline_ns,
                "speedup": [row.gain.ratio, row.gain.low, row.gain.high],
                "error": row.error,
                "baseline_error": row.baseline_error,
            }
            for row in rows
        ]
        print(json.dumps({**summary, "rows": listed}, indent=2))
    else:
        shown = table("role", "problem", "baseline", "winner", "speed-up", right=("baseline",))
        for row in rows:
            sizes = " ".join(f"{k}={v}" for k, v in row.problem.dimensions.items() if isinstance(v, int))
            kept = (
                "baseline" if row.is_baseline else f"{latency(row.winner_ns)} {configuration(row.settings)}"
            )
            shown.add_row(row.role, sizes, latency(row.baseline_ns), kept, speedup(row.gain))
        console.print(shown)
        for name, value in summary.items():
            console.print(
                f"{name.replace('_', ' ')}: {f'{value:.3f}' if isinstance(value, float) else value}"
            )
    return int(mean < LEAST_GEOMETRIC_MEAN or slower > 0 or less_accurate > 0 or failures > 0)


if __name__ == "__main__":
    sys.exit(main())
