"""The commands, each in a module of its own."""

from __future__ import annotations

import typer

from autotune.cli import (
    bench,
    best,
    database,
    doctor,
    fingerprint,
    history,
    plan,
    report,
    rollback,
    spaces,
    tune,
)

app = typer.Typer(
    help="Hardware-aware autotuning for inference nodes.",
    add_completion=False,
    no_args_is_help=True,
    # Errors are told in one line by `main`; a traceback is a bug and should look like one.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

app.command("fingerprint")(fingerprint.fingerprint)
app.command("spaces")(spaces.spaces)
app.command("plan")(plan.plan)
app.command("tune")(tune.tune)
app.command("best")(best.best)
app.command("history")(history.history)
app.command("show")(history.show)
app.command("explain")(history.explain)
app.command("compare")(history.compare)
app.command("report")(report.report)
app.command("bench")(bench.bench)
app.command("rollback")(rollback.rollback)
app.add_typer(database.app, name="db")
app.command("doctor")(doctor.doctor)
