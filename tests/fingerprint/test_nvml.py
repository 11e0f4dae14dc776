import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.fingerprint.digest import digest
from autotune.fingerprint.nvml import DIGEST_FACTS, nvidia_facts
from tests.fingerprint.fake_nvml import (
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    LIBRARY_NOT_FOUND,
    LOST,
    MIB,
    NO_PERMISSION,
    NOT_SUPPORTED,
    VERSION_MISMATCH,
    FakeNvml,
    Gpu,
    NVMLError,
    h200,
    orin,
    slice_of,
)


def one(*gpus: Any, root: str = "/") -> dict[str, Any]:
    """The facts of the only device."""
    facts, problems = nvidia_facts(FakeNvml(*gpus), root)
    assert [] == problems
    (only,) = facts
    return only


def device_digest(facts: dict[str, Any]) -> str:
    return digest({name: facts[name] for name in DIGEST_FACTS})


def test_a_gpu_is_told_in_full() -> None:
    assert {
        "kind": "cuda",
        "index": 0,
        "name": "NVIDIA H200",
        "compute_capability": 90,
        "sm_count": 132,
        "memory_bytes": 143771 * MIB,
        "memory_gib": 141,
        "bus_width_bits": 6144,
        "sm_clock_max_mhz": 1980,
        "memory_clock_max_mhz": 3201,
        "power_limit_w": 700,
        "ecc": True,
        "mig_profile": None,
        "driver": "580.95.05",
    } == one(h200())


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (LIBRARY_NOT_FOUND, "no NVML: NVML Shared Library Not Found"),
        (DRIVER_NOT_LOADED, "no NVML: Driver Not Loaded"),
        (VERSION_MISMATCH, "no NVML: RM has detected an NVML/RM version mismatch."),
    ],
)
def test_a_library_that_does_not_start_is_one_stated_problem(code: int, reason: str) -> None:
    assert ([], [reason]) == nvidia_facts(FakeNvml(init=NVMLError(code)))


def test_an_error_that_is_not_the_librarys_own_is_stated_too() -> None:
    assert ([], ["no NVML: libnvidia-ml.so.1: invalid ELF header"]) == nvidia_facts(
        FakeNvml(init=OSError("libnvidia-ml.so.1: invalid ELF header"))
    )


def test_without_the_package_it_is_said_which_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert ([], ["no NVML: the package nvidia-ml-py is not installed"]) == nvidia_facts()


def test_the_real_library_never_raises_on_this_machine() -> None:
    facts, problems = nvidia_facts()
    assert facts or problems


@pytest.mark.parametrize("code", [NOT_SUPPORTED, FUNCTION_NOT_FOUND])
@pytest.mark.parametrize(
    "call", ["EccMode", "EnforcedPowerLimit", "MemoryBusWidth", "NumGpuCores", "MigMode", "MaxClockInfo"]
)
def test_what_a_device_or_driver_does_not_support_is_unknown_and_no_problem(call: str, code: int) -> None:
    facts = one(h200(**{call: NVMLError(code)}))
    assert ("NVIDIA H200", 90) == (facts["name"], facts["compute_capability"])


@pytest.mark.parametrize(
    "error", [NVMLError(NO_PERMISSION), NVMLError(LOST), AttributeError("no such function")]
)
def test_any_other_failure_is_stated_with_its_call_and_stops_no_other(error: Exception) -> None:
    facts, problems = nvidia_facts(FakeNvml(h200(EnforcedPowerLimit=error)))
    assert [f"NVIDIA device 0: EnforcedPowerLimit: {error}"] == problems
    assert (None, 132) == (facts[0]["power_limit_w"], facts[0]["sm_count"])


def test_a_device_that_cannot_be_opened_hides_no_other() -> None:
    facts, problems = nvidia_facts(FakeNvml(NVMLError(LOST), h200()))
    assert ["NVIDIA device 0 cannot be opened: GPU is lost"] == problems
    assert ["NVIDIA H200"] == [gpu["name"] for gpu in facts]


