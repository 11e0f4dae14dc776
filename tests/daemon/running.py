"""A daemon that really runs, in folders of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
KERNELS = str(Path(__file__).parent / "quick_kernels.py")
PATIENCE_SECONDS = 120.0
"""A test that waits longer than this has failed; the machine may be busy."""
POLL_SECONDS = 0.02
LOOK_SECONDS = 1.0

SETTINGS = f"""
[daemon]
devices = ["cpu"]
[worker]
modules = ["{KERNELS}"]
[gate]
looks = 2
look_seconds = 0.05
watch_seconds = 0.05
others_cpu = 1.0
others_running = 1000
memory_available = 0.01
temperature_c = 150
[measure]
screen_seconds = 0.5
[study]
budget_seconds = 30
[metrics]
address = ""
"""


class RunningDaemon:
    """A daemon process with its own state, sockets, settings and service manager."""

    def __init__(
        self,
        folder: Path,
        settings: str = SETTINGS,
        environment: dict[str, str] | None = None,
        user: int | None = None,
    ) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.log = folder / "log"
        self.settings = folder / "config.toml"
        self.settings.write_text(settings)
        (folder / "run").mkdir(parents=True, exist_ok=True)
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        # Paths of sockets have at most 107 characters.
        address = folder / "n.sock"
        address.unlink(missing_ok=True)
        self.manager.bind(str(address))
        # Another user than that of the test, who may then write in the folder.
        self.identity: dict[str, Any] = {}
        if user is not None:
            self.identity = {"user": user, "group": user, "extra_groups": ()}
            for path in (folder, folder / "run", address):
                os.chown(path, user, user)
        self.told: list[str] = []
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "AUTOTUNE_CONFIG": str(self.settings),
            "AUTOTUNE_STATE_DIR": str(self.state),
            "AUTOTUNE_CACHE_DIR": str(folder / "cache"),
            "AUTOTUNE_RUNTIME_DIR": str(folder / "run"),
            "AUTOTUNE_REQUEST_SOCKET": str(folder / "run" / "requests.sock"),
            **(environment or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RunningDaemon:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.manager.close()

    def start(self) -> None:
        """Start it, and wait until it says that it is ready."""
        self.told.clear()
        environment = {**self.environment, "NOTIFY_SOCKET": str(self.folder / "n.sock")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "autotune", "daemon"],
                env=environment,
                stderr=log,
                cwd=ROOT,
                **self.identity,
            )
        self.wait_until(lambda: self.heard("READY=1"))

    def heard(self, assignment: str) -> bool:
        """Whether the service manager was told so."""
        while select.select([self.manager], [], [], 0)[0]:
            self.told += self.manager.recv(4096).decode().splitlines()
        return assignment in self.told

    def wait_until(self, holds: Callable[[], Any], patience_seconds: float = PATIENCE_SECONDS) -> Any:
        """Wait for something to hold; returns it."""
        waited, looked = 0.0, time.monotonic()
        while waited < patience_seconds:
            if found := holds():
                return found
            assert self.process is None or self.process.poll() is None, self.log.read_text()
            time.sleep(POLL_SECONDS)
            # Of one look no more counts: all processes of the test may have been stopped for a while.
            waited += min(time.monotonic() - looked, LOOK_SECONDS)
            looked = time.monotonic()
        raise AssertionError(self.log.read_text())

    def command(self, *words: str, check: bool = True, **identity: Any) -> subprocess.CompletedProcess[str]:
        """Run a command of the command line."""
        return subprocess.run(
            [sys.executable, "-m", "autotune", *words],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=check,
            **identity,
        )

    def ask(self, question: Any, content: bytes | None = None) -> Any:
        """Ask it over its control socket, with a file's content if that belongs to the question."""
        from autotune.daemon import control

        before = os.environ.get("AUTOTUNE_RUNTIME_DIR")
        os.environ["AUTOTUNE_RUNTIME_DIR"] = str(self.folder / "run")
        try:
            return control.ask(question, content=content)
        finally:
            if before is None:
                del os.environ["AUTOTUNE_RUNTIME_DIR"]
            else:
                os.environ["AUTOTUNE_RUNTIME_DIR"] = before

    def device(self, name: str = "") -> dict[str, Any]:
        """The status of a device, the first one by default."""
        from autotune.daemon.control import Status

        devices = self.ask(Status())["devices"]
        return next(device for device in devices if name in ("", device["device"]))

    def look_up(
        self, workload: str, *, user: int | None = None, **problem: int
    ) -> tuple[str, dict[str, Any]]:
        """What another process finds, perhaps another user's: the kind of match and the configuration."""
        identity: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": ()}
        script = f"""
import json, warnings
warnings.simplefilter("ignore")
from autotune.workloads.registry import import_module
import_module({KERNELS!r})
import autotune
found = autotune.get_best_config({workload!r}, **{problem!r})
print(json.dumps([found.match, dict(found)]))
"""
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            **identity,
        )
        match, configuration = json.loads(done.stdout)
        return match, configuration

    def order(self, workload: str, **problem: int) -> None:
        """Ask for a problem as an operator."""
        from autotune.daemon.control import Ask, Wanted

        self.ask(Ask([Wanted(workload, problem)]))

    def doze(self) -> set[int]:
        """Have it run a trial that does not end by itself; returns the processes below the daemon."""
        self.order("dozing", rows=4)

        def dozes() -> bool:
            study = self.device()["study"] or {}
            return (study.get("trying") or {}).get("seconds") == 600

        self.wait_until(dozes)
        # From the warden down: the study, the warden, and the worker.
        return self.wait_until(lambda: below if len(below := self.below()) >= 3 else None)

    def below(self) -> set[int]:
        """The processes that it started, and that those did."""
        assert self.process is not None, "started before"
        return {process.pid for process in psutil.Process(self.process.pid).children(recursive=True)}

    def terminate(self) -> int:
        """Send SIGTERM, and wait for the end; returns the exit status."""
        assert self.process is not None, "started before"
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE_SECONDS)
        self.process = None
        return status


def alive(pids: set[int]) -> set[int]:
    """Those that are not dead; one that is dead and not waited for by its parent is."""
    found = set()
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.add(pid)
        except psutil.NoSuchProcess:
            continue
    return found
