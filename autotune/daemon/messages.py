"""What the daemon and a study process say to each other: MessagePack structs, told apart by their tag.

daemon ── Begin ──> study            once; then `Work` after `Work`, and `Finish`
daemon <── Ready, Ended ── study
daemon <── Progressed ── study       unanswered
daemon <── Record... ── study        each answered by `Kept` or `NotKept` before the study goes on
"""

from __future__ import annotations

from typing import Any

import msgspec

# msgspec evaluates the annotations when a message is first encoded or decoded.
from autotune.config import FleetSettings, MeasureSettings, StudySettings, WorkerSettings
from autotune.fingerprint.fingerprint import Device
from autotune.store.records import Configuration, StudyKey, Trial, Winner


class _Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A message; its tag is the class's name."""


class Begin(_Message, frozen=True):
    """What a study process is for.

    Attributes:
        device: its name, e.g. `cpu`.
        state_dir: the folder of the history.
        together: whether equal devices of this host search too.
        seed: of inputs, proposals and the final's order.
    """

    device: str
    state_dir: str
    worker: WorkerSettings
    measure: MeasureSettings
    study: StudySettings
    fleet: FleetSettings = FleetSettings()
    together: bool = False
    seed: int = 0


class Work(_Message, frozen=True):
    """Tune one problem.

    Attributes:
        kind: why: `asked` (by an operator), `request`, `fleet` (to verify what an equal node proved),
            `imported` (the same of a bundle), `model`, `drifted` or `recheck`.
        key: of the problem, if it is known.
        seconds: the budget.
        trials: most configurations tried; None for no limit but the budget.
        again: whether to decide anew what was decided before.
    """

    kind: str
    workload: str
    dimensions: dict[str, int | str]
    key: str = ""
    objective: str = "latency"
    max_error: float | None = None
    seconds: float = 60.0
    trials: int | None = None
    again: bool = False


class Planned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A problem of a plan."""

    workload: str
    dimensions: dict[str, int | str]


class Plan(_Message, frozen=True):
    """Tune problems one after the other, tell of each how it `Ended`, and end.

    Attributes:
        problems: the most valuable first.
        seconds: the most that one study may spend.
        total_seconds: for all of them.
        trials: most configurations tried for one problem; None for no limit.
        again: whether to decide anew what was decided before.
    """

    problems: tuple[Planned, ...]
    objective: str
    max_error: float | None
    seconds: float
    total_seconds: float
    trials: int | None = None
    again: bool = False


class Finish(_Message, frozen=True):
    """End; there is no more work."""


class Ready(_Message, frozen=True):
    """The worker runs.

    Attributes:
        stack: digest of the software stack of the worker's interpreter.
        workloads: names of all that can be tuned.
    """

    stack: str
    workloads: tuple[str, ...]


class Progressed(_Message, frozen=True):
    """Where the study stands; see `autotune.search.study.Progress`."""

    problem: str
    phase: str
    possible: int
    tried: int
    best_ns: float | None
    speedup: float | None
    trying: Configuration | None
    stage: str


class Ended(_Message, frozen=True):
    """What became of a `Work`, or of a problem of a `Plan`.

    Attributes:
        place: of the problem in the plan.
        key: of the problem; empty when there is no such problem.
        fresh: whether it was decided now; else an earlier study had decided it.
        is_baseline: whether nothing beat the baseline.
        latency_ns: of what was decided.
        speedup: over the baseline, as proven.
        refusal: why it can never be tuned, one line; empty if it can.
        failure: why the study failed, one line; empty if it did not.
        elsewhere: whether another node or device that searched too decides; a node's winner comes with the
            fleet's.
    """

    key: str = ""
    fresh: bool = True
    is_baseline: bool = False
    latency_ns: float | None = None
    speedup: float | None = None
    refusal: str = ""
    failure: str = ""
    elsewhere: bool = False
    place: int = 0


class Broken(_Message, frozen=True):
    """No study is possible: the worker does not start, or the daemon could not keep a record.

    Attributes:
        unreadable: whether it was for the history, or the folder it lies in.
        damaged: whether it was because the history is damaged.
    """

    reason: str
    unreadable: bool = False
    damaged: bool = False


class RecordDevice(_Message, frozen=True):
    """`Recorder.record_device`."""

    device: Device


class RecordStack(_Message, frozen=True):
    """`Recorder.record_stack`."""

    digest: str
    facts: dict[str, Any]


class BeginStudy(_Message, frozen=True):
    """`Recorder.begin_study`."""

    key: StudyKey
    dimensions: dict[str, int | str]
    seed: int
    space_facts: dict[str, Any]


class AddTrial(_Message, frozen=True):
    """`Recorder.add_trial`."""

    study: int
    trial: Trial


class EndStudy(_Message, frozen=True):
    """`Recorder.end_study`."""

    study: int
    reason: str


class Promote(_Message, frozen=True):
    """`Recorder.promote`."""

    study: int
    winner: Winner


class Publish(_Message, frozen=True):
    """`Recorder.publish`."""

    reason: str


class Kept(_Message, frozen=True):
    """The record is durable.

    Attributes:
        number: what the method returns; 0 for those that return nothing.
    """

    number: int = 0


class NotKept(_Message, frozen=True):
    """The record could not be kept."""

    reason: str


Record = RecordDevice | RecordStack | BeginStudy | AddTrial | EndStudy | Promote | Publish
Told = Ready | Progressed | Ended | Broken
FromStudy = Record | Told
ToStudy = Begin | Work | Plan | Finish | Kept | NotKept

encode = msgspec.msgpack.Encoder().encode
_from_study: msgspec.msgpack.Decoder[FromStudy] = msgspec.msgpack.Decoder(FromStudy)
_to_study: msgspec.msgpack.Decoder[ToStudy] = msgspec.msgpack.Decoder(ToStudy)


def decode_from_study(frame: bytes) -> FromStudy:
    """What a study process sent.

    Raises:
        msgspec.DecodeError: it is no message.
    """
    return _from_study.decode(frame)


def decode_to_study(frame: bytes) -> ToStudy:
    """What the daemon sent.

    Raises:
        msgspec.DecodeError: it is no message.
    """
    return _to_study.decode(frame)
