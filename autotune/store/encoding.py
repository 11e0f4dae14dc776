"""How records become rows, and rows records again."""

from __future__ import annotations

import sys
import zlib
from array import array
from typing import TYPE_CHECKING, Any

import msgspec

from autotune.store.entries import Decision, DeviceEntry, Event, StackEntry, Standing, StudyEntry
from autotune.store.records import (
    Choice,
    CompiledKernel,
    Configuration,
    Interval,
    Measurement,
    Proof,
    StudyKey,
    Trial,
    Verdict,
    Winner,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from sqlite3 import Row

Columns = dict[str, Any]

_WINNER_COLUMNS = (
    "workload", "problem", "neighbourhood", "device", "stack", "objective", "space", "baseline_error",
    "decided_at",
)  # fmt: skip


def to_json(value: Mapping[str, Any]) -> str:
    """JSON text, its keys in the order given."""
    return msgspec.json.encode(value).decode()


def from_json(text: str) -> dict[str, Any]:
    """The object of a JSON text."""
    return msgspec.json.decode(text, type=dict[str, Any])


def pack_samples(samples_ns: Iterable[int]) -> bytes:
    """Samples as a compact blob: zlib over little-endian int64, about 3 bytes a sample."""
    return zlib.compress(_little_endian(array("q", samples_ns)).tobytes())


def unpack_samples(blob: bytes) -> tuple[int, ...]:
    """The samples that `pack_samples` was given."""
    samples = array("q", zlib.decompress(blob))
    return tuple(_little_endian(samples))


def _little_endian(samples: array[int]) -> array[int]:
    """The same numbers in the order of bytes that is stored, or back from it."""
    if sys.byteorder == "big":
        samples.byteswap()
    return samples


def trial_columns(study: int, trial: Trial) -> Columns:
    """The row of a trial."""
    return {
        "study": study,
        "number": trial.number,
        "configuration": to_json(trial.configuration),
        "verdict": trial.verdict.value,
        "stage": trial.stage,
        "reason": trial.reason,
        "error": trial.error,
        "memory_bytes": trial.memory_bytes,
        "compile_seconds": trial.compile_seconds,
        "measure_seconds": trial.measure_seconds,
        "started_at": trial.started_at,
        "p50_ns": _p50(trial.measurement),
        "kernels": msgspec.json.encode(trial.kernels).decode() if trial.kernels else None,
        **_measurement_columns(trial.measurement),
    }


def trial_of(row: Row) -> Trial:
    """The trial of a row."""
    return Trial(
        number=row["number"],
        configuration=from_json(row["configuration"]),
        verdict=Verdict(row["verdict"]),
        stage=row["stage"],
        reason=row["reason"],
        error=row["error"],
        memory_bytes=row["memory_bytes"],
        compile_seconds=row["compile_seconds"],
        measure_seconds=row["measure_seconds"],
        measurement=_measurement_of(row),
        started_at=row["started_at"],
        kernels=msgspec.json.decode(row["kernels"] or "[]", type=tuple[CompiledKernel, ...]),
    )


def winner_columns(winner: Winner) -> Columns:
    """The row of a winner, without its choices and without what became of it."""
    return {
        "dimensions": to_json(winner.dimensions),
        **{name: getattr(winner, name) for name in _WINNER_COLUMNS},
    }


def choice_columns(winner_id: int, choice: Choice) -> Columns:
    """The row of a choice."""
    proof, incumbent = choice.proof, choice.proof.against_incumbent
    return {
        "winner": winner_id,
        "rank": choice.rank,
        "configuration": to_json(choice.configuration),
        "latency_ns": choice.latency_ns,
        "error": choice.error,
        "memory_bytes": choice.memory_bytes,
        "trial": choice.trial,
        "is_baseline": int(choice.is_baseline),
        "limit_share": choice.limit_share,
        "rounds": proof.rounds,
        "confidence": proof.confidence,
        "margin": proof.margin,
        "proof_ns": proof.latency_ns,
        "baseline_ns": proof.baseline_ns,
        "speedup": proof.against_baseline.ratio,
        "speedup_low": proof.against_baseline.low,
        "speedup_high": proof.against_baseline.high,
        "over_incumbent": incumbent.ratio if incumbent else None,
        "over_incumbent_low": incumbent.low if incumbent else None,
        "over_incumbent_high": incumbent.high if incumbent else None,
        "rounds_stopped": proof.stopped,
        "proof_joules": proof.joules,
        "baseline_joules": proof.baseline_joules,
        **_measurement_columns(choice.measurement),
    }


def choice_of(row: Row) -> Choice:
    """The choice of a row."""
    against_incumbent = None
    if row["over_incumbent"] is not None:
        against_incumbent = Interval(
            row["over_incumbent"], row["over_incumbent_low"], row["over_incumbent_high"]
        )
    return Choice(
        rank=row["rank"],
        configuration=from_json(row["configuration"]),
        latency_ns=row["latency_ns"],
        error=row["error"],
        memory_bytes=row["memory_bytes"],
        proof=Proof(
            rounds=row["rounds"],
            confidence=row["confidence"],
            margin=row["margin"],
            latency_ns=row["proof_ns"],
            baseline_ns=row["baseline_ns"],
            against_baseline=Interval(row["speedup"], row["speedup_low"], row["speedup_high"]),
            against_incumbent=against_incumbent,
            stopped=row["rounds_stopped"],
            joules=row["proof_joules"],
            baseline_joules=row["baseline_joules"],
        ),
        trial=row["trial"],
        is_baseline=bool(row["is_baseline"]),
        measurement=_measurement_of(row),
        limit_share=row["limit_share"],
    )


def decision_of(row: Row, choices: Iterable[Choice]) -> Decision:
    """The decision of a winner's row and its choices."""
    winner = Winner(
        dimensions=from_json(row["dimensions"]),
        choices=tuple(choices),
        **{name: row[name] for name in _WINNER_COLUMNS},
    )
    return Decision(
        row["id"], row["study"], winner, row["state"], row["changed_at"], row["note"], row["origin"]
    )


def standing_of(row: Row) -> Standing:
    """The current winner of a row, in short."""
    facts = {**dict(row), "dimensions": from_json(row["dimensions"]), "is_baseline": bool(row["is_baseline"])}
    return Standing(**facts)


def study_of(row: Row) -> StudyEntry:
    """The study of a row."""
    return StudyEntry(
        key=StudyKey(**{name: row[name] for name in StudyKey.__struct_fields__}),
        dimensions=from_json(row["dimensions"]),
        space_facts=from_json(row["space_facts"]),
        **{
            name: row[name]
            for name in ("id", "seed", "state", "started_at", "ended_at", "end_reason", "trials", "best_ns")
        },
    )


def device_of(row: Row) -> DeviceEntry:
    """The device of a row."""
    return DeviceEntry(**{**dict(row), "facts": from_json(row["facts"])})


def stack_of(row: Row) -> StackEntry:
    """The software stack of a row."""
    return StackEntry(**{**dict(row), "facts": from_json(row["facts"])})


def event_of(row: Row) -> Event:
    """The event of a row."""
    return Event(**{**dict(row), "detail": from_json(row["detail"])})


def configuration_of(row: Row) -> Configuration:
    """The configuration of a row."""
    return from_json(row["configuration"])


def _p50(measurement: Measurement | None) -> float | None:
    return measurement.p50_ns if measurement and measurement.samples_ns else None


def _measurement_columns(measurement: Measurement | None) -> Columns:
    """The columns that trials and choices share; the derived ones are there for whoever reads with SQL."""
    if measurement is None:
        return {}
    measured = bool(measurement.samples_ns)
    return {
        "p90_ns": measurement.p90_ns if measured else None,
        "p99_ns": measurement.p99_ns if measured else None,
        "mean_ns": measurement.mean_ns if measured else None,
        "variation": measurement.variation if measured else None,
        "sample_count": len(measurement.samples_ns),
        "samples": pack_samples(measurement.samples_ns),
        "stopped": measurement.stopped,
        "timer": measurement.timer,
        "cache": measurement.cache,
        "discarded": measurement.discarded,
        "clocks": to_json(measurement.clocks),
        "joules": measurement.joules,
        "load": to_json(measurement.load) if measurement.load else None,
    }


def _measurement_of(row: Row) -> Measurement | None:
    if row["samples"] is None:
        return None
    return Measurement(
        samples_ns=unpack_samples(row["samples"]),
        stopped=row["stopped"],
        timer=row["timer"],
        cache=row["cache"],
        discarded=row["discarded"],
        clocks=from_json(row["clocks"]),
        joules=row["joules"],
        load=from_json(row["load"]) if row["load"] else msgspec.UNSET,
    )
