"""The fingerprint of a host: its devices, its software stack, and the digests made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.errors import UnknownNameError
from autotune.fingerprint.amd import DIGEST_FACTS as AMD_DIGEST_FACTS
from autotune.fingerprint.amd import amd_facts
from autotune.fingerprint.cpu import DIGEST_FACTS as CPU_DIGEST_FACTS
from autotune.fingerprint.cpu import cpu_facts
from autotune.fingerprint.digest import digest
from autotune.fingerprint.nvml import DIGEST_FACTS as NVIDIA_DIGEST_FACTS
from autotune.fingerprint.nvml import nvidia_facts
from autotune.fingerprint.profile import Profile, load_profiles, profile_for
from autotune.fingerprint.stack import stack_digest, stack_facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.fingerprint.nvml import Nvml

ALWAYS: dict[str, Any] = {"cores": 1, "isa": [], "memory_bytes": 0, "l2_bytes": 0, "l3_bytes": 0}
"""Facts that search spaces may name on any device; 0 bytes is an unknown size."""

CPU_SOURCES = {
    "model_name": "/proc/cpuinfo",
    "isa": "/proc/cpuinfo",
    "l2_bytes": "/sys/devices/system/cpu/*/cache",
    "memory_bytes": "/proc/meminfo",
}
"""Facts whose absence is a problem, and the file that should have told them."""


@dataclass(frozen=True)
class Device:
    """One accelerator or the host CPU, as a target of tuning.

    Attributes:
        kind: `cpu`, `cuda` or `rocm`.
        index: the host's number of it within its kind; -1 for one that is not of this host.
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
        problems: what could not be found out, one line each.
    """

    devices: tuple[Device, ...]
    stack: dict[str, Any]
    stack_digest: str
    problems: tuple[str, ...]

    @property
    def default_device(self) -> Device:
        """The first accelerator if there is one, else the CPU."""
        return self.devices[0]


def probe(root: str = "/", nvml: Nvml | None = None) -> Fingerprint:
    """Probe this host; a probe that fails says so in `problems` and stops no other.

    Args:
        root: root of the file system, or of a machine's files recorded elsewhere.
        nvml: what answers as `pynvml` does; the real one by default.

    Raises:
        ConfigError: a device profile is wrong.
    """
    profiles = load_profiles()
    cpu = cpu_facts(root)
    accelerators, problems = nvidia_facts(nvml, root)
    if nvml is None and root == "/":
        others, told = amd_facts()
        accelerators, problems = [*accelerators, *others], [*problems, *told]
    devices = (*(_accelerator(facts, cpu, profiles) for facts in accelerators), _cpu(cpu, profiles))
    for fact, file in CPU_SOURCES.items():
        if not cpu[fact]:
            problems.append(f"the CPU's {fact} is unknown: {file} does not tell")
    stack = stack_facts(root)
    return Fingerprint(devices, stack, stack_digest(devices[0].kind, stack), tuple(problems))


def device_named(name: str | None) -> Device:
    """A device by name: this host's, or the one that stands for a family.

    Args:
        name: `cpu`, `cuda`, `cuda:1`, or a profile such as `nvidia-h200`; None for this host's default.

    Raises:
        UnknownNameError: this host has no such device, and no profile is called that.
    """
    kind, _, index = (name or "").partition(":")
    if name and kind not in ("cpu", "cuda", "rocm"):
        return named_device(name)
    if kind == "cpu" and (index or "0") == "0":
        # Without asking NVML, which may hang: the CPU is tuned all the same.
        return _cpu(cpu_facts("/"), load_profiles())
    devices = probe().devices
    found = [device for device in devices if not kind or device.kind == kind]
    if not (index or "0").isdecimal() or int(index or 0) >= len(found):
        here = [f"{device.kind}:{device.index}" for device in devices]
        raise UnknownNameError("device of this host", str(name), here)
    return found[int(index or 0)]


def named_device(family: str) -> Device:
    """The device that stands for a family, on any machine: for counting and compiling, not for timing.

    Args:
        family: a profile under `hardware/`, such as `nvidia-h200`.

    Raises:
        UnknownNameError: no profile is called that.
    """
    profiles = load_profiles()
    if family not in profiles:
        raise UnknownNameError("device", family, ["cpu", "cuda", *profiles])
    profile = profiles[family]
    kind = profile.match.kind
    known = {**profile.limits.known(), **profile.typical.known()}
    facts = {**ALWAYS, "kind": kind, "isa": sorted(profile.match.isa), **known, "family": family}
    return Device(kind, -1, profile.summary, family, facts, digest(facts))


def _cpu(facts: dict[str, Any], profiles: Mapping[str, Profile]) -> Device:
    profile = profile_for(facts, profiles)
    family = profile.family if profile else facts["family"]
    limits = profile.limits.known() if profile else {}
    known = {**limits, **_told(facts), "family": family}
    found = digest({name: facts[name] for name in CPU_DIGEST_FACTS})
    return Device("cpu", 0, facts["model_name"] or f"{facts['architecture']} CPU", family, known, found)


def _accelerator(facts: dict[str, Any], cpu: dict[str, Any], profiles: Mapping[str, Profile]) -> Device:
    """A probed device; its profile adds what cannot be probed, and contradicts nothing that was."""
    profile = profile_for(facts, profiles)
    family = profile.family if profile else facts["kind"]
    limits = profile.limits.known() if profile else {}
    if facts["mig_profile"]:
        # An instance has a share of these, and its size is not in the profile.
        limits = {name: value for name, value in limits.items() if name not in ("sm_count", "l2_bytes")}
    # Kernels are launched by this host's cores; an integrated GPU has no memory but the host's, of which NVML
    # says nothing.
    host = {"cores": cpu["cores"], "memory_bytes": cpu["memory_bytes"]}
    known = {**ALWAYS, **host, **limits, **_told(facts), "family": family}
    names = AMD_DIGEST_FACTS if facts["kind"] == "rocm" else NVIDIA_DIGEST_FACTS
    found = digest({name: facts[name] for name in names})
    return Device(facts["kind"], facts["index"], str(facts["name"] or family), family, known, found)


def _told(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}
