"""A PostgreSQL server that really runs, in a temporary folder, as a user who may run one."""

from __future__ import annotations

import ctypes
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from autotune.config import FleetSettings

ROLES = Path(__file__).parents[2] / "db" / "fleet" / "roles.sql"
START_SECONDS = 60.0
PASSWORD = "correct horse battery staple"
"""Of every login of the tests."""
LOGINS = {
    "admin": "autotune_owner",
    "node": "autotune_node",
    "other_node": "autotune_node",
    "reader": "autotune_reader",
}
_PR_SET_PDEATHSIG = 1


def find_program(name: str) -> str | None:
    """The path of one of PostgreSQL's programs; None if it is not installed."""
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: int(path.split("/")[-2]))
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(reversed(folders)))


@dataclass(frozen=True)
class Database:
    """A database with the fleet's roles and tables.

    Attributes:
        folder: for files with passwords.
    """

    server: PostgresServer
    name: str
    folder: Path

    def settings(self, login: str = "node", port: int | None = None, **changes: object) -> FleetSettings:
        """The settings of a node, or of whoever has another login."""
        secret = self.folder / "password"
        if not secret.exists():
            secret.touch(mode=0o600)
            secret.write_text(PASSWORD + "\n")
        url = f"postgresql+psycopg://{login}@127.0.0.1:{port or self.server.port}/{self.name}"
        return FleetSettings(url=url, password_file=str(secret), **changes)  # type: ignore[arg-type]

    def sql(self, statement: str) -> str:
        """What psql answers its superuser, bare."""
        return self.server.sql(statement, self.name)


class PostgresServer:
    """A server on a free port of loopback and a Unix socket; logins there need their password.

    Args:
        options: of its configuration, beside those that make it small and quick.
    """

    def __init__(self, **options: str) -> None:
        # Below /tmp itself: its user must get there, and pytest's own folders are for their owner alone.
        self.folder = Path(tempfile.mkdtemp(prefix="autotune-pg-", dir="/tmp"))
        self.port = _free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._identity: dict[str, object] = {}
        if os.geteuid() == 0:
            name = next(name for name in ("postgres", "nobody") if _exists(name))
            found = pwd.getpwnam(name)
            self._identity = {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
            os.chown(self.folder, found.pw_uid, found.pw_gid)
        try:
            self._make()
            self.start()
            self._make_logins()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program("postgres"), "-D", str(self.folder / "data")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_die_with_parent,
                **self._identity,  # type: ignore[call-overload]
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if self._ready():
                return
            time.sleep(0.02)
        raise RuntimeError((self.folder / "log").read_text())

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends its connections, SIGQUIT leaves it as a crash does."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def close(self) -> None:
        """Stop it and remove all that it was."""
        try:
            self.stop(signal.SIGQUIT)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What psql answers its superuser, bare.

        Raises:
            RuntimeError: the statement fails.
        """
        return self._psql(["-At", "-c", statement], database)

    def create(self, folder: Path, template: str | None = None, name: str | None = None) -> Database:
        """A database: with the fleet's roles and tables, or a copy of another one."""
        name = name or f"fleet_{os.urandom(4).hex()}"
        self.sql(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        database = Database(self, name, folder)
        if template is None:
            from autotune.fleet.migrate import migrate

            self._psql(["-q", "-f", str(ROLES)], name)
            migrate(database.settings("admin"))
        return database

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected."""
        self.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def dump(self, name: str, path: Path) -> Path:
        """Back a database up, as its operator does."""
        self._program_on("pg_dump", ["--format=custom", f"--file={path}"], name)
        return path

    def restore(self, name: str, backup: Path) -> None:
        """Put a database back, whoever is connected and whatever is in it."""
        self.drop(name)
        self.sql(f"CREATE DATABASE {name}")
        self._program_on("pg_restore", ["--single-transaction", "--exit-on-error", str(backup)], name)

    def _make(self) -> None:
        data = self.folder / "data"
        arguments = [
            "-D",
            str(data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        self._run([_program("initdb"), *arguments])
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "shared_buffers": "32MB",
            "max_connections": "200",
            "password_encryption": "scram-sha-256",
            **self._options,
        }
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in options.items())
        (data / "pg_hba.conf").write_text("local all all trust\nhost all all all scram-sha-256\n")

    def _make_logins(self) -> None:
        self._psql(["-q", "-f", str(ROLES)], "postgres")
        for login, role in LOGINS.items():
            self.sql(f"CREATE ROLE {login} LOGIN PASSWORD '{PASSWORD}' IN ROLE {role}")

    def _psql(self, arguments: list[str], database: str) -> str:
        return self._program_on("psql", ["-X", "-v", "ON_ERROR_STOP=1", *arguments], database)

    def _program_on(self, name: str, arguments: list[str], database: str) -> str:
        """Have one of PostgreSQL's programs do something as the superuser; returns what it printed."""
        flags = ["-h", str(self.folder), "-p", str(self.port), "-U", "postgres", "-d", database]
        done = subprocess.run(
            [_program(name), *flags, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
            **self._identity,  # type: ignore[call-overload]
        )
        if done.returncode:
            raise RuntimeError(done.stderr)

    def _ready(self) -> bool:
        try:
            self.sql("SELECT 1")
        except RuntimeError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _program(name: str) -> str:
    found = find_program(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed")
    return found


def _die_with_parent() -> None:
    """Even tests that are killed leave no server behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGQUIT), 0, 0, 0)
