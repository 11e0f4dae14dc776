"""The vendor's view of the device that this process computes on: clocks, throttling, power, energy."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from autotune.fingerprint.management import library_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.fingerprint.management import ManagedDevice


def telemetry_of(device: str) -> ManagedDevice | None:
    """The vendor's view of a device; None where its library is missing or does not know it.

    Its library stays open for the process's life.

    Args:
        device: `cuda`, or e.g. `cuda:0`, as this process numbers them.
    """
    kind, _, index = device.partition(":")
    try:
        library = library_for(kind)
        library.open()
        return library.device(identity(kind, int(index or 0)))
    except Exception:  # no library, no driver, no such device: it is measured without
        return None


def identity(kind: str, index: int) -> int | str:
    """What the vendor's library knows this process's device by: its UUID, or its number on the host."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if kind == "cuda" else []
    named = visible[index].strip() if index < len(visible) else ""
    if named.startswith(("GPU-", "MIG-")):
        return named
    torch = sys.modules.get("torch")
    if kind == "cuda" and torch is not None and torch.cuda.is_available():
        return f"GPU-{torch.cuda.get_device_properties(index).uuid}"
    return int(named) if named.isdecimal() else index


def synchronizer(device: str) -> Callable[[], object]:
    """What waits for a device's queue."""
    if device == "cpu" or "torch" not in sys.modules:
        return lambda: None
    import torch

    return torch.cuda.synchronize
