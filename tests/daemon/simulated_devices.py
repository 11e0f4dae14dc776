"""As a module of a worker's settings: a workload, and workers for it that simulate whatever device it is for.

No device goes beyond its baseline before all have begun, so that each has a part in the search.
"""

from __future__ import annotations

import os
import time
from typing import Any

from autotune.worker import configured
from autotune.workloads import registry
from autotune.workloads.base import Cost, Workload
from tests.search.simulated import DECLARATION, SimulatedWorker

PATIENCE_SECONDS = 60.0


class Simulated(Workload):
    """Never built: the worker simulates it."""

    name = DECLARATION.workload

    def weights(self, problem, seed, device="cpu"):
        raise NotImplementedError

    activations = weights

    def reference(self, problem, weights, activations):
        raise NotImplementedError

    def build(self, problem, configuration, weights):
        raise NotImplementedError

    def cost(self, problem):
        return Cost(1000, 1000, "float32")


class Device(SimulatedWorker):
    """A worker for one device; it notes each configuration that it builds in a file of the device."""

    def __init__(self, *, device: str, **_: Any) -> None:
        super().__init__()
        self._log = os.path.join(os.environ["SIMULATED_LOG"], device)

    def build(self, slot: str, configuration: dict[str, Any], **options: Any) -> Any:
        with open(self._log, "a", encoding="utf-8") as log:
            print(slot, file=log)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(os.listdir(os.path.dirname(self._log))) < int(os.environ["FAKE_NVML_COUNT"]):
            if time.monotonic() > deadline:
                raise TimeoutError("the other devices have not begun")
            time.sleep(0.02)
        return super().build(slot, configuration, **options)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""


registry.register(Simulated(), DECLARATION)
configured.Worker = Device
