"""The daemon's event loop: it sleeps until a descriptor is ready, a timer is due or another thread posts.

Nothing is polled: an idle daemon does not wake up. Timers count on the monotonic clock, so that setting the
clock neither delays nor hurries them.
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import signal
import socket
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Callback = Callable[[], object]


class Timer:
    """A callback to come; see `Loop.later`."""

    __slots__ = ("_callback", "due")

    def __init__(self, due: float, callback: Callback) -> None:
        self.due = due
        self._callback: Callback | None = callback

    @property
    def waiting(self) -> bool:
        """Whether it is still to come."""
        return self._callback is not None

    def cancel(self) -> None:
        """Forget it."""
        self._callback = None

    def take(self) -> Callback | None:
        """The callback, which is then no longer to come; None if it was cancelled."""
        callback, self._callback = self._callback, None
        return callback


class Loop:
    """Calls back, one thing at a time, in the thread that runs it.

    Args:
        on_error: called with what a callback raised; the loop goes on.
    """

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._posted: deque[Callback] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._signals, self._signalled = socket.socketpair()
        self._handlers: dict[int, Callback] = {}
        self._running = False
        self.watch(self._wake, self._drain)

    def watch(self, descriptor: int, callback: Callback, *, writable: bool = False) -> None:
        """Call back when a descriptor can be read, or written if `writable`; in place of an earlier one."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0)
        try:
            self._selector.modify(descriptor, events, callback)
        except KeyError:
            self._selector.register(descriptor, events, callback)

    def forget(self, descriptor: int) -> None:
        """Watch a descriptor no more; to be called before it is closed."""
        with suppress(KeyError):
            self._selector.unregister(descriptor)

    def later(self, seconds: float, callback: Callback) -> Timer:
        """Call back once, after some seconds."""
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        return timer

    def post(self, callback: Callback) -> None:
        """Call back soon; may be called from any thread."""
        self._posted.append(callback)
        with suppress(BlockingIOError):  # it is awake already
            os.eventfd_write(self._wake, 1)

    def on_signal(self, number: int, callback: Callback) -> None:
        """Call back when a signal arrives; to be called from the main thread."""
        if not self._handlers:
            for end in (self._signals, self._signalled):
                end.setblocking(False)
            signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
            self.watch(self._signals.fileno(), self._take_signals)
        self._handlers[number] = callback
        signal.signal(number, _nothing)

    def run(self) -> None:
        """Wait and call back until `stop`."""
        self._running = True
        while self._running:
            ready = self._selector.select(self._until_next_timer())
            for key, _ in ready:
                # One callback may have closed the descriptor of the next.
                if self._selector.get_map().get(key.fd) is key:
                    self._call(key.data)
            self._call_timers()

    def stop(self) -> None:
        """Have `run` return after the present callback."""
        self._running = False

    def close(self) -> None:
        """Let go of everything."""
        if self._handlers:
            signal.set_wakeup_fd(-1)
        self._selector.close()
        os.close(self._wake)
        self._signals.close()
        self._signalled.close()

    def _until_next_timer(self) -> float | None:
        while self._timers and not self._timers[0][2].waiting:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _call_timers(self) -> None:
        now = time.monotonic()
        while self._running and self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].take()
            if callback is not None:
                self._call(callback)

    def _drain(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        for _ in range(len(self._posted)):  # what they post in turn has its own wake-up
            self._call(self._posted.popleft())

    def _take_signals(self) -> None:
        with suppress(BlockingIOError):
            for number in dict.fromkeys(self._signals.recv(4096)):
                if number in self._handlers:
                    self._call(self._handlers[number])

    def _call(self, callback: Callback) -> None:
        try:
            callback()
        except Exception as error:
            self._on_error(error)


def _nothing(*_: object) -> None:
    """A handler must be set for the wake-up descriptor to be written to."""
