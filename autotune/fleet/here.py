"""The devices of this host with their software stacks, for commands; the daemon knows its own."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from autotune.daemon.fleet_messages import Cell
from autotune.errors import UsageError
from autotune.fingerprint import probe
from autotune.fingerprint.stack import stack_digest

if TYPE_CHECKING:
    from autotune.config import Settings
    from autotune.fingerprint import Device


def devices_here() -> list[Device]:
    """The devices of this host."""
    return list(probe().devices)


def cells_here(settings: Settings) -> list[Cell]:
    """The devices of this host, those that are equal once, with the stack that they are tuned under.

    Raises:
        UsageError: the worker runs in another environment, whose stack this one does not know.
    """
    if settings.worker.interpreter != sys.executable:
        raise UsageError(
            f"[worker] python is {settings.worker.interpreter}; run the autotune of that environment"
        )
    found = {}
    for device in devices_here():
        stack, facts = stack_digest(device.kind), dict(device.facts)
        found[device.digest] = Cell(device.digest, stack, device.kind, device.name, device.family, facts)
    return list(found.values())
