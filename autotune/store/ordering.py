"""In what order lists of the history come: a name that people give, as the terms of ORDER BY."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from autotune.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping

_BEST = "(SELECT min(t.p50_ns) FROM trial t WHERE t.study = s.id AND t.verdict = 'ok')"


class Term(NamedTuple):
    """One thing that is sorted by.

    Attributes:
        sql: the expression.
        falls: whether the greatest comes first.
        fixed: whether it stays so when the order is turned round: what lacks a figure is always last.
    """

    sql: str
    falls: bool = False
    fixed: bool = False


Orders = dict[str, tuple[Term, ...]]


def _present(sql: str, *, falls: bool = False) -> tuple[Term, Term]:
    return Term(f"{sql} IS NULL", fixed=True), Term(sql, falls)


STUDIES: Orders = {
    "started": (Term("s.started_at", falls=True), Term("s.id", falls=True)),
    "problem": (Term("s.workload"), Term("s.problem"), Term("s.id")),
    "trials": (Term("(SELECT count(*) FROM trial t WHERE t.study = s.id)", falls=True), Term("s.id")),
    "best": (*_present(_BEST), Term("s.id")),
    "duration": (Term("(ifnull(s.ended_at, s.started_at) - s.started_at)", falls=True), Term("s.id")),
}
TRIALS: Orders = {
    "number": (Term("number"),),
    "p50": (*_present("p50_ns"), Term("number")),
    "error": (*_present("error"), Term("number")),
    "memory": (*_present("memory_bytes"), Term("number")),
    "compile": (Term("compile_seconds", falls=True), Term("number")),
    "verdict": (Term("verdict"), Term("number")),
}
WINNERS: Orders = {
    "decided": (Term("w.decided_at", falls=True), Term("w.id", falls=True)),
    "changed": (Term("w.changed_at", falls=True), Term("w.id", falls=True)),
    "speedup": (Term("c.speedup", falls=True), Term("w.id")),
    "latency": (Term("c.latency_ns"), Term("w.id")),
    "limit": (*_present("c.limit_share"), Term("w.id")),
    "problem": (Term("w.workload"), Term("w.problem"), Term("w.id")),
}


def ordered_by(orders: Mapping[str, tuple[Term, ...]], name: str, descending: bool = False) -> str:
    """The terms of ORDER BY.

    Args:
        orders: one of this module's.
        name: that a person gave.
        descending: the other way round than usual.

    Raises:
        UnknownNameError: there is no such order.
    """
    if name not in orders:
        raise UnknownNameError("order", name, orders)
    return ", ".join(
        f"{term.sql} DESC" if term.falls != (descending and not term.fixed) else term.sql
        for term in orders[name]
    )
