"""The commands, each in a module of its own."""

from __future__ import annotations

from functools import cache
from typing import Any

import typer
from typer.main import get_command

from autotune.cli.bench import bench
from autotune.cli.best import best
from autotune.cli.compare import compare
from autotune.cli.config import app as config
from autotune.cli.daemon import daemon
from autotune.cli.database import app as database
from autotune.cli.diff import diff
from autotune.cli.doctor import doctor
from autotune.cli.explain import explain
from autotune.cli.export import app as export
from autotune.cli.export import importing
from autotune.cli.fingerprint import fingerprint
from autotune.cli.fleet import app as fleet
from autotune.cli.generation import generation
from autotune.cli.history import history, show
from autotune.cli.lease import lease, pause, resume
from autotune.cli.load import load
from autotune.cli.pin import pin, unpin
from autotune.cli.plan import plan
from autotune.cli.qualifiers import qualifiers
from autotune.cli.record import record
from autotune.cli.report import report
from autotune.cli.requests import requests
from autotune.cli.rollback import rollback
from autotune.cli.service import app as service
from autotune.cli.spaces import spaces
from autotune.cli.status import status
from autotune.cli.tune import tune
from autotune.cli.web import web

app = typer.Typer(
    help="Hardware-aware autotuning for inference nodes.",
    add_completion=False,
    no_args_is_help=True,
    # Errors are told in one line by `main`; a traceback is a bug and should look like one.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

for command in (
    fingerprint,
    spaces,
    plan,
    tune,
    best,
    history,
    show,
    explain,
    compare,
    diff,
    report,
    qualifiers,
    bench,
    load,
    record,
    rollback,
    generation,
    pin,
    unpin,
    daemon,
    status,
    requests,
    pause,
    resume,
    lease,
    doctor,
    web,
):
    app.command(command.__name__)(command)
app.add_typer(database, name="db")
app.add_typer(config, name="config")
app.add_typer(service, name="service")
app.add_typer(fleet, name="fleet")
app.add_typer(export, name="export")
app.add_typer(importing, name="import")


@cache
def built() -> Any:
    """The command line, made once: reading the parameters of all commands takes longer than most of them."""
    return get_command(app)
