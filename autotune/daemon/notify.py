"""Telling the service manager how the daemon is: the protocol of sd_notify(3), standard library only."""

from __future__ import annotations

import os
import socket
import time

LONGEST_WAIT_SECONDS = 0.5
"""What a message may wait for a service manager whose queue is full; beyond, it is dropped. A status never
waits: it comes with every trial, and a device may have to be freed meanwhile."""

LONGEST_STATUS = 250


class Notifier:
    """Sends states to the service manager; without one, nothing happens. No method ever raises.

    Attributes:
        watchdog_seconds: how often `watchdog` must be called: half of what the manager allows; None if it
            does not watch this process.

    Args:
        address: of the manager's socket, a path or `@` and an abstract name; by default `NOTIFY_SOCKET`.
    """

    def __init__(self, address: str | None = None) -> None:
        given = os.environ.get("NOTIFY_SOCKET", "") if address is None else address
        self._address = f"\0{given[1:]}" if given.startswith("@") else given
        # Others, such as `vsock:`, are for virtual machines that report to their host.
        self._socket = (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            if self._address.startswith(("/", "\0"))
            else None
        )
        self._status = ""
        self.watchdog_seconds = _watchdog_seconds() if self._socket else None

    def close(self) -> None:
        """Let go of the socket; later calls do nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self, status: str) -> None:
        """Say that starting, or reloading, is done."""
        self._status = _one_line(status)
        self._send("READY=1", f"STATUS={self._status}")

    def status(self, text: str) -> None:
        """Say what is going on; sent only when it changed."""
        line = _one_line(text)
        if line != self._status and self._send(f"STATUS={line}", wait=False):
            self._status = line

    def watchdog(self) -> None:
        """Say that the main loop is alive."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Say that settings are being read again; `ready` ends it."""
        # systemd takes a READY=1 for this reload's only if it was sent after this moment.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1", *([f"STATUS={_one_line(status)}"] if status else []))

    def _send(self, *assignments: str, wait: bool = True) -> bool:
        if self._socket is None:
            return False
        message = "\n".join(assignments).encode(errors="replace")
        self._socket.settimeout(LONGEST_WAIT_SECONDS if wait else 0.0)
        try:
            return self._socket.sendto(message, self._address) == len(message)
        except OSError:  # it was restarted, is busy, or refuses: nothing that tuning should suffer from
            return False


def _watchdog_seconds() -> float | None:
    """Half of `WATCHDOG_USEC`, as sd_watchdog_enabled(3) advises, if it is meant for this process."""
    allowed = os.environ.get("WATCHDOG_USEC", "")
    meant_for = os.environ.get("WATCHDOG_PID", "") or str(os.getpid())
    if not (allowed.isascii() and allowed.isdigit()) or meant_for != str(os.getpid()):
        return None
    return int(allowed) / 2e6 or None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:LONGEST_STATUS]
