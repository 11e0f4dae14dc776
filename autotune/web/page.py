"""A page: what it is called, what it says, its tables and its plots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from autotune.store import HistoryReader
    from autotune.web.question import Question
    from autotune.web.tables import Table


class Plot(NamedTuple):
    """A plot of a page, drawn by the browser from what an address of this site tells.

    Attributes:
        name: of its element.
        title: above it.
        summary: what it shows and how to read it, for those too who cannot see it.
        address: of its figure.
        tall: whether it needs more room than others.
    """

    name: str
    title: str
    summary: str
    address: str
    tall: bool = False


class Option(NamedTuple):
    """One of several ways to look at a page."""

    title: str
    address: str
    chosen: bool


@dataclass(frozen=True)
class Page:
    """What a template is given.

    Attributes:
        title: of the page, which its heading repeats.
        section: the entry of the menu that it belongs to.
        lead: sentences beneath the heading.
        facts: names with what is said of them, in groups by heading.
        tables: in order.
        plots: in order.
        choices: groups of ways to look at it, by what is chosen.
        fields: of the form that filters it: name, label and present value.
        links: to related pages: title and address.
        live: whether it is read again while it is looked at.
    """

    title: str
    section: str
    lead: list[str] = field(default_factory=list)
    facts: dict[str, dict[str, str]] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    choices: dict[str, list[Option]] = field(default_factory=dict)
    fields: list[tuple[str, str, str]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    live: bool = False


View = Callable[["HistoryReader", "Question"], Page]
Figure = Callable[["HistoryReader", "Question"], Any]
