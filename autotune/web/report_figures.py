"""Figures of a report: the distribution of latencies, and latency against the rate of requests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

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
WINNER = "the winner"
MOST_OTHERS = 3
"""Distributions beside the winner's: the best screened of other implementations or qualifiers."""
LEAST_SAMPLES = 3
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}
"""That a load keeps, with the share of requests below each."""


class Line(NamedTuple):
    """What one configuration did at some rates: points as `read_rates` gives them."""

    name: str
    points: list[dict[str, Any]]


def distribution(reader: HistoryReader, decision: Decision) -> go.Figure | None:
    """Cumulative latencies of the winner, measured afresh, and of the best others, as they were screened.

    Of a server's load its percentiles are drawn, since its samples are whole starts. None where nothing of it
    was kept.
    """
    import plotly.graph_objects as go

    best, drawn = decision.winner.choices[0], go.Figure()
    lines = _measured(reader, decision)
    loaded = any(measured.load for _, measured in lines)
    for colour, (name, measured) in zip(COLOURS, lines, strict=False):
        if loaded:
            times, shares = _cumulative(measured)
        else:
            times = sorted(sample / 1e6 for sample in measured.samples_ns)
            shares = [(number + 1) / len(times) for number in range(len(times))]
        if not times:
            continue
        drawn.add_trace(
            go.Scatter(
                x=times,
                y=shares,
                mode="lines+markers" if loaded else "lines",
                line={
                    "shape": "linear" if loaded else "hv",
                    "color": colour,
                    "width": 3 if name == WINNER else 1.5,
                },
                name=escaped(name),
                hovertemplate="%{y:.0%} within %{x:.4g} ms<extra></extra>",
            )
        )
    if not drawn.data:
        return None
    if loaded:
        drawn.update_xaxes(title="time to the last token at the load that was kept (ms)", rangemode="tozero")
        return _shares(drawn)
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
    return _shares(drawn)


def _shares(drawn: go.Figure) -> go.Figure:
    drawn.update_yaxes(title="share of calls", tickformat=".0%", range=[0, 1.02])
    drawn.update_layout(template=None, legend={"orientation": "h", "y": -0.25})
    return drawn


def _cumulative(measured: Measurement) -> tuple[list[float], list[float]]:
    """Times to the last token in milliseconds, and the share of requests that took no longer."""
    spread = (measured.load or {}).get("e2e") or {}
    known = {name: spread[name] for name in PERCENTILES if spread.get(name) is not None}
    return [1e3 * seconds for seconds in known.values()], [PERCENTILES[name] for name in known]


def _measured(reader: HistoryReader, decision: Decision) -> list[tuple[str, Measurement]]:
    """The winner, measured afresh, and the best others, as they were screened."""
    best = decision.winner.choices[0].measurement
    return [*([(WINNER, best)] if best is not None else []), *_others(reader, decision, MOST_OTHERS)]


def stored_rates(reader: HistoryReader, decision: Decision) -> list[Line]:
    """What the load of a server's winner showed at each rate, and that of the best others; else nothing."""
    lines = [
        Line(name, sorted(_rates(measured.load), key=lambda point: point["rate"]))
        for name, measured in _measured(reader, decision)
        if measured.load
    ]
    return [line for line in lines if line.points]


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
        known = trial.measurement.load or len(trial.measurement.samples_ns) >= LEAST_SAMPLES
        if trial.configuration != winner and known:
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


_SHOWN = (
    ("ttft_p50", "first token, p50", 0, "solid"),
    ("ttft_p99", "first token, p99", 0, "dot"),
    ("e2e_p50", "last token, p50", 1, "dash"),
    ("e2e_p99", "last token, p99", 1, "dashdot"),
)


def rates(lines: Sequence[Line]) -> go.Figure:
    """Time to first token and to the last over the rate of requests; over-saturated ones are crosses.

    A line by itself has a colour for either token, several have one each.
    """
    import plotly.graph_objects as go

    drawn = go.Figure()
    shown = [(line, place, *how) for place, line in enumerate(lines[: len(COLOURS)]) for how in _SHOWN]
    for line, place, key, told, token, dash in shown:
        known = [point for point in line.points if point[key] is not None]
        if not known:
            continue
        name = told if len(lines) == 1 else f"{escaped(line.name)}: {told}"
        colour = COLOURS[token if len(lines) == 1 else place]
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
