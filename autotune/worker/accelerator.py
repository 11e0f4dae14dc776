"""The accelerator of a workbench: its memory, its queue, its limits, and whether it is still there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from autotune.errors import UsageError
from autotune.fingerprint.profile import profile_for
from autotune.measure.cuda_ceilings import measure_cuda_ceilings
from autotune.measure.cuda_runtime import TorchCuda
from autotune.measure.physical_limits import PhysicalLimits

if TYPE_CHECKING:
    from autotune.fingerprint.ceilings import Ceilings


class Accelerator:
    """A CUDA device as torch sees it; its context is made here.

    Attributes:
        l2_bytes: of its cache.
        limits: that no result may beat; None where its peaks are not known.

    Args:
        device: `cuda:0`: a worker sees one.

    Raises:
        UsageError: torch cannot use it.
    """

    def __init__(self, device: str) -> None:
        if not torch.cuda.is_available():
            raise UsageError(
                f"device {device!r}: this interpreter's torch {torch.__version__} finds no CUDA device; set "
                "[worker] python to one that has torch with CUDA, and see 'autotune doctor'"
            )
        torch.cuda.set_device(torch.device(device))
        facts = torch.cuda.get_device_properties(torch.device(device))
        self.l2_bytes = int(getattr(facts, "L2_cache_size", 0))
        profile = profile_for({"kind": "cuda", "name": facts.name})
        self.limits = PhysicalLimits.of(profile, self.l2_bytes)
        self._runtime = TorchCuda()
        self.synchronize()

    def synchronize(self) -> None:
        """Wait for the queue; raises what its work failed with."""
        self._runtime.synchronize()

    def allocated(self) -> int:
        """Bytes that tensors hold on the device, what torch keeps for later apart."""
        self.synchronize()
        return int(torch.cuda.memory_allocated())

    def ceilings(self) -> Ceilings:
        """What the device reaches at best."""
        return measure_cuda_ceilings(self._runtime)

    def is_lost(self) -> bool:
        """Whether nothing can run on it any more in this process: an illegal access loses its context."""
        try:
            self.synchronize()
        except Exception:
            return True
        return False
