"""Compiling the Triton kernels of a configuration for a device that need not be there.

A configuration is built over tensors without data, its launches are noted, and each is compiled for the named
target: nothing of it touches a device. Shared memory and threads are told by Triton; registers, and what did
not fit in them, are read from the machine code.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from autotune import paths
from autotune.errors import InternalError
from autotune.store.records import CompiledKernel
from autotune.workloads.launch import noting_launches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Workload
    from autotune.workloads.launch import Launch

FORMAT = 1
"""Of the cache's entries; raised when they change."""

TENSOR_MEMORY_COLUMN_BYTES = 512
"""Triton counts Blackwell's tensor memory in columns of 128 lanes of 32 bits (PTX ISA, "Tensor Memory")."""

LONGEST_REASON = 300


class Compilation(NamedTuple):
    """How compiling a kernel ended.

    Attributes:
        kernel: what it needs; None where it does not compile.
        error: why it does not, one line.
    """

    kernel: CompiledKernel | None
    error: str = ""


class NamedDevice:
    """Stands for a device as Triton's driver would describe it, without there being one.

    Args:
        compute_capability: 10 times the major plus the minor version.
    """

    def __init__(self, compute_capability: int) -> None:
        self.target = GPUTarget("cuda", compute_capability, 32)

    def get_current_target(self) -> GPUTarget:
        """What is compiled for."""
        return self.target

    def get_current_device(self) -> int:
        """A number of its own for every target: Triton keeps what it compiled by it."""
        return int(self.target.arch)

    def get_current_stream(self, device: int) -> int:
        """The default stream, on which nothing runs."""
        return 0


def launches(workload: Workload, problem: Problem, configuration: Mapping[str, Any]) -> list[Launch]:
    """The Triton launches of one call of a configuration, found without data and without a device.

    Raises:
        Exception: anything that building it raises; it cannot be told what it launches.
    """
    with noting_launches() as noted:
        weights = workload.weights(problem, 0, "meta")
        activations = workload.activations(problem, 0, "meta")
        arguments = workload.pack_activations(problem, configuration, activations, weights)
        workload.build(problem, configuration, weights)(*arguments.values())
    return noted


def compile_launch(launch: Launch, compute_capability: int) -> Compilation:
    """Compile the kernel of a launch, unless that was done before.

    What it showed is kept under the cache folder by all that it depends on: the kernel's source and that of
    all it calls, its arguments' types, divisibility and constants, the options, the target, and Triton's
    version and knobs. The machine code itself goes to Triton's own cache, where a later launch finds it.

    Args:
        launch: as `launches` noted it.
        compute_capability: of the target, e.g. 90.
    """
    device = NamedDevice(compute_capability)
    driver.set_active(device)
    seen: list[tuple[str, Compilation | None]] = []

    def is_known(*, key: Any, fn: Any, **_: Any) -> bool:
        """Called by Triton before it compiles; True keeps it from doing so."""
        path = _path(fn.jit_function.cache_key, str(key), device.target)
        seen.append((path, _load(path)))
        return seen[-1][1] is not None

    # A launch that this process compiled before would not come to the hook.
    launch.kernel.device_caches.clear()
    before, knobs.runtime.jit_cache_hook = knobs.runtime.jit_cache_hook, is_known
    with _diagnostics() as said:
        try:
            compiled = launch.kernel.warmup(*launch.arguments, grid=launch.grid, **launch.options)
            found = None if compiled is None else Compilation(_needs(compiled))
        except InternalError:
            raise
        except Exception as error:
            found = Compilation(None, _one_line(error, said()))
        finally:
            knobs.runtime.jit_cache_hook = before
    if not seen:  # the arguments do not even fit the kernel
        return found or Compilation(None, "not compiled")
    path, known = seen[-1]
    if known is None and found is not None:
        known = found
        _save(path, known)
    return known or Compilation(None, "not compiled")


def _needs(compiled: Any) -> CompiledKernel:
    """What a compiled kernel needs of a multiprocessor."""
    metadata = compiled.metadata
    registers, local_bytes = registers_of(compiled.asm["cubin"])
    return CompiledKernel(
        name=metadata.name,
        threads=metadata.num_warps * metadata.warp_size,
        shared_bytes=metadata.shared,
        registers=registers,
        local_bytes=local_bytes,
        tensor_memory_bytes=(getattr(metadata, "tmem_size", 0) or 0) * TENSOR_MEMORY_COLUMN_BYTES,
    )


def registers_of(cubin: bytes) -> tuple[int, int]:
    """Registers per thread, and bytes of local memory per thread, of machine code with one kernel in it.

    Raises:
        InternalError: the tool that reads it is missing, or says something else.
    """
    tool = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", "cuobjdump")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool, "-res-usage", file.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise InternalError(f"{tool}: {error.strerror}; expected it in the triton wheel") from None
    usage = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout)
    if usage is None:
        raise InternalError(f"{tool}: no registers in {done.stdout[-200:]!r} {done.stderr[-200:]!r}")
    return int(usage[1]), int(usage[2])


def _path(source: str, arguments: str, target: GPUTarget) -> str:
    """Where the outcome of a compilation is kept."""
    parts = [str(FORMAT), triton.__version__, str(target), source, arguments, *_settings()]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return os.path.join(paths.cache_dir(), "feasibility", digest[:2], f"{digest[2:32]}.json")


def _settings() -> list[str]:
    """The environment variables that Triton itself takes for its cache."""
    from triton._C.libtriton import get_cache_invalidating_env_vars

    return [f"{name}={value}" for name, value in sorted(get_cache_invalidating_env_vars().items())]


class _Entry(msgspec.Struct, frozen=True):
    kernel: CompiledKernel | None = None
    error: str = ""


def _load(path: str) -> Compilation | None:
    try:
        with open(path, "rb") as file:
            entry = msgspec.json.decode(file.read(), type=_Entry)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return Compilation(entry.kernel, entry.error)


def _save(path: str, compilation: Compilation) -> None:
    """Keep an outcome; a cache that cannot be written is no error."""
    unfinished = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(unfinished, "wb") as file:
            file.write(msgspec.json.encode(_Entry(*compilation)))
        os.replace(unfinished, path)
    except OSError:
        return


@contextmanager
def _diagnostics() -> Iterator[Any]:
    """Catch what the compiler writes to the process's standard error; yields what returns it so far."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught:
        kept = os.dup(2)
        os.dup2(caught.fileno(), 2)

        def said() -> str:
            return os.pread(caught.fileno(), 1 << 16, 0).decode(errors="replace")

        try:
            yield said
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def _one_line(error: Exception, said: str) -> str:
    """Why a kernel does not compile: the compiler's own words where it has some, else the exception's."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = next((line.partition("error:")[2].strip() for line in said.splitlines() if "error:" in line), "")
    fatal = next((line for line in lines if "fatal" in line or "error" in line.lower()), "")
    # A front-end error quotes the source first, and says what is wrong with it last.
    text = words or fatal or (lines[-1] if lines else "")
    return f"{type(error).__name__}: {text}"[:LONGEST_REASON]
