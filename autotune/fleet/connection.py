"""Connections to the fleet's database: how they are made, and what a person is told when they fail."""

from __future__ import annotations

import logging
import os
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from autotune.config.database_address import SCHEME, parse_address
from autotune.errors import ConfigError, FleetError, MissingExtraError
from autotune.fleet.secret import read_password

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Engine

    from autotune.config import FleetSettings

logger = logging.getLogger("autotune.fleet")

CONNECT_SECONDS = 10
ANSWER_MS = 20_000
"""After which a server that acknowledges nothing counts as gone: the kernel would wait for a quarter of an
hour."""
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
"""Where Debian, Red Hat and others keep the certificates that the system trusts."""


def database_url(settings: FleetSettings) -> URL:
    """The address for SQLAlchemy; the password is not in it, see `connect_arguments`.

    Raises:
        ConfigError: no fleet is configured.
    """
    from sqlalchemy import URL

    if not settings.url:
        raise ConfigError("no fleet is configured; set [fleet] url, see docs/fleet.md")
    address = parse_address(settings.url)
    query = {"host": address.host} if address.host.startswith("/") else {}
    return URL.create(
        SCHEME,
        username=address.user,
        host=None if query else address.host,
        port=address.port,
        database=address.database,
        query=query,
    )


def connect_arguments(settings: FleetSettings) -> dict[str, Any]:
    """What libpq is told beside the address: password, TLS, and how long to wait.

    Raises:
        ConfigError: the password or the trusted certificates cannot be read.
    """
    arguments: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": ANSWER_MS,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 2,
        "application_name": "autotune",
        # A pooler may give each statement another connection.
        "prepare_threshold": None,
        # Found out in the home folder of whoever runs this otherwise.
        "gssencmode": "disable",
        **_tls(settings),
    }
    password = read_password(settings.password_file)
    if password is not None:
        arguments["password"] = password.reveal()
    return arguments


def warn_of_plain_text(settings: FleetSettings) -> None:
    """Say once, in one line, that what leaves this host can be read or changed on its way."""
    address = parse_address(settings.url)
    if not address.is_local and settings.tls in ("require", "off"):
        harm = "read and changed" if settings.tls == "off" else "changed by whoever poses as it"
        logger.warning("fleet.tls is '%s': what goes to %s can be %s on its way", settings.tls, address, harm)


def connect(settings: FleetSettings, *, pooled: bool = False, autocommit: bool = False) -> Engine:
    """An engine for the fleet's database; nothing is connected yet.

    Args:
        settings: that name it.
        pooled: whether connections are kept; those of ten thousand nodes would fill the server.
        autocommit: whether each statement is a transaction: no lock is held over a slow network then.

    Raises:
        ConfigError: the settings are wrong.
        MissingExtraError: `autotune[fleet]` is not installed.
    """
    try:
        import psycopg  # noqa: F401 - so that its absence is told as what it is
        from sqlalchemy import NullPool, QueuePool, create_engine, event
    except ImportError as error:
        raise MissingExtraError("the fleet", "fleet", str(error.name or "psycopg")) from None
    engine = create_engine(
        database_url(settings),
        poolclass=QueuePool if pooled else NullPool,
        # Values of rows do not belong into messages.
        hide_parameters=True,
        **({"isolation_level": "AUTOCOMMIT"} if autocommit else {}),
    )

    @event.listens_for(engine, "do_connect")
    def _fill_in(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        # Read anew each time: a password may change while the daemon runs.
        parameters.update(connect_arguments(settings), autocommit=autocommit)

    return engine


@contextmanager
def told(settings: FleetSettings) -> Iterator[None]:
    """Turn what the driver raises into one line with the place and the remedy.

    Raises:
        FleetError: the database cannot be reached, refuses us, or lacks our tables.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        raise FleetError(f"{parse_address(settings.url)}: {_reason(error)}") from None


def _tls(settings: FleetSettings) -> dict[str, str]:
    address = parse_address(settings.url)
    if settings.tls == "off" or (settings.tls == "auto" and address.is_local):
        return {"sslmode": "disable"}
    mode = "verify-full" if settings.tls == "auto" else settings.tls
    if mode == "require":
        return {"sslmode": mode}
    return {"sslmode": mode, "sslrootcert": _trusted(settings)}


def _trusted(settings: FleetSettings) -> str:
    """The file of certificates that the server's must lead to."""
    if settings.ca_file:
        if not os.access(settings.ca_file, os.R_OK):
            raise ConfigError(f"fleet.ca_file: {settings.ca_file}: cannot be read")
        return settings.ca_file
    found = next(
        filter(os.path.exists, filter(None, (ssl.get_default_verify_paths().cafile, *BUNDLES))), None
    )
    if found is None:
        raise ConfigError(
            "fleet.ca_file: this host has no trusted certificates; name the file that has yours"
        )
    return found


_REMEDIES = {
    "3F000": "the fleet's tables are missing; 'autotune fleet init' makes them",
    "42P01": "the fleet's tables are missing; 'autotune fleet init' makes them",
    "42703": "the fleet's tables are of another version; 'autotune fleet init' upgrades them",
    "42501": "this user has no right to do so; see docs/fleet.md for the roles",
}

_REFUSALS = {
    "password authentication failed": "the password is wrong; see fleet.password_file",
    "no password supplied": "the server wants a password; see fleet.password_file",
    "no pg_hba.conf entry": "the server does not let this user in from here; see its pg_hba.conf",
    "permission denied for database": "this user has no right to connect; see docs/fleet.md for the roles",
}
"""Of a connection that was refused the driver passes on no code, but what the server said."""


def _reason(error: Exception) -> str:
    """What went wrong, without the statement that SQLAlchemy puts behind it."""
    original = getattr(error, "orig", None) or error
    state = getattr(original, "sqlstate", None) or ""
    lines = [" ".join(line.split()) for line in str(original).splitlines()]
    first = next((line for line in lines if line), type(original).__name__)
    printable = "".join(character if character.isprintable() else " " for character in first)[:200]
    refusals = (remedy for refusal, remedy in _REFUSALS.items() if refusal in first)
    remedy = _REMEDIES.get(state) or next(refusals, None)
    return f"{printable}; {remedy}" if remedy else printable
