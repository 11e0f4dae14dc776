"""Leases: production's claims on devices. While one is held, nothing is tuned there.

A lease ends when it is resumed, when its time is up, or with the process that holds it. They are kept in a
file, so that a daemon that is started again goes on honouring them.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import msgspec

from autotune.daemon.process_tree import start_ticks
from autotune.daemon.state_file import read_state, write_state
from autotune.errors import StateDirError, UsageError
from autotune.fingerprint.files import read_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from autotune.daemon.loop import Loop

ALL = "all"
"""The device of a lease on every device."""
MOST_LEASES = 256
"""A lease is a decision of production's: hundreds of them are a script gone wild."""
LATEST_EXPIRY_CHECK = 3600.0
"""Seconds after which a time is computed again: the clock may have been set."""


class Holder(msgspec.Struct, frozen=True):
    """The process that holds a lease.

    Attributes:
        started: when it started, in ticks since the machine did: a number may be given to another process.
    """

    pid: int
    started: int


class Lease(msgspec.Struct, frozen=True):
    """A claim.

    Attributes:
        id: its number, as text.
        device: a device's name, or `all`.
        user: id of the user who asked.
        reason: for people.
        since: seconds since the epoch.
        boot: which start of the machine `until_boottime` counts from.
        until_boottime: seconds after that start at which it ends, suspension included; None: not by itself.
        until: the same moment in seconds since the epoch, for when the machine was started anew.
        holder: the process that it ends with; None: with none.
    """

    id: str
    device: str
    user: int
    reason: str
    since: float
    boot: str
    until_boottime: float | None = None
    until: float | None = None
    holder: Holder | None = None

    def covers(self, device: str) -> bool:
        """Whether it claims a device."""
        return self.device in (ALL, device)

    def seconds_left(self) -> float | None:
        """Until it ends by itself; None if it does not."""
        if self.until_boottime is None or self.until is None:
            return None
        if self.boot == boot_id():
            return self.until_boottime - time.clock_gettime(time.CLOCK_BOOTTIME)
        return self.until - time.time()


class Leases:
    """All leases, in memory and on disk.

    Args:
        path: of their file.
        loop: that watches holders and the time.
        changed: called after one has come or gone.

    Attributes:
        notice: what a person should know about the file; empty if nothing.
    """

    def __init__(self, path: str, loop: Loop, changed: Callable[[], None]) -> None:
        self._path = path
        self._loop = loop
        self._changed = changed
        self._watched: dict[str, int] = {}
        kept, self.notice = read_state(path, list[Lease], [])
        self._leases = {lease.id: lease for lease in kept}
        for lease in kept:
            self._guard(lease)

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._leases.values()))

    def __len__(self) -> int:
        return len(self._leases)

    def on(self, device: str) -> list[Lease]:
        """Those that claim a device."""
        return [lease for lease in self._leases.values() if lease.covers(device)]

    def take(
        self,
        device: str,
        *,
        user: int,
        reason: str = "",
        seconds: float | None = None,
        holder: int | None = None,
    ) -> Lease:
        """A new lease; it is on the disk when this returns.

        Args:
            device: a device's name, or `all`.
            user: who asks.
            reason: for people.
            seconds: after which it ends; None: not by itself.
            holder: the process that it ends with.

        Raises:
            UsageError: the holder is gone, or there are too many leases.
            StateDirError: it cannot be kept.
        """
        if len(self._leases) >= MOST_LEASES:
            raise UsageError(f"{MOST_LEASES} leases are held, the most there may be; see 'autotune status'")
        now, since_boot = time.time(), time.clock_gettime(time.CLOCK_BOOTTIME)
        lease = Lease(
            id=self._free_id(),
            device=device,
            user=user,
            reason=reason,
            since=now,
            boot=boot_id(),
            until_boottime=None if seconds is None else since_boot + seconds,
            until=None if seconds is None else now + seconds,
            holder=None if holder is None else _holder(holder),
        )
        self._leases[lease.id] = lease
        # Room is made first: the disk may take longer than the worker's end.
        self._changed()
        try:
            write_state(self._path, list(self._leases.values()))
        except StateDirError:
            del self._leases[lease.id]
            self._changed()
            raise
        self._guard(lease)
        return lease

    def release(self, ids: Iterable[str]) -> list[Lease]:
        """End leases; returns those that there were.

        Raises:
            StateDirError: the file cannot be written; they end all the same, and come back with a new start.
        """
        ended = [lease for id_ in ids if (lease := self._leases.pop(id_, None)) is not None]
        for lease in ended:
            self._unwatch(lease.id)
        if ended:
            self._changed()
            write_state(self._path, list(self._leases.values()))
        return ended

    def _guard(self, lease: Lease) -> None:
        """See to it that a lease ends with its holder, and in time."""
        if lease.holder is not None:
            try:
                descriptor = os.pidfd_open(lease.holder.pid)
            except OSError:
                self._end_soon(lease)
                return
            if start_ticks(lease.holder.pid) not in (lease.holder.started, None):
                os.close(descriptor)
                self._end_soon(lease)
                return
            self._watched[lease.id] = descriptor
            self._loop.watch(descriptor, lambda: self._end(lease.id))
        self._guard_time(lease)

    def _guard_time(self, lease: Lease) -> None:
        left = lease.seconds_left()
        if lease.id not in self._leases or left is None:
            return
        if left <= 0:
            self._end_soon(lease)
        else:
            self._loop.later(min(left, LATEST_EXPIRY_CHECK), lambda: self._guard_time(lease))

    def _end_soon(self, lease: Lease) -> None:
        self._loop.post(lambda: self._end(lease.id))

    def _end(self, id_: str) -> None:
        self.release([id_])

    def _unwatch(self, id_: str) -> None:
        descriptor = self._watched.pop(id_, -1)
        if descriptor >= 0:
            self._loop.forget(descriptor)
            os.close(descriptor)

    def _free_id(self) -> str:
        return str(1 + max((int(id_) for id_ in self._leases if id_.isdecimal()), default=0))


def boot_id() -> str:
    """Which start of the machine this is."""
    return read_head("/proc/sys/kernel/random/boot_id")


def _holder(pid: int) -> Holder:
    started = start_ticks(pid)
    if started is None:
        raise UsageError(
            f"process {pid} cannot be seen by the daemon, so that a lease could not end with it; "
            "use 'autotune pause --for' and 'autotune resume'"
        )
    return Holder(pid, started)
