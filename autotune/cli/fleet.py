"""`autotune fleet init|roles|status|sync`: the database that equal nodes share."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from autotune.cli import options

app = typer.Typer(help="The database that equal nodes share.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def roles() -> None:
    """Print the SQL that makes the roles: 'autotune fleet roles | psql DATABASE', as a superuser."""
    from autotune import paths

    with open(os.path.join(paths.data_dir("db"), "fleet", "roles.sql"), encoding="utf-8") as file:
        sys.stdout.write(file.read())


@app.command()
def init(json: options.Json = False) -> None:
    """Make the fleet's tables, or upgrade them; as a member of the role autotune_owner."""
    from autotune.cli import output
    from autotune.config import load_settings
    from autotune.fleet.migrate import migrate
    from autotune.fleet.studies import make_tables

    settings = load_settings().fleet
    version, studies = migrate(settings), make_tables(settings)
    if json:
        output.print_json({"version": version, "studies": studies})
    else:
        output.console.print(
            f"the fleet's tables have version {version}, those of shared studies Optuna's {studies}"
        )


@app.command()
def relay() -> None:
    """Relay this host's processes to the fleet's studies, over few connections, at [fleet] relay."""
    from autotune.config import load_settings
    from autotune.fleet import studies

    studies.relay(load_settings().fleet)


@app.command()
def sync(json: options.Json = False) -> None:
    """Exchange once with the fleet; for hosts without a daemon, which does so by itself."""
    from msgspec import to_builtins

    from autotune.cli import output
    from autotune.config import load_settings
    from autotune.fingerprint.stack import stack_facts
    from autotune.fleet.connection import connect, told, warn_of_plain_text
    from autotune.fleet.exchange import Exchange
    from autotune.fleet.here import cells_here, devices_here
    from autotune.fleet.local import HistoryStore
    from autotune.fleet.process import node_name
    from autotune.fleet.validation import Validator
    from autotune.store import open_history
    from autotune.workloads.registry import import_module

    settings = load_settings()
    cells = cells_here(settings)
    for module in settings.worker.modules:
        import_module(module)
    engine = connect(settings.fleet, autocommit=True)
    warn_of_plain_text(settings.fleet)
    with open_history() as history:
        history.record_devices(devices_here())
        for cell in cells:
            history.record_stack(cell.stack, stack_facts())
        store = HistoryStore(history, cells, serve=settings.fleet.serve_unverified)
        try:
            with told(settings.fleet):
                ended = Exchange(engine, store, node_name(settings.fleet), Validator(cells).fault).run()
        finally:
            store.publish()
    if json:
        output.print_json(to_builtins(ended))
    else:
        counts = f"{ended.received} entries came, {ended.sent} went, {ended.rejected} were not used"
        output.console.print(f"{counts}; it took {ended.seconds:.2g} s")


@app.command()
def status(
    everything: Annotated[bool, typer.Option("--all", help="Show every node, not outliers alone.")] = False,
    json: options.Json = False,
) -> None:
    """Show the fleet: nodes, winners, doubts, and which nodes are slower than their equals."""
    from autotune.cli import output
    from autotune.config import load_settings
    from autotune.fleet.connection import connect, told
    from autotune.fleet.overview import overview

    settings = load_settings().fleet
    with told(settings), connect(settings, autocommit=True).connect() as connection:
        found = overview(connection)
    if json:
        output.print_json(found)
        return
    output.console.print(output.facts(found["counts"]))
    table = output.table("node", "name", "seen", "device", "pace", "problems", right=("pace", "problems"))
    for node in found["nodes"]:
        if everything or node["outlier"]:
            table.add_row(*map(output.plain, _row(node)))
    if table.row_count:
        output.console.print(table)
    if not any(node["outlier"] for node in found["nodes"]):
        output.console.print("no node is known to be slower than its equals")


def _row(node: dict[str, Any]) -> list[str]:
    from autotune.cli import output

    pace = "-" if node["slowdown"] is None else f"{node['slowdown']:.2f}x the time"
    told = [node["node"][:8], node["name"], output.moment(node["seen_at"]), node["device"] or "-", pace]
    return [*told, str(node["problems"])]
