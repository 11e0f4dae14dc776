"""What the daemon and its fleet process say to each other: MessagePack structs, told apart by their tag.

daemon -- Begin --> fleet                   once
daemon <-- Prepare, Take, Forget -- fleet   each answered by `Stands` before the fleet process goes on
daemon <-- Told -- fleet                    unanswered
daemon -- Now --> fleet                     unanswered
"""

from __future__ import annotations

from typing import Any

import msgspec

# msgspec evaluates the annotations when a message is first encoded or decoded.
from autotune.config import FleetSettings
from autotune.store.fleet import Cursor, Entry, Standpoint


class _Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A message; its tag is the class's name."""


class Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A device and stack of this node: what is proven on one holds for all that are equal.

    Attributes:
        device: digest of the device.
        stack: digest of the stack.
        facts: of the device, for its search spaces.
    """

    device: str
    stack: str
    kind: str
    name: str
    family: str
    facts: dict[str, Any]


class Begin(_Message, frozen=True):
    """What the process is for.

    Attributes:
        modules: that register workloads.
    """

    settings: FleetSettings
    modules: tuple[str, ...]


class Prepare(_Message, frozen=True):
    """An exchange begins: put into the outbox what belongs there."""


class Stands(_Message, frozen=True):
    """Where an exchange starts."""

    standpoint: Standpoint
    cells: list[Cell] = []


class Take(_Message, frozen=True):
    """Keep what was exchanged; see `autotune.store.fleet.take`."""

    entries: list[Entry] = []
    cursors: list[Cursor] = []
    sent: list[str] = []
    mark: str = ""


class Forget(_Message, frozen=True):
    """The database is not the one that was told before; see `autotune.store.fleet.forget_received`."""


class Now(_Message, frozen=True):
    """Something was decided: do not wait for the next exchange."""


class Told(_Message, frozen=True):
    """How an exchange ended.

    Attributes:
        failure: why it failed, one line; empty if it did not.
        seconds: it took.
        received: entries that came.
        sent: entries that went.
        rejected: entries that came and were not right.
        nodes: seen lately with an equal device and stack, this one included; 0 where that was not asked.
        slowdown: of this node over the time that its equals take for the same baselines; None where too
            little is known.
        wait_seconds: until the next.
    """

    failure: str = ""
    seconds: float = 0.0
    received: int = 0
    sent: int = 0
    rejected: int = 0
    nodes: int = 0
    slowdown: float | None = None
    wait_seconds: float = 0.0


FromFleet = Prepare | Take | Forget | Told
ToFleet = Begin | Stands | Now

encode = msgspec.msgpack.Encoder().encode
_from_fleet: msgspec.msgpack.Decoder[FromFleet] = msgspec.msgpack.Decoder(FromFleet)
_to_fleet: msgspec.msgpack.Decoder[ToFleet] = msgspec.msgpack.Decoder(ToFleet)


def decode_from_fleet(frame: bytes) -> FromFleet:
    """What the fleet process sent.

    Raises:
        msgspec.DecodeError: it is no message.
    """
    return _from_fleet.decode(frame)


def decode_to_fleet(frame: bytes) -> ToFleet:
    """What the daemon sent.

    Raises:
        msgspec.DecodeError: it is no message.
    """
    return _to_fleet.decode(frame)
