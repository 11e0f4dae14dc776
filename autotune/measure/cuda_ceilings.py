"""Ceilings of a CUDA device: the rates of a copy in its memory, and of matrix products by data type."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from autotune.fingerprint.ceilings import Ceilings

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.measure.cuda_runtime import CudaRuntime

COPY_BYTES = 1 << 30
"""Far beyond any cache: both arrays together are 40 times the largest L2."""
SHAPES = ((4096, 4096, 4096), (8192, 8192, 8192))
"""(m, n, k) of the products: large enough for all multiprocessors, whole tiles in each."""
SECONDS_PER_FIGURE = 0.5
DTYPES = ("float32", "bfloat16", "float16", "float8", "int8")


def measure_cuda_ceilings(
    runtime: CudaRuntime,
    seconds_per_figure: float = SECONDS_PER_FIGURE,
    *,
    device: str = "cuda",
    copy_bytes: int = COPY_BYTES,
    shapes: tuple[tuple[int, int, int], ...] = SHAPES,
) -> Ceilings:
    """Measure copy bandwidth and matmul rate per data type; each figure is the best of many calls.

    Args:
        runtime: of the device.
        seconds_per_figure: time spent on each.
        device: that tensors are made on.
        copy_bytes: of each array, less where memory is short.
        shapes: of the products.
    """
    with torch.no_grad():
        bandwidth = copy_bandwidth(runtime, seconds_per_figure, device, copy_bytes)
        rates = {
            dtype: max(
                _rate(runtime, dtype, shape, seconds_per_figure / len(shapes), device) for shape in shapes
            )
            for dtype in DTYPES
        }
    return Ceilings(bandwidth, {dtype: rate for dtype, rate in rates.items() if rate > 0}, time.time())


def copy_bandwidth(
    runtime: CudaRuntime, seconds: float, device: str = "cuda", copy_bytes: int = COPY_BYTES
) -> float:
    """Bytes per second, read and written ones added up."""
    source = torch.ones(copy_bytes // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * copy_bytes / _best_seconds(runtime, lambda: target.copy_(source), seconds)


def _rate(
    runtime: CudaRuntime, dtype: str, shape: tuple[int, int, int], seconds: float, device: str
) -> float:
    """Operations per second; 0 where torch or the device cannot multiply this type."""
    m, n, k = shape
    try:
        took = _best_seconds(runtime, _matmul(dtype, m, n, k, device), seconds)
    except (RuntimeError, AttributeError):
        return 0.0
    return 2 * m * n * k / took


def _matmul(dtype: str, m: int, n: int, k: int, device: str) -> Callable[[], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    if dtype == "int8":
        left = torch.randint(-127, 128, (m, k), dtype=torch.int8, generator=generator).to(device)
        right = torch.randint(-127, 128, (n, k), dtype=torch.int8, generator=generator).to(device).t()
        return lambda: torch._int_mm(left, right)
    # Random values: zeros multiply faster than data.
    x = torch.randn(m, k, generator=generator).to(device)
    w = torch.randn(n, k, generator=generator).to(device)
    if dtype == "float8":
        one = torch.ones((), device=device)
        x, w = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn)
        return lambda: torch._scaled_mm(x, w.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    kind: torch.dtype = getattr(torch, dtype)
    x, w = x.to(kind), w.to(kind)
    return lambda: torch.nn.functional.linear(x, w)


def _best_seconds(runtime: CudaRuntime, call: Callable[[], object], seconds: float) -> float:
    """The shortest call by events, after one that warms up."""
    start, stop = runtime.event(), runtime.event()
    call()
    runtime.synchronize()
    best, end = float("inf"), time.monotonic() + seconds
    while best == float("inf") or time.monotonic() < end:
        start.record()
        call()
        stop.record()
        stop.synchronize()
        best = min(best, max(start.elapsed_time(stop), 1e-6) / 1e3)
    return best
