"""The fleet process: all that a node says over the network, apart from the daemon, whatever hangs there.

`python -m autotune.fleet.process SOCKET DAEMON`, both numbers; only the daemon starts it. It may be killed at
any moment, and dies with the daemon.
"""

from __future__ import annotations

import logging
import random
import select
import socket
import sys
import time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from autotune.daemon import fleet_messages as messages
from autotune.daemon.channel import Channel, DaemonGone
from autotune.daemon.companion import die_with
from autotune.errors import AutotuneError, InternalError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from autotune.config import FleetSettings
    from autotune.daemon.fleet_messages import Cell, Told
    from autotune.store.fleet import Cursor, Entry, Standpoint

logger = logging.getLogger("autotune.fleet")

SEEN_SECONDS = 600.0
"""How often the fleet is told that a node is there which has nothing else to say."""
LONGEST_WAIT_SECONDS = 600.0
"""Between two tries while the database cannot be reached, unless exchanges are rarer anyway."""
MOST_TOLD = 5
"""Entries that were not right of which each exchange says why."""


class Link(Channel[messages.FromFleet, messages.ToFleet]):
    """This process's end of its socket to the daemon, as the store of what is exchanged.

    Args:
        descriptor: of the socket.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, messages.encode, messages.decode_to_fleet)
        self._hurried = False
        self.cells: list[Cell] = []

    def prepare(self) -> tuple[Standpoint, list[Cell]]:
        """See `exchange.Store`."""
        answer = self._ask(messages.Prepare())
        self.cells = answer.cells
        return answer.standpoint, answer.cells

    def take(self, entries: list[Entry], cursors: list[Cursor], sent: list[str], mark: str) -> Standpoint:
        """See `exchange.Store`."""
        return self._ask(messages.Take(entries, cursors, sent, mark)).standpoint

    def forget(self) -> Standpoint:
        """See `exchange.Store`."""
        return self._ask(messages.Forget()).standpoint

    def wait(self, seconds: float) -> None:
        """Wait for some time, or until the daemon hurries."""
        until = time.monotonic() + seconds
        while not self._hurried and (left := until - time.monotonic()) > 0:
            if select.select([self.descriptor], [], [], left)[0]:
                self._hurried = isinstance(self.hear(), messages.Now)
        self._hurried = False

    def _ask(self, message: messages.FromFleet) -> messages.Stands:
        self.tell(message)
        while True:
            match self.hear():
                case messages.Stands() as answer:
                    return answer
                case messages.Now():
                    self._hurried = True
                case other:
                    raise InternalError(f"the daemon said {type(other).__name__}; expected Stands")


def main(arguments: list[str]) -> int:
    """Exchange until the daemon is gone; returns the exit status.

    Args:
        arguments: the descriptor of the socket to the daemon, and the daemon's process id.
    """
    descriptor, daemon = int(arguments[0]), int(arguments[1])
    if not die_with(daemon):
        return 1
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
    link = Link(descriptor)
    try:
        begin = link.hear()
        if not isinstance(begin, messages.Begin):
            raise InternalError(f"the daemon began with {type(begin).__name__}; expected Begin")
        _serve(link, begin)
    except DaemonGone:
        return 0
    except AutotuneError as error:
        link.tell(messages.Told(str(error)))
        return error.exit_code
    return 0


def _serve(link: Link, begin: messages.Begin) -> None:
    from autotune.fleet.connection import connect, warn_of_plain_text
    from autotune.workloads.registry import import_module

    settings = begin.settings
    warn_of_plain_text(settings)
    engine = connect(settings, autocommit=True)
    for module in begin.modules:
        import_module(module)
    failures, seen_at = 0, float("-inf")
    # Nodes that were started together must not come together.
    wait = 0.0
    while True:
        link.wait(wait)
        seen = time.monotonic() - seen_at > SEEN_SECONDS
        told = _exchanged(link, begin, engine, seen)
        failures = failures + 1 if told.failure else 0
        if seen and not told.failure:
            seen_at = time.monotonic()
        wait = waiting_seconds(settings.poll_seconds, failures)
        link.tell(replace(told, wait_seconds=wait))


def node_name(settings: FleetSettings) -> str:
    """What people call this node."""
    return settings.name or socket.gethostname()[:64]


def waiting_seconds(poll_seconds: float, failures: int) -> float:
    """Until the next exchange: give or take half, and longer each time that one fails."""
    wait = poll_seconds
    if failures:
        wait = min(poll_seconds * 2.0 ** min(failures - 1, 20), max(poll_seconds, LONGEST_WAIT_SECONDS))
    return wait * random.uniform(0.5, 1.5)


def _exchanged(link: Link, begin: messages.Begin, engine: Engine, seen: bool) -> Told:
    from autotune.fleet.connection import told
    from autotune.fleet.exchange import Exchange
    from autotune.fleet.outliers import paces
    from autotune.fleet.validation import Validator

    shown = 0
    validator: Validator | None = None

    def rejected(entry: Entry, why: str) -> None:
        nonlocal shown
        shown += 1
        if shown <= MOST_TOLD:
            logger.warning("entry %s of node %s is not used: %s", entry.digest[:12], entry.node[:36], why)

    def fault(entry: Entry) -> str:
        nonlocal validator
        validator = validator or Validator(link.cells)
        return validator.fault(entry)

    name = node_name(begin.settings)
    try:
        with told(begin.settings):
            ended = Exchange(engine, link, name, fault, rejected, seen).run()
            if not seen:
                return ended
            with engine.connect() as connection:
                node = link.prepare()[0].node
                cells = [(cell.device, cell.stack) for cell in link.cells]
                found = paces(connection, cells)
        slowest = max((pace.slowdown for pace in found if str(pace.node) == node), default=None)
        return replace(ended, nodes=len({pace.node for pace in found}), slowdown=slowest)
    except AutotuneError as error:
        return messages.Told(str(error), rejected=shown)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
