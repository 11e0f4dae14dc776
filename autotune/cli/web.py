"""`autotune web`: the history in the browser."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from autotune.errors import MissingExtraError

TOKEN = "AUTOTUNE_WEB_TOKEN"

Address = Annotated[
    str, typer.Option("--address", help="Where to listen; any but a loopback address needs a token.")
]
Port = Annotated[
    int, typer.Option("--port", min=0, max=65_535, help="A port; 0 for any that is free.", show_default=True)
]
Names = Annotated[
    list[str] | None,
    typer.Option("--host-name", help="A further name that this machine is called by in the browser."),
]
Token = Annotated[
    bool,
    typer.Option("--token", help=f"Ask for a token: that in {TOKEN}, else a new one, which is printed."),
]


def web(
    address: Address = "127.0.0.1", port: Port = 9720, token: Token = False, host_name: Names = None
) -> None:
    """Show the history in the browser until Ctrl-C: read-only, for this machine alone by default."""
    from autotune import paths

    try:
        from autotune.web.guard import is_loopback
        from autotune.web.server import new_token, serve
    except ModuleNotFoundError as error:
        if str(error.name).startswith("autotune"):
            raise
        raise MissingExtraError("autotune web", "web", str(error.name)) from None
    given = os.environ.get(TOKEN, "")
    wanted = token or given or not is_loopback(address)
    shown = (given or new_token()) if wanted else ""

    def ready(site: str) -> None:
        # Someone's own token is not repeated where a log might keep it.
        print(site.partition("?")[0] if given else site, flush=True)

    serve(paths.state_dir(), address, port, shown, host_name or (), ready)
