"""A study in Kernel Tuner's cache layout, and in the T4 results schema of the AutoTuningAssociation."""

from __future__ import annotations

import gzip
import json
from statistics import stdev
from typing import TYPE_CHECKING, Any

from autotune.errors import UsageError
from autotune.search.landscape_file import FAILURES
from autotune.store.records import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.store.entries import StudyEntry
    from autotune.store.records import Configuration, Trial

T4_VERSION = "1.0.0"

INVALIDITY = {
    Verdict.OK: "correct",
    Verdict.NOISY: "correct",
    Verdict.INFEASIBLE: "constraints",
    Verdict.COMPILE_ERROR: "compile",
    Verdict.WRONG: "correctness",
    Verdict.HUNG: "timeout",
}
"""T4's words; for every other verdict it is `runtime`."""


def cache_text(study: StudyEntry, trials: Sequence[Trial], device: str) -> str:
    """The trials as a cache that Kernel Tuner resumes from or simulates.

    Args:
        study: they are of.
        trials: in the order they ran; of equal configurations the last counts.
        device: as its vendor calls it.

    Raises:
        UsageError: there is no trial that says anything of its configuration.
    """
    told = _telling(study, trials)
    names = list(dict.fromkeys(name for trial in told for name in trial.configuration))
    values = {name: _values([trial.configuration for trial in told], name) for name in names}
    entries = {_key(trial.configuration, names): _entry(trial, names) for trial in told}
    header = {
        "device_name": device,
        "kernel_name": study.key.workload,
        "problem_size": list(study.dimensions.values()),
        "tune_params_keys": names,
        "tune_params": values,
        "objective": "time",
    }
    lines = (f"{json.dumps(key)}: {json.dumps(entry)}" for key, entry in entries.items())
    # Kernel Tuner looks at the last characters to see whether a cache is closed.
    return f'{json.dumps(header)[:-1]}, "cache": {{\n' + ",\n".join(lines) + "}\n}"


def t4_text(study: StudyEntry, trials: Sequence[Trial]) -> str:
    """The trials in the T4 results schema.

    Raises:
        UsageError: there is no trial that says anything of its configuration.
    """
    results = [_result(trial) for trial in _telling(study, trials)]
    content = {"schema_version": T4_VERSION, "metadata": {"timeunit": "milliseconds"}, "results": results}
    return f"{json.dumps(content, indent=1)}\n"


def compressed(text: str) -> bytes:
    """The text as a `.json.gz` holds it, the same whenever it is written."""
    return gzip.compress(text.encode(), mtime=0)


def _telling(study: StudyEntry, trials: Sequence[Trial]) -> list[Trial]:
    told = [trial for trial in trials if trial.verdict is not Verdict.PREEMPTED]
    if not told:
        raise UsageError(f"study {study.id} has no trial that ended by itself; there is nothing to write")
    return told


def _entry(trial: Trial, names: Sequence[str]) -> dict[str, Any]:
    entry: dict[str, Any] = {**dict.fromkeys(names), **trial.configuration}
    measured = _measured(trial)
    if measured:
        entry["time"] = _median_ms(trial)
        entry["times"] = measured
        entry["std"] = stdev(measured) if len(measured) > 1 else 0.0
    else:
        entry["time"] = FAILURES.get(trial.verdict, "RuntimeFailedConfig")
    return entry | {
        "compile_time": 1e3 * trial.compile_seconds,
        "benchmark_time": 1e3 * trial.measure_seconds,
        "verification_time": 0,
        "strategy_time": 0,
        "framework_time": 0,
        "verdict": str(trial.verdict),
        "error": trial.error,
    }


def _result(trial: Trial) -> dict[str, Any]:
    measured = _measured(trial)
    times = {
        "compilation_time": 1e3 * trial.compile_seconds,
        "benchmark": 1e3 * trial.measure_seconds,
        "runtimes": measured,
        "framework": 0,
        "search_algorithm": 0,
        "validation": 0,
    }
    median = [{"name": "time", "value": _median_ms(trial), "unit": "ms"}] if measured else []
    return {
        "timestamp": _timestamp(trial.started_at),
        "configuration": trial.configuration,
        "objectives": ["time"],
        "times": times,
        "invalidity": INVALIDITY.get(trial.verdict, "runtime"),
        "correctness": int(trial.verdict is not Verdict.WRONG),
        "measurements": median,
    }


def _measured(trial: Trial) -> list[float]:
    """Milliseconds of each sample; none where the trial failed."""
    if trial.verdict not in (Verdict.OK, Verdict.NOISY) or trial.measurement is None:
        return []
    return [ns / 1e6 for ns in trial.measurement.samples_ns]


def _median_ms(trial: Trial) -> float:
    assert trial.measurement is not None, "asked of measured trials alone"
    return trial.measurement.p50_ns / 1e6


def _timestamp(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _key(configuration: Configuration, names: Sequence[str]) -> str:
    return ",".join(str(configuration.get(name)) for name in names)


def _values(configurations: Sequence[Configuration], name: str) -> list[Any]:
    """What a parameter took, numbers ascending; null first where some implementation does not have it."""
    found = list(dict.fromkeys(c[name] for c in configurations if name in c))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in found):
        found.sort()
    return [*([None] if any(name not in c for c in configurations) else []), *found]
