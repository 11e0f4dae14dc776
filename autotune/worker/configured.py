"""The worker that the settings describe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.config import WorkerSettings
    from autotune.fingerprint import Device


def configured_worker(settings: WorkerSettings, device: Device, modules: Sequence[str] = ()) -> Worker:
    """A worker for a device; its process starts at the first call.

    Args:
        settings: interpreter, memory cap, time limits and modules.
        device: whose memory the cap is a share of.
        modules: more modules that register workloads.
    """
    return Worker(
        python=settings.interpreter,
        device=device.kind if device.kind == "cpu" else f"{device.kind}:{device.index}",
        modules=[*settings.modules, *modules],
        memory_bytes=settings.memory_limit(int(device.facts["memory_bytes"])),
        limits=settings.limits,
    )
