"""One page that holds everything it shows: winners, what they trade, and how sure that is.

Scripts, styles and figures are part of the file, and its policy forbids the browser to fetch anything at all,
so it can be mailed, archived, and opened where there is no network.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2

import autotune
from autotune.cli import output
from autotune.cli.winners import compared_by
from autotune.space.problem import Problem
from autotune.store.listing import decision
from autotune.store.records import Interval
from autotune.web import figures, report_figures
from autotune.web.question import Question

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.store import HistoryReader
    from autotune.store.listing import WinnerRow

HERE = os.path.dirname(os.path.abspath(__file__))
RATES = "Latency against the rate of requests"
MOST_DRAWN = 6
"""Problems that are drawn one by one: the first of the list."""


class Drawing(NamedTuple):
    """A figure of the page: where it goes, how it is read, and what plotly draws."""

    name: str
    title: str
    summary: str
    figure: str


class Section(NamedTuple):
    """A problem that is drawn."""

    title: str
    lead: str
    drawings: list[Drawing]


def page(
    reader: HistoryReader,
    winners: Sequence[WinnerRow],
    *,
    title: str,
    command: str,
    made_at: float,
    rates: Sequence[dict[str, Any]] = (),
) -> str:
    """The page, as HTML.

    Args:
        reader: of the history.
        winners: to tell of, in order; the first few are drawn one by one.
        title: of the page.
        command: that made it, to make it again.
        made_at: seconds since the epoch.
        rates: of a load, as `report_figures.read_rates` gives them.
    """
    across = _across(reader, winners)
    if rates:
        summary = (
            "Time to the first and to the last token; a cross: the server did not keep up with the rate."
        )
        drawn = report_figures.rates([report_figures.Line("", list(rates))]).to_json()
        across.append(Drawing("rates", RATES, summary, _embedded(drawn)))
    sections = [_section(reader, winner) for winner in winners[:MOST_DRAWN]]
    gains = [winner.speedup for winner in winners if winner.speedup > 0]
    mean = math.exp(math.fsum(map(math.log, gains)) / len(gains)) if gains else 1.0
    script, styles = _script(), _read("static", "style.css") + _STYLES
    return _template().render(
        title=title,
        command=command,
        made_at=output.moment(made_at),
        version=autotune.__version__,
        mean=f"{mean:.2f}x over {len(winners)} problem{'s' * (len(winners) != 1)}",
        machines=_machines(reader, winners),
        rows=[_row(winner) for winner in winners],
        across=across,
        sections=sections,
        script=script,
        styles=styles,
        policy=_policy(script),
    )


def _across(reader: HistoryReader, winners: Sequence[WinnerRow]) -> list[Drawing]:
    """Latency over the size that varies, of what has been tuned for more than one."""
    drawn: list[Drawing] = []
    for workload in dict.fromkeys(winner.workload for winner in winners):
        sizes = {winner.problem for winner in winners if winner.workload == workload}
        if len(sizes) > 1:
            figure = figures.sizes(reader, Question("/", {"name": workload}))
            summary = (
                "Median latency of winner and baseline over the size that varies; both axes are logarithmic."
            )
            told = f"{workload}: latency against batch"
            name = f"sizes-{len(drawn)}"
            drawn.append(Drawing(name, told, summary, _embedded(figure.to_json())))
    return drawn


def _section(reader: HistoryReader, winner: WinnerRow) -> Section:
    """Distribution and front of one winner."""
    made = decision(reader, winner.id)
    drawings = []
    cumulative = report_figures.distribution(reader, made)
    if cumulative is not None:
        summary = (
            "How large a share of calls took at most so long: steep is steady, a long way to the top a tail. "
            "The winner was measured afresh; others as they were screened."
        )
        name = f"distribution-{winner.id}"
        drawings.append(
            Drawing(name, "Distribution of the latency", summary, _embedded(cumulative.to_json()))
        )
    stored = report_figures.stored_rates(reader, made)
    if stored:
        summary = (
            "Every rate that was tried while the largest was looked for. A cross: the server did not keep up."
        )
        drawn = report_figures.rates(stored).to_json()
        drawings.append(Drawing(f"rates-{winner.id}", RATES, summary, _embedded(drawn)))
    front = figures.front(reader, Question("/", {}, {"winner": winner.id}))
    summary = "Further down is faster, further left more accurate; the area of a point tells its memory."
    drawings.append(
        Drawing(f"front-{winner.id}", "What less accuracy buys", summary, _embedded(front.to_json()))
    )
    kept = "the baseline was kept" if winner.is_baseline else output.configuration(winner.configuration)
    return Section(_name(winner), kept, drawings)


def _embedded(json: str) -> str:
    """A figure inside HTML: names in it come from users' files, and must not end the element."""
    return json.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _name(winner: WinnerRow) -> str:
    told = output.problem(Problem(winner.workload, winner.dimensions))
    return (
        told if winner.objective == "latency" else f"{told}, {compared_by(winner.objective, winner.workload)}"
    )


