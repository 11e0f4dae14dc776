"""Tables: what a page shows, and what programs get of it as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from autotune.cli.options import as_plain
from autotune.cli.output import csv_cell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autotune.web.question import Question

Row = dict[str, Any]


class Column(NamedTuple):
    """A column of a page's table.

    Attributes:
        title: its heading.
        show: what stands in its cells.
        link: where a cell leads to; None for nowhere.
        number: whether it is aligned as numbers are.
        order: the name under which it can be sorted by; empty if it cannot.
        mark: a class of style for the cell, such as a verdict's.
        moment: whether it is a moment, which stays on one line.
    """

    title: str
    show: Callable[[Row], str]
    link: Callable[[Row], str | None] | None = None
    number: bool = False
    order: str = ""
    mark: Callable[[Row], str] | None = None
    moment: bool = False


@dataclass(frozen=True)
class Table:
    """Rows, and how they are shown.

    Attributes:
        name: in addresses.
        caption: what it holds.
        columns: of the page; programs get the rows as they are.
        rows: values as the history has them.
        total: rows that there are, if these are a part; None where these are all.
        order: what it is sorted by, where that can be chosen.
        empty: what is said where there are no rows.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    total: int | None = None
    order: str = ""
    empty: str = "None."


class Pager(NamedTuple):
    """Which rows are shown, and where the others are."""

    first: int
    last: int
    total: int
    before: str | None
    after: str | None


def pager(table: Table, question: Question) -> Pager | None:
    """Where the other rows of a table are; None where all are shown."""
    if table.total is None or (table.total <= len(table.rows) and not question.offset):
        return None
    page = question.offset // question.limit + 1
    last = question.offset + len(table.rows)
    before = question.address(page=page - 1 if page > 2 else None) if page > 1 else None
    after = question.address(page=page + 1) if last < table.total else None
    return Pager(min(question.offset + 1, last), last, table.total, before, after)


def as_csv(table: Table) -> str:
    """The rows as CSV (RFC 4180); text that a spreadsheet would run is preceded by an apostrophe."""
    written = io.StringIO()
    if table.rows:
        writer = csv.DictWriter(written, list(table.rows[0]), extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in table.rows)
    return written.getvalue()


def as_json(table: Table) -> str:
    """The rows as a JSON array."""
    return json.dumps(as_plain(list(table.rows)), indent=1)
