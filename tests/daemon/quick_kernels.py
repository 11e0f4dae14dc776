"""Workloads that are tuned in seconds, or that hold a trial up for as long as a test needs."""

from __future__ import annotations

import ctypes
import time

import torch

import autotune


@autotune.tunable(
    dimensions=[autotune.Dimension("rows", nearest=True), autotune.Dimension("width")],
    parameters={"pause_ms": [0, 30]},
    baseline={"pause_ms": 30},
    inputs=lambda problem, draw: {"x": draw(problem["rows"], problem["width"])},
    reference=lambda _, x: torch.softmax(x.double(), -1),
)
def quick(x: torch.Tensor, *, pause_ms: int) -> torch.Tensor:
    """Softmax, the baseline of which wastes time."""
    time.sleep(pause_ms / 1e3)
    return torch.softmax(x, -1)


@autotune.tunable(
    dimensions=[autotune.Dimension("rows", nearest=True), autotune.Dimension("width")],
    parameters={"pause_ms": [30, 150]},
    baseline={"pause_ms": 150},
    inputs=lambda problem, draw: {"x": draw(problem["rows"], problem["width"])},
    reference=lambda _, x: torch.softmax(x.double(), -1),
)
def steady(x: torch.Tensor, *, pause_ms: int) -> torch.Tensor:
    """Softmax that sleeps for longer than a busy machine delays it: the same one wins, whatever else runs."""
    time.sleep(pause_ms / 1e3)
    return torch.softmax(x, -1)


@autotune.tunable(
    dimensions=[autotune.Dimension("rows", nearest=True)],
    parameters={"seconds": [0, 600]},
    baseline={"seconds": 0},
    inputs=lambda problem, draw: {"x": draw(problem["rows"], 8)},
    reference=lambda _, x: torch.softmax(x.double(), -1),
)
def dozing(x: torch.Tensor, *, seconds: int) -> torch.Tensor:
    """Softmax, the only other configuration of which does not come back."""
    time.sleep(seconds)
    return torch.softmax(x, -1)


@autotune.tunable(
    dimensions=[autotune.Dimension("rows", nearest=True)],
    parameters={"harm": ["none", "segfault", "hang", "hoard"]},
    baseline={"harm": "none"},
    inputs=lambda problem, draw: {"x": draw(problem["rows"], 8)},
    reference=lambda _, x: torch.softmax(x.double(), -1),
)
def harmful(x: torch.Tensor, *, harm: str) -> torch.Tensor:
    """Softmax, the other configurations of which end the worker, each in its own way."""
    if harm == "segfault":
        ctypes.string_at(0)
    if harm == "hang":
        # Native code that keeps the interpreter lock.
        ctypes.PyDLL(None).sleep(600)
    hoard = []
    while harm == "hoard":
        hoard.append(bytearray(1 << 24))
    return torch.softmax(x, -1)
