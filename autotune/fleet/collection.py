"""What a sweep brought home: the bundles of its tasks as one, and as a history to export from."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import autotune
from autotune.exports.bundle import Bundle, read
from autotune.fingerprint.stack import stack_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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


def _with_devices(results: Iterable[Result]) -> Iterator[Result]:
    return (result for result in results if result.bundle and result.device is not None)
