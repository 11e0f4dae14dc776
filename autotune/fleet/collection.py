"""What a sweep brought home: the bundles of its tasks as one, and as a history to export from."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import autotune
from autotune.exports.bundle import Bundle, read
from autotune.fingerprint.stack import stack_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from autotune.config import FleetSettings
    from autotune.fleet.sweep_task import Result
    from autotune.store.history import History


def merged(results: Iterable[Result]) -> Bundle | None:
    """The winners of all tasks with their studies; None where there are none.

    Raises:
        UsageError: a task sent what is no sound bundle.
    """
    bundles = [read(result.bundle, f"what {result.node} sent")[0] for result in results if result.bundle]
    if not bundles:
        return None
    return Bundle(
        time.time(),
        autotune.__version__,
        list({device.digest: device for bundle in bundles for device in bundle.devices}.values()),
        [winner for bundle in bundles for winner in bundle.winners],
        [study for bundle in bundles for study in bundle.studies],
    )


def record(history: History, results: Iterable[Result]) -> None:
    """Record what the tasks did as if this history had done it. It is for exports, and is thrown away.

    Raises:
        UsageError: a task sent what is no sound bundle.
    """
    for result in _with_devices(results):
        assert result.device is not None, "kept by the filter"
        bundle, _ = read(result.bundle, f"what {result.node} sent")
        history.record_device(result.device)
        history.record_stack(stack_digest(result.device.kind, result.stack), result.stack)
        for study in bundle.studies:
            number = history.begin_study(study.key, study.dimensions)
            for trial in study.trials:
                history.add_trial(number, trial)
            for winner in bundle.winners:
                if (winner.device, winner.problem) == (study.key.device, study.key.problem):
                    history.promote(number, winner)
            history.end_study(number, "swept")


def tell_fleet(history: History, results: Iterable[Result], settings: FleetSettings) -> int:
    """Tell the fleet what the tasks proved; returns how many entries went.

    Args:
        history: in which it was recorded with `record`.
        results: of the tasks.
        settings: of the fleet.

    Raises:
        FleetError: its database cannot be reached, or refuses.
    """
    from autotune.daemon.fleet_messages import Cell
    from autotune.fleet.connection import connect, told
    from autotune.fleet.exchange import Exchange
    from autotune.fleet.local import HistoryStore
    from autotune.fleet.process import node_name
    from autotune.fleet.validation import Validator

    cells = {}
    for result in _with_devices(results):
        assert result.device is not None, "kept by the filter"
        device, stack = result.device, stack_digest(result.device.kind, result.stack)
        cells[device.digest, stack] = Cell(
            device.digest, stack, device.kind, device.name, device.family, device.facts
        )
    store = HistoryStore(history, list(cells.values()), serve=False)
    name = f"{node_name(settings)[:58]}-sweep"
    with told(settings):
        fault = Validator(store.cells).fault
        return Exchange(connect(settings, autocommit=True), store, name, fault).run().sent


def _with_devices(results: Iterable[Result]) -> Iterator[Result]:
    return (result for result in results if result.bundle and result.device is not None)
