"""The gate: it opens late, closes at once, and says why."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from autotune.config import GateSettings, Window
from autotune.daemon.calendar import Windows
from autotune.daemon.gate import Condition, Gate

IDLE = Condition("memory", True, "free")
BUSY = Condition("memory", False, "somebody holds 3 GiB")


class Scripted:
    """A probe that answers as told, one answer a look."""

    def __init__(self, *answers: Condition | Exception) -> None:
        self.answers = list(answers)
        self.tuning: list[bool] = []

    def look(self, tuning: bool) -> list[Condition]:
        self.tuning.append(tuning)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return [answer]

    def occupy(self) -> None: ...

    def leftover(self) -> str:
        return ""

    def adopt(self, settings: GateSettings) -> None:
        self.settings = settings


def gate_of(*answers: Condition | Exception, windows: Windows | None = None, looks: int = 3) -> Gate:
    now = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
    return Gate(Scripted(*answers), windows or Windows(), looks, lambda: now)


def opened(gate: Gate, looks: int) -> list[bool]:
    found = []
    for _ in range(looks):
        gate.look()
        found.append(gate.open)
    return found


def test_it_opens_when_all_has_held_for_so_many_looks_in_a_row() -> None:
    gate = gate_of(IDLE, IDLE, BUSY, IDLE, IDLE, IDLE)
    assert [False, False, False, False, False, True] == opened(gate, 6)


def test_it_says_which_condition_holds_it_back() -> None:
    gate = gate_of(BUSY)
    gate.look()
    assert BUSY == gate.obstacle
    assert ["maintenance window", "memory"] == [one.name for one in gate.conditions]


def test_whatever_fails_reads_as_busy_and_is_told() -> None:
    gate = gate_of(IDLE, IDLE, OSError("the driver\nis gone"), IDLE)
    assert [False, False, False, False] == opened(gate, 4)
    gate = gate_of(OSError("the driver\nis gone"))
    gate.look()
    assert gate.obstacle is not None
    assert "OSError: the driver is gone" in gate.obstacle.told


def test_after_closing_as_many_looks_are_needed_again() -> None:
    gate = gate_of(*[IDLE] * 6)
    assert [False, False, True] == opened(gate, 3)
    gate.close()
    assert [False, False, True] == opened(gate, 3)


def test_where_others_come_again_and_again_more_looks_are_needed_until_a_study_ends() -> None:
    gate = gate_of(*[IDLE] * 20, looks=1)
    gate.grow_wary()
    gate.grow_wary()
    assert [False, False, False, True] == opened(gate, 4)
    for _ in range(9):
        gate.grow_wary()
    assert 16 == gate.needed
    gate.trust()
    assert [True] == opened(gate, 1)


def test_other_settings_hold_from_the_next_look_on() -> None:
    gate = gate_of(IDLE)
    settings = GateSettings(looks=1)
    gate.adopt(settings, Windows())
    assert [True] == opened(gate, 1)
    assert settings == gate.probe.settings  # type: ignore[attr-defined]


def test_outside_its_windows_it_is_closed_and_asks_no_device() -> None:
    windows = Windows([Window(start="0 22 * * *", hours=8)], "UTC")
    gate = gate_of(windows=windows, looks=1)
    gate.look()
    assert not gate.open
    assert gate.obstacle is not None
    assert "window" == gate.obstacle.cause
    assert "2026-11-25 22:00 (UTC)" in gate.obstacle.told
    assert [] == gate.probe.tuning  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-11-25T20:59", False),
        ("2026-11-25T21:00", True),  # 22:00 in Berlin
        ("2026-11-26T04:59", True),
        ("2026-11-26T05:00", False),  # eight hours later
        ("2026-11-28T23:00", False),  # a Saturday
        ("2026-07-01T20:00", True),  # summer time
        ("2026-07-01T19:59", False),
    ],
)
def test_windows_open_by_the_clock_of_their_zone(moment, is_open) -> None:
    windows = Windows([Window(start="0 22 * * mon-fri", hours=8)], "Europe/Berlin")
    assert is_open == windows.open(datetime.fromisoformat(moment).replace(tzinfo=UTC))[0]


def test_of_two_windows_one_is_enough() -> None:
    windows = Windows([Window(start="0 1 * * *", hours=1), Window(start="30 1 * * *", hours=2)], "UTC")
    at = [windows.open(datetime(2026, 11, 25, hour, 15, tzinfo=UTC))[0] for hour in range(5)]
    assert [False, True, True, True, False] == at
