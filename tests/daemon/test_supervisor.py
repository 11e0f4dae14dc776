"""The supervisor's way from state to state, without a study process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from autotune.config import DaemonSettings, GateSettings
from autotune.config.sections import Sections
from autotune.daemon.calendar import Windows
from autotune.daemon.gate import Condition, Gate
from autotune.daemon.lease import Leases
from autotune.daemon.loop import Loop
from autotune.daemon.metrics import Metrics
from autotune.daemon.states import State
from autotune.daemon.supervisor import Office, Supervisor
from autotune.errors import ConfigError
from autotune.fingerprint import Device
from tests.daemon.test_gate import BUSY, IDLE

STARTS = 3
"""Study processes that are begun before the loop ends."""


class Repeating:
    """A probe that answers as told, and goes on with its last answer."""

    def __init__(self, *answers: Condition) -> None:
        self.answers = list(answers)

    def look(self, _: bool) -> list[Condition]:
        return [self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]]

    def occupy(self) -> None: ...


class Tried:
    """A supervisor in a loop whose study processes cannot start; the loop ends with the last start."""

    def __init__(self, folder, *answers: Condition, retry_seconds: float = 0.1) -> None:
        self.errors: list[Exception] = []
        self.states: list[State] = []
        self.starts = 0
        self.loop = Loop(self.failed)
        gate = GateSettings(looks=1, look_seconds=0.001)
        settings = Sections(daemon=DaemonSettings(retry_seconds=retry_seconds), gate=gate)
        office = Office(
            loop=self.loop,
            leases=Leases(str(folder / "leases.json"), self.loop, lambda: None),
            metrics=Metrics(),
            archive=SimpleNamespace(history=True, catch_up=lambda: None),
            begin=self.begin,
            choose=lambda _: self,
            finished=lambda *_: None,
            known=lambda _: None,
            decided=lambda _: None,
            told=lambda: self.states.append(self.supervisor.state),
        )
        device = Device("cpu", 0, "a processor", "", {}, "0" * 16)
        probe = Repeating(*answers)
        self.supervisor = Supervisor("cpu", device, Gate(probe, Windows(), 1), settings, office)

    def failed(self, error: Exception) -> None:
        self.errors.append(error)
        self.loop.stop()

    def begin(self, _: Supervisor):
        self.starts += 1
        if self.starts == STARTS:
            self.loop.stop()
        raise ConfigError("the interpreter is gone")

    def run(self) -> None:
        giving_up = self.loop.later(60.0, self.loop.stop)
        try:
            self.supervisor.step()
            self.loop.run()
        finally:
            self.loop.close()
        assert giving_up.waiting, "it came to a halt"


@pytest.mark.parametrize("before", [[BUSY], []])
def test_where_a_single_look_is_enough_a_device_is_tuned_at_once_and_again_after_failures(
    tmp_path, before
) -> None:
    tried = Tried(tmp_path, *before, IDLE)
    tried.run()
    assert [] == tried.errors
    waited = [State.WATCHING, *(State.BUSY for _ in before)]
    assert waited == tried.states[: len(waited)]
    # Where the machine was so busy that the wait for another start was over at once, it watched in between.
    assert [State.TUNING, State.FAILED] * STARTS == [one for one in tried.states if one not in waited]
    assert "the interpreter is gone" in tried.supervisor.reason


def test_what_failed_is_tried_again_at_once_when_someone_asks(tmp_path) -> None:
    """Not once the long wait after the failure is over."""
    tried = Tried(tmp_path, IDLE, retry_seconds=3600.0)

    def asked() -> None:
        tried.supervisor.forgive()
        tried.supervisor.step()
        tried.loop.later(0.05, asked)

    tried.loop.later(0.05, asked)
    tried.run()
    assert [] == tried.errors
    assert STARTS == tried.starts
