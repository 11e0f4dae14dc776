"""Figures: what each plot shows, as plotly describes it; those of a study by `optuna.visualization`.

Colours such as `var(--one)` are those of the page, which the browser puts in. A point's `customdata` is where
a click on it leads.
"""

from __future__ import annotations

import html
import threading
from typing import TYPE_CHECKING, Any

from autotune.cli import output
from autotune.errors import UnknownNameError, UsageError
from autotune.exports.optuna_study import optuna_trials
from autotune.store.listing import decision, trial_rows, winner_rows
from autotune.store.listing import speedups as all_speedups
from autotune.store.records import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import optuna
    import plotly.graph_objects as go

    from autotune.store import HistoryReader
    from autotune.store.listing import TrialRow, WinnerRow
    from autotune.web.question import Question

DRAWING = threading.Lock()
"""Held while a figure is drawn: neither plotly nor Optuna can be imported by two threads at once, and figures
that are drawn side by side in one interpreter are all late."""

MOST_POINTS = 1000
"""Trials that a plot of a study shows: every so manieth where there are more."""
MOST_LINES = 6
LONGEST_NAME = 32
"""Characters of a name beside an axis."""
MOST_WINNERS = 2000

_VERDICT_COLOURS = {
    Verdict.OK: "var(--three)",
    Verdict.NOISY: "var(--two)",
    Verdict.PREEMPTED: "var(--six)",
    Verdict.INFEASIBLE: "var(--one)",
}


def speedups(reader: HistoryReader, question: Question) -> go.Figure:
    """How often which speed-up was gained."""
    import plotly.graph_objects as go

    gains = all_speedups(reader, state="current", workload=question.text("name"))
    drawn = go.Figure(go.Histogram(x=gains, nbinsx=40, marker_color="var(--one)"))
    drawn.update_layout(xaxis_title="times as fast as the baseline", yaxis_title="problems", bargap=0.05)
    drawn.update_layout(template=None)
    drawn.update_yaxes(tickformat="d", rangemode="tozero", **({"dtick": 1} if len(gains) < 20 else {}))
    return drawn if gains else _nothing("nothing is decided yet")


def sizes(reader: HistoryReader, question: Question) -> go.Figure:
    """Latency of winner and baseline over the size that varies, for a few neighbourhoods."""
    import plotly.graph_objects as go

    found = winner_rows(
        reader,
        workload=question.text("name"),
        search=question.text("search"),
        device=question.text("device"),
        stack=question.text("stack"),
        objective=question.text("objective"),
        neighbourhood=question.text("neighbourhood"),
        state=question.text("state") or "current",
        order="problem",
        limit=MOST_WINNERS,
    )
    drawn = go.Figure()
    groups = _neighbourhoods(found)
    for number, (label, size, rows) in enumerate(groups):
        colour = ("--one", "--two", "--three", "--four", "--five", "--six")[number % 6]
        rows.sort(key=lambda row: row.dimensions[size])
        _line(drawn, label, size, rows, f"var({colour})")
    if not groups:
        return _nothing("no winner has a size")
    names = list(dict.fromkeys(size for _, size, _ in groups))
    drawn.update_xaxes(title=escaped(" or ".join(names)) or "size", type="log")
    drawn.update_yaxes(title="median latency (ms)", type="log")
    drawn.update_layout(legend={"orientation": "h", "y": -0.25})
    return drawn


def _line(drawn: go.Figure, label: str, size: str, rows: list[WinnerRow], colour: str) -> None:
    import plotly.graph_objects as go

    across = [row.dimensions[size] for row in rows]
    tuned = {"x": across, "legendgroup": label, "customdata": [f"/winner/{row.id}" for row in rows]}
    told = [f"{row.speedup:.2f}x [{row.speedup_low:.2f}, {row.speedup_high:.2f}]" for row in rows]
    drawn.add_trace(
        go.Scatter(
            **tuned,
            y=[row.latency_ns / 1e6 for row in rows],
            mode="lines+markers",
            name=f"{label}, tuned",
            line={"color": colour},
            text=told,
            hovertemplate="%{x}: %{y:.3g} ms, %{text}<extra></extra>",
        )
    )
    drawn.add_trace(
        go.Scatter(
            **tuned,
            y=[row.baseline_ns / 1e6 for row in rows],
            mode="lines+markers",
            name=f"{label}, untuned",
            line={"color": colour, "dash": "dot"},
            marker={"symbol": "circle-open"},
            hovertemplate="%{x}: %{y:.3g} ms untuned<extra></extra>",
        )
    )


