"""What every management library must do, the real one included: imported by the tests of each.

A test module has fixtures `library`, of one idle device, and `throttled`, of the same that is held down; that
may be None where no library can be made to be.
"""

from __future__ import annotations

import pytest

from autotune.fingerprint.management import DeviceMemory, ManagementLibrary


@pytest.fixture
def device(library: ManagementLibrary):
    with library:
        yield library.device(0)


def test_it_opens_and_closes_any_number_of_times(library) -> None:
    for _ in range(2):
        library.open()
        library.open()
        assert library.devices()
        library.close()
        library.close()


def test_devices_are_found_by_number_and_by_what_identifies_them(library, device) -> None:
    assert isinstance(device.uuid(), str)
    assert device.uuid() == library.device(device.uuid()).uuid() == library.devices()[0].uuid()


@pytest.mark.parametrize("which", [999, "GPU-nowhere"])
def test_a_device_that_is_not_there_is_said_so(library, device, which) -> None:
    with pytest.raises(LookupError, match="lists no device"):
        library.device(which)


def test_memory_is_told_in_bytes(device) -> None:
    memory = device.memory()
    assert isinstance(memory, DeviceMemory)
    assert 2**30 < memory.total < 2**42
    assert 0 <= memory.used <= memory.total


def test_an_idle_device_has_no_processes_and_no_server(device) -> None:
    assert [] == [process for process in device.processes() if process.pid <= 0]
    assert device.is_shared() in (True, False)


def test_figures_have_their_units(device) -> None:
    """MHz, degrees, watts: what is told lies where it can."""
    assert all(1 <= mhz < 100_000 for mhz in device.clocks().values())
    assert {"sm", "memory"} >= set(device.clocks())
    for figure, most in (
        (device.temperature(), 150),
        (device.power(), 10_000),
        (device.power_limit(), 10_000),
    ):
        assert figure is None or 0 < figure < most


def test_energy_never_falls(device) -> None:
    first, second = device.energy(), device.energy()
    assert first is None or 0 <= first <= second


def test_an_idle_device_is_not_throttled(device) -> None:
    assert device.throttling() in (None, frozenset())


def test_reasons_are_told_in_words(throttled) -> None:
    if throttled is None:
        pytest.skip("nothing holds this library's device down")
    with throttled:
        assert throttled.device(0).throttling() == {"power cap", "thermal, hardware"}


def test_boards_draw_power(library, device) -> None:
    assert len(library.boards()) >= 1
    assert library.boards()[0].power() == pytest.approx(device.power(), rel=0.5)
