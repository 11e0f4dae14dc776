"""Energy from counters that a fake /sys/class/powercap shows."""

from __future__ import annotations

import pytest

from autotune.errors import UsageError
from autotune.measure.energy import RaplMeter, meter_for


def zone(root, name: str, microjoules: int, most: int = 1_000_000) -> None:
    (root / name).mkdir(exist_ok=True)
    (root / name / "energy_uj").write_text(f"{microjoules}\n")
    (root / name / "max_energy_range_uj").write_text(f"{most}\n")


def test_packages_are_added_up_and_their_parts_left_out(tmp_path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0", "intel-rapl-mmio:0"):
        zone(tmp_path, name, 100)
    meter, calls = RaplMeter(tmp_path), []

    def call() -> None:
        calls.append(1)
        for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0", "intel-rapl-mmio:0"):
            zone(tmp_path, name, 100 + 250 * len(calls))

    used = meter.use(call, seconds=0.0)
    assert 1 == len(calls)
    assert used.joules == pytest.approx(500e-6)
    assert used.seconds > 0
    calls.clear()
    zone(tmp_path, "intel-rapl:0", 100)
    zone(tmp_path, "intel-rapl:1", 100)
    assert meter.use(call, seconds=0.05).joules == pytest.approx(500e-6)
    assert len(calls) > 1


def test_a_counter_that_turns_over_goes_on(tmp_path) -> None:
    zone(tmp_path, "intel-rapl:0", 999_900)
    used = RaplMeter(tmp_path).use(lambda: zone(tmp_path, "intel-rapl:0", 99), seconds=0.0)
    assert used.joules == pytest.approx(200e-6)


def test_what_cannot_be_read_is_one_line_that_says_what_to_do(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"has no intel-rapl:\*; choose --objective latency"):
        RaplMeter(tmp_path)
    (tmp_path / "intel-rapl:0").mkdir()
    with pytest.raises(UsageError, match=r"intel-rapl:0.*let this user read energy_uj") as failure:
        RaplMeter(tmp_path)
    assert 1 == len(str(failure.value).splitlines())
    with pytest.raises(UsageError, match="'cuda'"):
        meter_for("cuda")
