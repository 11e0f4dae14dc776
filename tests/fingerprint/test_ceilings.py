import os
from pathlib import Path

import pytest

from autotune.fingerprint import Ceilings, ceilings

FOUND = Ceilings(20e9, {"float32": 100e9, "bfloat16": 400e9}, 1_795_000_000.0)
DEVICE, STACK = "d0" * 8, "50" * 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path))
    return tmp_path / "ceilings" / f"{DEVICE}-{STACK}.json"


def test_what_is_saved_is_loaded_for_the_same_device_and_stack_alone() -> None:
    ceilings.save(DEVICE, STACK, FOUND)
    assert FOUND == ceilings.load(DEVICE, STACK)
    assert ceilings.load(STACK, DEVICE) is None


def test_saving_again_replaces_and_leaves_no_other_file(cache: Path) -> None:
    for bandwidth in (1e9, 2e9):
        ceilings.save(DEVICE, STACK, Ceilings(bandwidth, {}, 0.0))
    assert Ceilings(2e9, {}, 0.0) == ceilings.load(DEVICE, STACK)
    assert [cache.name] == os.listdir(cache.parent)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"null",
        b"\xff\xfe",
        b'{"memory_bandwidth_bytes_per_s": 1e9}',
        b'{"memory_bandwidth_bytes_per_s": 0, "matmul_flops": {}, "measured_at": 0}',
        b'{"memory_bandwidth_bytes_per_s": 1e9, "matmul_flops": {"float32": -1}, "measured_at": 0}',
    ],
)
def test_a_damaged_file_is_as_if_absent(damage: bytes, cache: Path) -> None:
    ceilings.save(DEVICE, STACK, FOUND)
    cache.write_bytes(damage)
    assert ceilings.load(DEVICE, STACK) is None


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    ceilings.save(DEVICE, STACK, FOUND)
    assert ceilings.load(DEVICE, STACK) is None


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(cache: Path) -> None:
    (cache / "full").mkdir(parents=True)
    ceilings.save(DEVICE, STACK, FOUND)
    assert [cache.name] == os.listdir(cache.parent)


def test_the_roofline_is_the_slower_of_memory_and_arithmetic() -> None:
    assert 1.0 == FOUND.least_seconds(flops=0, moved_bytes=20_000_000_000, dtype="float32")
    assert 2.0 == FOUND.least_seconds(flops=200_000_000_000, moved_bytes=1, dtype="float32")
    assert 0.5 == FOUND.least_seconds(flops=200_000_000_000, moved_bytes=1, dtype="bfloat16")


def test_arithmetic_in_an_unmeasured_type_is_no_limit() -> None:
    assert 1.0 == FOUND.least_seconds(flops=10**18, moved_bytes=20_000_000_000, dtype="int4")


def test_ceilings_are_raised_figure_by_figure() -> None:
    other = Ceilings(30e9, {"float32": 90e9, "int8": 800e9}, 1_795_000_001.0)
    raised = Ceilings(30e9, {"float32": 100e9, "bfloat16": 400e9, "int8": 800e9}, 1_795_000_001.0)
    assert raised == FOUND.raised_by(other) == other.raised_by(FOUND)
