"""Ceilings: the memory bandwidth and matmul rates that this machine reaches, the roof of its roofline.

Runs in the worker, in a few seconds. Each figure is the best of several repetitions and several ways to get
it: a ceiling is what can be reached, so the least disturbed attempt is the truest.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from autotune.fingerprint.ceilings import Ceilings

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_ARRAY_BYTES = 128 << 20
OVER_L3 = 4
"""STREAM's rule: each array at least four times the last-level cache (McCalpin)."""
SHAPES = ((256, 1024, 1024), (1024, 1024, 1024), (256, 4096, 4096), (2048, 2048, 2048))
"""(m, n, k) of the matmuls, smallest first: cubes that fit the caches or do not, and wide layers."""
SECONDS_PER_FIGURE = 0.6
MATMUL_DTYPES = ("float32", "bfloat16", "float16", "int8")


def measure_ceilings(l3_bytes: int, seconds_per_figure: float = SECONDS_PER_FIGURE) -> Ceilings:
    """Measure memory bandwidth and matmul rate per data type with all intra-op threads.

    Args:
        l3_bytes: size of the last-level cache, 0 if unknown.
        seconds_per_figure: time spent on each of the five figures.
    """
    with torch.no_grad():
        bandwidth = memory_bandwidth(max(OVER_L3 * l3_bytes, LEAST_ARRAY_BYTES), seconds_per_figure)
        rates = {dtype: matmul_rate(dtype, seconds_per_figure) for dtype in MATMUL_DTYPES}
    for dtype in ("bfloat16", "float16"):
        # A CPU without 16-bit arithmetic multiplies what it has widened, which is exact.
        rates[dtype] = max(rates[dtype], rates["float32"])
    return Ceilings(bandwidth, {dtype: rate for dtype, rate in rates.items() if rate > 0}, time.time())


def memory_bandwidth(array_bytes: int, seconds: float) -> float:
    """Bytes per second, the better of a triad `a = b + s * c` and a pure read.

    Bytes are counted as STREAM does: every array once, without the read that a write may cause. Kernels that
    only read weights may come nearer to the read figure, so the better one is the ceiling.

    Args:
        array_bytes: size of each of the three arrays, far beyond the last-level cache.
        seconds: time to spend.
    """
    a, b, c = (torch.ones(array_bytes // 4) for _ in range(3))
    triad = _best_seconds(lambda: torch.add(b, c, alpha=3.0, out=a), seconds / 2)
    read = _best_seconds(b.sum, seconds / 2)
    return max(3 * array_bytes / triad, array_bytes / read)


def matmul_rate(dtype: str, seconds: float) -> float:
    """Operations per second of a matmul, a multiply-add counting two; 0 if torch cannot multiply this type.

    Args:
        dtype: `float32`, `bfloat16`, `float16` or `int8` (with 32-bit accumulation).
        seconds: time to spend.
    """
    best = 0.0
    for m, n, k in SHAPES:
        try:
            took = _best_seconds(_matmul(dtype, m, n, k), seconds / len(SHAPES))
        except RuntimeError:
            # No kernel of this type on this build of torch: no ceiling, rather than a wrong one.
            return best
        best = max(best, 2 * m * n * k / took)
        if took > seconds / len(SHAPES):
            # Emulated, as float16 is on many CPUs: larger shapes would take minutes and be no faster.
            return best
    return best


def _matmul(dtype: str, m: int, n: int, k: int) -> Callable[[], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    if dtype == "int8":
        left = torch.randint(-127, 128, (m, k), dtype=torch.int8, generator=generator)
        right = torch.randint(-127, 128, (n, k), dtype=torch.int8, generator=generator).t()
        return lambda: torch._int_mm(left, right)
    kind: torch.dtype = getattr(torch, dtype)
    # Random values: zeros multiply faster than data on many devices.
    x = torch.randn(m, k, generator=generator).to(kind)
    w = torch.randn(n, k, generator=generator).to(kind)
    return lambda: torch.nn.functional.linear(x, w)


def _best_seconds(call: Callable[[], object], seconds: float) -> float:
    """The shortest call; the first, which warms up, counts only if it took all the time there was."""
    best = spent = first = _timed(call)
    if first < seconds:
        best = _timed(call)
        spent = first + best
    while spent < seconds:
        took = _timed(call)
        best, spent = min(best, took), spent + took
    return best


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
