"""Device profiles: what `hardware/<family>.toml` says a family can do, each number with its source.

[match]                       # how a probed device is recognised
kind = "cuda"
name = "\\\\bH200\\\\b"       # a regular expression that the device's name must contain
[facts]                       # what a device of the family is taken to be where none is at hand
compute_capability = 90
[peaks]                       # vendor's rates, dense: operations or bytes per second
bfloat16_flops = 989.5e12
[limits]                      # what a kernel may use
shared_memory_per_block_bytes = 232448
[sources]
bfloat16_flops = "NVIDIA H200 datasheet, BFLOAT16 Tensor Core, halved: it is given with sparsity"
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

import msgspec

from autotune import paths
from autotune.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Match(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a probed device is recognised.

    Attributes:
        kind: `cpu`, `cuda` or `rocm`.
        name: regular expression searched for in the device's name; empty matches any.
        isa: extensions that a CPU must have.
        least_memory_bytes: of variants that share a name.
        most_memory_bytes: likewise.
    """

    kind: str
    name: str = ""
    isa: tuple[str, ...] = ()
    least_memory_bytes: int = 0
    most_memory_bytes: int = 1 << 62


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a family of devices can do.

    Attributes:
        title: the family for people.
        facts: of a typical device of the family.
        peaks: rates per second.
        limits: what one kernel may use.
        sources: where each number is from, by its name.
        priority: of two profiles that match, the one with the higher.
        family: the file's stem.
    """

    title: str
    match: Match
    facts: dict[str, Any] = {}
    peaks: dict[str, float] = {}
    limits: dict[str, int] = {}
    sources: dict[str, str] = {}
    priority: int = 0
    family: str = ""

    def matches(self, facts: Mapping[str, Any]) -> bool:
        """Whether a device with these facts belongs to the family."""
        memory = facts.get("memory_bytes") or 0
        return (
            self.match.kind == facts.get("kind")
            and re.search(self.match.name, str(facts.get("name") or "")) is not None
            and set(self.match.isa) <= set(facts.get("isa") or ())
            and self.match.least_memory_bytes <= memory <= self.match.most_memory_bytes
        )


def load_profiles() -> dict[str, Profile]:
    """Every profile by family, an operator's file in place of ours.

    Raises:
        ConfigError: a file is wrong.
    """
    return {name: _read(path, name) for name, path in paths.data_files("hardware", ".toml").items()}


def profile_for(facts: Mapping[str, Any], profiles: Mapping[str, Profile]) -> Profile | None:
    """The profile of a device; None for one that no profile knows: its ceilings are measured all the same."""
    matching = [profile for profile in profiles.values() if profile.matches(facts)]
    return max(matching, key=lambda profile: profile.priority, default=None)


def profile_named(name: str) -> Profile:
    """The profile of a family.

    Raises:
        UnknownNameError: there is none of that name.
    """
    profiles = load_profiles()
    if name not in profiles:
        raise UnknownNameError("device", name, ["cpu", "cuda", *profiles])
    return profiles[name]


def _read(path: str, family: str) -> Profile:
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
        profile = msgspec.convert({**table, "family": family}, Profile)
        re.compile(profile.match.name)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError, re.error) as error:
        raise ConfigError(f"{path}: is not a device profile: {error}") from None
    numbers = {*profile.peaks, *profile.limits, *profile.facts}
    unsourced = sorted(numbers - set(profile.sources) - {"kind", "isa"})
    if unsourced:
        raise ConfigError(f"{path}: {unsourced[0]!r} has no entry under [sources]; say where it is from")
    return profile
