"""Tables of tuned kernels as vLLM and SGLang read them: a configuration for each of a grid of batch sizes.

Both take the key nearest to a batch, however far, and never their own default once a file is there. So a
table has the whole grid, and where tuning did not win, the values of the default stand.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from autotune.errors import UsageError
from autotune.store.records import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from autotune.exports.winners import Winners
    from autotune.store.entries import Decision
    from autotune.store.reading import HistoryReader
    from autotune.store.records import Configuration

    Row = dict[str, int]

GRID = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096)
"""The batch sizes that vLLM's own tuner writes."""

TILES = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K")
NEEDED = (*TILES, "GROUP_SIZE_M", "num_warps", "num_stages")
OPTIONAL = ("SPLIT_K", "waves_per_eu", "matrix_instr_nonkdim", "kpack")
"""What the kernels take beyond: the last three on AMD alone."""

TRITON_DEFAULTS = {"num_warps": 4, "num_stages": 3, "SPLIT_K": 1}
"""What a kernel is launched with where a configuration does not say: `triton.Config`."""


class Table(NamedTuple):
    """A table, and where each row comes from.

    Attributes:
        rows: a configuration by batch size, in ascending order.
        origins: what is known of each row, for the provenance.
        tuned: how many rows are winners.
    """

    rows: dict[int, Row]
    origins: dict[str, dict[str, Any]]
    tuned: int


def table(
    reader: HistoryReader,
    winners: Winners,
    size: str,
    default: Callable[[int], Row],
    shape: Callable[[Row], Row] = lambda row: row,
) -> Table:
    """The grid, winners where tuning won and defaults elsewhere; sizes tuned beside the grid come on top.

    Args:
        reader: of the history the winners are from.
        winners: of one shape.
        size: the dimension that is the batch.
        default: what the reading system does without a file, by batch size.
        shape: a winner's row as the reading system wants it.
    """
    by_size = {int(decision.winner.dimensions[size]): decision for decision in reversed(winners.decisions)}
    rows: dict[int, Row] = {}
    origins: dict[str, dict[str, Any]] = {}
    tuned = 0
    for batch in sorted({*GRID, *by_size}):
        pinned = default(batch)
        row, origin = _row(reader, by_size.get(batch), pinned)
        if row is None and batch not in GRID:
            continue
        rows[batch] = pinned if row is None else shape(row)
        origins[str(batch)] = origin
        tuned += row is not None
    return Table(rows, origins, tuned)


def as_json(rows: Mapping[int, Row], triton_version: str | None = None) -> str:
    """The text of a table file, with the version of Triton first where the format has a place for it."""
    lines = [] if triton_version is None else [f'  "triton_version": {json.dumps(triton_version)}']
    lines += [f'  "{batch}": {json.dumps(row)}' for batch, row in rows.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def provenance(
    winners: Winners, size: str, triton: str | None, origins: dict[str, dict[str, Any]], tuned: int
) -> dict[str, Any]:
    """What is told of a table beside its folder."""
    device, stack = winners.device, winners.stack
    return {
        "device": {"name": device.name, "digest": device.digest, "family": device.family},
        "stack": {"digest": stack.digest, "torch": stack.facts.get("torch"), "triton": triton},
        "dimensions": one_shape(winners, size),
        "tuned": tuned,
        "rows": origins,
    }


def launched(tile: tuple[int, int, int], group: int, warps: int | None = None, stages: int = 3) -> Row:
    """A row of a default; without warps it leaves warps and stages to Triton."""
    row = dict(zip(TILES, tile, strict=True)) | {"GROUP_SIZE_M": group}
    return row if warps is None else {**row, "num_warps": warps, "num_stages": stages}


def one_shape(winners: Winners, size: str) -> dict[str, int | str]:
    """The dimensions that all winners share, but for the batch.

    Raises:
        UsageError: they differ in one, which a file has no place for.
    """
    shapes = [
        {name: value for name, value in decision.winner.dimensions.items() if name != size}
        for decision in winners.decisions
    ]
    for other in shapes[1:]:
        for name, value in shapes[0].items():
            if other.get(name) != value:
                raise UsageError(
                    f"winners of {name}={value} and of {name}={other.get(name)} would share a file; "
                    f"choose one with -p {name}={value}"
                )
    return shapes[0]


def split_by(winners: Winners, names: Sequence[str]) -> list[Winners]:
    """Winners in groups whose dimensions agree in what names a file."""
    groups: dict[tuple[Any, ...], list[Decision]] = {}
    for decision in winners.decisions:
        groups.setdefault(tuple(decision.winner.dimensions.get(name) for name in names), []).append(decision)
    return [winners._replace(decisions=group) for group in groups.values()]


def kernel_row(configuration: Configuration) -> Row | None:
    """What of a configuration the kernels take; None if it is not one of theirs."""
    row = {name: configuration[name] for name in (*NEEDED, *OPTIONAL) if name in configuration}
    whole = all(type(value) is int and value > 0 for value in row.values())
    if not whole or any(name not in row for name in NEEDED):
        return None
    return row if all(row[name] & (row[name] - 1) == 0 for name in TILES) else None


def _row(reader: HistoryReader, decision: Decision | None, pinned: Row) -> tuple[Row | None, dict[str, Any]]:
    """The row that tuning won, if it did, and what to tell of it."""
    if decision is None:
        return None, {"from": "default", "why": "not tuned"}
    best = decision.winner.choices[0]
    told: dict[str, Any] = {
        "decision": decision.id,
        "study": decision.study,
        "trial": best.trial,
        "decided_at": decision.winner.decided_at,
        "configuration": best.configuration,
    }
    row = kernel_row(best.configuration)
    if best.is_baseline:
        return None, {"from": "default", "why": "nothing beat the baseline", **told}
    if row is None:
        return None, {"from": "default", "why": "won by what the file cannot say", **told}
    over_default = _over_default(reader, decision, row, pinned)
    if over_default is not None and over_default <= 1:
        return None, {"from": "default", "why": "the default was faster in its study", **told}
    speedup = best.proof.against_baseline
    return row, {
        "from": "winner",
        **told,
        "latency_ns": best.latency_ns,
        "baseline_ns": best.proof.baseline_ns,
        "speedup": [speedup.low, speedup.ratio, speedup.high],
        "error": best.error,
        # Of the two screenings; None where the study did not try it.
        "over_default": over_default,
    }


def _over_default(reader: HistoryReader, decision: Decision, row: Row, pinned: Row) -> float | None:
    """By how much the winner was faster than the default, where the same study measured both."""
    if decision.study is None:
        return None
    medians: dict[bool, float] = {}
    wanted = {**TRITON_DEFAULTS, **pinned}
    for trial in reader.trials(decision.study, verdict=Verdict.OK):
        known = kernel_row(trial.configuration)
        if known is None or trial.measurement is None or not trial.measurement.samples_ns:
            continue
        filled = {**TRITON_DEFAULTS, **known}
        if known == row:
            medians[True] = trial.measurement.p50_ns
        if all(filled.get(name) == value for name, value in wanted.items()):
            medians[False] = trial.measurement.p50_ns
    return medians[False] / medians[True] if len(medians) == 2 else None
