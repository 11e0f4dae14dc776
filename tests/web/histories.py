"""A history in which something of everything happened, and names that somebody would like to be scripts."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from autotune.space.problem import Problem
from autotune.store import open_history
from autotune.store.records import Interval, Proof, StudyKey, Trial, Verdict, Winner
from autotune.store.rollback import rollback
from autotune.store.snapshot import pin, publish
from tests.store.factories import (
    CPU,
    EPOCH,
    OTHER_STACK,
    SPACE,
    STACK,
    choice,
    gpu,
    measurement,
    record_host,
)

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.store import History

EVIL = '<script>document.title="stolen"</script><img src=x onerror="document.title=1">'
"""A name that a page must show letter by letter."""

SIZES = (1, 4, 16, 64, 256)
FACTS = {
    "configurations": 216,
    "offers": [
        {"name": "native", "withheld": "", "raw": 240, "steps": [["fits_registers", 216]]},
        {"name": "int4_weight_only", "withheld": "loses accuracy; offered with max_error"},
    ],
}


def settings(rng: random.Random) -> dict[str, Any]:
    """A configuration of one of two implementations."""
    if rng.random() < 0.3:
        return {"implementation": "torch", "compute_dtype": rng.choice(["bfloat16", "float32"]), "threads": 2}
    return {
        "implementation": "native",
        "threads": rng.choice([1, 2, 4]),
        "tile_m": rng.choice([1, 2, 4, 8]),
        "tile_n": rng.choice([16, 24, 32, 64]),
        "prefetch": rng.choice([0, 8, 2048]),
        "layout": rng.choice(["nk", "kn"]),
    }


def _trial(number: int, size: int, rng: random.Random) -> Trial:
    own = settings(rng)
    base = 3e5 * size**0.4
    if own["implementation"] == "torch":
        median = base * (6.0 if own["compute_dtype"] == "bfloat16" else 2.5)
    else:
        slower = abs(own["tile_m"] - 4) * 0.15 + abs(own["tile_n"] - 24) * 0.02
        median = base * (1 + slower + 1.2 / own["threads"]) * rng.uniform(0.97, 1.05)
    verdict = rng.choices(
        [Verdict.OK, Verdict.WRONG, Verdict.COMPILE_ERROR, Verdict.NOISY, Verdict.PREEMPTED],
        [80, 4, 4, 6, 6],
    )[0]
    measured = verdict in (Verdict.OK, Verdict.NOISY)
    return Trial(
        number=number,
        configuration=own,
        verdict=verdict,
        stage="screening" if measured else "compile",
        reason="" if measured else f"{verdict}: as if it had been",
        error=rng.choice([0.0017, 0.0023, 0.004]) if measured else None,
        memory_bytes=rng.choice([4 << 20, 6 << 20, 9 << 20]) if measured else None,
        compile_seconds=rng.uniform(0.1, 3.0),
        measure_seconds=0.5,
        measurement=measurement(median, 80, 0.02, seed=number) if measured else None,
        started_at=EPOCH + 100 * size + number,
    )


def study(history: History, size: int, trials: int = 60, workload: str = "linear", **key: Any) -> int:
    """Run a study of many trials; returns its number."""
    solved = Problem(workload, {"m": size, "n": 7168, "k": 2048, "dtype": "bfloat16"}, nearest=("m",))
    fields = {"device": CPU, "stack": STACK, "objective": "latency", "space": SPACE, **key}
    made = history.begin_study(
        StudyKey(workload=workload, problem=solved.key, **fields), solved.dimensions, space_facts=FACTS
    )
    rng = random.Random(size)
    for number in range(trials):
        history.add_trial(made, _trial(number, size, rng))
    return made


def decide(history: History, made: int, size: int, latency_ns: float, **changes: Any) -> None:
    """End a study with a winner that has two alternatives."""
    key = history.study(made).key
    solved = Problem(key.workload, history.study(made).dimensions, nearest=("m",))
    ok = [one for one in history.trials(made) if one.verdict is Verdict.OK]
    best = sorted(ok, key=lambda one: one.measurement.p50_ns if one.measurement else 0.0)[:3]
    choices = []
    for rank, one in enumerate(best):
        ratio = 1.2e6 * size**0.4 / latency_ns * (1 + 0.25 * rank)
        against = Interval(ratio, ratio * 0.94, ratio * 1.05)
        taken = latency_ns / (1 + 0.25 * rank)
        proof = Proof(40, 0.99, 0.01, taken, 1.2e6 * size**0.4, against, stopped="decided")
        told = {"proof": proof, "trial": one.number, "limit_share": 0.62 if rank == 0 else None}
        extra = {"error": 0.0017 * 4**rank, "memory_bytes": (9 << 20) // (rank + 1)}
        choices.append(choice(rank, taken, one.configuration, **told, **extra))
    fields = {
        "workload": key.workload,
        "problem": solved.key,
        "dimensions": solved.dimensions,
        "neighbourhood": solved.neighbourhood,
        "device": key.device,
        "stack": key.stack,
        "objective": key.objective,
        "space": SPACE,
        "baseline_error": 0.0023,
        "choices": tuple(choices),
        "decided_at": EPOCH + size,
    }
    history.promote(made, Winner(**{**fields, **changes}))
    history.end_study(made, "improbable")


def live(folder: Path) -> None:
    """Make a history with studies that ended, one that runs, pins, a rollback and hostile names."""
    with open_history(str(folder)) as history:
        record_host(history)
        history.record_device(gpu())
        history.record_stack(OTHER_STACK, {"torch": "2.12.0"})
        for size in SIZES:
            decide(history, study(history, size), size, 3.2e5 * size**0.4 * (0.9 if size > 4 else 1.1))
        publish(history, "five sizes")
        pin(history, 1, "all ranks of job 71")
        later = {"decided_at": EPOCH + 1000}
        decide(history, study(history, 16, stack=OTHER_STACK), 16, 7e5, **later)
        publish(history, "another stack")
        evil = study(history, 8, 12, workload=EVIL)
        decide(history, evil, 8, 5e5)
        publish(history, EVIL)
        rollback(history, 2, EVIL)
        hostile = history.begin_study(
            StudyKey(EVIL, f"m={EVIL}", CPU, STACK, "latency", SPACE), {"m": EVIL, EVIL: EVIL}
        )
        for number in range(4):
            named = {"implementation": EVIL, EVIL: number, "javascript:alert(1)": EVIL * (number % 2)}
            history.add_trial(
                hostile,
                Trial(
                    number, named, Verdict.OK, "screening", EVIL, 0.1, measurement=measurement(1e6 + number)
                ),
            )
        history.end_study(hostile, EVIL)
        study(history, 32, 40)
    _keep_running(folder)


def _keep_running(folder: Path) -> None:
    """Let the last study run, as it does while a tuner holds the history."""
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(folder / "history.db")) as connection, connection:
        last = "(SELECT max(id) FROM study)"
        connection.execute(f"UPDATE study SET state = 'running', ended_at = NULL WHERE id = {last}")