def _row(winner: WinnerRow) -> list[str]:
    kept = "baseline kept" if winner.is_baseline else output.configuration(winner.configuration)
    return [
        _name(winner),
        kept,
        output.latency(winner.baseline_ns),
        output.latency(winner.latency_ns if winner.objective == "latency" else winner.proof_ns),
        output.speedup(Interval(winner.speedup, winner.speedup_low, winner.speedup_high)),
        output.error(winner.error),
        output.error(winner.baseline_error),
        output.size(winner.memory_bytes),
        output.share(winner.limit_share),
    ]


def _machines(reader: HistoryReader, winners: Sequence[WinnerRow]) -> dict[str, str]:
    """Devices and stacks of the winners, in words."""
    told: dict[str, str] = {}
    for entry in reader.devices():
        if any(winner.device == entry.digest for winner in winners):
            cores = entry.facts.get("cores")
            told[f"device {entry.digest[:8]}"] = entry.name + (f", {cores} cores" if cores else "")
    for stack in reader.stacks():
        if any(winner.stack == stack.digest for winner in winners):
            names = ("python", "torch", "triton", "kernel")
            facts = (f"{name} {stack.facts[name]}" for name in names if stack.facts.get(name))
            told[f"stack {stack.digest[:8]}"] = ", ".join(facts)
    return told


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.join(HERE, "templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")


def _script() -> str:
    """plotly's own script, and ours that draws what the page holds."""
    import plotly

    path = os.path.join(os.path.dirname(plotly.__file__), "package_data", "plotly.min.js")
    with open(path, encoding="utf-8") as file:
        theirs = file.read()
    # Inside an HTML file this alone would end the script.
    return (theirs + "\n" + _read("static", "plots.js")).replace("</script", "<\\/script")


def _policy(script: str) -> str:
    """What the browser may do: run this very script, and fetch nothing."""
    digest = base64.b64encode(hashlib.sha256(f"{script}".encode()).digest()).decode()
    allowed = ("default-src 'none'", f"script-src 'sha256-{digest}'", "style-src 'unsafe-inline'")
    return "; ".join((*allowed, "img-src data:", "base-uri 'none'", "form-action 'none'"))


def _read(*path: str) -> str:
    with open(os.path.join(HERE, *path), encoding="utf-8") as file:
        return file.read()


_STYLES = """
main { max-width: 1180px; }
section.problem { margin-top: 2rem; }
h3 { font-size: .98rem; margin: 0; }
table.winners td:nth-child(n + 3),
table.winners th:nth-child(n + 3) { text-align: right; white-space: nowrap; }
table.winners td:nth-child(-n + 2) { overflow-wrap: anywhere; min-width: 12rem; }
@media print { .plots figure { break-inside: avoid; } }
"""
