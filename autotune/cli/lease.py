"""`autotune pause`, `resume` and `lease`: production's claims on devices."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Annotated, Any

import typer

from autotune.cli import options
from autotune.errors import UsageError

Device = Annotated[
    str, typer.Option("--device", metavar="NAME|all", help="A device of the daemon: cpu, cuda:0, ...")
]
Reason = Annotated[str, typer.Option("--reason", help="Shown by 'autotune status'.")]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Return only once the device's memory is free again.")
]


def pause(
    device: Device = "all",
    duration: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="Such as 10m; until 'resume' by default.")
    ] = None,
    wait: Wait = False,
    reason: Reason = "",
    json: options.Json = False,
) -> int:
    """Keep the daemon off a device. It outlives a restart of the daemon.

    Where no daemon runs there is nothing to keep off, and that is no error. Exits 1 if, with --wait, the
    device is not free of the daemon's work within `[gate] free_seconds`; the lease is held all the same.
    """
    from autotune.cli import output
    from autotune.daemon.control import NoDaemonError, Pause, ask

    seconds = options.seconds(duration, "--for") if duration else None
    try:
        lease = ask(Pause(device, seconds, wait=wait, reason=reason))
    except NoDaemonError as error:
        print(f"autotune: nothing to pause: {error}", file=sys.stderr)
        lease = None
    if json:
        output.print_json(lease)
    elif lease is not None:
        output.console.print(f"lease {lease['lease']} on {lease['device']}")
    return _tell_left(lease)


def resume(
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME|all", help="Only leases that name this device.")
    ] = None,
    lease: Annotated[str | None, typer.Option("--lease", metavar="ID", help="Only this lease.")] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Only leases that were taken with this reason.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Let the daemon tune again: ends what 'pause' began.

    A lease that a process holds ends with it, or when --lease names it.
    """
    from autotune.cli import output
    from autotune.daemon.control import NoDaemonError, Resume, ask

    if lease is not None and (device is not None or reason is not None):
        raise UsageError("--lease names one already; leave out --device and --reason")
    try:
        ended = ask(Resume(device, lease, reason))["ended"]
    except NoDaemonError as error:
        print(f"autotune: nothing to resume: {error}", file=sys.stderr)
        ended = []
    if json:
        output.print_json({"ended": ended})
    else:
        output.console.print(f"{len(ended)} {'lease' if len(ended) == 1 else 'leases'} ended")


def lease(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What to run.")],
    device: Device = "all",
    reason: Reason = "",
) -> int:
    """Run a command while the daemon is kept off a device; the lease ends with it, however it ends.

    The command takes the place of this process, so that signals and the exit status are its own.
    """
    from autotune.daemon.control import NoDaemonError, Pause, ask

    program = shutil.which(command[0])
    if program is None:
        raise UsageError(f"{command[0]!r} is no program that can be found; give its path")
    why = reason or " ".join(command)[:80]
    try:
        taken = ask(Pause(device, wait=True, held=True, reason=why))
    except NoDaemonError as error:
        print(f"autotune: running without a lease: {error}", file=sys.stderr)
        taken = None
    _tell_left(taken)
    sys.stdout.flush()
    try:
        os.execv(program, command)
    except OSError as error:
        raise UsageError(f"{program}: cannot be run: {error.strerror}") from None


def _tell_left(taken: dict[str, Any] | None) -> int:
    """Say what is still on the devices of a lease that was to be waited for; 1 if something is."""
    left = taken.get("left") if taken else None
    if not taken or not left:
        return 0
    told = "; ".join(f"{device}: {why}" for device, why in left.items())
    print(
        f"autotune: lease {taken['lease']} is held, but not all is free within [gate] free_seconds: {told}; "
        "see nvidia-smi or rocm-smi, and give the driver more time or restart the daemon",
        file=sys.stderr,
    )
    return 1
