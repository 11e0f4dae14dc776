"""The host CPU as a device: what this process may use of it.

Look-ups call `cpu_digest()`, so this reads a few small files and only the head of `/proc/cpuinfo` (all of it
costs tens of milliseconds on a host with hundreds of cores), and imports only what is light.
"""

from __future__ import annotations

import os

from autotune.fingerprint.digest import digest
from autotune.fingerprint.files import read_head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEAD_BYTES = 8192
"""One processor's entry in `/proc/cpuinfo` is 1.5 to 4 KiB, most of it flags."""

GIB = 1 << 30

ISA_EXTENSIONS = {
    # /proc/cpuinfo flag: name here. What GEMM, attention and quantised kernels are selected by.
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx_vnni": "avx_vnni",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx512_vnni": "avx512_vnni",
    "avx512_bf16": "avx512_bf16",
    "avx512_fp16": "avx512_fp16",
    "amx_tile": "amx_tile",
    "amx_int8": "amx_int8",
    "amx_bf16": "amx_bf16",
    "amx_fp16": "amx_fp16",
    "asimd": "neon",
    "asimddp": "dotprod",
    "asimdhp": "fp16",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
    "svebf16": "sve_bf16",
    "svei8mm": "sve_i8mm",
    "sme": "sme",
}

FAMILIES = (("amx_tile", "x86-amx"), ("avx512f", "x86-avx512"), ("avx2", "x86-avx2"), ("sve", "arm-sve"))
"""Widest unit first: an extension, and the profile under `hardware/` of the CPUs that have it."""

ARM_CORES = {
    # (implementer, part) of the main ID register, which is all that Linux tells of an Arm core. Arm's part
    # numbers are from each core's Technical Reference Manual, MIDR_EL1.
    ("0x41", "0xd0c"): "Arm Neoverse N1",
    ("0x41", "0xd40"): "Arm Neoverse V1",
    ("0x41", "0xd49"): "Arm Neoverse N2",
    ("0x41", "0xd4f"): "Arm Neoverse V2",
    ("0x41", "0xd84"): "Arm Neoverse V3",
    ("0x41", "0xd42"): "Arm Cortex-A78AE",
}

DIGEST_FACTS = (
    "architecture",
    "vendor",
    "cpu_family",
    "cpu_model",
    "stepping",
    "model_name",
    "cores",
    "smt",
    "isa",
    "l1d_bytes",
    "l2_bytes",
    "l3_bytes",
    "memory_gib",
    "numa_nodes",
)
"""What changes speed. Memory enters in GiB: firmware and kernels take some MiB more or less at each boot."""


