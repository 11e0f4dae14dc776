"""Records as a study makes them: realistic, small, and different where an argument says so."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotune.space.problem import Problem
from autotune.store.records import (
    Choice,
    Configuration,
    Interval,
    Measurement,
    Proof,
    StudyKey,
    Trial,
    Verdict,
    Winner,
)

CPU, GPU, STACK, OTHER_STACK, SPACE = "c0" * 8, "90" * 8, "51" * 8, "50" * 8, "5a" * 8
STACK_FACTS = {"python": "3.11.7", "torch": "2.13.0+cpu", "OMP_NUM_THREADS": None}
CPU_FACTS = {
    "kind": "cpu",
    "cores": 2,
    "isa": ["avx2", "avx512f"],
    "memory_bytes": 8 << 30,
    "family": "x86-avx512",
}
EPOCH = 1_790_000_000.0
"""A moment in 2026."""


ROOT = Path(__file__).resolve().parents[2]


def run_python(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, where `autotune` and `tests` can be imported."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class AnyDevice:
    """What the history wants to know of a device."""

    kind: str = "cpu"
    index: int = 0
    name: str = "AMD EPYC 9654"
    family: str = "x86-avx512"
    facts: dict[str, Any] = field(default_factory=lambda: dict(CPU_FACTS))
    digest: str = CPU


def gpu(index: int = 0, digest: str = GPU) -> AnyDevice:
    """An accelerator; those with one digest are equal."""
    return AnyDevice("cuda", index, "NVIDIA H200", "nvidia-h200", {"kind": "cuda", "sm_count": 132}, digest)


def problem(m: int = 16, n: int = 7168, k: int = 2048) -> Problem:
    """`linear` at Kimi K2.5's o_proj by default; neighbours differ in `m`."""
    return Problem("linear", {"m": m, "n": n, "k": k, "dtype": "bfloat16"}, nearest=("m",))


def study_key(m: int = 16, **changes: Any) -> StudyKey:
    """The key of a study of `problem(m)` on the CPU."""
    fields = {
        "workload": "linear",
        "problem": problem(m).key,
        "device": CPU,
        "stack": STACK,
        "objective": "latency",
        "space": SPACE,
    }
    return StudyKey(**{**fields, **changes})


def configuration(number: int = 0) -> Configuration:
    """A configuration; different numbers below 24 give different ones."""
    return {
        "implementation": ("torch", "onednn_packed")[number % 2],
        "compute_dtype": ("bfloat16", "float32")[number // 2 % 2],
        "weight_layout": ("nk", "kn")[number // 4 % 2],
        "threads": (1, 2, 4)[number // 8 % 3],
    }


def measurement(
    p50_ns: float = 1e6, samples: int = 60, variation: float = 0.01, seed: int = 0
) -> Measurement:
    """A measurement around a median, with normal noise."""
    noise = random.Random(seed)
    return Measurement(
        samples_ns=tuple(int(p50_ns * (1 + variation * noise.gauss(0, 1))) for _ in range(samples)),
        stopped="converged",
        timer="monotonic",
        discarded=1,
        clocks={"cpu_mhz": 2400.0},
    )


def trial(number: int = 0, verdict: Verdict = Verdict.OK, **changes: Any) -> Trial:
    """A trial that ended so, as far as one that ends so gets."""
    measured = verdict in (Verdict.OK, Verdict.NOISY)
    fields: dict[str, Any] = {
        "configuration": configuration(number),
        "stage": "screening" if measured else "correctness",
        "reason": "" if measured else f"injected {verdict}",
        "error": 0.002 if measured else None,
        "memory_bytes": 29_360_128 if measured else None,
        "compile_seconds": 0.25 + 0.01 * number,
        "measure_seconds": 0.5,
        "measurement": measurement(1e6 + 1e4 * number, seed=number) if measured else None,
        "started_at": EPOCH + number,
    }
    return Trial(number=number, verdict=verdict, **{**fields, **changes})


def choice(
    rank: int = 0, latency_ns: float = 4e5, settings: Configuration | None = None, **changes: Any
) -> Choice:
    """A proven configuration, twice as fast as the baseline by default."""
    speedup = 8e5 / latency_ns
    fields: dict[str, Any] = {
        "configuration": configuration(rank) if settings is None else settings,
        "error": 0.002,
        "memory_bytes": 29_360_128,
        "proof": Proof(
            rounds=40,
            confidence=0.99,
            margin=0.01,
            latency_ns=latency_ns,
            baseline_ns=8e5,
            against_baseline=Interval(speedup, speedup * 0.98, speedup * 1.02),
            against_incumbent=Interval(1.1, 1.05, 1.15) if rank == 0 else None,
            stopped="decided",
        ),
        "trial": rank,
        "measurement": measurement(latency_ns) if rank == 0 else None,
        "limit_share": 0.6,
    }
    return Choice(rank=rank, latency_ns=latency_ns, **{**fields, **changes})


def winner(m: int = 16, latency_ns: float = 4e5, decided_at: float = EPOCH, **changes: Any) -> Winner:
    """What a study of `problem(m)` decided: a winner and one other point of the Pareto front."""
    solved = problem(m)
    fields: dict[str, Any] = {
        "workload": "linear",
        "problem": solved.key,
        "dimensions": solved.dimensions,
        "neighbourhood": solved.neighbourhood,
        "device": CPU,
        "stack": STACK,
        "objective": "latency",
        "space": SPACE,
        "baseline_error": 0.002,
        "choices": (choice(0, latency_ns), choice(1, latency_ns * 0.8, error=0.01)),
    }
    return Winner(decided_at=decided_at, **{**fields, **changes})


def record_host(history: Any) -> None:
    """Record the CPU and its software stack, as a tuner does before its first study."""
    history.record_device(AnyDevice())
    history.record_stack(STACK, STACK_FACTS)


def promote(history: Any, m: int = 16, latency_ns: float = 4e5, decided_at: float = EPOCH) -> int:
    """Run a study of `problem(m)` with three trials that ends in a winner; returns the study's number."""
    record_host(history)
    study = int(history.begin_study(study_key(m), problem(m).dimensions))
    first = len(history.trials(study))
    for number in range(first, first + 3):
        history.add_trial(study, trial(number))
    history.promote(study, winner(m, latency_ns, decided_at))
    history.end_study(study, "trials")
    return study
