"""The environment of the processes that search and that run trials."""

from __future__ import annotations

import os

from autotune import paths


def environment() -> dict[str, str]:
    """The worker's environment: the study's own, so that what is tuned is what serves.

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
    ours.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(paths.cache_dir(), "inductor"))
    ours.setdefault("TRITON_CACHE_DIR", os.path.join(paths.cache_dir(), "triton"))
    return ours
