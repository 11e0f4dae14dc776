"""C++ kernels for the CPU, compiled for this very CPU and for fixed sizes when a configuration is built.

Tile sizes become constants of the compiled code, so they are kernel parameters as on a GPU. A compiled kernel
is kept under the cache folder and found again by its source, definitions, compiler and CPU. It shares torch's
OpenMP threads: the library name `libgomp.so.1` is already taken by the one that torch has loaded.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch

from autotune import paths
from autotune.errors import InternalError, UsageError
from autotune.fingerprint.cpu import cpu_digest, cpu_facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SOURCES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernels")

# No -ffast-math: it would cancel the rounding trick in `exp_nonpositive`.
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-fPIC",
    "-shared",
)

LANES = 16 if "avx512f" in cpu_facts()["isa"] else 8
"""Floats in one vector of the kernels, as `kernels/vector.hpp` chooses it for this CPU."""

STORAGE_TYPES = {"bfloat16": "bfloat16", "float16": "_Float16", "float32": "float"}
"""C++ storage type by the name of a torch type."""


def storage_type(dtype: torch.dtype) -> str:
    """The C++ storage type of a torch type."""
    return STORAGE_TYPES[str(dtype).removeprefix("torch.")]


@functools.lru_cache(maxsize=256)
def _load(path: str) -> ctypes.CDLL:
    return ctypes.CDLL(path)


class NativeKernel(NamedTuple):
    """What is compiled.

    Attributes:
        source: file name under `kernels/`, e.g. `attention.cpp`.
        definitions: name and value, as in `-Dname=value`, in order of name.
    """

    source: str
    definitions: tuple[tuple[str, int | str], ...]

    @classmethod
    def of(cls, source: str, definitions: Mapping[str, int | str]) -> NativeKernel:
        """The kernel of a source with these preprocessor definitions."""
        return cls(source, tuple(sorted(definitions.items())))


def compile_kernel(source: str, definitions: Mapping[str, int | str]) -> ctypes.CDLL:
    """The library compiled from `kernels/<source>` with these preprocessor definitions.

    Args:
        source: file name, e.g. `attention.cpp`.
        definitions: name to value, as in `-Dname=value`.

    Raises:
        UsageError: this machine has no C++ compiler.
        InternalError: the compiler refuses the source.
    """
    return load_kernel(NativeKernel.of(source, definitions))


def load_kernel(kernel: NativeKernel) -> ctypes.CDLL:
    """`compile_kernel` of a kernel as `Workload.native_kernels` names it."""
    return _load(compile_ahead(kernel))


def compile_ahead(kernel: NativeKernel) -> str:
    """Compile a kernel unless that was done before; several may be compiled at once.

    Returns:
        The library's path.

    Raises:
        UsageError: this machine has no C++ compiler.
        InternalError: the compiler refuses the source.
    """
    source = kernel.source
    compiler, version = _compiler()
    definitions = sorted({"LANES": LANES, **dict(kernel.definitions)}.items())
    options = [f"-D{name}={value}" for name, value in definitions]
    parts = [version, cpu_digest(), *FLAGS, *options, source, *_texts(source)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    folder = os.path.join(paths.cache_dir(), "native")
    path = os.path.join(folder, f"{digest}.so")
    if not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            built = os.path.join(scratch, "kernel.so")
            command = [compiler, *FLAGS, *options, "-o", built, os.path.join(SOURCES, source)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = next(
                    (line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200]
                )
                raise InternalError(f"{source}: {compiler} failed with {' '.join(options)}: {reason}")
            os.replace(built, path)
    return path


def address(tensor: torch.Tensor | None) -> int:
    """Address of a tensor's first element; 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()


def accepted(tensor: torch.Tensor, shape: torch.Size, dtype: torch.dtype, what: str) -> torch.Tensor:
    """`tensor`, contiguous.

    Raises:
        UsageError: it is of another shape or type than the kernel was compiled for.
    """
    if tensor.shape != shape or tensor.dtype != dtype:
        found, expected = f"{tensor.dtype} {tuple(tensor.shape)}", f"{dtype} {tuple(shape)}"
        raise UsageError(f"{what} is {found}; expected {expected}")
    return tensor.contiguous()


@functools.lru_cache(maxsize=1)
def _compiler() -> tuple[str, str]:
    """The compiler's path and its version."""
    for name in (os.environ.get("CXX", ""), "g++", "c++"):
        found = shutil.which(name) if name else None
        if found:
            done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
            return found, done.stdout.partition("\n")[0]
    raise UsageError(
        "native kernels need a C++ compiler, and none is on PATH: install g++, or set CXX to one"
    )


@functools.lru_cache
def _texts(source: str) -> tuple[str, ...]:
    """A source and all headers: a change of any of them compiles anew."""
    texts = []
    for name in sorted(os.listdir(SOURCES)):
        if name == source or name.endswith(".hpp"):
            with open(os.path.join(SOURCES, name), encoding="utf-8") as file:
                texts.append(file.read())
    return tuple(texts)


class Workspaces:
    """Buffers that a kernel works in, kept between calls; each call under way has its own.

    Allocating them anew would fault in every page of them again.
    """

    def __init__(self) -> None:
        self._spare: list[torch.Tensor] = []

    @contextmanager
    def lent(self, size: int) -> Iterator[int]:
        """The address of a buffer of at least `size` bytes."""
        try:
            buffer = self._spare.pop()
        except IndexError:
            buffer = torch.empty(0, dtype=torch.uint8)
        if buffer.numel() < size:
            buffer = torch.empty(size, dtype=torch.uint8)
        try:
            yield buffer.data_ptr()
        finally:
            self._spare.append(buffer)
