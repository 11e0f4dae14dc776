"""The keeper: a small process between autotune and a server, which ends the server for certain.

    autotune ── keeper ── server ── whatever the server starts

As their subreaper it inherits every orphan below it, also those that made themselves sessions of their own.
When autotune closes its end of the control pipe, or dies, the server gets SIGTERM and some seconds, and then
whatever is left below the keeper is killed. A byte on the pipe means that there is no time to wait. Should
the keeper itself be killed, the kernel kills the server with it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import suppress

from autotune.worker.warden import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, kill_descendants, prctl

NOT_RUN = 127
"""Exit status, as a shell's, where the command cannot be run."""


def main(arguments: list[str]) -> None:
    """Start the command, and stay behind as its keeper.

    Args:
        arguments: number of the control pipe's descriptor, seconds between SIGTERM and SIGKILL, the command.
    """
    control, seconds, command = int(arguments[0]), float(arguments[1]), arguments[2:]
    os.set_inheritable(control, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    keeper = os.getpid()
    server = os.fork()
    if server == 0:
        # A session of its own: no terminal's signal reaches it, and SIGTERM goes to all of its group.
        os.setsid()
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(1)
        try:
            os.execvp(command[0], command)
        except OSError as error:
            print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
            os._exit(NOT_RUN)
    os._exit(_keep(server, control, seconds))


def _keep(server: int, control: int, seconds: float) -> int:
    """Wait for the server's end or the order to end it, kill what is left, and return the server's status."""
    descriptor = os.pidfd_open(server)
    told_to_end = os.eventfd(0)
    signal.signal(signal.SIGTERM, lambda *_: os.eventfd_write(told_to_end, 1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    waiting = select.poll()
    for each in (descriptor, control, told_to_end):
        waiting.register(each, select.POLLIN)
    ready = {each for each, _ in waiting.poll()}
    if descriptor not in ready:
        if not _hurried(control):
            with suppress(ProcessLookupError):
                os.killpg(server, signal.SIGTERM)
            ending = select.poll()
            ending.register(descriptor, select.POLLIN)
            ending.poll(seconds * 1e3)
        with suppress(ProcessLookupError):
            os.killpg(server, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])
    kill_descendants()
    # As a shell reports it: 128 + the signal's number.
    return 128 - status if status < 0 else status


def _hurried(control: int) -> bool:
    """Whether there is a byte on the control pipe, rather than its end."""
    os.set_blocking(control, False)
    try:
        return bool(os.read(control, 1))
    except BlockingIOError:
        return False
