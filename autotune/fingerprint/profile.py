"""Device profiles: what `hardware/<family>.toml` says a family of devices can do.

summary = "NVIDIA H200, SXM"  # one line for people
[match]                       # how a probed device is recognised
kind = "cuda"
name = '\\bH200\\b'             # a regular expression that the device's name must contain
[limits]                      # facts of every device of the family: what a kernel may use
shared_memory_per_block_bytes = 232448  # guide
[typical]                     # further facts, of the device that stands for the family where none is at hand
memory_bytes = 141_000_000_000          # datasheet
[peaks]                       # the vendor's rates
memory_bandwidth = 4.8e12     # bytes per second; datasheet
[peaks.flops]                 # dense, per second, a multiply-add counting two, by data type
bfloat16 = 989.4e12           # whitepaper
[sources]                     # what the comments behind the numbers refer to
datasheet = "NVIDIA H200 Tensor Core GPU datasheet"
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from autotune import paths
from autotune.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping

Rate = Annotated[float, Meta(gt=0)]
Size = Annotated[int, Meta(gt=0)]
Dtype = Literal[
    "float64", "float32", "tf32", "bfloat16", "float16", "float8", "float4", "int8", "int4"
]  # as torch calls them, `tf32` being float32 on tensor cores


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; each field is a key."""


class Match(_Table, frozen=True):
    """How a probed device is recognised.

    Attributes:
        kind: of device.
        name: regular expression searched for in the device's name; empty matches any.
        isa: extensions that a CPU must have.
    """

    kind: Literal["cpu", "cuda", "rocm"]
    name: str = ""
    isa: tuple[str, ...] = ()

    def __call__(self, facts: Mapping[str, Any]) -> bool:
        """Whether a device with these facts is meant."""
        return (
            self.kind == facts.get("kind")
            and re.search(self.name, str(facts.get("name") or facts.get("model_name") or "")) is not None
            and set(self.isa) <= set(facts.get("isa") or ())
        )

    @property
    def strictness(self) -> tuple[bool, int]:
        """Of two rules that match a device, the one with the greater knows it better."""
        return bool(self.name), len(self.isa)


class Facts(_Table, frozen=True):
    """Facts of a device as `device.<fact>` names them in search spaces; None where it is left to the probe.

    Attributes:
        compute_capability: 10 times the major plus the minor version: 90 is 9.0.
        shared_memory_per_block_bytes: that a block may opt in to; a workgroup's local data share on AMD.
        tensor_memory_per_sm_bytes: of Blackwell's matrix unit.
        warp_size: threads that run in step; a wavefront on AMD.
        sm_count: multiprocessors; compute units on AMD.
        l2_bytes: of the device, or of one core of a CPU.
        l3_bytes: of the device, or of a whole CPU.
        vector_bits: of the widest vector register.
        tile_bytes: of the matrix unit's tile register.
    """

    compute_capability: Size | None = None
    sm_count: Size | None = None
    warp_size: Size | None = None
    threads_per_block: Size | None = None
    warps_per_sm: Size | None = None
    blocks_per_sm: Size | None = None
    registers_per_sm: Size | None = None
    registers_per_thread: Size | None = None
    shared_memory_per_block_bytes: Size | None = None
    shared_memory_per_sm_bytes: Size | None = None
    tensor_memory_per_sm_bytes: Size | None = None
    bus_width_bits: Size | None = None
    memory_bytes: Size | None = None
    power_limit_w: Size | None = None
    cores: Size | None = None
    isa: list[str] | None = None
    smt: bool | None = None
    numa_nodes: Size | None = None
    l1d_bytes: Size | None = None
    l2_bytes: Size | None = None
    l3_bytes: Size | None = None
    cache_line_bytes: Size | None = None
    vector_bits: Size | None = None
    tile_bytes: Size | None = None

    def known(self) -> dict[str, Any]:
        """Those that are not None."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class Peaks(_Table, frozen=True):
    """The vendor's rates, which no kernel reaches; what this machine reaches is measured.

    Attributes:
        memory_bandwidth: bytes per second.
        flops: dense operations per second by data type, a multiply-add counting two.
        flops_per_core_cycle: the same per core and clock cycle, for CPUs of many sizes and clocks.
    """

    memory_bandwidth: Rate | None = None
    flops: dict[Dtype, Rate] = {}
    flops_per_core_cycle: dict[Dtype, Rate] = {}


class Profile(_Table, frozen=True):
    """What a family of devices can do.

    Attributes:
        summary: the family, and the device that stands for it, for people.
        match: which devices are of the family.
        limits: facts of every device of the family, for what no probe tells.
        typical: further facts, of the device that stands for the family where none is at hand.
        peaks: the vendor's rates.
        sources: the documents that the numbers are from.
        family: the file's stem.
    """

    summary: str
    match: Match
    limits: Facts = Facts()
    typical: Facts = Facts()
    peaks: Peaks = Peaks()
    sources: dict[str, str] = {}
    family: str = ""


def load_profiles() -> dict[str, Profile]:
    """Every profile by family, an operator's file in place of ours.

    Raises:
        ConfigError: a file is wrong.
        UnknownNameError: a file has a key that nothing reads.
    """
    return {name: _read(path, name) for name, path in paths.data_files("hardware", ".toml").items()}


def profile_for(facts: Mapping[str, Any], profiles: Mapping[str, Profile] | None = None) -> Profile | None:
    """The profile of a device; None for one that no profile knows: its ceilings are measured all the same.

    Args:
        facts: of the device, as its probe gave them.
        profiles: those to choose from, by family; all by default.
    """
    known = load_profiles() if profiles is None else profiles
    matching = [known[family] for family in sorted(known) if known[family].match(facts)]
    return max(matching, key=lambda profile: profile.match.strictness, default=None)


def _read(path: str, family: str) -> Profile:
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    _check_names(table, path)
    try:
        profile = msgspec.convert({**table, "family": family}, Profile)
        re.compile(profile.match.name)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{path}: {error}; see the comments of the profiles shipped with autotune"
        ) from None
    except re.error as error:
        raise ConfigError(f"{path}: match.name is no regular expression: {error}") from None
    return profile


def _check_names(table: dict[str, Any], path: str) -> None:
    """Raise for the first key that nothing reads, naming the closest."""
    tables = {"match": Match, "limits": Facts, "typical": Facts, "peaks": Peaks}
    top = set(Profile.__struct_fields__) - {"family"}
    for name, value in table.items():
        if name not in top:
            raise UnknownNameError("table of a device profile", name, top, path)
        if name in tables and isinstance(value, dict):
            for key in value:
                if key not in tables[name].__struct_fields__:
                    raise UnknownNameError(f"key of [{name}]", key, tables[name].__struct_fields__, path)