def cpu_facts(root: str = "/") -> dict[str, Any]:
    """What this process may use of the CPU.

    `cores` are logical ones, under affinity and CPU quota; `l2_bytes` is of one core, `l3_bytes` of all the
    caches that so many cores can use. What cannot be found out is None, a size 0, a count 1.

    Args:
        root: root of the file system, or of a machine's files recorded elsewhere.
    """
    info = _cpuinfo(root)
    architecture = _architecture(root)
    flags = set((info.get("flags") or info.get("features") or "").split())
    isa = sorted(name for flag, name in ISA_EXTENSIONS.items() if flag in flags)
    usable = _usable_cpus(root)
    cores = _cores(root, usable)
    memory = _memory_bytes(root)
    return {
        "kind": "cpu",
        "family": family(isa, architecture),
        "architecture": architecture,
        **_model(info),
        "cores": cores,
        "smt": {"0": False, "1": True}.get(_read(root, "sys/devices/system/cpu/smt/active")),
        "isa": isa,
        **_cache_bytes(root, usable, cores),
        "memory_bytes": memory,
        "memory_gib": -(-memory // GIB),
        "numa_nodes": _numa_nodes(root, usable),
    }


def cpu_digest(root: str = "/") -> str:
    """The device digest of the CPU."""
    facts = cpu_facts(root)
    return digest({name: facts[name] for name in DIGEST_FACTS})


def family(isa: list[str], architecture: str) -> str:
    """The profile under `hardware/` that a CPU belongs to; its architecture where there is none for it."""
    return next((name for extension, name in FAMILIES if extension in isa), architecture)


def _architecture(root: str) -> str:
    # A recorded machine tells its own; before Linux 6.1 there is no such file.
    return (_read(root, "proc/sys/kernel/arch") if root != "/" else "") or os.uname().machine


def _cpuinfo(root: str) -> dict[str, str]:
    """The first processor's entry, names in lower case."""
    entry: dict[str, str] = {}
    for line in _read(root, "proc/cpuinfo", HEAD_BYTES).split("\n"):
        if entry and not line.strip():
            break
        name, _, value = line.partition(":")
        entry[name.strip().lower()] = value.strip()
    return entry


def _model(info: dict[str, str]) -> dict[str, int | str | None]:
    """Who made the CPU and which one it is: by CPUID on x86, by the main ID register on Arm."""
    implementer, part = info.get("cpu implementer"), info.get("cpu part")
    return {
        "vendor": info.get("vendor_id") or implementer,
        "cpu_family": _number(info.get("cpu family") or info.get("cpu architecture")),
        "cpu_model": _number(info.get("model") or part),
        "stepping": _number(info.get("stepping") or info.get("cpu revision")),
        "model_name": info.get("model name") or ARM_CORES.get((implementer or "", part or "")),
    }


def _usable_cpus(root: str) -> set[int]:
    """Logical CPUs that affinity and cpusets leave to this process."""
    if root == "/" and hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    for line in _read(root, "proc/self/status").split("\n"):
        if line.startswith("Cpus_allowed_list:"):
            return _cpu_list(line.partition(":")[2])
    return _cpu_list(_read(root, "sys/devices/system/cpu/online"))


def _cores(root: str, usable: set[int]) -> int:
    """Usable CPUs, and no more than the strictest CPU quota of the cgroups, rounded up."""
    cores = len(usable)
    for folder in _cgroups(root, "cpu"):
        limit = _read(root, f"{folder}/cpu.max").split() or [
            _read(root, f"{folder}/cpu.cfs_quota_us"),
            _read(root, f"{folder}/cpu.cfs_period_us"),
        ]
        # Else it is "max", -1 or not there: no limit.
        if len(limit) == 2 and all(map(str.isdecimal, limit)) and int(limit[1]):
            cores = min(cores, -(-int(limit[0]) // int(limit[1])))
    return max(1, cores)


def _memory_bytes(root: str) -> int:
    """Memory of the machine, and no more than the strictest limit of the cgroups."""
    limits = []
    for line in _read(root, "proc/meminfo", 256).split("\n"):
        name, _, amount = line.partition(":")
        if name == "MemTotal":
            limits.append(_bytes(amount))
    for folder in _cgroups(root, "memory"):
        limit = _read(root, f"{folder}/memory.max") or _read(root, f"{folder}/memory.limit_in_bytes")
        limits.append(_bytes(limit))
    return min(filter(None, limits), default=0)


def _cgroups(root: str, controller: str) -> list[str]:
    """Folders of the groups that limit this process, each with those above it, of both cgroup versions.

    In a container the path is often the host's, of which only the top is mounted: so the top always counts.
    """
    paths = {"": "", controller: ""}
    for line in _read(root, "proc/self/cgroup").split("\n"):
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        # A path with ".." is of a process outside this cgroup namespace: none of the folders here is its own.
        if path.startswith("/") and ".." not in path.split("/"):
            paths.update((name, path) for name in names.split(",") if name in paths)
    folders = []
    for name, path in paths.items():
        top = f"sys/fs/cgroup/{name}".rstrip("/")
        parts = path.strip("/").split("/") if path.strip("/") else []
        folders += ["/".join((top, *parts[:depth])) for depth in range(len(parts) + 1)]
    return folders


def _cache_bytes(root: str, usable: set[int], cores: int) -> dict[str, int]:
    """Data caches: the first two levels of one core, the third of all the cores together."""
    sizes = {1: 0, 2: 0, 3: 0}
    cpu = min(usable, default=0)
    for index in range(8):
        folder = f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
        level = _number(_read(root, f"{folder}/level"))
        if level is None:
            break
        if level in sizes and _read(root, f"{folder}/type") != "Instruction":
            sizes[int(level)] = _bytes(_read(root, f"{folder}/size"))
            if level == 3:
                sizes[3] *= _domains(root, usable, cores, index)
    return {"l1d_bytes": sizes[1], "l2_bytes": sizes[2], "l3_bytes": sizes[3]}


def _domains(root: str, usable: set[int], most: int, index: int) -> int:
    """How many caches the usable CPUs have between them at a cache index, one file read for each.

    Args:
        most: CPUs that can run at a time; they cannot use more caches than that.
    """
    rest, count = set(usable), 0
    while rest and count < most:
        name = f"sys/devices/system/cpu/cpu{min(rest)}/cache/index{index}/shared_cpu_list"
        sharing = _cpu_list(_read(root, name))
        count += 1
        if not sharing:  # not told: one for all
            break
        rest -= sharing
    return max(1, count)


def _numa_nodes(root: str, usable: set[int]) -> int:
    """Memory nodes with a usable CPU; those of accelerators have none."""
    folder = "sys/devices/system/node"
    nodes = _cpu_list(_read(root, f"{folder}/has_cpu"))
    if len(nodes) < 2:
        return 1
    return max(1, sum(1 for n in nodes if usable & _cpu_list(_read(root, f"{folder}/node{n}/cpulist"))))


def _bytes(size: str) -> int:
    """Bytes of `32K`, `1 MB` or `4096`; 0 for any other text."""
    text = size.strip().upper().removesuffix("B").strip()
    scale = {"K": 1 << 10, "M": 1 << 20, "G": GIB}.get(text[-1:], 1)
    digits = text.rstrip("KMG").strip()
    return int(digits) * scale if digits.isdecimal() else 0


def _cpu_list(text: str) -> set[int]:
    """The numbers in `0-3,8`; what is no number is left out."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = (side.strip() for side in part.partition("-"))
        if first.isdecimal() and (last or first).isdecimal():
            numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _number(text: str | None) -> int | str | None:
    return int(text) if text and text.isdecimal() else text or None


def _read(root: str, path: str, most: int = 4096) -> str:
    return read_head(os.path.join(root, path), most)
