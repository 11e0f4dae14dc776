"""The libraries that tests build: NVML by the names of `pynvml`, AMD SMI by those of `amdsmi`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from autotune.config import GateSettings
from autotune.daemon.nvidia_probe import NvidiaProbe
from autotune.fingerprint.amd import AmdSmiLibrary, amd_facts
from autotune.fingerprint.management import library_for
from autotune.fingerprint.nvml import NvmlLibrary
from tests.fingerprint.fake_amdsmi import MI300X, NO_PERM, AmdSmiError, FakeAmdSmi
from tests.fingerprint.fake_nvml import LOST, MIB, NOT_SUPPORTED, FakeNvml, NVMLError, h200
from tests.fingerprint.management_conformance import *

ROOT = Path(__file__).parents[2]
HELD_DOWN = {"active_ppt_pwr": True, "active_prochot_thrm": 1, "active_hbm_thrm": "N/A"}
LIBRARIES = {
    "nvml": (NvmlLibrary, FakeNvml(h200()), FakeNvml(h200(CurrentClocksEventReasons=0x44))),
    "amdsmi": (AmdSmiLibrary, FakeAmdSmi(MI300X), FakeAmdSmi({**MI300X, "violation_status": HELD_DOWN})),
}


@pytest.fixture(params=LIBRARIES)
def made(request):
    return LIBRARIES[request.param]


@pytest.fixture
def library(made):
    return made[0](made[1])


@pytest.fixture
def throttled(made):
    return made[0](made[2])


def test_the_real_binding_conforms_over_a_library_built_as_nvml(tmp_path) -> None:
    """`pynvml` itself, whose shared library is ours: the suite in a process of its own."""
    source = ROOT / "tests" / "daemon" / "fake_nvml.c"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-o", tmp_path / "libnvidia-ml.so.1", source], check=True
    )
    (tmp_path / "mood").write_text("idle")
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "FAKE_NVML": str(tmp_path / "mood")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(ROOT / "tests/fingerprint/real_nvml.py")],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_what_is_not_known_is_none_and_anything_else_raises() -> None:
    unknown = {
        name: NVMLError(NOT_SUPPORTED) for name in ("ClockInfo", "PowerUsage", "TotalEnergyConsumption")
    }
    device = NvmlLibrary(FakeNvml(h200(**unknown))).device(0)
    assert ({}, None, None) == (device.clocks(), device.power(), device.energy())
    with pytest.raises(NVMLError):
        NvmlLibrary(FakeNvml(h200(PowerUsage=NVMLError(LOST)))).device(0).power()
    amd = AmdSmiLibrary(FakeAmdSmi({"gpu_process_list": [], "power_info": AmdSmiError(NO_PERM)})).device(0)
    assert (None, None, {}) == (amd.throttling(), amd.energy(), amd.clocks())
    with pytest.raises(AmdSmiError):
        amd.power()


def test_a_board_that_is_lost_hides_none_before_it() -> None:
    library = NvmlLibrary(FakeNvml(h200(), NVMLError(LOST)))
    assert "GPU-1" == library.device(0).uuid()
    with pytest.raises(NVMLError):
        library.device(1)


def test_figures_of_an_h200() -> None:
    device = NvmlLibrary(FakeNvml(h200())).device(0)
    assert {"sm": 1980.0, "memory": 3201.0} == device.clocks()
    assert (40.0, 120.0, 700.0, 5.0) == (
        device.temperature(),
        device.power(),
        device.power_limit(),
        device.energy(),
    )


def test_figures_of_an_mi300x() -> None:
    device = AmdSmiLibrary(FakeAmdSmi(MI300X)).device(0)
    assert {"sm": 132.0, "memory": 900.0} == device.clocks()
    assert (40.0, 150.0, 750.0) == (device.temperature(), device.power(), device.power_limit())
    assert 5.0 == pytest.approx(device.energy(), rel=1e-3)
    assert 196592 * MIB == device.memory().total


def test_facts_of_an_mi300x() -> None:
    facts, problems = amd_facts(FakeAmdSmi(MI300X))
    assert ([], 1) == (problems, len(facts))
    assert {
        "kind": "rocm",
        "index": 0,
        "name": "AMD Instinct MI300X",
        "gfx_version": "gfx942",
        "sm_count": 304,
        "memory_bytes": 196592 * MIB,
        "memory_gib": 192,
        "bus_width_bits": 8192,
        "sm_clock_max_mhz": 2100,
        "memory_clock_max_mhz": 1300,
        "power_limit_w": 750,
        "mig_profile": None,
        "driver": "6.12.12",
    } == facts[0]


def test_amd_devices_that_fail_are_problems_and_their_absence_is_none() -> None:
    facts, problems = amd_facts(FakeAmdSmi({"gpu_asic_info": AmdSmiError(NO_PERM)}))
    assert (["AMD device 0: asic: Error code: 10"], None) == (problems, facts[0]["name"])
    assert ([], ["no AMD SMI: Error code: 34"]) == amd_facts(FakeAmdSmi(init=AmdSmiError(34)))
    assert ([], []) == amd_facts()


def test_the_gate_looks_at_amd_devices_too(tmp_path) -> None:
    (tmp_path / "proc").mkdir()

    def broken(**changed) -> list[str]:
        library = FakeAmdSmi({**MI300X, **changed})
        probe = NvidiaProbe(0, GateSettings(), library, str(tmp_path), kind="rocm")
        return [one.name for one in probe.look(False) if not one.holds]

    assert [] == broken()
    process = {"pid": 4_000_000, "memory_usage": {"vram_mem": 5 * MIB}}
    assert ["other processes"] == broken(gpu_process_list=[process])
    assert ["clocks"] == broken(violation_status=HELD_DOWN)
    assert ["memory"] == broken(gpu_vram_usage={"vram_total": 196592, "vram_used": 2000})


def test_other_kinds_have_no_library() -> None:
    assert isinstance(library_for("cuda", SimpleNamespace()), NvmlLibrary)
    with pytest.raises(LookupError, match="'tpu'"):
        library_for("tpu")
