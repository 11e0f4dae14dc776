from __future__ import annotations

import logging
import os
import pickle
import re
import socket
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING

import pytest

from autotune.config import FleetSettings
from autotune.errors import ConfigError, FleetError
from autotune.fleet.connection import connect, connect_arguments, database_url, told, warn_of_plain_text
from autotune.fleet.secret import Secret, read_password
from tests.fleet.postgres import PASSWORD, PostgresServer, find_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.fleet.postgres import Database

ELSEWHERE = "postgresql+psycopg://node@db.example:5432/fleet"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    path.write_text("hunter2\n")
    return path


def test_a_password_shows_itself_nowhere_but_where_it_is_asked_for(secret: Path) -> None:
    found = read_password(str(secret))
    assert found is not None
    assert found.reveal() == "hunter2"
    assert "hunter2" not in f"{found} {found!r} {[found]}"
    with pytest.raises(TypeError):
        pickle.dumps(found)


def test_a_password_comes_from_a_systemd_credential_if_no_file_is_named(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_password("") is None
    secret.rename(secret.with_name("fleet-password"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(secret.parent))
    found = read_password("")
    assert found is not None
    assert found.reveal() == "hunter2"


def test_a_password_that_others_may_read_is_refused(secret: Path) -> None:
    secret.chmod(0o640)
    with pytest.raises(ConfigError, match=f"others may read it; chmod 600 {secret}"):
        read_password(str(secret))


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo\n", b"\xff\xfe", b"a" * 5000, b"a\0b"])
def test_a_file_that_holds_no_password_is_refused_without_showing_it(secret: Path, content: bytes) -> None:
    secret.write_bytes(content)
    with pytest.raises(ConfigError, match="expected one line with the password") as caught:
        read_password(str(secret))
    assert "one" not in str(caught.value).removesuffix("expected one line with the password")


def test_off_loopback_the_servers_certificate_and_name_are_verified(tmp_path: Path) -> None:
    trusted = tmp_path / "ca.pem"
    trusted.touch()
    arguments = connect_arguments(FleetSettings(url=ELSEWHERE, ca_file=str(trusted)))
    assert (arguments["sslmode"], arguments["sslrootcert"]) == ("verify-full", str(trusted))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]"])
def test_on_loopback_nothing_is_encrypted_unless_asked(host: str) -> None:
    url = f"postgresql+psycopg://node@{host}/fleet"
    assert connect_arguments(FleetSettings(url=url))["sslmode"] == "disable"
    assert connect_arguments(FleetSettings(url=url, tls="require"))["sslmode"] == "require"


def test_less_than_full_verification_is_told_once_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "autotune.fleet"):
        warn_of_plain_text(FleetSettings(url=ELSEWHERE, tls="off"))
        warn_of_plain_text(FleetSettings(url=ELSEWHERE))
        warn_of_plain_text(FleetSettings(url="postgresql+psycopg://node@localhost/fleet", tls="off"))
    assert [record.getMessage() for record in caplog.records] == [
        "fleet.tls is 'off': what goes to fleet on db.example:5432 can be read and changed on its way"
    ]


def test_no_password_is_in_the_address(secret: Path) -> None:
    url = database_url(FleetSettings(url=ELSEWHERE, password_file=str(secret)))
    assert url.render_as_string(hide_password=False) == ELSEWHERE


@pytest.mark.fleet
def test_a_wrong_password_is_one_line_and_is_in_none_of_it(database: Database, secret: Path) -> None:
    settings = FleetSettings(url=database.settings().url, password_file=str(secret))
    caught = _refused(settings, "the password is wrong; see fleet")
    assert "\n" not in str(caught)
    assert "hunter2" not in "".join(traceback.format_exception(caught))


@pytest.mark.fleet
def test_the_password_is_in_no_command_line_and_no_environment(database: Database) -> None:
    settings = database.settings()
    with told(settings), connect(settings).connect() as connection:
        connection.exec_driver_sql("SELECT 1")
        here = f"/proc/{os.getpid()}"
        for name in ("cmdline", "environ"):
            with open(f"{here}/{name}", "rb") as file:
                assert PASSWORD.encode() not in file.read()


