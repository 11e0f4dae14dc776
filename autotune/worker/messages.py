"""What the study and its worker say to each other: MessagePack structs, told apart by their tag."""

from __future__ import annotations

import struct
from typing import Any

import msgspec

# msgspec evaluates the annotations when a message is first encoded or decoded.
from autotune.measure.comparison import Comparison, Rules
from autotune.store.records import Configuration, Feasibility, Measurement

PROTOCOL = 7
"""Raised when messages change: a worker's interpreter may hold another version of autotune."""

MARKER = struct.Struct("i")
"""What the marker, a memory file that both sides hold, contains: the index of the contender that runs. It
tells whose fault it was when a comparison's process dies, without a message per sample."""


class _Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A message; its tag is the class's name."""


class Prepare(_Message, frozen=True):
    """Make weights, activations and references of a problem; all slots of an earlier one are dropped."""

    workload: str
    dimensions: dict[str, int | str]
    nearest: tuple[str, ...]
    seed: int


class Build(_Message, frozen=True):
    """Build a configuration into a slot.

    Attributes:
        slow_call_seconds: a first call longer than this is repeated, since it may have compiled; None: never.
    """

    slot: str
    configuration: Configuration
    slow_call_seconds: float | None = None


class Compile(_Message, frozen=True):
    """Compile what configurations will need, side by side, for a build to find.

    Attributes:
        target: facts of the GPU that Triton kernels are compiled for; None where there are only C++ kernels.
    """

    configurations: tuple[Configuration, ...]
    target: dict[str, Any] | None = None


class Check(_Message, frozen=True):
    """Compare a slot's outputs with the reference, on activations of this seed and the next."""

    slot: str
    seed: int


class Measure(_Message, frozen=True):
    """Sample a slot's latency, and its energy if that is asked for."""

    slot: str
    budget_seconds: float
    min_samples: int
    clearly_slower_than_ns: float | None
    cache: str
    energy: bool = False


class Compare(_Message, frozen=True):
    """Run slots in interleaved rounds."""

    slots: tuple[str, ...]
    baseline: str
    incumbent: str | None
    rules: Rules
    seed: int


class Release(_Message, frozen=True):
    """Drop what a slot holds."""

    slot: str


class MeasureCeilings(_Message, frozen=True):
    """Measure memory bandwidth and matmul rates."""


class Ready(_Message, frozen=True):
    """The worker's first message, once everything is imported.

    Attributes:
        pid: of the process that runs trials.
        resident_bytes: memory that it holds before the first trial.
        stack: software facts of its interpreter.
    """

    protocol: int
    pid: int
    resident_bytes: int
    stack: dict[str, Any]


class Prepared(_Message, frozen=True):
    """A problem is ready.

    Attributes:
        flops: floating-point operations that cannot be avoided, a multiply-add counting two.
        bytes: least bytes that must move.
        dtype: the data type whose matmul ceiling applies.
        seconds: time that making it took.
        compilers: how many configurations may be compiled at once ahead of their builds; 1 where nothing can.
    """

    flops: int
    bytes: int
    dtype: str
    seconds: float
    compilers: int


class Built(_Message, frozen=True):
    """A slot is ready.

    Attributes:
        compile_seconds: packing, compiling and the first call.
        memory_bytes: what the configuration holds: packed weights, workspace, weights kept as they are.
        call_seconds: the first call, or the second where that was repeated and took less.
    """

    compile_seconds: float
    memory_bytes: int
    call_seconds: float


class Compiled(_Message, frozen=True):
    """What was to be compiled is; a C++ kernel that does not compile says so when it is built."""

    feasibilities: tuple[Feasibility, ...]


class Checked(_Message, frozen=True):
    """Relative error of a slot."""

    error: float


class Measured(_Message, frozen=True):
    """Latency of a slot."""

    measurement: Measurement


class Compared(_Message, frozen=True):
    """What the rounds showed."""

    comparison: Comparison


class CeilingsMeasured(_Message, frozen=True):
    """Limits of the machine: bytes per second, operations per second by data type, and when."""

    memory_bandwidth_bytes_per_s: float
    matmul_flops: dict[str, float]
    measured_at: float


class Released(_Message, frozen=True):
    """A slot is empty."""


class Failed(_Message, frozen=True):
    """A trial did not end well.

    Attributes:
        spoilt: the process must not run anything else: its inputs were written to, or its device is lost.
    """

    verdict: str
    reason: str
    slot: str = ""
    spoilt: bool = False


class Refused(_Message, frozen=True):
    """The request itself was wrong: an unknown workload, a module that cannot be imported."""

    reason: str


Request = Prepare | Compile | Build | Check | Measure | Compare | Release | MeasureCeilings
Reply = (
    Ready
    | Prepared
    | Compiled
    | Built
    | Checked
    | Measured
    | Compared
    | CeilingsMeasured
    | Released
    | Failed
    | Refused
)

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode
