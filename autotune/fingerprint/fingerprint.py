"""The fingerprint of a host: its devices, its software stack, and the digests made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotune.errors import UnknownNameError
from autotune.fingerprint.cpu import DIGEST_FACTS as CPU_DIGEST_FACTS
from autotune.fingerprint.cpu import cpu_facts
from autotune.fingerprint.digest import digest
from autotune.fingerprint.nvml import DIGEST_FACTS as NVIDIA_DIGEST_FACTS
from autotune.fingerprint.nvml import nvidia_facts
from autotune.fingerprint.profile import Profile, load_profiles, profile_for, profile_named
from autotune.fingerprint.stack import stack_digest, stack_facts


@dataclass(frozen=True)
class Device:
    """One accelerator or the host CPU, as a target of tuning.

    Attributes:
        kind: `cpu` or `cuda`.
        index: the host's number of it within its kind.
        name: as its vendor calls it.
        family: the profile under `hardware/` that it belongs to; similar devices share one.
        facts: what `device.<fact>` means in search-space expressions.
        digest: over the facts that change speed; equal devices of other hosts share it.
    """

    kind: str
    index: int
    name: str
    family: str
    facts: dict[str, Any]
    digest: str


@dataclass(frozen=True)
class Fingerprint:
    """A host.

    Attributes:
        devices: accelerators first, the CPU last.
        stack: facts of this interpreter's software.
        stack_digest: over those that matter to the default device.
        problems: probes that failed, one line each.
    """

    devices: tuple[Device, ...]
    stack: dict[str, Any]
    stack_digest: str
    problems: tuple[str, ...]

    @property
    def default_device(self) -> Device:
        """The first accelerator if there is one, else the CPU."""
        return self.devices[0]


def probe() -> Fingerprint:
    """Probe this host; a probe that fails says so in `problems` and stops no other."""
    profiles = load_profiles()
    accelerators, problems = nvidia_facts()
    devices = tuple(_device(facts, profiles) for facts in (*accelerators, cpu_facts()))
    facts = stack_facts()
    if not devices[-1].facts["model_name"]:
        problems.append("/proc/cpuinfo names no CPU model; the digest stands for the architecture alone")
    return Fingerprint(devices, facts, stack_digest(devices[0].kind, facts), tuple(problems))


def device_named(name: str | None) -> Device:
    """A device by name: this host's, or a typical one of a family on a machine that has none.

    Args:
        name: `cpu`, `cuda`, `cuda:1`, or a profile such as `nvidia-h200`; None for this host's default.

    Raises:
        UnknownNameError: this host has no such device, and no profile is called that.
    """
    kind, _, index = (name or "").partition(":")
    if name and kind not in ("cpu", "cuda"):
        return _typical(profile_named(name))
    found = [device for device in probe().devices if not kind or device.kind == kind]
    number = int(index) if index.isdigit() else 0
    if number >= len(found) or (index and not index.isdigit()):
        here = [f"{device.kind}:{device.index}" for device in probe().devices]
        raise UnknownNameError("device", str(name), ["cpu", *here, *load_profiles()])
    return found[number]


def _device(facts: dict[str, Any], profiles: dict[str, Profile]) -> Device:
    """A probed device; the profile tells what cannot be probed, and never what was."""
    profile = profile_for(facts, profiles)
    is_cpu = facts["kind"] == "cpu"
    family = profile.family if profile else facts.get("family") or facts["kind"]
    known = {**(profile.facts | profile.limits if profile else {}), **_without_none(facts), "family": family}
    names = CPU_DIGEST_FACTS if is_cpu else NVIDIA_DIGEST_FACTS
    found = digest({name: facts.get(name) for name in names})
    name = facts.get("model_name") if is_cpu else facts.get("name")
    return Device(facts["kind"], facts.get("index", 0), str(name or family), family, known, found)


def _typical(profile: Profile) -> Device:
    """A device of a family where none is at hand: for counting and compiling, not for timing."""
    facts = {"kind": profile.match.kind, "cores": 0, "isa": list(profile.match.isa), "memory_bytes": 0}
    facts |= {"l2_bytes": 0, "l3_bytes": 0, **profile.facts, **profile.limits, "family": profile.family}
    return Device(profile.match.kind, -1, profile.title, profile.family, facts, digest(facts))


def _without_none(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}
