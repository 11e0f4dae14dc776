"""How the figures of loads are shown: a row for each, and a list of one in full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.cli import output

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOT_ENOUGH = "-"
TIMES = ("queueing", "ttft", "tpot", "itl", "e2e")
PERCENTILES = ("p50", "p90", "p99", "p99_9")


def load_tables(load: Mapping[str, Any]) -> Any:
    """All of one load: its rates, its distributions, what speaks against it, and what its words mean."""
    from rich.console import Group

    lines = [*load["doubts"], *(f"{name}: {text}" for name, text in load["definitions"].items())]
    rates = [rate_table(load["by_rate"])] if load["by_rate"] else []
    return Group(load_table([load]), spread_table(load), *rates, *map(output.plain, lines))


def rate_table(points: Sequence[Mapping[str, Any]]) -> Any:
    """A row for each rate that was tried, and whether it kept the objectives."""
    right = ("rate/s", "good/s", "good", "tokens/s", "TTFT p50", "TTFT p99", "TPOT p50", "E2E p99")
    table = output.table(*right, "kept", right=right)
    for point in points:
        table.add_row(
            f"{point['rate']:.3g}",
            f"{point['goodput']:.3g}",
            f"{100 * point['good_share']:.1f} %",
            f"{point['output_tokens_per_s']:.4g}",
            *(milliseconds(point[key]) for key in ("ttft_p50", "ttft_p99", "tpot_p50", "e2e_p99")),
            "yes" if point["kept"] else "over-saturated" if point["saturated"] else "no",
        )
    return table


def load_table(loads: Sequence[Mapping[str, Any]]) -> Any:
    """A row for each load, by rate.

    Args:
        loads: figures, as `LoadFigures` becomes JSON.
    """
    times = [f"{name} {p}" for name in ("TTFT", "TPOT") for p in ("p50", "p99")]
    right = ("rate/s", "good/s", "tokens/s", *times, "memory")
    table = output.table(*right, "standing", right=right)
    for load in loads:
        table.add_row(
            f"{load['offered_rate']:.3g}",
            f"{load['goodput']:.3g}",
            f"{load['output_tokens_per_s']:.4g}",
            *(milliseconds(load[time][p]) for time in ("ttft", "tpot") for p in ("p50", "p99")),
            output.size(load["peak_memory_bytes"]) if load["peak_memory_bytes"] else NOT_ENOUGH,
            "over-saturated" if (load["growth"] or {}).get("saturated") else load["slo_standing"],
        )
    return table


def spread_table(load: Mapping[str, Any]) -> Any:
    """The distributions of one load."""
    columns = ("mean", "p50", "p90", "p99", "p99.9", "variation")
    table = output.table("", *columns, right=columns)
    for time in TIMES:
        told = load[time]
        if told["count"]:
            table.add_row(
                time.upper() if len(time) < 5 else time,
                milliseconds(told["mean"]),
                *(milliseconds(told[p]) for p in PERCENTILES),
                f"{told['variation']:.2f}" if told["variation"] is not None else NOT_ENOUGH,
            )
    return table


def milliseconds(seconds: float | None) -> str:
    """A time; a dash where there are not enough requests to tell it."""
    return NOT_ENOUGH if seconds is None else output.latency(1e9 * seconds)
