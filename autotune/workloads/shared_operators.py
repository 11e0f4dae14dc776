"""Operators that several built steps share: one packed copy of a weight serves all that want it packed alike.

The configurations of a decode step that are compared side by side differ in one operator or two. Were each to
pack every weight for itself, a few of them would fill a machine's memory.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch

from autotune.measure.memory import MemoryHeld

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from autotune.workloads.base import Kernel, Tensors

STAMPED = 1 << 16
"""Bytes of a weight that are read to tell it from another one that came to lie at its address."""


class Operator:
    """A built operator.

    Attributes:
        kernel: its callable; for a cache, whatever holds it.
        memory_bytes: what it holds: packed weights, workspaces, and weights that it keeps as they are.
    """

    __slots__ = ("__weakref__", "kernel", "memory_bytes")

    def __init__(self, kernel: Any, memory_bytes: int) -> None:
        self.kernel = kernel
        self.memory_bytes = memory_bytes


_operators: WeakValueDictionary[Hashable, Operator] = WeakValueDictionary()
_lock = threading.Lock()


def operator(
    what: Hashable, weights: Mapping[str, torch.Tensor], make: Callable[[Tensors], Kernel]
) -> Operator:
    """The operator made of these weights: one that is still in use somewhere, or a new one.

    Args:
        what: all that decides how it is made, but for the weights.
        weights: by name; equal tensors at the same address are the same weights.
        make: makes it of the weights, which are tensors of their own on the same storage.
    """
    key = (what, tuple(_identity(weight) for weight in weights.values()))
    with _lock:
        found = _operators.get(key)
        if found is None:
            held = MemoryHeld(weights.values(), collects=False)
            kernel = make({name: weight.detach() for name, weight in weights.items()})
            found = _operators[key] = Operator(kernel, held.bytes_since())
        return found


def _identity(weight: torch.Tensor) -> tuple[Any, ...]:
    """Address, shape and a sum over some bytes: memory that was freed may be another weight's by now."""
    if weight.device.type != "cpu":
        return (weight.data_ptr(), weight.shape, weight._version)
    data = weight.reshape(-1).view(torch.uint8) if weight.is_contiguous() else weight.flatten()
    step = max(1, len(data) // STAMPED)
    return (weight.data_ptr(), weight.shape, float(data[::step].double().sum()))
