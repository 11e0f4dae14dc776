"""The worker that commands run trials in, as the settings say."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.config import Settings
    from autotune.fingerprint import Device
    from autotune.worker.worker import Worker


def make_worker(settings: Settings, device: Device, modules: Sequence[str] = ()) -> Worker:
    """A worker for a device; its process starts at the first call.

    Args:
        settings: interpreter, memory cap, time limits and modules.
        device: whose memory the cap is a share of.
        modules: more modules that register workloads.
    """
    from autotune.worker.configured import configured_worker

    return configured_worker(settings.worker, device, modules)
