"""Measured ceilings, cached by device and stack: the limits against which every latency can be put.

The measuring is in `autotune.measure.ceilings`; here is only what it found and where that is kept.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Annotated

import msgspec
from msgspec import Meta

from autotune import paths

Rate = Annotated[float, Meta(gt=0)]


class Ceilings(msgspec.Struct, frozen=True):
    """What the device reaches at best.

    Attributes:
        memory_bandwidth_bytes_per_s: of large arrays, far beyond the last cache.
        matmul_flops: operations per second of a matrix product by data type, a multiply-add counting two.
        measured_at: seconds since the epoch.
    """

    memory_bandwidth_bytes_per_s: Rate
    matmul_flops: dict[str, Rate]
    measured_at: float

    def least_seconds(self, flops: int, moved_bytes: int, dtype: str) -> float:
        """The roofline: the least time that the work can take on this device (Williams et al., 2009).

        Args:
            flops: operations that cannot be avoided.
            moved_bytes: least bytes that must move.
            dtype: the data type whose matmul rate applies; an unknown one is taken to be no limit.
        """
        rate = self.matmul_flops.get(dtype)
        return max(moved_bytes / self.memory_bandwidth_bytes_per_s, flops / rate if rate else 0.0)

    def raised_by(self, other: Ceilings) -> Ceilings:
        """The better of both figures, each by itself: what was reached once can be reached."""
        rates = dict(self.matmul_flops)
        for dtype, rate in other.matmul_flops.items():
            rates[dtype] = max(rate, rates.get(dtype, 0.0))
        return Ceilings(
            max(self.memory_bandwidth_bytes_per_s, other.memory_bandwidth_bytes_per_s),
            rates,
            max(self.measured_at, other.measured_at),
        )


def load(device: str, stack: str) -> Ceilings | None:
    """The ceilings of a device and stack digest; None if they are not known or the file is damaged."""
    try:
        with open(_path(device, stack), "rb") as file:
            return msgspec.json.decode(file.read(), type=Ceilings)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def save(device: str, stack: str, ceilings: Ceilings) -> None:
    """Keep the ceilings of a device and stack digest; a cache that cannot be written is no error."""
    path = _path(device, stack)
    unfinished = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(unfinished, "wb") as file:
            file.write(msgspec.json.encode(ceilings))
        os.replace(unfinished, path)
    except OSError:
        with suppress(OSError):
            os.unlink(unfinished)


def _path(device: str, stack: str) -> str:
    return os.path.join(paths.cache_dir(), "ceilings", f"{device}-{stack}.json")
