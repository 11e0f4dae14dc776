"""Tables and figures of `search_efficiency.py`."""

from __future__ import annotations

import html
import io
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from search_methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from autotune.search.landscape import Landscape

    Results = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
    """Method -> landscape's name -> one record per seed."""

    Table = tuple[str, Sequence[str], list[tuple[str, Mapping[str, float]]]]
    """Title, columns, and a label with its numbers per line."""

MOMENTS = (10, 25, 50, 100, 200)
NEAR = 1.05
LEVELS = (1.2, 1.1, 1.05, 1.02, 1.01)

COLUMNS = (
    *(f"@{moment}" for moment in MOMENTS),
    "within 5 %",
    "P",
    "proposals / useful",
    "ms / proposal",
    "seeds",
)
REACHING = tuple(f"{level:g}" for level in LEVELS)

LATER = 10
"""Evaluations that an earlier study which misleads may cost."""
LAGGING = tuple(f"{moment}+{LATER}" for moment in (10, 25, 50, 100, 190))


def ratios(landscape: Landscape, records: Sequence[Mapping[str, Any]]) -> np.ndarray[Any, Any]:
    """Best so far over the optimum, shape (seeds, evaluations)."""
    return np.array([record["best"] for record in records]) / landscape.optimum


def row_of(landscape: Landscape, records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The numbers of one method on one landscape."""
    found = ratios(landscape, records)
    numbers: dict[str, float] = {}
    for moment in MOMENTS:
        if moment <= found.shape[1]:
            numbers[f"@{moment}"] = float(np.median(found[:, moment - 1]))
            numbers[f"p90@{moment}"] = float(np.percentile(found[:, moment - 1], 90))
    numbers["within 5 %"] = float((found[:, -1] <= NEAR).mean())
    scores = landscape.scores(found * landscape.optimum)
    numbers["P"] = float(scores.mean())
    numbers["error of P"] = float(scores.std(ddof=1) / np.sqrt(len(scores))) if len(scores) > 1 else np.nan
    proposals = sum(record["proposals"] for record in records)
    numbers["proposals / useful"] = proposals / sum(len(record["rows"]) for record in records)
    costs = [record["seconds"] / record["proposals"] for record in records]
    numbers["ms / proposal"] = 1e3 * float(np.median(costs))
    numbers["seeds"] = len(records)
    return numbers


def overall(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Geometric mean of the ratios over landscapes, arithmetic mean of the rest."""
    mean = {
        key: float(
            np.exp(np.mean(np.log([row[key] for row in rows])))
            if "@" in key
            else np.mean([row[key] for row in rows])
        )
        for key in rows[0]
    }
    # The landscapes are the same for every method: what is left to chance is the seeds.
    mean["error of P"] = float(np.linalg.norm([row["error of P"] for row in rows]) / len(rows))
    return mean


def tables(landscapes: Sequence[Landscape], results: Results) -> list[Table]:
    """One table for all, how fast each method gets there, then one table per landscape."""
    per_landscape: list[Table] = []
    collected: dict[str, list[dict[str, float]]] = {}
    for landscape in landscapes:
        lines: list[tuple[str, Mapping[str, float]]] = []
        for method, by_landscape in results.items():
            if by_landscape.get(landscape.name):
                numbers = row_of(landscape, by_landscape[landscape.name])
                lines.append((METHODS[method].label, numbers))
                collected.setdefault(method, []).append(numbers)
        per_landscape.append((landscape.name, COLUMNS, lines))
    summary: list[tuple[str, Mapping[str, float]]] = []
    for method, rows in collected.items():
        label = METHODS[method].label
        if len(rows) < len(landscapes):
            label += f" ({len(rows)} landscapes)"
        summary.append((label, overall(rows)))
    together = (f"overall, {len(landscapes)} landscape(s)", COLUMNS, summary)
    made = [together, reaching(landscapes, results), lagging(landscapes, results), *per_landscape]
    return [table for table in made if table[-1]]


def reaching(landscapes: Sequence[Landscape], results: Results) -> Table:
    """Evaluations until the geometric mean of the medians is within each level, where all methods ran."""
    common = [landscape for landscape in landscapes if all(by.get(landscape.name) for by in results.values())]
    lines: list[tuple[str, Mapping[str, float]]] = []
    for method, by_landscape in results.items() if common else ():
        medians = [np.median(ratios(space, by_landscape[space.name]), axis=0) for space in common]
        curve = np.exp(np.mean(np.log(medians), axis=0))
        reached = {
            column: float(np.argmax(curve <= level)) + 1
            for column, level in zip(REACHING, LEVELS, strict=True)
            if curve[-1] <= level
        }
        lines.append((METHODS[method].label, reached))
    return f"evaluations to reach, {len(common)} landscape(s) of all methods", REACHING, lines


def lagging(landscapes: Sequence[Landscape], results: Results) -> Table:
    """What a search has `LATER` evaluations after the cold one, as a ratio to what that has.

    A ratio of geometric means over seeds and landscapes, with its standard error: at most 1 is a search that
    costs no more than so many evaluations. Unlike counts of evaluations until a level is reached, which hang
    on the one landscape that passes it last, it can tell a difference from chance.
    """
    lines: list[tuple[str, Mapping[str, float]]] = []
    for method, by_landscape in results.items():
        spaces = [s for s in landscapes if by_landscape.get(s.name) and results.get("cold", {}).get(s.name)]
        if method == "cold" or not spaces:
            continue
        numbers: dict[str, float] = {}
        for column in LAGGING:
            moment = int(column.partition("+")[0])
            means, errors = [], []
            for space in spaces:
                own = np.log(ratios(space, by_landscape[space.name]))
                cold = np.log(ratios(space, results["cold"][space.name]))
                if moment + LATER > own.shape[1]:
                    break
                logs = own[:, moment + LATER - 1], cold[:, moment - 1]
                means.append(logs[0].mean() - logs[1].mean())
                errors.append(sum(log.var(ddof=1) / len(log) for log in logs) if len(own) > 1 else np.nan)
            if len(means) == len(spaces):
                numbers[column] = float(np.exp(np.mean(means)))
                numbers[f"error of {column}"] = float(np.sqrt(np.sum(errors)) / len(spaces))
        lines.append((METHODS[method].label, numbers))
    return f"best over that of the cold search {LATER} evaluations before", LAGGING, lines


def cell(numbers: Mapping[str, float], column: str) -> str:
    """A number as it is shown: ratios as `median (90th percentile)`, P with its standard error."""
    if column not in numbers:
        return "-"
    if column.startswith("@"):
        return f"{numbers[column]:.3f} ({numbers['p90' + column]:.3f})"
    if f"error of {column}" in numbers:
        error = numbers[f"error of {column}"]
        return f"{numbers[column]:.3f}" + ("" if np.isnan(error) else f" ± {error:.3f}")
    digits = {"within 5 %": 2, "proposals / useful": 2, "ms / proposal": 1}.get(column, 0)
    return f"{numbers[column]:.{digits}f}"


def text(table: Table) -> str:
    """A table for the terminal."""
    title, columns, lines = table
    grid = [[title, *columns], *([label, *(cell(numbers, c) for c in columns)] for label, numbers in lines)]
    widths = [max(len(line[i]) for line in grid) for i in range(len(grid[0]))]
    return "\n".join(
        "  ".join(
            item.ljust(w) if i == 0 else item.rjust(w)
            for i, (item, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in grid
    )


def draw(landscapes: Sequence[Landscape], results: Results, folder: Path) -> list[Path]:
    """Write `search_efficiency.png` and `search_efficiency.html`.

    Args:
        landscapes: what was searched.
        results: of all methods.
        folder: where the files go.

    Returns:
        The files written: none where matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        print("no figures: matplotlib is not installed (pip install 'autotune[bench]')", file=sys.stderr)
        return []
    matplotlib.use("Agg")
    figure = _figure(landscapes, results)
    folder.mkdir(parents=True, exist_ok=True)
    png, page = folder / "search_efficiency.png", folder / "search_efficiency.html"
    figure.savefig(png, dpi=130)
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    page.write_text(_page(landscapes, results, svg.getvalue()))
    return [png, page]


def _figure(landscapes: Sequence[Landscape], results: Results) -> Any:
    """All landscapes together, then each: median best over optimum against evaluations."""
    from matplotlib.figure import Figure

    columns = 4
    lines = -(-(len(landscapes) + 1) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(landscapes) + 1 :]:
        axis.set_visible(False)
    for number, (method, by_landscape) in enumerate(results.items()):
        style = {
            "color": f"C{number}",
            "linewidth": 1.8 if number == 0 else 1.1,
            "label": METHODS[method].label,
        }
        medians = []
        for axis, landscape in zip(axes[1:], landscapes, strict=False):
            if by_landscape.get(landscape.name):
                medians.append(np.median(ratios(landscape, by_landscape[landscape.name]), axis=0))
                axis.plot(np.arange(1, len(medians[-1]) + 1), medians[-1], **style)
            axis.set_title(landscape.name, fontsize=9)
        if len(medians) == len(landscapes):
            axes[0].plot(np.arange(1, len(medians[0]) + 1), np.exp(np.mean(np.log(medians), axis=0)), **style)
    axes[0].set_title("geometric mean of all", fontsize=9)
    for axis in axes[: len(landscapes) + 1]:
        axis.set_yscale("log")
        axis.set_ylim(0.995, 2.0)
        axis.set_yticks([1.0, 1.05, 1.2, 1.5, 2.0], ["1.00", "1.05", "1.20", "1.50", "2.00"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.set_xlabel("evaluations", fontsize=8)
    axes[0].set_ylabel("best / optimum, median", fontsize=8)
    # From all axes: a method that ran on some landscapes only has no curve in the first.
    handles = {h.get_label(): h for axis in axes for h in axis.get_legend_handles_labels()[0]}
    order = [METHODS[method].label for method in results if METHODS[method].label in handles]
    figure.legend([handles[label] for label in order], order, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _page(landscapes: Sequence[Landscape], results: Results, svg: str) -> str:
    """One self-contained page: the figure, then the tables."""
    parts = []
    for title, columns, lines in tables(landscapes, results):
        head = "".join(f"<th>{html.escape(c)}</th>" for c in (title, *columns))
        body = "".join(
            f"<tr><td>{html.escape(label)}</td>"
            + "".join(f"<td>{cell(numbers, c)}</td>" for c in columns)
            + "</tr>"
            for label, numbers in lines
        )
        parts.append(f"<table><tr>{head}</tr>{body}</table>")
    return (
        "<!doctype html><meta charset='utf-8'><title>Search efficiency</title><style>"
        "body{font:14px sans-serif;"
        "margin:2em}table{border-collapse:collapse;margin:1.5em 0}td,th{padding:2px 10px;text-align:right}"
        "td:first-child,th:first-child{text-align:left;min-width:22em}tr:nth-child(odd){background:#f4f4f4}"
        "svg{max-width:100%;height:auto}</style><h1>Search efficiency</h1>"
        "<p>Best time found over the optimum: median (90th percentile) over seeds.</p>"
        + svg[svg.index("<svg") :]
        + "".join(parts)
    )
