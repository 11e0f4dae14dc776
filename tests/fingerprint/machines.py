"""The files of /proc and /sys by which machines tell what they are, written under a folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

EPYC_FLAGS = (
    "fpu sse2 ht fma f16c avx avx2 avx512f avx512dq avx512cd avx512bw avx512vl avx512_bf16 avx512vbmi "
    "avx512_vnni avx512_bitalg"
)
XEON_FLAGS = f"{EPYC_FLAGS} avx_vnni avx512_fp16 amx_bf16 amx_tile amx_int8"
GRACE_FEATURES = (
    "fp asimd evtstrm aes crc32 atomics fphp asimdhp cpuid asimdrdm dcpop sve asimddp sve2 "
    "svei8mm svebf16 i8mm bf16"
)
Write = Callable[[str, str], None]


def writer(root: Path) -> Write:
    """A function that writes a file of the machine under `root`."""

    def write(path: str, text: str) -> None:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


def epyc(root: Path, *, allowed: str = "0-63") -> Write:
    """A 64-core EPYC without SMT: eight cores to an L3, two memory nodes, 256 GB."""
    write = writer(root)
    entry = (
        "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nmodel\t\t: 17\n"
        "model name\t: AMD EPYC 9554 64-Core Processor\nstepping\t: 0\ncpu MHz\t\t: 3100.000\n"
        f"flags\t\t: {EPYC_FLAGS}\nbugs\t\t: sysret_ss_attrs\n\n"
    )
    write("proc/cpuinfo", 64 * entry)
    write("proc/sys/kernel/arch", "x86_64\n")
    write("proc/meminfo", "MemTotal:       263856640 kB\nMemFree:        1000 kB\n")
    write("proc/self/status", f"Name:\tpython\nCpus_allowed:\tff\nCpus_allowed_list:\t{allowed}\n")
    write("sys/devices/system/cpu/online", "0-63\n")
    write("sys/devices/system/cpu/smt/active", "0\n")
    for cpu in (*range(0, 64, 8), 63):
        first = cpu // 8 * 8
        caches(write, cpu, ("32K", "1024K", "32768K"), sharing=f"{first}-{first + 7}")
    write("sys/devices/system/node/has_cpu", "0-1\n")
    write("sys/devices/system/node/node0/cpulist", "0-31\n")
    write("sys/devices/system/node/node1/cpulist", "32-63\n")
    return write


def xeon(root: Path) -> Write:
    """A 4-core virtual machine of a Xeon with AMX."""
    write = writer(root)
    write(
        "proc/cpuinfo",
        "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n"
        f"model name\t: Intel(R) Xeon(R) Platinum 8480+\nstepping\t: 8\nflags\t\t: {XEON_FLAGS}\n\n",
    )
    write("proc/sys/kernel/arch", "x86_64\n")
    write("proc/meminfo", "MemTotal:       16384000 kB\n")
    write("proc/self/status", "Cpus_allowed_list:\t0-3\n")
    write("sys/devices/system/cpu/smt/active", "1\n")
    caches(write, 0, ("48K", "2048K", "107520K"), sharing="0-3")
    return write


def grace(root: Path) -> Write:
    """A 72-core NVIDIA Grace; Linux names no Arm core, and its GPU is a memory node without a CPU."""
    write = writer(root)
    write(
        "proc/cpuinfo",
        f"processor\t: 0\nBogoMIPS\t: 2000.00\nFeatures\t: {GRACE_FEATURES}\nCPU implementer\t: 0x41\n"
        "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd4f\nCPU revision\t: 0\n\n",
    )
    write("proc/sys/kernel/arch", "aarch64\n")
    write("proc/meminfo", "MemTotal:       500000000 kB\n")
    write("proc/self/status", "Cpus_allowed_list:\t0-71\n")
    write("sys/devices/system/cpu/smt/active", "0\n")
    caches(write, 0, ("64K", "1024K", "116736K"), sharing="0-71")
    write("sys/devices/system/node/online", "0-1\n")
    write("sys/devices/system/node/has_cpu", "0\n")
    return write


def laptop(root: Path) -> Write:
    """A hybrid laptop whose files are odd: its first core is offline and some tell nothing or nonsense."""
    write = writer(root)
    write(
        "proc/cpuinfo",
        "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 0\nstepping\t: ?\n"
        "model name\t: 12th Gen Intel(R) Core(TM) i7-1270P\nnonsense\nflags\t\t: fma avx2 f16c avx_vnni\n\n",
    )
    write("proc/sys/kernel/arch", "x86_64\n")
    write("proc/meminfo", "garbage\nMemTotal: many kB\n")
    write("proc/self/cgroup", "0::/../outside\nnot:a\n\n")
    write("proc/self/status", "Cpus_allowed_list:\t4-7,9,x-y,11-\n")
    write("sys/fs/cgroup/cpu.max", "max\n")
    write("sys/fs/cgroup/outside/cpu.max", "100000 100000\n")
    folder = "sys/devices/system/cpu/cpu4/cache"
    write(f"{folder}/index0/level", "1\n")
    write(f"{folder}/index0/type", "Data\n")
    write(f"{folder}/index0/size", "48K\n")
    write(f"{folder}/index1/level", "?\n")
    write(f"{folder}/index2/level", "2\n")
    write(f"{folder}/index2/size", "big\n")
    write(f"{folder}/index3/level", "3\n")
    write(f"{folder}/index3/type", "Unified\n")
    write(f"{folder}/index3/size", "18M\n")
    return write


def caches(write: Write, cpu: int, sizes: tuple[str, str, str], *, sharing: str) -> None:
    """The cache folders of a core; `sharing` are the cores of its L3, of which only the first is read."""
    first, second, third = sizes
    told = ((1, "Data", first, cpu), (1, "Instruction", first, cpu), (2, "Unified", second, cpu))
    for index, (level, kind, size, shared) in enumerate((*told, (3, "Unified", third, sharing))):
        folder = f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
        write(f"{folder}/level", f"{level}\n")
        write(f"{folder}/type", f"{kind}\n")
        write(f"{folder}/size", f"{size}\n")
        write(f"{folder}/shared_cpu_list", f"{shared}\n")
