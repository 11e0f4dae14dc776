"""Nodes that are slower than their equals: what the baselines took that each of them measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import and_, func, select, union_all

from autotune.fleet.schema import ENTRY, VERIFICATION

if TYPE_CHECKING:
    import uuid

    from sqlalchemy import Connection, Select

LEAST_NODES = 3
"""That measured a problem before any can be told from the others."""
LEAST_PROBLEMS = 3
"""That a node measured before it is judged."""
SLOW = 1.15
"""A node this much slower than the median of its equals is an outlier: runs of one node differ by a few per
cent."""
_KEY = ("device", "stack", "workload", "problem", "objective")


class Pace(NamedTuple):
    """How fast a node is.

    Attributes:
        slowdown: median over problems of its baseline's time over the median of its equals.
        problems: that were compared.
    """

    node: uuid.UUID
    device: str
    stack: str
    slowdown: float
    problems: int

    @property
    def is_outlier(self) -> bool:
        """Whether something is wrong with it, or with all the others."""
        return self.slowdown > SLOW


def paces(connection: Connection, cells: list[tuple[str, str]] | None = None) -> list[Pace]:
    """How fast nodes are, the slowest first; only those of which enough is known.

    Args:
        connection: to the fleet's database.
        cells: devices and stacks that are meant, by their digests; None for all.
    """
    found: list[Pace] = []
    for cell in [None] if cells is None else cells:
        found += [Pace(*row) for row in connection.execute(_paces(cell))]
    return sorted(found, key=lambda pace: -pace.slowdown)


def _paces(cell: tuple[str, str] | None) -> Select[Any]:
    columns = ("node", *_KEY, "baseline_ns")
    # A request says nothing of speed.
    told = [
        select(*(table.c[name] for name in columns)).where(table.c.baseline_ns.is_not(None))
        for table in (ENTRY, VERIFICATION)
    ]
    if cell is not None:
        told = [
            one.where(table.c.device == cell[0], table.c.stack == cell[1])
            for one, table in zip(told, (ENTRY, VERIFICATION), strict=True)
        ]
    measured = union_all(*told).subquery()
    key = [measured.c[name] for name in _KEY]
    each = (
        select(
            measured.c.node,
            *key,
            func.percentile_cont(0.5).within_group(measured.c.baseline_ns).label("took"),
        )
        .group_by(measured.c.node, *key)
        .cte("each_node")
    )
    own = [each.c[name] for name in _KEY]
    typical = (
        select(*own, func.percentile_cont(0.5).within_group(each.c.took).label("took"))
        .group_by(*own)
        .having(func.count() >= LEAST_NODES)
        .cte("typical")
    )
    same = and_(*(each.c[name] == typical.c[name] for name in _KEY))
    ratio = func.percentile_cont(0.5).within_group(each.c.took / typical.c.took)
    return (
        select(each.c.node, each.c.device, each.c.stack, ratio, func.count())
        .join(typical, same)
        .group_by(each.c.node, each.c.device, each.c.stack)
        .having(func.count() >= LEAST_PROBLEMS)
    )