def _neighbourhoods(rows: list[WinnerRow]) -> list[tuple[str, str, list[WinnerRow]]]:
    """Label, the dimension that varies, and the winners, of the neighbourhoods with the most sizes."""
    groups: dict[tuple[str, ...], list[WinnerRow]] = {}
    for row in rows:
        key = (row.neighbourhood, row.device, row.stack, row.objective)
        groups.setdefault(key, []).append(row)
    largest = sorted(groups.values(), key=len, reverse=True)[:MOST_LINES]
    found = []
    for group in largest:
        counts = {
            name: len({row.dimensions[name] for row in group})
            for name, value in group[0].dimensions.items()
            if isinstance(value, int)
        }
        if counts:
            size = max(counts, key=lambda name: counts[name])
            found.append((_label(group[0], [other[0] for other in largest]), size, group))
    return found


def _label(row: WinnerRow, others: list[WinnerRow]) -> str:
    """What a line is of: its problem's other dimensions, and the device or stack where they differ."""
    told = [row.neighbourhood]
    told += [row.device[:6]] if len({other.device for other in others}) > 1 else []
    told += [f"stack {row.stack[:6]}"] if len({other.stack for other in others}) > 1 else []
    told += [row.objective] if len({other.objective for other in others}) > 1 else []
    return html.escape(output.shorten(", ".join(told), 70), quote=False)


def front(reader: HistoryReader, question: Question) -> go.Figure:
    """Latency over error: what was screened, what was proven, and the front."""
    import plotly.graph_objects as go

    found = decision(reader, question.numbers["winner"])
    choices = sorted(found.winner.choices, key=lambda choice: choice.error)
    rows = trial_rows(reader, found.study, order="p50", limit=MOST_POINTS) if found.study is not None else []
    screened = [row for row in rows if row.verdict == Verdict.OK and row.p50_ns and row.error is not None]
    largest = max([choice.memory_bytes for choice in choices] + [row.memory_bytes or 0 for row in screened])
    drawn = go.Figure()
    drawn.add_trace(
        go.Scatter(
            x=[max(row.error or 0.0, 1e-12) for row in screened],
            y=[(row.p50_ns or 0.0) / 1e6 for row in screened],
            mode="markers",
            name="screened",
            marker={"color": "var(--six)", "opacity": 0.6, "size": _sizes(screened, largest)},
            text=[escaped(output.configuration(row.configuration)) for row in screened],
            customdata=[f"/study/{found.study}/trial/{row.number}" for row in screened],
            hovertemplate="%{text}<br>%{y:.3g} ms, error %{x:.2g}<extra>screened</extra>",
        )
    )
    drawn.add_trace(
        go.Scatter(
            x=[max(choice.error, 1e-12) for choice in choices],
            y=[choice.latency_ns / 1e6 for choice in choices],
            mode="lines+markers",
            name="proven: the front",
            line={"color": "var(--one)", "shape": "hv"},
            marker={"size": [6 + _size(choice.memory_bytes, largest) for choice in choices]},
            text=[escaped(output.configuration(choice.configuration)) for choice in choices],
            customdata=[
                None if choice.trial is None else f"/study/{found.study}/trial/{choice.trial}"
                for choice in choices
            ],
            hovertemplate="%{text}<br>%{y:.3g} ms, error %{x:.2g}<extra>proven</extra>",
        )
    )
    best = found.winner.choices[0]
    drawn.add_trace(
        go.Scatter(
            x=[max(found.winner.baseline_error, 1e-12)],
            y=[best.proof.baseline_ns / 1e6],
            mode="markers",
            name="baseline",
            marker={"color": "var(--five)", "symbol": "x", "size": 11},
            hovertemplate="baseline<br>%{y:.3g} ms, error %{x:.2g}<extra></extra>",
        )
    )
    drawn.update_xaxes(title="relative error", type="log", exponentformat="e")
    drawn.update_yaxes(title="median latency (ms)", type="log")
    drawn.update_layout(legend={"orientation": "h", "y": -0.2})
    return drawn


