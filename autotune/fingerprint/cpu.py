"""The host CPU as a device: what this process may use of it.

Look-ups call `cpu_digest()`, so this reads a few small files and the head of `/proc/cpuinfo` (all of it costs
tens of milliseconds on a host with hundreds of cores) and imports only what is light.
"""

from __future__ import annotations

import os

from autotune.fingerprint.digest import digest

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
    """What this process may use of the CPU; what cannot be read is None, or 0 for sizes.

    Args:
        root: the file system's root, for reading a recorded machine.
    """
    info = _cpuinfo(root)
    flags = set((info.get("flags") or info.get("features") or "").split())
    isa = sorted(name for flag, name in ISA_EXTENSIONS.items() if flag in flags)
    usable = _usable_cpus(root)
    caches = _caches(root, min(usable, default=0))
    memory = _memory_bytes(root)
    return {
        "kind": "cpu",
        "family": family(isa, os.uname().machine),
        "architecture": os.uname().machine,
        "vendor": info.get("vendor_id") or info.get("cpu implementer"),
        "cpu_family": _number(info.get("cpu family")),
        "cpu_model": _number(info.get("model")) or info.get("cpu part"),
        "stepping": _number(info.get("stepping")) or info.get("cpu revision"),
        "model_name": info.get("model name"),
        "cores": _cores(root, usable),
        "smt": _read(root, "sys/devices/system/cpu/smt/active") == "1",
        "isa": isa,
        "l1d_bytes": caches.get(1, 0),
        "l2_bytes": caches.get(2, 0),
        "l3_bytes": caches.get(3, 0),
        "memory_bytes": memory,
        "memory_gib": -(-memory // GIB),
        "numa_nodes": max(1, len(_cpu_list(_read(root, "sys/devices/system/node/online")))),
    }


def cpu_digest(root: str = "/") -> str:
    """The device digest of the CPU."""
    facts = cpu_facts(root)
    return digest({name: facts[name] for name in DIGEST_FACTS})


def family(isa: list[str], architecture: str) -> str:
    """The profile under `hardware/` that a CPU belongs to, by the widest matrix or vector unit it has."""
    for extension, name in (
        ("amx_tile", "x86-amx"),
        ("avx512f", "x86-avx512"),
        ("avx2", "x86-avx2"),
        ("sve", "arm-sve"),
    ):
        if extension in isa:
            return name
    return architecture


def _cpuinfo(root: str) -> dict[str, str]:
    """The first processor's entry, names in lower case."""
    entry: dict[str, str] = {}
    for line in _read(root, "proc/cpuinfo", HEAD_BYTES).split("\n"):
        name, colon, value = line.partition(":")
        if not colon:
            if entry:
                break
            continue
        entry[name.strip().lower()] = value.strip()
    return entry


def _usable_cpus(root: str) -> set[int]:
    if root == "/":
        return os.sched_getaffinity(0)
    for line in _read(root, "proc/self/status").split("\n"):
        if line.startswith("Cpus_allowed_list:"):
            return _cpu_list(line.partition(":")[2])
    return _cpu_list(_read(root, "sys/devices/system/cpu/online"))


def _cores(root: str, usable: set[int]) -> int:
    """Usable cores: affinity, and no more than the cgroups' CPU quota, rounded up."""
    cores = max(1, len(usable))
    quotas = [quota for group in _cgroups(root) if (quota := _quota(root, group)) is not None]
    return max(1, min([cores, *(-int(-quota // 1) for quota in quotas)]))


def _cgroups(root: str) -> list[tuple[str, str]]:
    """(controllers, path) of this process and of every group above it; version 2 names no controllers."""
    groups = [("", ""), ("cpu", "")]
    for line in _read(root, "proc/self/cgroup").split("\n"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and not {"cpu", "memory"} & set(controllers.split(",")):
            continue
        while path.strip("/"):
            groups.append((controllers, path))
            path = os.path.dirname(path)
    return groups


def _quota(root: str, group: tuple[str, str]) -> float | None:
    """CPUs that a group may use at a time; None where it sets no limit."""
    controllers, path = group
    if controllers:
        folder = f"sys/fs/cgroup/cpu{path}"
        fields = [_read(root, f"{folder}/cpu.cfs_quota_us"), _read(root, f"{folder}/cpu.cfs_period_us")]
    else:
        fields = _read(root, f"sys/fs/cgroup{path}/cpu.max").split()
    if len(fields) != 2 or not (fields[0].isdigit() and fields[1].isdigit()) or int(fields[1]) == 0:
        return None  # "max", "-1" or no such file
    return int(fields[0]) / int(fields[1])


def _memory_bytes(root: str) -> int:
    """Memory of the machine, and no more than the cgroups allow."""
    lines = _read(root, "proc/meminfo", 256).split("\n")
    limits = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")]
    for controllers, path in _cgroups(root):
        name = f"memory{path}/memory.limit_in_bytes" if controllers else f"{path}/memory.max"
        text = _read(root, f"sys/fs/cgroup/{name}")
        if text.isdigit():
            limits.append(int(text))
    return min(limits, default=0)


def _caches(root: str, cpu: int) -> dict[int, int]:
    """Bytes of data cache by level, as one core sees them; the last level is shared."""
    caches: dict[int, int] = {}
    for index in range(8):
        folder = f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
        level, size = _read(root, f"{folder}/level"), _read(root, f"{folder}/size")
        if not level:
            break
        if _read(root, f"{folder}/type") != "Instruction":
            caches[int(level)] = _bytes(size)
    return caches


def _bytes(size: str) -> int:
    scale = {"K": 1 << 10, "M": 1 << 20, "G": GIB}.get(size[-1:], 1)
    digits = size.rstrip("KMG")
    return int(digits) * scale if digits.isdigit() else 0


def _cpu_list(text: str) -> set[int]:
    """The numbers in `0-3,8`."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.strip().isdigit():
            numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _read(root: str, path: str, most: int = 4096) -> str:
    try:
        # Unbuffered: a buffered open would ask the kernel to produce more of /proc/cpuinfo than is wanted.
        with open(os.path.join(root, path), "rb", buffering=0) as file:
            return (file.read(most) or b"").decode("utf-8", "replace").strip()
    except OSError:
        return ""
