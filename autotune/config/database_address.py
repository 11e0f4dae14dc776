"""The address of a fleet's database as the settings give it: taken apart, and what is wrong with it.

Nothing here repeats the address in a message: whoever mistook its form may have put a password into it.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEME = "postgresql+psycopg"
DEFAULT_PORT = 5432
EXPECTED = f"expected {SCHEME}://USER@HOST:PORT/DATABASE"


class DatabaseAddress(NamedTuple):
    """Where a database is.

    Attributes:
        host: a name, an address, or the folder of a Unix socket.
    """

    user: str
    host: str
    port: int
    database: str

    @property
    def is_local(self) -> bool:
        """Whether what is sent there leaves this host."""
        if self.host.startswith("/") or self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"{self.database} on {self.host}:{self.port}"


def parse_address(url: str) -> DatabaseAddress:
    """The address in a URL that `complaints_about` has found right."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    host = options.get("host") or parts.hostname or "localhost"
    port = int(options.get("port") or parts.port or DEFAULT_PORT)
    return DatabaseAddress(unquote(parts.username or ""), host, port, unquote(parts.path[1:]))


def complaints_about(url: str) -> Iterator[str]:
    """What is wrong with a URL, a line each."""
    try:
        parts = urlsplit(url)
        port, password = parts.port, parts.password
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        yield EXPECTED
        return
    if password is not None or any("password" in name.lower() for name, _ in options):
        yield "holds a password; put it into a file of its own and name that as fleet.password_file"
        return
    if parts.scheme != SCHEME or parts.fragment or port == 0:
        yield EXPECTED
        return
    if not parts.username or not parts.path[1:] or "/" in parts.path[1:]:
        yield f"{EXPECTED}; it lacks the user or the database"
    if {name for name, _ in options} - {"host", "port"} or len(options) != len(dict(options)):
        yield "expected no options but host (the folder of a Unix socket) and port"
    elif not dict(options).get("port", "1").isdecimal():
        yield EXPECTED
