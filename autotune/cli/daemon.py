"""`autotune daemon`: the background service."""

from __future__ import annotations

from typing import Annotated

import typer

LogFormat = Annotated[
    str,
    typer.Option(
        "--log-format", metavar="journal|text|json", help="By default what suits where standard error leads."
    ),
]


def daemon(log_format: LogFormat = "") -> None:
    """Tune in the background while devices are idle, until SIGTERM; SIGHUP reads the settings again.

    See what it does with 'autotune status'; keep it off a device with 'autotune pause' or 'autotune lease'.
    """
    from autotune.daemon.service import serve

    serve(log_format)
