"""The software stack: versions and settings that change speed or numerics.

Look-ups call `stack_digest()`, so torch is never imported here: its version is read from the name of its
metadata folder. torch's local version (`+cpu`, `+cu130`) names the CUDA runtime, and oneDNN comes with it.
"""

from __future__ import annotations

import os
import sys

from autotune.fingerprint.digest import digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PACKAGES = ("torch", "triton")

KNOBS = (
    # Which code is generated or chosen, and with which numerics.
    "TRITON_INTERPRET",
    "TRITON_DEFAULT_FP_FUSION",
    "TRITON_F32_DEFAULT",
    "TRITON_DISABLE_LINE_INFO",
    "TRITON_PTXAS_PATH",
    "DISABLE_PTXAS_OPT",
    "PTXAS_OPTIONS",
    "TORCHINDUCTOR_MAX_AUTOTUNE",
    "TORCHINDUCTOR_FREEZING",
    "TORCHINDUCTOR_CPP_WRAPPER",
    "TORCHINDUCTOR_CPP_ENABLE_FLOATING_POINT_CONTRACT_FLAG",
    "TORCH_COMPILE_DISABLE",
    "TORCHDYNAMO_DISABLE",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
    "TORCH_MKLDNN_MATMUL_MIN_DIM",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUBLASLT_WORKSPACE_SIZE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "PYTORCH_TUNABLEOP_ENABLED",
    "CUDA_MODULE_LOADING",
    # How memory is obtained: page size and reuse decide much of a cold call.
    "PYTORCH_CUDA_ALLOC_CONF",
    "THP_MEM_ALLOC_ENABLE",
    "LD_PRELOAD",
    "MALLOC_CONF",
    "GLIBC_TUNABLES",
    # Where threads run. How many run is a kernel parameter.
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "GOMP_CPU_AFFINITY",
)
"""Environment variables that change speed or numerics; paths, caches and logging do not."""


def stack_facts() -> dict[str, Any]:
    """Versions and settings; a package that is not installed is None."""
    release = os.uname().release.split(".")
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "implementation": sys.implementation.name,
        **_package_versions(),
        "libc": _libc(),
        "kernel": ".".join(release[:2]),
        "nvidia_driver": _nvidia_driver(),
        "knobs": [f"{name}={os.environ[name]}" for name in KNOBS if os.environ.get(name)],
    }


def stack_digest(kind: str = "cpu", facts: dict[str, Any] | None = None) -> str:
    """The stack digest for a kind of device: the driver of a GPU says nothing about the CPU's kernels.

    Args:
        kind: `cpu` or `cuda`.
        facts: of another interpreter, as its `stack_facts` gave them; this one's by default.
    """
    known = dict(stack_facts() if facts is None else facts)
    if kind == "cpu":
        known.pop("nvidia_driver", None)
    return digest(known)


def _package_versions() -> dict[str, str | None]:
    """Versions by the names of `<package>-<version>.dist-info` folders, the first on the path first."""
    versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for folder in sys.path:
        try:
            with os.scandir(folder or ".") as entries:
                names = [entry.name for entry in entries if entry.name.endswith(".dist-info")]
        except OSError:
            continue
        for name in sorted(names):
            package, _, version = name.removesuffix(".dist-info").partition("-")
            if package in versions and versions[package] is None:
                versions[package] = version
    return versions


def _libc() -> str | None:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        return None


def _nvidia_driver() -> str | None:
    try:
        with open("/sys/module/nvidia/version", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None
