"""What the cases of the fault campaign share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.daemon.control import Requests
from autotune.store import read_history
from tests.daemon.running import SETTINGS as SHORT_SETTINGS
from tests.daemon.running import RunningDaemon

if TYPE_CHECKING:
    from autotune.store.records import Verdict

SETTINGS = SHORT_SETTINGS.replace("budget_seconds = 30", "budget_seconds = 20")
"""With time to measure beside others who use the cores."""
FIRST = {"rows": 64, "width": 32}
"""The problem that is tuned before anything goes wrong."""
EXACT = ("exact", 30)
"""What a look-up finds of a problem that is tuned."""


def tuned(daemon: RunningDaemon, **problem: int) -> None:
    """Have a problem tuned."""
    daemon.order("steady", **problem)
    settled(daemon, **problem)
    daemon.wait_until(lambda: daemon.device("cpu")["state"] == "idle")


def settled(daemon: RunningDaemon, **problem: int) -> None:
    """Wait until a problem that was asked for is tuned, and found."""
    daemon.wait_until(lambda: problem not in waiting(daemon))
    assert EXACT == found(daemon, **problem)


def waiting(daemon: RunningDaemon) -> list[dict[str, int]]:
    """The problems that are still to be tuned."""
    return [request["problem"] for request in daemon.ask(Requests())["requests"]]


def found(daemon: RunningDaemon, *, user: int | None = None, **problem: int) -> tuple[str, int]:
    match, configuration = daemon.look_up("steady", user=user, **problem)
    return match, configuration["pause_ms"]


def verdicts(daemon: RunningDaemon) -> list[Verdict]:
    with read_history(str(daemon.state)) as history:
        return [trial.verdict for study in history.studies() for trial in history.trials(study.id)]


def is_failed(daemon: RunningDaemon, why: str) -> bool:
    """Whether the study process gave up for this reason."""
    device = daemon.device()
    return device["state"] == "failed" and why in device["reason"]
