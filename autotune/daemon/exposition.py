"""Serving a text over loopback HTTP, beside how the daemon is, and writing it to a file: each in one thread.

Neither wakes up for nothing: the servers of prometheus-client and of the standard library look twice a second
whether they shall end.
"""

from __future__ import annotations

import logging
import os
import socket
import socketserver
import tempfile
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("autotune.daemon")

LONGEST_REQUEST_SECONDS = 2.0
"""Requests are answered one after the other: nobody may hold the next one up for longer."""


class Health(NamedTuple):
    """How the daemon is.

    Attributes:
        live: whether its main loop turns; if not, it should be started again.
        ready: whether it accepts leases and requests.
        why: one line on what is wrong, or on what it does.
    """

    live: bool
    ready: bool
    why: str


class Server:
    """Answers `/metrics`, `/healthz` and `/readyz`.

    Args:
        address: host and port, `127.0.0.1:9719` or `[::1]:9719`; port 0 for any that is free.
        text: makes what `/metrics` says.
        health: what the other two tell.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(self, address: str, text: Callable[[], bytes], health: Callable[[], Health]) -> None:
        host, _, port = address.rpartition(":")
        self._listener = _Listener(host.strip("[]"), int(port), text, health)
        self.port: int = self._listener.server_address[1]
        self._thread = threading.Thread(target=self._listener.serve, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End serving; a request that is being answered is cut off."""
        self._listener.end()
        self._thread.join()


class TextfileWriter:
    """Writes a text to a file again and again, each time whole or not at all, and removes it in the end.

    Args:
        path: of the file.
        seconds: between two times.
        text: makes what it says.
    """

    def __init__(self, path: str, seconds: float, text: Callable[[], bytes]) -> None:
        self._path, self._seconds, self._text = path, seconds, text
        self._complaint = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="metrics textfile", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End writing and remove the file."""
        self._ended.set()
        self._thread.join()
        with suppress(OSError):
            os.unlink(self._path)

    def _write_on(self) -> None:
        while not self._ended.is_set():
            complaint = ""
            try:
                _replace(self._path, self._text())
            except OSError as error:
                complaint = f"metrics.textfile {self._path} cannot be written: {error.strerror}"
            if complaint and complaint != self._complaint:
                logger.warning("%s", complaint)
            self._complaint = complaint
            self._ended.wait(self._seconds)


class _Listener(socketserver.TCPServer):
    allow_reuse_address = True

    def __init__(self, host: str, port: int, text: Callable[[], bytes], health: Callable[[], Health]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.text, self.health = text, health
        self.ending = False
        self.answering: _Answer | None = None
        super().__init__((host, port), _Answer)

    def serve(self) -> None:
        while not self.ending:
            self.handle_request()
        self.server_close()

    def end(self) -> None:
        self.ending = True
        # The only thing that wakes a thread which waits for somebody to connect.
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        answer = self.answering
        if answer is not None:
            answer.cut()

    def handle_error(self, *_: object) -> None:
        logger.debug("a request for metrics failed", exc_info=True)


class _Answer(BaseHTTPRequestHandler):
    server: _Listener
    server_version = "autotune"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.server.answering = self
        self.deadline = threading.Timer(LONGEST_REQUEST_SECONDS, self.cut)
        self.deadline.daemon = True
        self.deadline.start()

    def finish(self) -> None:
        self.deadline.cancel()
        self.server.answering = None
        super().finish()

    def cut(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._send(200, self.server.text(), CONTENT_TYPE_LATEST)
        elif path in ("/healthz", "/readyz"):
            health = self.server.health()
            well = health.live if path == "/healthz" else health.live and health.ready
            self._send(200 if well else 503, f"{health.why}\n".encode(), "text/plain; charset=utf-8")
        else:
            self._send(404, b"try /metrics, /healthz or /readyz\n", "text/plain; charset=utf-8")

    def _send(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: a line for every scrape is noise."""


def _replace(path: str, content: bytes) -> None:
    # The name must not end in `.prom`, or the collector would read it half written.
    handle, fresh = tempfile.mkstemp(prefix=".autotune-", suffix=".tmp", dir=os.path.dirname(path))
    try:
        with open(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)  # the collector is another user
        os.replace(fresh, path)
    except BaseException:
        os.unlink(fresh)
        raise