def test_devices_that_cannot_be_listed_are_one_problem_and_the_library_is_closed() -> None:
    library = FakeNvml()
    library.nvmlDeviceGetCount = lambda: (_ for _ in ()).throw(NVMLError(LOST))  # type: ignore[method-assign]
    assert ([], ["NVML does not list its devices: GPU is lost"]) == nvidia_facts(library)
    assert 0 == library.open


def test_the_library_is_closed_after_probing() -> None:
    library = FakeNvml(h200())
    nvidia_facts(library)
    assert 0 == library.open


def test_an_unknown_device_has_no_sm_count_but_everything_else() -> None:
    facts = one(h200(Name="NVIDIA Z1", CudaComputeCapability=(13, 0)))
    assert (130, None, 141) == (facts["compute_capability"], facts["sm_count"], facts["memory_gib"])


def test_a_device_that_answers_nothing_is_still_a_device() -> None:
    facts = one(Gpu({}))
    assert {"kind": "cuda", "index": 0, "driver": "580.95.05"} == {
        k: v for k, v in facts.items() if v is not None
    }
    assert 16 == len(device_digest(facts))


def test_names_may_be_bytes() -> None:
    facts, _ = nvidia_facts(FakeNvml(h200(Name=b"NVIDIA H200"), driver=b"570.1"))
    assert ("NVIDIA H200", "570.1") == (facts[0]["name"], facts[0]["driver"])


def test_a_device_in_mig_mode_is_as_many_devices_as_it_has_instances() -> None:
    gpu = h200(MigMode=[1, 1])
    small = slice_of("NVIDIA H200", "1g.18gb", 16, 16384)
    gpu.instances = [slice_of("NVIDIA H200", "3g.71gb", 60, 70144), None, small, small]
    facts, problems = nvidia_facts(FakeNvml(h200(), gpu))
    assert [] == problems
    assert [(0, None, 132), (1, "3g.71gb", 60), (2, "1g.18gb", 16), (3, "1g.18gb", 16)] == [
        (device["index"], device["mig_profile"], device["sm_count"]) for device in facts
    ]
    assert {"NVIDIA H200"} == {device["name"] for device in facts}
    assert 16 == facts[2]["memory_gib"]
    assert 3 == len({device_digest(device) for device in facts})


def test_a_device_in_mig_mode_without_instances_is_a_problem_and_no_device() -> None:
    assert ([], ["NVIDIA device 0 is in MIG mode and has no instance to run on"]) == nvidia_facts(
        FakeNvml(h200(MigMode=[1, 1]))
    )


def test_the_board_names_an_integrated_gpu(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("NVIDIA Jetson AGX Orin Developer Kit\0")
    facts = one(orin(), root=str(tmp_path))
    assert ("NVIDIA Jetson AGX Orin Developer Kit", 87, None) == tuple(
        facts[name] for name in ("name", "compute_capability", "memory_bytes")
    )
    assert "Orin (nvgpu)" == one(orin(), root=str(tmp_path / "elsewhere"))["name"]


@pytest.mark.parametrize("changed", [{"UUID": "GPU-2"}, {"Serial": "166"}])
def test_the_unit_does_not_change_the_digest(changed: dict[str, Any]) -> None:
    assert device_digest(one(h200())) == device_digest(one(h200(**changed)))


def test_the_driver_does_not_change_the_device_digest() -> None:
    other, _ = nvidia_facts(FakeNvml(h200(), driver="590.10"))
    assert device_digest(one(h200())) == device_digest(other[0])


@pytest.mark.parametrize(
    "changed",
    [
        {"Name": "NVIDIA H200 NVL"},
        {"NumGpuCores": 14592},
        {"EnforcedPowerLimit": 600_000},
        {"EccMode": [0, 0]},
        {"MaxClockInfo": {1: 1785, 2: 3201}},
        {"MemoryBusWidth": 5120},
    ],
)
def test_what_changes_speed_changes_the_digest(changed: dict[str, Any]) -> None:
    assert device_digest(one(h200())) != device_digest(one(h200(**changed)))
