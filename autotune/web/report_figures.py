"""Figures of a report: the distribution of latencies, and latency against the rate of requests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from autotune.errors import UsageError
from autotune.store.records import Verdict
from autotune.web.figures import escaped

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as go

    from autotune.store import HistoryReader
    from autotune.store.entries import Decision
    from autotune.store.records import Measurement

COLOURS = tuple(f"var(--{name})" for name in ("one", "two", "three", "four", "six"))
MOST_OTHERS = 3
"""Distributions beside the winner's: the best screened of other implementations or qualifiers."""
LEAST_SAMPLES = 3


def distribution(reader: HistoryReader, decision: Decision) -> go.Figure | None:
    """Cumulative latencies of the winner, measured afresh, and of the best others, as they were screened.

    None where no samples were kept.
    """
    import plotly.graph_objects as go

    best, drawn = decision.winner.choices[0], go.Figure()
    lines = []
    if best.measurement is not None:
        lines.append(("the winner", best.measurement))
    lines += _others(reader, decision, MOST_OTHERS)
    for colour, (name, measured) in zip(COLOURS, lines, strict=False):
        ordered = sorted(sample / 1e6 for sample in measured.samples_ns)
        shares = [(number + 1) / len(ordered) for number in range(len(ordered))]
        drawn.add_trace(
            go.Scatter(
                x=ordered,
                y=shares,
                mode="lines",
                line={"shape": "hv", "color": colour, "width": 3 if name == "the winner" else 1.5},
                name=escaped(name),
                hovertemplate="%{y:.0%} within %{x:.4g} ms<extra></extra>",
            )
        )
    if not lines:
        return None
    baseline_ms = best.proof.baseline_ns / 1e6
    drawn.add_trace(
        go.Scatter(
            x=[baseline_ms, baseline_ms],
            y=[0, 1],
            mode="lines",
            line={"color": "var(--five)", "dash": "dot"},
            name="the baseline's median",
            hovertemplate="baseline: %{x:.4g} ms<extra></extra>",
        )
    )
    drawn.update_xaxes(title="latency of a call (ms)", rangemode="tozero")
    drawn.update_yaxes(title="share of calls", tickformat=".0%", range=[0, 1.02])
    drawn.update_layout(template=None, legend={"orientation": "h", "y": -0.25})
    return drawn


def _others(reader: HistoryReader, decision: Decision, most: int) -> list[tuple[str, Measurement]]:
    """The fastest screened trials of other implementations, and of the winner's with other settings."""
    if decision.study is None:
        return []
    found: dict[str, tuple[str, Measurement]] = {}
    winner = decision.winner.choices[0].configuration
    trials = [one for one in reader.trials(decision.study) if one.verdict is Verdict.OK and one.measurement]
    for trial in sorted(trials, key=lambda one: one.measurement.p50_ns if one.measurement else 0.0):
        assert trial.measurement is not None, "kept for it"
        kind = str(trial.configuration.get("implementation"))
        name = kind
        if kind == winner.get("implementation"):
            # Of the same implementation, what it has otherwise.
            changed = {key: value for key, value in trial.configuration.items() if winner.get(key) != value}
            name = kind = "with " + " ".join(f"{key}={value}" for key, value in changed.items())
        if trial.configuration != winner and len(trial.measurement.samples_ns) >= LEAST_SAMPLES:
            found.setdefault(kind, (name, trial.measurement))
    return list(found.values())[:most]


def read_rates(path: str) -> list[dict[str, Any]]:
    """The rates that a load tried, with their latencies, from what `autotune load --json` printed.

    Returns:
        In order of the rate: `rate` per second, `saturated`, and in seconds `ttft_p50`, `ttft_p99`, `e2e_p50`
        and `e2e_p99`, None where they are not known.

    Raises:
        UsageError: the file cannot be read, or holds no rates.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = list(_rates(json.load(file)))
    except OSError as error:
        raise UsageError(f"--rates {path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"--rates {path}: is not what a load prints as JSON: {error}") from None
    if not found:
        raise UsageError(f"--rates {path}: holds no rates; expected what 'autotune load --json' prints")
    return sorted(found, key=lambda point: point["rate"])


_TIMES = ("ttft_p50", "ttft_p99", "e2e_p50", "e2e_p99")


def _rates(value: Any) -> Any:
    """Points of rate anywhere in a document: a load by itself, or the rates that were tried for one."""
    if isinstance(value, list):
        for one in value:
            yield from _rates(one)
    elif isinstance(value, dict):
        if "rate" in value and "ttft_p50" in value:
            times = {name: None if value.get(name) is None else float(value[name]) for name in _TIMES}
            yield {"rate": float(value["rate"]), "saturated": bool(value.get("saturated")), **times}
        elif value.get("by_rate"):
            yield from _rates(value["by_rate"])
        elif "offered_rate" in value and isinstance(value.get("ttft"), dict):
            spreads = {name: (value.get(name) or {}) for name in ("ttft", "e2e")}
            shares = ("p50", "p99")
            times = {f"{name}_{q}": spread.get(q) for name, spread in spreads.items() for q in shares}
            growth = value.get("growth") or {}
            saturated = bool(value.get("saturated") or growth.get("saturated"))
            yield {"rate": float(value["offered_rate"]), "saturated": saturated, **times}
        else:
            for one in value.values():
                yield from _rates(one) if isinstance(one, dict | list) else ()


def rates(points: Sequence[dict[str, Any]]) -> go.Figure:
    """Time to first token and to the last over the rate of requests; over-saturated ones are crosses."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    shown = (
        ("ttft_p50", "first token, p50", COLOURS[0], "solid"),
        ("ttft_p99", "first token, p99", COLOURS[0], "dot"),
        ("e2e_p50", "last token, p50", COLOURS[1], "solid"),
        ("e2e_p99", "last token, p99", COLOURS[1], "dot"),
    )
    for key, name, colour, dash in shown:
        known = [point for point in points if point[key] is not None]
        if not known:
            continue
        symbols = ["x" if point["saturated"] else "circle" for point in known]
        drawn.add_trace(
            go.Scatter(
                x=[point["rate"] for point in known],
                y=[1e3 * point[key] for point in known],
                mode="lines+markers",
                name=name,
                line={"color": colour, "dash": dash},
                marker={"symbol": symbols, "size": 8},
                hovertemplate="%{x:.3g} a second: %{y:.4g} ms<extra></extra>",
            )
        )
    drawn.update_xaxes(title="requests per second", rangemode="tozero")
    drawn.update_yaxes(title="latency (ms)", type="log")
    drawn.update_layout(template=None, legend={"orientation": "h", "y": -0.25})
    return drawn
