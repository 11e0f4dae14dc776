"""`y = x @ w.T`, each implementation of which does harm in its own way."""

# ruff: noqa: ARG005

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import time
from typing import Any

import torch

from autotune.errors import UsageError
from autotune.workloads.base import Cost, Workload
from autotune.workloads.registry import register


class Misbehaving(Workload):
    name = "misbehaving"

    def weights(self, problem, seed, device="cpu"):
        generator = torch.Generator().manual_seed(seed)
        return {"w": torch.randn(problem["n"], problem["n"], generator=generator)}

    def activations(self, problem, seed, device="cpu"):
        generator = torch.Generator().manual_seed(seed)
        return {"x": torch.randn(problem["m"], problem["n"], generator=generator)}

    def reference(self, problem, weights, activations):
        return activations["x"].double() @ weights["w"].double().T

    def cost(self, problem):
        m, n = problem["m"], problem["n"]
        return Cost(2 * m * n * n, 4 * (n * n + 2 * m * n), "float32")

    def build(self, problem, configuration, weights):
        maker = globals()[configuration["implementation"]]
        return maker(weights["w"], **{k: v for k, v in configuration.items() if k != "implementation"})


register(Misbehaving)


def _right(x, w):
    return torch.nn.functional.linear(x, w)


def right(w):
    return lambda x: _right(x, w)


def packed(w):
    transposed = w.t().contiguous()
    return lambda x: x @ transposed


def slowed(w, seconds=0.0):
    def kernel(x):
        time.sleep(seconds)
        return _right(x, w)

    return kernel


def compiles_late(w):
    waits = [0.6]

    def kernel(x):
        time.sleep(waits.pop() if waits else 0.0)
        return _right(x, w)

    return kernel


def does_not_build(w):
    raise ValueError("tile of 48 is no power of two\nand more lines")


def lacks_a_compiler(w):
    raise UsageError("native kernels need a C++ compiler, and none is on PATH")


def exits_while_building(w):
    os._exit(3)


def _after(calls: int, harm: Any):
    """A maker of kernels that are right for some calls, then do harm."""

    def maker(w):
        made = [0]

        def kernel(x):
            made[0] += 1
            if made[0] > calls:
                harm()
            return _right(x, w)

        return kernel

    return maker


def _fail():
    raise RuntimeError("no kernel image is available\nat line 12")


def _print_and_abort():
    os.write(2, b"terminate called after throwing an instance of 'std::runtime_error'\n")
    os.abort()


def _children():
    # Orphans in sessions of their own: neither in the worker's group nor below it.
    script = f"import time; open({os.environ['PROOF']!r}, 'w').close(); time.sleep(600)"
    subprocess.run(["/bin/sh", "-c", 'setsid "$0" -c "$1" & exit 0', sys.executable, script], check=True)
    while not os.path.exists(os.environ["PROOF"]):
        time.sleep(0.01)


def _eat_memory_in_children():
    # Each holds less than the cap, and all together more.
    script = "import time; hoard = bytearray(200 << 20); time.sleep(600)"
    for child in [subprocess.Popen([sys.executable, "-c", script]) for _ in range(4)]:
        child.wait()


def _eat_private_memory():
    hoard = []
    while True:
        hoard.append(bytearray(1 << 24))


def _eat_shared_memory():
    hoard = []
    while True:
        hoard.append(mmap.mmap(-1, 1 << 24))
        hoard[-1].write(b"x" * (1 << 24))


def _signal_own_group():
    os.kill(0, 9)


def _loop():
    while True:
        pass


raises = _after(1, _fail)
raises_at_once = _after(0, _fail)
exits = _after(1, lambda: sys.exit(0))
exits_hard = _after(1, lambda: os._exit(0))
segfaults = _after(1, lambda: ctypes.string_at(0))
segfaults_later = _after(20, lambda: ctypes.string_at(0))
raises_later = _after(20, _fail)
aborts = _after(1, _print_and_abort)
kills_its_group = _after(1, _signal_own_group)
# PyDLL keeps the interpreter lock while it sleeps: no Python thread of the worker can do anything.
hangs_with_lock = _after(1, lambda: ctypes.PyDLL(None).sleep(600))
hangs_in_native_code = _after(1, lambda: ctypes.CDLL(None).sleep(600))
loops = _after(1, _loop)
eats_private_memory = _after(1, _eat_private_memory)
eats_shared_memory = _after(1, _eat_shared_memory)
eats_memory_in_children = _after(1, _eat_memory_in_children)
asks_for_too_much = _after(1, lambda: torch.empty(1 << 45, dtype=torch.uint8))
leaves_children = _after(1, _children)
leaves_children_and_hangs = _after(1, lambda: (_children(), _loop()))


def prints_megabytes(w):
    def kernel(x):
        os.write(1, b"noise " * 700_000)
        return _right(x, w)

    return kernel


def returns_nan(w):
    return lambda x: _right(x, w) / 0 * 0


def leaves_output_unwritten(w):
    return lambda x: torch.empty(x.shape[0], w.shape[0])


def leaves_last_row_unwritten(w):
    def kernel(x):
        out = torch.empty(x.shape[0], w.shape[0])
        out[:-1] = _right(x[:-1], w)
        return out

    return kernel


def returns_stale_result(w):
    kept = []

    def kernel(x):
        if not kept:
            kept.append(_right(x, w))
        return kept[0].clone()

    return kernel


def reuses_its_buffer(w):
    kept = []

    def kernel(x):
        if not kept:
            kept.append(torch.empty(x.shape[0], w.shape[0]))
        return torch.mm(x, w.t(), out=kept[0])

    return kernel


def changes_its_input(w):
    def kernel(x):
        out = _right(x, w)
        x.mul_(0.5)
        return out

    return kernel


def changes_its_input_once(w):
    calls = []

    def kernel(x):
        calls.append(1)
        return _right(x.mul_(0.5) if len(calls) == 1 else x, w)

    return kernel


def changes_its_weights(w):
    def kernel(x):
        out = _right(x, w)
        w[0, 0] += 1
        return out

    return kernel


def returns_its_input(w):
    return lambda x: x.copy_(_right(x, w))


def returns_zeros(w):
    return lambda x: torch.zeros(x.shape[0], w.shape[0])


def returns_another_shape(w):
    return lambda x: _right(x, w)[None]


def returns_integers(w):
    return lambda x: _right(x, w).to(torch.int32)


def returns_nothing(w):
    return lambda x: None
