"""How results are printed: tables for people, JSON for programs, the same units everywhere."""

from __future__ import annotations

import json
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import RenderableType

    from autotune.space.problem import Problem
    from autotune.store.records import Interval

WIDEST = 100
"""Columns that any output fits."""

UNBOUNDED = 9e5
"""Bounds from here on say that nothing is known; the comparison ends its search at a factor of a million."""

# Names come from people's files: nothing printed is ever read as markup.
console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else WIDEST)


def print_json(value: Any) -> None:
    """Print `value` as indented JSON."""
    from autotune.cli.options import as_plain

    json.dump(as_plain(value), sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as CSV (RFC 4180), nested values as JSON; nothing for no rows.

    Text that a spreadsheet would take for a formula is preceded by an apostrophe.
    """
    import csv

    if rows:
        writer = csv.DictWriter(sys.stdout, list(rows[0]))
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)


def csv_cell(value: Any) -> Any:
    """A value as a cell of a CSV file."""
    from autotune.cli.options import as_plain

    plain = as_plain(value)
    if isinstance(plain, dict | list | tuple):
        plain = json.dumps(plain)
    if isinstance(plain, str) and plain.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{plain}"
    return plain


def as_rows(records: Iterable[Any]) -> list[dict[str, Any]]:
    """Structs as rows, one level deep."""
    return [{name: getattr(one, name) for name in one.__struct_fields__} for one in records]


def print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """Print rows for programs: as JSON, else as CSV."""
    if as_json:
        print_json(rows)
    else:
        print_csv(rows)


def table(*columns: str, title: str = "", right: Iterable[str] = ()) -> Table:
    """An empty table in the house's look; the columns named in `right` hold numbers."""
    made = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def facts(pairs: Mapping[str, Any]) -> Table:
    """Names and values, one a line."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs.items():
        made.add_row(name, str(value))
    return made


def latency(nanoseconds: float | None) -> str:
    """Three significant digits with the unit that fits."""
    if nanoseconds is None:
        return "-"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"


def energy(joules: float | None) -> str:
    """Three significant digits with the unit that fits."""
    if joules is None:
        return "-"
    for unit, scale in (("J", 1.0), ("mJ", 1e-3), ("uJ", 1e-6)):
        if joules >= scale:
            return f"{joules / scale:.3g} {unit}"
    return f"{joules / 1e-9:.3g} nJ"


def size(count: float | None) -> str:
    """Bytes with a binary unit."""
    if count is None:
        return "-"
    for unit, power in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= power:
            return f"{count / power:.3g} {unit}"
    return f"{count:.0f} B"


def rate(per_second: float, unit: str) -> str:
    """A rate with a decimal prefix, e.g. `21.4 GB/s`."""
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if per_second >= scale:
            return f"{per_second / scale:.3g} {prefix}{unit}"
    return f"{per_second:.3g} {unit}"


def speedup(interval: Interval | None) -> str:
    """A ratio and its interval, e.g. `2.31x [2.28, 2.35]`; `?` where the rounds were too few to bound it."""
    if interval is None:
        return "-"
    bounds = [
        f"{bound:.2f}" if 1 / UNBOUNDED < bound < UNBOUNDED else "?"
        for bound in (interval.low, interval.high)
    ]
    return f"{interval.ratio:.2f}x [{', '.join(bounds)}]"


def share(fraction: float | None) -> str:
    """A fraction in per cent."""
    return "-" if fraction is None else f"{100 * fraction:.0f} %"


def error(relative: float | None) -> str:
    """A relative error."""
    return "-" if relative is None else f"{relative:.1e}"


def problem(of: Problem) -> str:
    """A problem without what is declared as default: `linear m=16 n=7168 k=2048`."""
    return problem_text(of.workload, of.dimensions)


def problem_text(workload: str, dimensions: Mapping[str, int | str]) -> str:
    """See `problem`."""
    model = _model(workload, dimensions)
    if model is not None:
        return model
    defaults = _defaults(workload)
    told = (f"{name}={value}" for name, value in dimensions.items() if value != defaults.get(name))
    return " ".join([workload, *told])


def _model(workload: str, dimensions: Mapping[str, int | str]) -> str | None:
    """A decode step by the name of the model whose sizes it has; None for any other problem."""
    from autotune.space.decode_step import SCALED, WORKLOAD, model_of

    name = model_of(dimensions) if workload == WORKLOAD else None
    if name is None:
        return None
    scaled = (f"{key}={dimensions[key]}" for key in SCALED if dimensions.get(key) and key != "top_k")
    return " ".join([WORKLOAD, name, *scaled, *(["vocab=0"] if not dimensions["vocab"] else [])])


@cache
def _defaults(workload: str) -> dict[str, Any]:
    """The declared defaults of a workload's dimensions; reading a declaration takes milliseconds."""
    from autotune.errors import AutotuneError
    from autotune.workloads.registry import declaration

    try:
        return {d.name: d.default for d in declaration(workload).dimensions.values()}
    except AutotuneError:
        # The history may hold workloads whose module was not imported now.
        return {}


def plain(part: RenderableType) -> RenderableType:
    """Text that is never read as markup, folded where it is too wide; anything else as it is."""
    return Text(part, overflow="fold") if isinstance(part, str) else part


def shorten(text: str, width: int) -> str:
    """`text`, cut to `width` columns."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def value(setting: Any) -> str:
    """A value of a setting as it is written in a configuration."""
    return "none" if setting is None else str(setting)


def configuration(settings: Mapping[str, Any]) -> str:
    """The implementation, then its settings: `torch compute_dtype=float32 threads=2`."""
    rest = (f"{name}={value}" for name, value in settings.items() if name != "implementation")
    return " ".join([str(settings.get("implementation", "")), *rest])


def moment(epoch_seconds: float | None) -> str:
    """A moment in local time, to the second."""
    from datetime import datetime

    if not epoch_seconds:
        return "-"
    return datetime.fromtimestamp(epoch_seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
