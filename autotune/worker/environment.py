"""The environment of the processes that search and that run trials."""

from __future__ import annotations

import os

from autotune import paths
from autotune.fingerprint.management import library_for


def environment(device: str = "cpu") -> dict[str, str]:
    """The worker's environment: the study's own, so that what is tuned is what serves.

    A worker sees the device that it tunes and no other, by what identifies the unit: an index means another
    device once one has fallen out.

    Knobs that change speed (OMP_*, KMP_*, MKL_*, ...) are passed on untouched: they are part of the stack's
    digest, and a worker that set its own would tune a stack that nobody serves with. That no contender finds
    the threads spinning which another found asleep is the timer's affair.
    """
    ours = dict(os.environ)
    # These concern the study's process alone: its systemd sockets and watchdog, its interpreter's home.
    for name in (
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    ):
        ours.pop(name, None)
    ours.pop("PYTHONHOME", None)
    if device.startswith("cuda"):
        ours["CUDA_VISIBLE_DEVICES"] = _unit(int(device.partition(":")[2] or 0))
        ours["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as NVML counts, should it have no better name
    ours.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(paths.cache_dir(), "inductor"))
    ours.setdefault("TRITON_CACHE_DIR", os.path.join(paths.cache_dir(), "triton"))
    return ours


def inside(device: str) -> str:
    """What a worker calls the only device that it sees."""
    return "cuda:0" if device.startswith("cuda") else device


def _unit(index: int) -> str:
    """The UUID of the host's device, or its number where NVML does not tell."""
    try:
        with library_for("cuda") as library:
            return library.device(index).uuid() or str(index)
    except Exception:
        return str(index)
