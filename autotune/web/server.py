"""Serving the site on an address: loopback unless a token guards it."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import uvicorn

from autotune.errors import UsageError
from autotune.web.app import application
from autotune.web.figures import DRAWING
from autotune.web.guard import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DEFAULT_PORT = 9720
LEAST_TOKEN = 16
"""Characters of a token that somebody else makes up."""


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


def serve(
    state_dir: str,
    address: str,
    port: int,
    token: str = "",
    names: Iterable[str] = (),
    ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        state_dir: the folder of the history.
        address: to listen on.
        port: to listen on; 0 for any that is free.
        token: that must be shown; required unless the address is a loopback one.
        names: further names that the header `Host` may have.
        ready: called with the site's address when it can be opened.

    Raises:
        UsageError: the address cannot be listened on, or needs a token.
    """
    if not token and not is_loopback(address):
        raise UsageError(f"{address} can be reached from elsewhere: it needs a token")
    if token and len(token) < LEAST_TOKEN:
        raise UsageError(
            f"a token of {len(token)} characters can be guessed; expected at least {LEAST_TOKEN}"
        )
    with listening(address, port) as listener:
        shown = f"[{address}]" if ":" in address else address
        site = f"http://{shown}:{listener.getsockname()[1]}/"
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        config = uvicorn.Config(
            application(state_dir, address, token, names),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            h11_max_incomplete_event_size=16_384,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()
        ready(f"{site}?token={token}" if token else site)
        server.run(sockets=[listener])


def _warm_up() -> None:
    """Import what plots need, so that the first reader need not wait seconds for it."""
    with DRAWING, suppress(ImportError):
        import plotly.graph_objects  # noqa: F401 - imported for the time that it takes


def listening(address: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UsageError: it cannot.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(64)
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot listen on {address} port {port}: {why}; choose another --address or --port"
        ) from None
    return listener
