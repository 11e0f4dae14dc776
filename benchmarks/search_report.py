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

MOMENTS = (10, 25, 50, 100, 200)
NEAR = 1.05

COLUMNS = (
    *(f"@{moment}" for moment in MOMENTS),
    "within 5 %",
    "P",
    "proposals / useful",
    "ms / proposal",
)


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
    numbers["P"] = landscape.score(found * landscape.optimum)
    proposals = sum(record["proposals"] for record in records)
    numbers["proposals / useful"] = proposals / sum(len(record["rows"]) for record in records)
    numbers["ms / proposal"] = 1e3 * sum(record["seconds"] for record in records) / proposals
    numbers["seeds"] = len(records)
    return numbers


def overall(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Geometric mean of the ratios over landscapes, arithmetic mean of the rest."""
    return {
        key: float(
            np.exp(np.mean(np.log([row[key] for row in rows])))
            if "@" in key
            else np.mean([row[key] for row in rows])
        )
        for key in rows[0]
    }


def tables(
    landscapes: Sequence[Landscape], results: Results
) -> list[tuple[str, list[tuple[str, dict[str, float]]]]]:
    """One table for all, then one per landscape: (title, [(label, numbers)])."""
    per_landscape = []
    collected: dict[str, list[dict[str, float]]] = {}
    for landscape in landscapes:
        lines = []
        for method, by_landscape in results.items():
            if by_landscape.get(landscape.name):
                numbers = row_of(landscape, by_landscape[landscape.name])
                lines.append((METHODS[method].label, numbers))
                collected.setdefault(method, []).append(numbers)
        per_landscape.append((landscape.name, lines))
    summary = []
    for method, rows in collected.items():
        label = METHODS[method].label
        if len(rows) < len(landscapes):
            label += f" ({len(rows)} landscapes)"
        summary.append((label, overall(rows)))
    return [(f"overall, {len(landscapes)} landscape(s)", summary), *per_landscape]


def cell(numbers: Mapping[str, float], column: str) -> str:
    """A number as it is shown: ratios as `median (90th percentile)`."""
    if column not in numbers:
        return "-"
    if column.startswith("@"):
        return f"{numbers[column]:.3f} ({numbers['p90' + column]:.3f})"
    return f"{numbers[column]:.{ {'P': 3, 'within 5 %': 2, 'ms / proposal': 1}.get(column, 2) }f}"


def text(title: str, lines: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """A table for the terminal."""
    body = [
        [label, *(cell(numbers, c) for c in COLUMNS), f"{numbers['seeds']:.0f}"] for label, numbers in lines
    ]
    grid = [[title, *COLUMNS, "seeds"], *body]
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
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _page(landscapes: Sequence[Landscape], results: Results, svg: str) -> str:
    """One self-contained page: the figure, then the tables."""
    parts = []
    for title, lines in tables(landscapes, results):
        head = "".join(f"<th>{html.escape(c)}</th>" for c in (title, *COLUMNS, "seeds"))
        body = "".join(
            f"<tr><td>{html.escape(label)}</td>"
            + "".join(f"<td>{cell(numbers, c)}</td>" for c in COLUMNS)
            + f"<td>{numbers['seeds']:.0f}</td></tr>"
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