@pytest.mark.fleet
def test_a_missing_table_names_the_remedy_and_not_the_statement(
    server: PostgresServer, tmp_path: Path
) -> None:
    bare = server.create(tmp_path)
    bare.sql("DROP SCHEMA fleet CASCADE; CREATE SCHEMA fleet; GRANT USAGE ON SCHEMA fleet TO autotune_node")
    settings = bare.settings()
    caught = _refused(settings, "'autotune fleet init' makes them", "SELECT 'private' FROM fleet.entry")
    server.drop(bare.name)
    assert "private" not in str(caught)


def test_a_server_that_is_not_there_is_one_line() -> None:
    settings = FleetSettings(url="postgresql+psycopg://node@127.0.0.1:1/fleet")
    caught = _refused(settings, "fleet on 127")
    assert "\n" not in str(caught)


@pytest.fixture(scope="module")
def encrypted(server: PostgresServer) -> Iterator[tuple[PostgresServer, Callable[..., FleetSettings]]]:
    """A server with a certificate for `localhost`, which leads to nothing that the system trusts."""
    if find_program("openssl") is None:
        pytest.skip("openssl is not installed")
    server.stop()
    key, certificate = server.folder / "server.key", server.folder / "server.crt"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    server._run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            *subject,
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ]
    )
    key.chmod(0o600)
    with (server.folder / "data" / "postgresql.conf").open("a") as file:
        file.write(f"ssl = on\nssl_key_file = '{key}'\nssl_cert_file = '{certificate}'\n")
    server.start()

    def settings(database: Database, **changes: str) -> FleetSettings:
        url = database.settings().url
        return FleetSettings(
            url=url.replace("127.0.0.1", changes.pop("host", "localhost")),
            password_file=database.settings().password_file,
            **{"ca_file": str(certificate), **changes},  # type: ignore[arg-type]
        )

    yield server, settings
    server.stop()
    with (server.folder / "data" / "postgresql.conf").open("a") as file:
        file.write("ssl = off\n")
    server.start()


@pytest.mark.fleet
def test_with_full_verification_the_right_name_gets_in_encrypted_and_no_other(
    encrypted: tuple[PostgresServer, Callable[..., FleetSettings]], database: Database
) -> None:
    _, settings = encrypted
    right = settings(database, tls="verify-full")
    with told(right), connect(right).connect() as connection:
        told_by_server = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert connection.exec_driver_sql(told_by_server).scalar_one() is True
    wrong = settings(database, tls="verify-full", host="127.0.0.1")
    _refused(wrong, "does not match host name")


@pytest.mark.fleet
def test_a_certificate_that_leads_to_nothing_trusted_is_refused(
    encrypted: tuple[PostgresServer, Callable[..., FleetSettings]], database: Database
) -> None:
    _, settings = encrypted
    stranger = settings(database, tls="verify-ca", ca_file="")
    with (
        pytest.raises(FleetError, match="certificate verify failed"),
        told(stranger),
        connect(stranger).connect(),
    ):
        pass


@pytest.mark.fleet
def test_off_loopback_a_server_without_tls_is_refused_by_default(database: Database) -> None:
    address = _own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    database.server.stop()
    with (database.server.folder / "data" / "postgresql.conf").open("a") as file:
        file.write("listen_addresses = '*'\n")
    database.server.start()
    given = database.settings()
    settings = FleetSettings(url=given.url.replace("127.0.0.1", address), password_file=given.password_file)
    _refused(settings, "SSL")
    plain = FleetSettings(url=settings.url, password_file=given.password_file, tls="off")
    with told(plain), connect(plain).connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar_one() == 1


def _refused(settings: FleetSettings, why: str, statement: str = "SELECT 1") -> FleetError:
    """What a person is told where a connection, or a statement over it, is refused."""
    with pytest.raises(FleetError, match=re.escape(why)) as caught, told(settings):  # noqa: SIM117
        with connect(settings).connect() as connection:
            connection.exec_driver_sql(statement)
    return caught.value


def _own_address() -> str | None:
    """An address of this machine that others could reach; None if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            found = str(probe.getsockname()[0])
        except OSError:
            return None
    return None if found.startswith(("127.", "0.")) else found


def test_the_daemons_main_process_loads_nothing_of_the_network() -> None:
    script = (
        "import sys, autotune.daemon.service; "
        "print(sorted({'sqlalchemy', 'psycopg', 'alembic', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "[]" == done.stdout.strip()


def test_a_secret_is_equal_to_no_text() -> None:
    assert Secret("hunter2") != "hunter2"
