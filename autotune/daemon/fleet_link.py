"""The daemon's end of its fleet process: starting it, answering it, starting it again.

The daemon waits for nothing there. What hangs on the network hangs in the other process, and what it brings
is kept in transactions of some milliseconds.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from autotune.daemon import fleet_messages as messages
from autotune.daemon import study_process
from autotune.daemon.request_book import backoff
from autotune.errors import InternalError, StateError
from autotune.fingerprint.stack import stack_facts
from autotune.store.fleet import forget_received, prepare, request_entry, standpoint, summary, take
from autotune.store.snapshot import is_stale
from autotune.worker.environment import environment
from autotune.worker.framing import FrameBuffer

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.config import Settings
    from autotune.daemon.archive import Archive
    from autotune.daemon.fleet_messages import Cell
    from autotune.daemon.fleet_metrics import FleetMetrics
    from autotune.daemon.loop import Loop
    from autotune.daemon.request_book import RequestBook
    from autotune.daemon.supervisor import Supervisor
    from autotune.store.fleet import Entry, Standpoint
    from autotune.store.history import History

logger = logging.getLogger("autotune.daemon")

WARM_SECONDS = 20.0
"""How long the first study waits for what the fleet knows: an unreachable fleet is told sooner."""
RESTART_SECONDS = 5.0
"""Before it is started again, twice as long each time."""
MOST_READ = 1 << 18
MOST_WISHES = 200
"""Requests that are passed on at a time, those most wanted."""


class FleetLink:
    """Keeps a fleet process going while a fleet is configured.

    Args:
        loop: which watches it.
        metrics: told of what is exchanged.
        archive: that holds the history.
        book: of requests, which are passed on.
        supervisors: of the devices of this node.
        wished: called with what others wish, once each.
        warmed: called once the first exchange has ended, or nobody waits for it any longer.
        failed: told of what went wrong, one line.

    Attributes:
        told: how the last exchange ended; None before the first.
    """

    def __init__(
        self,
        loop: Loop,
        metrics: FleetMetrics,
        archive: Archive,
        book: RequestBook,
        supervisors: Callable[[], list[Supervisor]],
        wished: Callable[[Supervisor, Entry], None],
        warmed: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._metrics = metrics
        self._archive = archive
        self._book = book
        self._supervisors = supervisors
        self._wished = wished
        self._warmed = warmed
        self._failed = failed
        self._settings: Settings | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._frames, self._unsaid = FrameBuffer(), bytearray()
        self._restarts = 0
        self._closing = False
        self._last_failure = ""
        self._kinds: dict[str, str] = {}
        self.warming = False
        self.told: messages.Told | None = None
        self.told_at = 0.0
        self.succeeded_at = 0.0

    def adopt(self, settings: Settings) -> None:
        """Begin, go on, or end, as the settings say."""
        before, self._settings = self._settings, settings
        if before is not None and (before.fleet, before.worker.modules) == (
            settings.fleet,
            settings.worker.modules,
        ):
            return
        self._restarts = 0
        self._metrics.expose(bool(settings.fleet.url))
        if self._process is not None:
            self._process.kill()  # it is started again when its end is seen
        elif settings.fleet.url:
            self.warming = True
            self._loop.later(WARM_SECONDS, self._end_warming)
            self._start()

    def hurry(self) -> None:
        """Something was decided here: tell the fleet soon."""
        self._say(messages.Now())

    def close(self) -> None:
        """End it: the daemon ends."""
        self._closing = True
        if self._process is not None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
        self._hang_up()

    def report(self) -> dict[str, Any] | None:
        """How it is, in types that JSON knows; None if no fleet is configured."""
        if self._settings is None or not self._settings.fleet.url:
            return None
        told, history = self.told, self._archive.history
        numbers = summary(history) if history is not None else None
        return {
            "reached": told is not None and not told.failure,
            "failure": (told.failure or None) if told else None,
            "last_exchange_at": self.succeeded_at or None,
            "seconds": told.seconds if told else None,
            "rejected": told.rejected if told else 0,
            "slowdown": told.slowdown if told else None,
            "nodes_compared": told.nodes if told else 0,
            "waiting": numbers.waiting if numbers else None,
            "known": numbers.known if numbers else None,
            "unverified": numbers.unverified if numbers else None,
        }

    def _start(self) -> None:
        if self._closing or self._settings is None or not self._settings.fleet.url:
            return
        ours, theirs = socket.socketpair()
        command = [
            sys.executable,
            "-P",
            "-m",
            "autotune.fleet.process",
            str(theirs.fileno()),
            str(os.getpid()),
        ]
        with theirs:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=sys.stderr,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    env=environment(),
                )
            except OSError as error:
                ours.close()
                self._failed(f"the fleet process does not start: {error.strerror}")
                self._restart_later()
                return
        self._process, self._socket = process, ours
        self._frames, self._unsaid = FrameBuffer(), bytearray()
        study_process.started.add(process.pid)
        end = os.pidfd_open(process.pid)
        ours.setblocking(False)
        self._loop.watch(ours.fileno(), self._read)
        self._loop.watch(end, lambda: self._ended(process, end))
        self._say(messages.Begin(self._settings.fleet, self._settings.worker.modules))

    def _restart_later(self) -> None:
        self._restarts += 1
        self._end_warming()
        self._loop.later(backoff(self._restarts, RESTART_SECONDS), self._start)

    def _ended(self, process: subprocess.Popen[bytes], end: int) -> None:
        self._loop.forget(end)
        os.close(end)
        self._hang_up()
        process.wait()
        study_process.started.discard(process.pid)
        self._process = None
        if self._closing:
            return
        self._metrics.lost()
        if process.returncode not in (0, -signal.SIGKILL):
            self._note(f"the fleet process ended with status {process.returncode}")
        self._restart_later()

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _say(self, message: messages.ToFleet) -> None:
        if self._socket is None:
            return
        payload = messages.encode(message)
        self._unsaid += len(payload).to_bytes(4, "big") + payload
        self._speak()

    def _speak(self) -> None:
        """Say as much as it takes now: a hundred winners are more than a socket holds."""
        assert self._socket is not None, "there is somebody to speak to"
        try:
            while self._unsaid:
                del self._unsaid[: self._socket.send(self._unsaid)]
        except BlockingIOError:
            self._loop.watch(self._socket.fileno(), self._speak_and_read, writable=True)
        except OSError:  # it is dead
            self._kill()
        else:
            self._loop.watch(self._socket.fileno(), self._read)

    def _speak_and_read(self) -> None:
        self._speak()
        self._read()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _read(self) -> None:
        assert self._socket is not None, "watched while it is open"
        try:
            data = self._socket.recv(MOST_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            return
        self._frames.feed(data)
        try:
            while self._socket is not None and (frame := self._frames.take()) is not None:
                self._heard(messages.decode_from_fleet(frame))
        except (InternalError, msgspec.DecodeError):
            self._kill()
        except StateError as error:
            # It is told nothing, and so begins again; what it brought is asked for again then.
            self._archive.unwritten(error)
            self._kill()

    def _heard(self, message: messages.FromFleet) -> None:
        if isinstance(message, messages.Told):
            self._note_told(message)
            return
        history = self._archive.history
        if history is None or self._settings is None:
            self._kill()
            return
        match message:
            case messages.Prepare():
                self._record_stacks(history)
                wishes = self._wishes()
                standing = prepare(history, wishes, serve=self._settings.fleet.serve_unverified)
                self._answer(standing, self._cells())
            case messages.Forget():
                logger.warning("the fleet's database was put back or is another one; all is exchanged anew")
                forget_received(history)
                self._answer(standpoint(history), [])
            case messages.Take(entries, cursors, sent, mark):
                new = take(history, entries, cursors, sent, mark)
                self._metrics.sent(self._kinds[digest] for digest in sent if digest in self._kinds)
                standing = standpoint(history)
                self._metrics.received(new, standing.node)
                self._answer(standing, [])
                self._pass_on(new)

    def _answer(self, standing: Standpoint, cells: list[Cell]) -> None:
        self._kinds = {entry.digest: entry.kind for entry in standing.unsent}
        self._say(messages.Stands(standing, cells))

    def _publish(self) -> None:
        """Have look-ups find what the fleet proved."""
        history = self._archive.history
        if history is not None and is_stale(history):
            self._archive.catch_up()

    def _pass_on(self, new: list[Entry]) -> None:
        cells = {(one.device.digest, one.stack): one for one in self._supervisors()}
        for entry in new:
            supervisor = cells.get((entry.device, entry.stack))
            if entry.kind == "request" and supervisor is not None:
                self._wished(supervisor, entry)

    def _note_told(self, told: messages.Told) -> None:
        if self.told is not None and not told.nodes:
            told = msgspec.structs.replace(told, nodes=self.told.nodes, slowdown=self.told.slowdown)
        self.told, self.told_at = told, time.time()
        self._metrics.exchanged(told, self.told_at)
        if self._archive.history is not None:
            self._metrics.stands(summary(self._archive.history))
        # Once for all that an exchange brought: only so many generations are kept.
        self._publish()
        if told.failure:
            self._note(told.failure)
        else:
            self.succeeded_at, self._restarts = self.told_at, 0
            if self._last_failure:
                logger.info("the fleet is reached again")
            self._last_failure = ""
            if told.received or told.sent:
                extra = {"received": told.received, "sent": told.sent, "rejected": told.rejected}
                logger.info("exchanged with the fleet", extra=extra)
        self._end_warming()

    def _note(self, failure: str) -> None:
        """Tell of a failure, once for as long as it lasts."""
        if failure != self._last_failure:
            self._last_failure = failure
            self._failed(f"fleet: {failure}")

    def _end_warming(self) -> None:
        if self.warming:
            self.warming = False
            self._warmed()

    def _cells(self) -> list[Cell]:
        """The devices of this node whose stack is known, those that are equal once."""
        found = {}
        for one in self._supervisors():
            device = one.device
            if one.stack is not None:
                found[device.digest] = messages.Cell(
                    device.digest, one.stack, device.kind, device.name, device.family, dict(device.facts)
                )
        return list(found.values())

    def _record_stacks(self, history: History) -> None:
        """What is taken from the fleet names its stack, perhaps before any study has recorded it."""
        known = {stack.digest for stack in history.stacks()}
        for one in self._supervisors():
            if one.stack is not None and one.stack not in known:
                history.record_stack(one.stack, stack_facts())

    def _wishes(self) -> list[Entry]:
        known = {one.name: one for one in self._supervisors() if one.stack is not None}
        entries = [
            entry for entry in self._book if entry.device in known and entry.key and not entry.operator
        ]
        entries.sort(key=lambda entry: -entry.weight)
        return [
            request_entry(
                known[entry.device].device.digest,
                known[entry.device].stack or "",
                entry.workload,
                entry.dimensions,
                entry.key,
                entry.objective,
                entry.max_error,
            )
            for entry in entries[:MOST_WISHES]
        ]
