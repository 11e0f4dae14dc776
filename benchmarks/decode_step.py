"""A whole decode step, tuned, against the same step as PyTorch does it untuned: speed, tails and accuracy.

    python benchmarks/decode_step.py [--model NAME] [--batches 1,4,16] [--context 1024] [--state DIR]
        [--budget 300] [--trials 12] [--operators 0] [--rounds 60] [--cpu-time] [--json]

Kimi K2.5 (2 layers, one of them with 16 experts) and Llama 3.1 8B (2 layers), each with its output layer.
Their operators are tuned first where `--operators` gives them seconds, then the steps, into a state folder;
what is decided there is not tuned again. Then what get_best_config() answers runs against the baseline here,
in interleaved rounds of random order, with the caches evicted before every call. Fails when a step at batch 1
is less than twice as fast, one at any batch is slower beyond doubt, or one is less accurate.

With `--cpu-time` processor time of one thread counts instead of the clock's, and caches are left as the other
step leaves them: what is left to measure where others keep the cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from msgspec import structs

from autotune import decode_step, get_best_config
from autotune.cli.output import console, error, latency, share, size, speedup, table
from autotune.cli.output import problem as shown_problem
from autotune.config import load_settings
from autotune.fingerprint import device_named
from autotune.fingerprint.cpu import cpu_facts
from autotune.measure.comparison import Rules, compare
from autotune.measure.correctness import relative_error
from autotune.measure.timers import timer_for
from autotune.search.study import Budget
from autotune.search.tuning import Goal, Tuner
from autotune.space.decode_step import operators
from autotune.space.searchspace import SearchSpace
from autotune.store import open_history
from autotune.store.records import Interval, Measurement
from autotune.worker.worker import Worker
from autotune.workloads.registry import declaration, workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.space.problem import Problem

SCALED: dict[str, dict[str, int]] = {
    "kimi-k2.5": {"layers": 2, "experts": 16},
    "llama-3.1-8b": {"layers": 2},
}
LEAST_AT_BATCH_1 = 2.0
ACCURACY_SLACK = 1.02
MAKING_SECONDS = 900.0
"""Weights and references of billions of parameters take their time on a busy machine."""


class Row(NamedTuple):
    """One step's result; times of the same rounds."""

    problem: Problem
    configuration: dict[str, Any]
    gain: Interval
    rounds: int
    baseline: Measurement
    tuned: Measurement
    errors: tuple[float, float]
    memory_bytes: tuple[int, int]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SCALED, help="this one alone")
    parser.add_argument("--batches", default="1,4,16")
    parser.add_argument("--context", type=int, default=1024, help="tokens that each sequence attends to")
    parser.add_argument("--state", help="state folder to tune into and to keep; a temporary one by default")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds of tuning per step")
    parser.add_argument("--trials", type=int, default=12, help="configurations per step")
    parser.add_argument("--operators", type=float, default=0.0, help="seconds of tuning per operator before")
    parser.add_argument("--rounds", type=int, default=60, help="interleaved rounds per step")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true", help="processor time of one thread")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    batches = [int(batch) for batch in options.batches.split(",")]
    declared = declaration("decode_step")
    steps = [
        declared.problem(decode_step(model, batch=batch, context=options.context, **scale))
        for model, scale in SCALED.items()
        for batch in batches
        if options.model in (None, model)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["AUTOTUNE_STATE_DIR"] = options.state or scratch
        tune(steps, options)
        rows = []
        # Each in a process of its own, which leaves nothing behind: two of them would not fit side by side.
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            for step in steps:
                try:
                    rows.append(pool.submit(run, step, options).result())
                except BrokenProcessPool:
                    what = f"{shown_problem(step)}: what measured it was killed, as for want of memory"
                    print(f"decode_step: {what}; see --model and --batches", file=sys.stderr)
                    return 1
                print(f"{shown_problem(step)}: measured", file=sys.stderr, flush=True)
    return report(rows, options.json)


def tune(steps: Sequence[Problem], options: argparse.Namespace) -> None:
    """Tune what is not decided yet: operators first, then the steps that are made of them."""
    settings, device = load_settings(), device_named("cpu")
    stages = ("start", "prepare", "build", "check", "measure")
    patient = type(settings.worker.limits)(**dict.fromkeys(stages, MAKING_SECONDS))
    with open_history() as history, Worker(limits=patient) as worker:
        tuner = Tuner(history, worker, device, seed=options.seed)
        parts = {one.problem: None for step in steps for one in operators(step) if one.group}
        for problems, seconds in ((list(parts), options.operators), (list(steps), options.budget)):
            if not seconds:
                continue
            budget = Budget(seconds, options.trials, screen_seconds=1.0)
            for outcome in tuner.tune_all(problems, Goal(), budget, 4 * seconds * len(problems)):
                told = outcome.failure or ("decided now" if outcome.fresh else "decided before")
                print(f"{shown_problem(outcome.problem)}: {told}", file=sys.stderr, flush=True)


def run(step: Problem, options: argparse.Namespace) -> Row:
    """What look-ups answer against the baseline, in the same rounds."""
    facts, made = cpu_facts(), workload("decode_step")
    threads = 1 if options.cpu_time else int(facts["cores"])
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    baseline = SearchSpace.build(declaration("decode_step"), step, facts).baseline
    best = get_best_config("decode_step", device="cpu", **step.dimensions)  # type: ignore[arg-type]
    tuned = dict(best) if best.match == "exact" else baseline
    weights, activations = made.weights(step, options.seed), made.activations(step, options.seed)
    reference, arguments = made.reference(step, weights, activations), tuple(activations.values())
    built = [{**one, "threads": threads} for one in (baseline, tuned)]
    kernels: list[Any] = [made.build(step, one, weights) for one in built]
    errors = tuple(relative_error(kernel(*arguments), reference) for kernel in kernels)
    del weights, reference  # tens of gigabytes, and what the kernels need of them they hold
    timer, samples = timer_for("cpu", l3_bytes=int(facts["l3_bytes"])), ([], [])  # type: ignore[var-annotated]

    def sample(number: int) -> float:
        if options.cpu_time:
            start = time.process_time_ns()
            kernels[number](*arguments)
            took = time.process_time_ns() - start
        else:
            took = timer.sample(lambda: kernels[number](*arguments))
        samples[number].append(took)
        return took

    # A margin of 0: the question is whether it is slower at all. All rounds, for the tails.
    same = tuned == baseline
    rules = Rules(budget_seconds=3_600.0, margin=0.0)
    if same:  # which no number of rounds tells apart
        rules = structs.replace(rules, round_cap=options.rounds)
    names = ["baseline", "tuned"]
    proof = None
    while proof is None or len(samples[0]) < options.rounds:
        compared = compare(
            sample, names, baseline="baseline", rules=rules, seed=options.seed + len(samples[0])
        )
        proof = proof or compared.proofs["tuned"]
    measured = [Measurement(tuple(map(int, taken)), "rounds", "monotonic") for taken in samples]
    return Row(
        step,
        tuned,
        Interval(1.0, 1.0, 1.0) if same else proof.against_baseline,
        proof.rounds,
        *measured,
        errors,  # type: ignore[arg-type]
        tuple(kernel.memory_bytes for kernel in kernels),  # type: ignore[arg-type]
    )


def report(rows: Sequence[Row], as_json: bool) -> int:
    """Print the table; 1 when a requirement is missed."""
    slow = [row for row in rows if row.problem["batch"] == 1 and _ratio(row) < LEAST_AT_BATCH_1]
    slower = [row for row in rows if row.gain.high < 1]
    worse = [row for row in rows if row.errors[1] > row.errors[0] * ACCURACY_SLACK]
    cpu = device_named("cpu")
    summary = {
        "machine": f"{platform.machine()}, {cpu.name}, {cpu.facts['cores']} cores",
        "torch": torch.__version__,
        "command": shlex.join(["python", *sys.argv]),
        "less than twice as fast at batch 1": len(slow),
        "slower beyond doubt": len(slower),
        "less accurate": len(worse),
    }
    if as_json:
        print(json.dumps({**summary, "steps": [_plain(row) for row in rows]}, indent=2))
    else:
        numbers = ("p50", "p99", "CV", "memory", "error")
        shown = table("step", "", *numbers, "speed-up", right=numbers)
        for row in rows:
            for name, taken, place in (("untuned", row.baseline, 0), ("tuned", row.tuned, 1)):
                shown.add_row(
                    shown_problem(row.problem) if not place else "",
                    name,
                    latency(taken.p50_ns),
                    latency(taken.p99_ns),
                    share(taken.variation),
                    size(row.memory_bytes[place]),
                    error(row.errors[place]),
                    speedup(row.gain) if place else "",
                )
        console.print(shown)
        for name, value in summary.items():
            console.print(f"{name}: {value}")
    return int(bool(slow or slower or worse))


def _ratio(row: Row) -> float:
    """Median of the paired ratios of all rounds."""
    pairs = zip(row.baseline.samples_ns, row.tuned.samples_ns, strict=True)
    return statistics.median(untuned / tuned for untuned, tuned in pairs)


def _plain(row: Row) -> dict[str, Any]:
    return {
        "problem": row.problem.dimensions,
        "configuration": row.configuration,
        "speedup": [row.gain.ratio, row.gain.low, row.gain.high],
        "median_of_all_rounds": _ratio(row),
        "errors": row.errors,
        "memory_bytes": row.memory_bytes,
        **{
            name: {
                "p50_ns": one.p50_ns,
                "p90_ns": one.p90_ns,
                "p99_ns": one.p99_ns,
                "variation": one.variation,
            }
            for name, one in (("untuned", row.baseline), ("tuned", row.tuned))
        },
    }


if __name__ == "__main__":
    sys.exit(main())
