"""A daemon for a benchmark: a real one, in folders of its own, that nobody else talks to."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from autotune.daemon import control

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_SECONDS = 300.0


class RunningDaemon:
    """A daemon process.

    Args:
        settings: the content of its config.toml.
        watchdog_seconds: how often the pretended service manager wants to hear from it.
    """

    def __init__(self, settings: str, watchdog_seconds: float | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="autotune-")
        self._settings = settings
        self._watchdog_seconds = watchdog_seconds
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def __enter__(self) -> RunningDaemon:
        folder = self._folder.name
        address = os.path.join(folder, "notify.sock")
        self._manager.bind(address)
        with open(os.path.join(folder, "config.toml"), "w") as file:
            file.write(self._settings)
        # Of this process too: it asks the daemon.
        os.environ |= {
            "AUTOTUNE_CONFIG": os.path.join(folder, "config.toml"),
            "AUTOTUNE_STATE_DIR": os.path.join(folder, "state"),
            "AUTOTUNE_RUNTIME_DIR": os.path.join(folder, "run"),
        }
        environment = {**os.environ, "NOTIFY_SOCKET": address}
        if self._watchdog_seconds is not None:
            environment["WATCHDOG_USEC"] = str(int(self._watchdog_seconds * 1e6))
        self.log = os.path.join(folder, "log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "autotune", "daemon"], env=environment, stderr=log
            )
        self.wait_until(self._is_ready)
        threading.Thread(target=self._hear, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        self._manager.close()
        self._folder.cleanup()

    def device(self) -> dict[str, Any]:
        """The status of its first device."""
        found: dict[str, Any] = control.ask(control.Status())["devices"][0]
        return found

    def wait_until(self, holds: Callable[[], Any]) -> Any:
        """Wait for something to hold; returns it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := holds()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                with open(self.log) as log:
                    sys.exit(f"the daemon ended, or hangs:\n{log.read()}")
            time.sleep(0.02)
        return found

    def _hear(self) -> None:
        """Take what it tells the service manager, as a real one would."""
        with suppress(OSError):
            while True:
                self._manager.recv(4096)

    def _is_ready(self) -> bool:
        while select.select([self._manager], [], [], 0)[0]:
            if b"READY=1" in self._manager.recv(4096):
                return True
        return False