def _sizes(rows: Sequence[TrialRow], largest: int) -> list[float]:
    return [_size(row.memory_bytes or 0, largest) for row in rows]


def _size(memory_bytes: int, largest: int) -> float:
    """Diameter in pixels, so that the area tells the memory."""
    return 6 + 16 * (memory_bytes / largest) ** 0.5 if largest else 8


def samples(reader: HistoryReader, question: Question) -> go.Figure:
    """The samples of a trial in the order taken, and their distribution."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    trial = reader.trial(question.numbers["study"], question.numbers["trial"])
    taken = [one / 1e6 for one in trial.measurement.samples_ns] if trial.measurement else []
    drawn = make_subplots(rows=1, cols=2, column_widths=[0.7, 0.3], shared_yaxes=True)
    drawn.add_trace(
        go.Scatter(
            y=taken,
            mode="markers",
            marker={"color": "var(--one)", "size": 5},
            hovertemplate="sample %{x}: %{y:.4g} ms<extra></extra>",
        ),
        row=1,
        col=1,
    )
    drawn.add_trace(go.Histogram(y=taken, nbinsy=40, marker_color="var(--one)"), row=1, col=2)
    if trial.measurement and taken:
        for q, colour in ((50, "var(--three)"), (90, "var(--two)"), (99, "var(--five)")):
            at = trial.measurement.percentile_ns(q) / 1e6
            drawn.add_hline(at, line_color=colour, line_dash="dot", annotation_text=f"p{q}", row=1, col=1)
    drawn.update_layout(showlegend=False, bargap=0.05, template=None)
    drawn.update_xaxes(title="sample", row=1, col=1)
    drawn.update_xaxes(title="count", row=1, col=2)
    drawn.update_yaxes(title="latency (ms)", row=1, col=1)
    return drawn


def of_study(reader: HistoryReader, question: Question) -> go.Figure:
    """A plot of a study, by its name.

    Raises:
        UnknownNameError: there is no such study or plot.
    """
    name = question.text("plot") or ""
    if name not in _STUDY_PLOTS:
        raise UnknownNameError("plot", name, _STUDY_PLOTS)
    entry = reader.study(question.numbers["study"])
    step = -(-entry.trials // MOST_POINTS) if entry.trials else 1
    rows = trial_rows(reader, entry.id, every=step, limit=MOST_POINTS)
    wanted = question.text("implementation")
    drawn = _STUDY_PLOTS[name](rows, wanted)
    if step > 1:
        drawn.update_layout(annotations=[*drawn.layout.annotations, _thinned(step)])
    return drawn


def _thinned(step: int) -> dict[str, Any]:
    text = f"every {step}th trial is shown"
    return {"text": text, "xref": "paper", "yref": "paper", "x": 0, "y": 1.06, "showarrow": False}


def _convergence(rows: list[TrialRow], _: str | None) -> go.Figure:
    drawn = _visualised("plot_optimization_history", rows, target_name="median (ms)")
    for trace in drawn.data:
        trace.marker.color = "var(--one)" if "Best" not in trace.name else "var(--two)"
        trace.line.color = "var(--two)"
        trace.name = "the best so far" if "Best" in trace.name else "a trial"
    drawn.update_xaxes(title="trial")
    drawn.update_yaxes(type="log")
    drawn.update_layout(legend={"orientation": "h", "y": -0.25})
    return drawn


def _parallel(rows: list[TrialRow], implementation: str | None) -> go.Figure:
    drawn = _visualised("plot_parallel_coordinate", _of(rows, implementation), target_name="median (ms)")
    kept = [trace for trace in drawn.data if trace.mode == "lines"]
    for trace in kept:
        # Its first axis is the latency, from 0 to 1; Optuna's shades of blue fade on a dark ground.
        trace.line.color = "var(--one)"
        trace.opacity = 0.08 + 0.8 * (1 - trace.y[0]) ** 3
    drawn.data = kept
    drawn.update_annotations(font_color="var(--ink)")
    drawn.update_shapes(line_color="var(--six)")
    drawn.update_layout(margin={"l": 60, "r": 40, "t": 40, "b": 40})
    return drawn


def _importance(rows: list[TrialRow], implementation: str | None) -> go.Figure:
    from optuna.importance import PedAnovaImportanceEvaluator

    # It needs no forest of trees, and takes milliseconds.
    drawn = _visualised(
        "plot_param_importances",
        _of(rows, implementation),
        evaluator=PedAnovaImportanceEvaluator(),
        target_name="median",
    )
    drawn.update_traces(marker_color="var(--one)")
    drawn.update_layout(showlegend=False, margin={"l": 120, "r": 40, "t": 16, "b": 48})
    drawn.update_xaxes(title="share of the importance")
    drawn.update_yaxes(title="")
    return drawn


def _slices(rows: list[TrialRow], implementation: str | None) -> go.Figure:
    drawn = _visualised("plot_slice", _of(rows, implementation), target_name="median (ms)")
    for trace in drawn.data:
        trace.marker.colorscale = "Viridis"
        trace.marker.line.width = 0
    drawn.update_yaxes(type="log")
    return drawn


def _verdicts(rows: list[TrialRow], _: str | None) -> go.Figure:
    import plotly.graph_objects as go

    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        implementation = str(row.configuration.get("implementation", "?"))
        by = counts.setdefault(row.verdict, {})
        by[implementation] = by.get(implementation, 0) + 1
    drawn = go.Figure()
    for verdict, by in counts.items():
        colour = _VERDICT_COLOURS.get(Verdict(verdict), "var(--five)")
        names = [escaped(name) for name in by]
        bar = {"y": names, "x": list(by.values()), "orientation": "h", "name": verdict}
        drawn.add_trace(go.Bar(**bar, marker_color=colour))
    drawn.update_layout(barmode="stack", legend={"orientation": "h", "y": -0.25})
    drawn.update_xaxes(title="trials")
    return drawn


_STUDY_PLOTS: dict[str, Callable[[list[TrialRow], str | None], Any]] = {
    "convergence": _convergence,
    "parallel": _parallel,
    "importance": _importance,
    "slices": _slices,
    "verdicts": _verdicts,
}


def escaped(text: str) -> str:
    """Text as plotly shows it letter by letter: names come from users' files, and it reads some HTML."""
    return html.escape(output.shorten(text, LONGEST_NAME), quote=False)


