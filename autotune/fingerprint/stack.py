"""The software stack: versions and settings that change speed or numerics.

Look-ups call `stack_digest()`, so torch is never imported here: its version is read from the name of its
metadata folder. torch's local version (`+cpu`, `+cu130`) names the CUDA runtime, and oneDNN comes with it.
"""

from __future__ import annotations

import os
import sys

from autotune.fingerprint.digest import digest
from autotune.fingerprint.files import read_head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PACKAGES = {"torch": "torch/version.py", "triton": "triton/__init__.py"}
"""What generates and runs kernels, and the file of each that states its version where no metadata does."""

KNOBS = {
    "which kernels are chosen or generated": (
        "ATEN_CPU_CAPABILITY",
        "DNNL_MAX_CPU_ISA",
        "ONEDNN_MAX_CPU_ISA",
        "MKL_CBWR",
        "MKL_DEBUG_CPU_TYPE",
        "MKL_DISABLE_FAST_MM",
        "MKL_ENABLE_INSTRUCTIONS",
        "TORCH_BLAS_PREFER_CUBLASLT",
        "TORCH_BLAS_PREFER_HIPBLASLT",
        "TORCH_CUDNN_USE_HEURISTIC_MODE_B",
        "TORCH_CUDNN_V8_API_DISABLED",
        "TORCH_MKLDNN_MATMUL_MIN_DIM",
        "TORCH_MKLDNN_MATMUL_MIN_SIZE",
        "TORCH_ROCM_FA_PREFER_CK",
        "PYTORCH_TUNABLEOP_ENABLED",
    ),
    "whether and how code is compiled": (
        "TORCH_COMPILE_DISABLE",
        "TORCHDYNAMO_DISABLE",
        "TORCHINDUCTOR_BATCH_INVARIANT",
        "TORCHINDUCTOR_COORDINATE_DESCENT_TUNING",
        "TORCHINDUCTOR_CPP_DYNAMIC_THREADS",
        "TORCHINDUCTOR_CPP_MARCH",
        "TORCHINDUCTOR_CPP_MIN_CHUNK_SIZE",
        "TORCHINDUCTOR_CPP_WEIGHT_PREPACK",
        "TORCHINDUCTOR_CPP_WRAPPER",
        "TORCHINDUCTOR_CUDAGRAPHS",
        "TORCHINDUCTOR_DETERMINISTIC",
        "TORCHINDUCTOR_FREEZING",
        "TORCHINDUCTOR_LAYOUT_OPTIMIZATION",
        "TORCHINDUCTOR_MAX_AUTOTUNE",
        "TORCHINDUCTOR_MAX_AUTOTUNE_GEMM",
        "TORCHINDUCTOR_MAX_AUTOTUNE_POINTWISE",
        "TORCHINDUCTOR_SHAPE_PADDING",
        "TRITON_INTERPRET",
        "TRITON_OVERRIDE_ARCH",
        "DISABLE_PTXAS_OPT",
        "PTXAS_OPTIONS",
    ),
    "how sums are rounded": (
        "CUBLAS_WORKSPACE_CONFIG",
        "DNNL_DEFAULT_FPMATH_MODE",
        "ONEDNN_DEFAULT_FPMATH_MODE",
        "NVIDIA_TF32_OVERRIDE",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        "TORCHINDUCTOR_CPP_ENABLE_UNSAFE_MATH_OPT_FLAG",
        "TORCHINDUCTOR_EMULATE_PRECISION_CASTS",
        "TORCHINDUCTOR_USE_FAST_MATH",
        "TRITON_DEFAULT_FP_FUSION",
        "TRITON_F32_DEFAULT",
        "TRITON_FORCE_DISABLE_FP_FUSION",
    ),
    "how much memory a kernel may use, on what pages, and whether it is used again": (
        "CUBLASLT_WORKSPACE_SIZE",
        "GLIBC_TUNABLES",
        "LD_PRELOAD",
        "MALLOC_ARENA_MAX",
        "MALLOC_CONF",
        "MALLOC_MMAP_THRESHOLD_",
        "MALLOC_TOP_PAD_",
        "MALLOC_TRIM_THRESHOLD_",
        "MKL_FAST_MEMORY_LIMIT",
        "PYTORCH_ALLOC_CONF",
        "PYTORCH_CUDA_ALLOC_CONF",
        "PYTORCH_HIP_ALLOC_CONF",
        "THP_MEM_ALLOC_ENABLE",
    ),
    "where threads run and how they wait; how many there are is a kernel parameter": (
        "GOMP_CPU_AFFINITY",
        "GOMP_SPINCOUNT",
        "KMP_AFFINITY",
        "KMP_BLOCKTIME",
        "KMP_LIBRARY",
        "MKL_DYNAMIC",
        "OMP_DYNAMIC",
        "OMP_PLACES",
        "OMP_PROC_BIND",
        "OMP_SCHEDULE",
        "OMP_THREAD_LIMIT",
        "OMP_WAIT_POLICY",
    ),
}
"""Environment variables that change speed or numerics, by what they change.

Paths, caches and logging do not. Nor may `CUDA_MODULE_LOADING` and `TRITON_PTXAS_PATH` stand here: torch sets
them itself once it is used, and a digest must not depend on when it is asked for.
"""


