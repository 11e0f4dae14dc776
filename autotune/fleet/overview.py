"""What a fleet looks like: its nodes, what they know, and which are slower than their equals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import func, select

from autotune.fleet.outliers import paces
from autotune.fleet.schema import DEVICE, ENTRY, GENERATION, NODE, VERIFICATION

if TYPE_CHECKING:
    from sqlalchemy import Connection

MOST_NODES = 1000
"""Nodes that are shown, those seen last."""


def overview(connection: Connection) -> dict[str, Any]:
    """Counts and nodes, the slowest first, in types that JSON knows."""
    counted = connection.execute(select(ENTRY.c.kind, func.count()).group_by(ENTRY.c.kind))
    kinds: dict[str, int] = {row[0]: row[1] for row in counted}
    counts = {
        "nodes": connection.execute(select(func.count()).select_from(NODE)).scalar_one(),
        "winners": kinds.get("winner", 0),
        "requests": kinds.get("request", 0),
        "verified elsewhere": connection.execute(
            select(func.count()).select_from(VERIFICATION).where(VERIFICATION.c.outcome == "holds")
        ).scalar_one(),
        "did not hold": kinds.get("refutation", 0),
        "pinned generations": connection.execute(select(func.count()).select_from(GENERATION)).scalar_one(),
    }
    names = {row.digest: row.name for row in connection.execute(select(DEVICE.c.digest, DEVICE.c.name))}
    pace = {(str(one.node), one.device): one for one in paces(connection)}
    nodes = []
    for row in connection.execute(select(NODE).order_by(NODE.c.seen_at.desc()).limit(MOST_NODES)):
        for device in dict.fromkeys(_devices(row.cells)) or [""]:
            found = pace.get((str(row.id), device))
            nodes.append(
                {
                    "node": str(row.id),
                    "name": row.name,
                    "version": row.version,
                    "seen_at": row.seen_at.timestamp(),
                    "device": names.get(device, device),
                    "slowdown": found.slowdown if found else None,
                    "problems": found.problems if found else 0,
                    "outlier": bool(found and found.is_outlier),
                }
            )
    nodes.sort(key=lambda node: -(node["slowdown"] or 0.0))
    return {"counts": counts, "nodes": nodes}


def _devices(cells: str) -> list[str]:
    """The devices that a node says it has; none of what is no such list."""
    try:
        return [device for device, _ in msgspec.json.decode(cells, type=list[tuple[str, str]])]
    except msgspec.MsgspecError:
        return []