def _of(rows: list[TrialRow], implementation: str | None) -> list[TrialRow]:
    """The trials of one implementation, which alone have its settings."""
    if implementation is None:
        return rows
    return [row for row in rows if str(row.configuration.get("implementation")) == implementation]


def _visualised(plot: str, rows: list[TrialRow], **arguments: Any) -> go.Figure:
    """A plot of `optuna.visualization`; one that says why where there is too little to draw."""
    import optuna.visualization
    import plotly.graph_objects as go

    measured = [row for row in rows if row.p50_ns]
    varied = {
        name
        for name in (measured[0].configuration if measured else {})
        if len({str(row.configuration.get(name)) for row in measured}) > 1
    }
    if len(measured) < 2 or (plot != "plot_optimization_history" and not varied):
        return _nothing("too few trials with different settings were measured")
    study = _study(measured, varied if plot != "plot_optimization_history" else None)
    try:
        drawn = getattr(optuna.visualization, plot)(study, **arguments)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        return _nothing(escaped(str(error)))
    if isinstance(drawn, go.Figure):
        drawn.update_layout(template=None, title=None)
        return drawn
    raise UsageError(f"{plot} draws nothing that a browser can show")


def _study(rows: list[TrialRow], names: set[str] | None) -> optuna.Study:
    """The trials as Optuna's study, of those settings alone that differ."""
    import msgspec
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if names is not None:
        rows = [
            msgspec.structs.replace(
                row, configuration={k: v for k, v in row.configuration.items() if k in names}
            )
            for row in rows
        ]
    study = optuna.create_study()
    study.add_trials(optuna_trials(rows, escaped))
    return study


def _nothing(why: str) -> go.Figure:
    import plotly.graph_objects as go

    drawn = go.Figure()
    drawn.update_layout(
        template=None,
        annotations=[
            {"text": f"Nothing to draw: {why}.", "xref": "paper", "yref": "paper", "showarrow": False}
        ],
    )
    drawn.update_xaxes(visible=False)
    drawn.update_yaxes(visible=False)
    return drawn
