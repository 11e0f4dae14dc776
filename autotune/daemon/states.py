"""The states of a device under the daemon's care.

idle ──── work ────> watching <── a condition fails / all hold ──> busy
  ^                     │ enough looks held
  └──── no work ──── tuning ── lease, foreign activity, end ──> yielding ──> paused, busy, ...
                        └────── the study process broke ──────> failed ── after a while ──> watching
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """What a device is doing."""

    IDLE = "idle"
    WATCHING = "watching"
    BUSY = "busy"
    TUNING = "tuning"
    YIELDING = "yielding"
    PAUSED = "paused"
    FAILED = "failed"


NEXT = {
    State.IDLE: {State.WATCHING, State.BUSY, State.PAUSED, State.FAILED},
    State.WATCHING: {State.IDLE, State.BUSY, State.TUNING, State.PAUSED, State.FAILED},
    # From busy and failed at once to tuning where a single look is enough.
    State.BUSY: {State.IDLE, State.WATCHING, State.TUNING, State.PAUSED, State.FAILED},
    State.TUNING: {State.YIELDING, State.IDLE, State.WATCHING, State.BUSY, State.FAILED, State.PAUSED},
    State.YIELDING: {State.IDLE, State.WATCHING, State.BUSY, State.PAUSED, State.FAILED},
    State.PAUSED: {State.IDLE, State.WATCHING, State.BUSY, State.FAILED},
    State.FAILED: {State.IDLE, State.WATCHING, State.BUSY, State.TUNING, State.PAUSED},
}
"""Which states may follow which."""

TOLD = (State.TUNING, State.YIELDING, State.PAUSED)
"""States worth a line in the log; the others come and go with every process on the node."""
