"""`autotune export optuna`: our studies in a storage that optuna-dashboard and other tools open."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from autotune.cli import options
from autotune.errors import MissingExtraError, UsageError

LONGEST_NAME = 500
"""Characters of a study's name in Optuna's tables: 512, less some."""


def export_optuna(
    to: Annotated[
        str,
        typer.Option("--to", metavar="URL", help="sqlite:///studies.db, or another storage of Optuna."),
    ],
    study: Annotated[list[int] | None, typer.Option("--study", help="Only this study; may repeat.")] = None,
    workload: Annotated[str | None, typer.Option("--workload", help="Only this workload.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many, the latest first.")] = 100,
    json: options.Json = False,
) -> None:
    """Write studies into an Optuna storage, for optuna-dashboard; one that is there already is left alone."""
    from autotune.cli import output
    from autotune.store import read_history
    from autotune.store.listing import trial_rows

    storage = _storage(to)
    with read_history() as reader:
        wanted = [reader.study(number) for number in study] if study else None
        entries = wanted or reader.studies(workload=workload, limit=limit)
        written: list[int] = []
        skipped: list[int] = []
        for entry in entries:
            rows = trial_rows(reader, entry.id, limit=entry.trials)
            done = _write(storage, entry, rows)
            (written if done else skipped).append(entry.id)
    if json:
        output.print_json({"to": to, "written": written, "there_already": skipped})
    else:
        told = f"{len(written)} studies written to {to}"
        output.console.print(output.plain(f"{told}, {len(skipped)} were there already"))


def _storage(to: str) -> Any:
    import warnings

    try:
        import optuna
        import sqlalchemy
    except ModuleNotFoundError as error:
        raise MissingExtraError("autotune export optuna", "daemon", str(error.name)) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if "://" not in to:
        raise UsageError(f"--to {to!r} is no storage; write e.g. --to sqlite:///studies.db")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return optuna.storages.RDBStorage(to)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:160]
        raise UsageError(f"--to {to!r} cannot be opened as a storage: {why}") from None


def _write(storage: Any, entry: Any, rows: Any) -> bool:
    """Write one study; False if there is one of its name."""
    import optuna

    from autotune.exports.optuna_study import optuna_trials

    name = f"{entry.key.workload} {entry.key.problem} #{entry.id}"
    if len(name) > LONGEST_NAME:
        name = f"{entry.key.workload[:40]} #{entry.id}"
    try:
        made = optuna.create_study(storage=storage, study_name=name)
    except optuna.exceptions.DuplicatedStudyError:
        return False
    facts = {
        "workload": entry.key.workload,
        "device": entry.key.device,
        "stack": entry.key.stack,
        "objective": entry.key.objective,
        "space": entry.key.space,
        "end_reason": entry.end_reason,
        "value": "screened median in milliseconds",
        **{f"problem.{dimension}": value for dimension, value in entry.dimensions.items()},
    }
    for fact, value in facts.items():
        made.set_user_attr(fact, value)
    made.add_trials(optuna_trials(rows))
    return True