def stack_facts(root: str = "/") -> dict[str, Any]:
    """Versions and settings of this interpreter's software; what is not installed is None.

    Args:
        root: root of the file system, or of a machine's files recorded elsewhere.
    """
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "implementation": sys.implementation.name,
        **_package_versions(),
        "libc": _libc(),
        "kernel": ".".join(os.uname().release.split(".")[:2]),
        "nvidia_driver": _nvidia_driver(root),
        "knobs": _knobs(),
    }


def stack_digest(kind: str = "cpu", facts: dict[str, Any] | None = None) -> str:
    """The stack digest for a kind of device.

    Args:
        kind: `cpu` or `cuda`.
        facts: of another interpreter, as its `stack_facts` gave them; this one's by default.
    """
    known = dict(stack_facts() if facts is None else facts)
    # Bug-fix releases of the interpreter change no kernel; and an accelerator's driver none of the CPU's.
    known["python"] = ".".join(str(known.get("python")).split(".")[:2])
    if kind == "cpu":
        known.pop("nvidia_driver", None)
    return digest(known)


def _package_versions() -> dict[str, str | None]:
    """Versions by the names of `<package>-<version>.dist-info` folders, the first on the path first.

    Never by `torch.__version__`, which may be spelt otherwise: facts are the same before and after an import.
    """
    versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for folder in sys.path:
        for package, version in _metadata(folder):
            versions[package] = versions[package] or version
        if all(versions.values()):
            return versions
    for package in PACKAGES:
        versions[package] = versions[package] or _stated_version(PACKAGES[package])
    return versions


def _metadata(folder: str) -> list[tuple[str, str]]:
    """(package, version) of the packages whose metadata lies in a folder."""
    try:
        names = os.listdir(folder or ".")
    except OSError:
        return []
    found = []
    for name in sorted(name for name in names if name.endswith(".dist-info")):
        package, _, version = name.removesuffix(".dist-info").partition("-")
        if package in PACKAGES and version:
            found.append((package, version))
    return found


def _stated_version(file: str) -> str | None:
    """The `__version__` in a module's source, for what runs from a source tree; it is read, never run."""
    for folder in sys.path:
        for line in read_head(os.path.join(folder, file)).split("\n"):
            name, equals, value = line.partition("=")
            if equals and name.partition(":")[0].strip() == "__version__":
                return value.strip().strip("'\"")
    return None


def _knobs() -> list[str]:
    found = []
    for names in KNOBS.values():
        for name in names:
            value = os.environ.get(name)
            if value and name == "LD_PRELOAD":
                # Which library, not where a distribution keeps it.
                value = ":".join(map(os.path.basename, value.replace(" ", ":").split(":")))
            if value:
                found.append(f"{name}={value}")
    return sorted(found)


def _libc() -> str | None:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        return None


def _nvidia_driver(root: str) -> str | None:
    version = read_head(os.path.join(root, "sys/module/nvidia/version"))
    if not version:
        # "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (...)"
        words = read_head(os.path.join(root, "proc/driver/nvidia/version")).split("\n")[0].split()
        version = next((word for word in words if word[0].isdecimal() and "." in word), "")
    return version or None
