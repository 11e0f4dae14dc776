"""Nodes of a fleet without their daemons: a history each, and exchanges when a test says so."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from autotune.daemon.fleet_messages import Cell, Told
from autotune.errors import FleetError
from autotune.fleet.connection import connect, told
from autotune.fleet.exchange import Exchange
from autotune.fleet.local import HistoryStore
from autotune.store import open_history
from tests.store.factories import CPU, CPU_FACTS, STACK, AnyDevice, promote, record_host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from autotune.config import FleetSettings
    from autotune.store.fleet import Entry
    from autotune.store.records import Winner

CELL = Cell(CPU, STACK, "cpu", AnyDevice.name, AnyDevice.family, CPU_FACTS)


def anything_goes(_: Entry) -> str:
    """For tests of the exchange itself, whose winners are made up."""
    return ""


class Node:
    """A node with a history of its own.

    Attributes:
        rejected: why entries were not used.
    """

    def __init__(
        self,
        folder: Path,
        settings: FleetSettings,
        fault: Callable[[Entry], str] = anything_goes,
        cells: list[Cell] | None = None,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.fault = fault
        self.cells = [CELL] if cells is None else cells
        self.history = open_history(str(folder))
        record_host(self.history)
        self.rejected: list[str] = []

    def exchange(self) -> Told:
        """One exchange.

        Raises:
            FleetError: it failed.
        """
        store = HistoryStore(self.history, self.cells)
        with told(self.settings):
            engine = connect(self.settings, autocommit=True)
            ended = Exchange(
                engine, store, self.folder.name, self.fault, lambda _, why: self.rejected.append(why)
            ).run()
        store.publish()
        return ended

    def try_exchange(self) -> None:
        """One exchange, whatever becomes of it."""
        with suppress(FleetError):
            self.exchange()

    def decide(self, m: int, latency_ns: float = 4e5, **fields: Any) -> None:
        """Tune a problem, and publish."""
        promote(self.history, m, latency_ns, **fields)
        self.history.publish(f"m={m}")

    def winners(self) -> dict[str, Winner]:
        """What it serves, by problem."""
        return {one.winner.problem: one.winner for one in self.history.decisions(state="current")}

    def unverified(self) -> set[str]:
        """Problems for which it serves what another node proved."""
        return {one.winner.problem for one in self.history.decisions(state="current") if one.origin}

    def waiting(self) -> int:
        """Entries that the fleet has not received."""
        return int(self.history.rows("SELECT count(*) FROM fleet_entry WHERE received = 0")[0][0])

    def close(self) -> None:
        """Let go of the history."""
        self.history.close()

    def reopen(self) -> None:
        """Start it again."""
        self.history = open_history(str(self.folder))
