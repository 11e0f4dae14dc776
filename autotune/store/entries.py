"""What the history tells: its rows, as records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from autotune.store.records import StudyKey, Winner


class DeviceEntry(msgspec.Struct, frozen=True):
    """A device that something was tuned for.

    Attributes:
        local_index: the first device of this digest on this host; None if there is none here.
    """

    digest: str
    kind: str
    name: str
    family: str
    facts: dict[str, Any]
    local_index: int | None
    recorded_at: float


class StackEntry(msgspec.Struct, frozen=True):
    """A software stack that something was tuned under."""

    digest: str
    facts: dict[str, Any]
    recorded_at: float


class StudyEntry(msgspec.Struct, frozen=True):
    """A study, with what became of it so far.

    Attributes:
        space_facts: what was said of the search space, e.g. how many configurations each constraint removed.
        state: `running`, `ended`, or `interrupted` when its process was killed.
        trials: how many there are.
        best_ns: the best screened median, None before the first.
    """

    id: int
    key: StudyKey
    dimensions: dict[str, int | str]
    seed: int
    space_facts: dict[str, Any]
    state: str
    started_at: float
    ended_at: float | None
    end_reason: str
    trials: int
    best_ns: float | None


class Decision(msgspec.Struct, frozen=True):
    """A winner as the history keeps it: current, or what became of it.

    Attributes:
        study: that decided it; None when it was taken over from a snapshot after its history was lost.
        state: `current`, `superseded` by a later decision, or `withdrawn`.
        changed_at: when `state` became what it is.
        note: why.
        origin: digest of the fleet's entry that it was taken from; None when it was decided here.
    """

    id: int
    study: int | None
    winner: Winner
    state: str
    changed_at: float
    note: str
    origin: str | None = None


class Standing(msgspec.Struct, frozen=True):
    """A current winner in short: enough to say what is decided, how long ago, and what it gained.

    Attributes:
        is_baseline: whether nothing beat the baseline.
        speedup: over the baseline, as proven.
        origin: digest of the fleet's entry that it was taken from, to be verified; None when decided here.
    """

    workload: str
    problem: str
    dimensions: dict[str, int | str]
    objective: str
    stack: str
    decided_at: float
    is_baseline: bool
    speedup: float
    origin: str | None = None


class Generation(msgspec.Struct, frozen=True):
    """A published snapshot.

    Attributes:
        digest: SHA-256 of the file.
        choices: rows of its table `choice`.
        restored_from: the generation that a rollback brought back with it.
        pin_reason: why it is kept for good; None when it is not.
        kept: whether its file is still there.
    """

    number: int
    published_at: float
    reason: str
    digest: str
    choices: int
    restored_from: int | None
    pin_reason: str | None
    kept: bool


class Event(msgspec.Struct, frozen=True):
    """Something that happened to the history: a promotion, a rollback, a restore.

    Attributes:
        kind: e.g. `promoted`, `confirmed`, `rolled_back`, `study_ended`.
        subject: what it happened to, for people.
        detail: the particulars.
    """

    id: int
    at: float
    kind: str
    subject: str
    detail: dict[str, Any]
