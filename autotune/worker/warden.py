"""The warden: a small process between the study and the process that runs trials, which ends it for certain.

    study ── warden ── worker ── whatever a configuration starts

The worker may be stuck in native code, hold the interpreter lock, or have left children behind that made
themselves sessions of their own; none of that can keep the warden from acting, since it shares nothing with
them. As their subreaper it inherits every orphan below it. It kills all of them when the study closes its end
of the request pipe (or dies: then the kernel closes it), when it is told to by SIGTERM, and when the worker
ends by itself. Should the warden itself be killed, the kernel kills the worker with it (PR_SET_PDEATHSIG).

Only the standard library, and little of it, is imported before the fork: the warden stays small.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main(arguments: list[str]) -> None:
    """Fork the worker, and stay behind as its warden.

    Args:
        arguments: of `autotune.worker.serve.main`; the first is the number of the request pipe's descriptor.
    """
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    warden = os.getpid()
    worker = os.fork()
    if worker == 0:
        # Its own group: a configuration that signals "everything in my group" must not hit the warden.
        os.setpgid(0, 0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != warden:
            os._exit(1)
        from autotune.worker.serve import main as serve

        serve(arguments)
        sys.exit(0)
    os._exit(_guard(worker, requests=int(arguments[0])))


def _guard(worker: int, requests: int) -> int:
    """Wait for the worker's end or the study's, kill what is left, and return the worker's exit code."""
    descriptor = os.pidfd_open(worker)
    # Whoever waits for the other pipes' ends waits for the worker's alone.
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in (requests, descriptor):
            with suppress(OSError):  # the listing's own descriptor is closed already
                os.close(int(name))
    signal.signal(signal.SIGTERM, lambda *_: signal.pidfd_send_signal(descriptor, signal.SIGKILL))
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(requests, 0)  # a hang-up is reported unasked; what is written there is for the worker
    poll.poll()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    kill_descendants()
    # As a shell reports it: 128 + the signal's number.
    return 128 - status if status < 0 else status


def kill_descendants() -> None:
    """Kill children of this process until there are none: those of a killed child become ours."""
    while True:
        for pid in _children(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children(parent: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    # The command, in parentheses, may hold anything; state and parent follow it.
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent:
                found.append(int(name))
    return found


def prctl(option: int, value: int) -> None:
    """prctl(2).

    Raises:
        OSError: the kernel refuses.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")
