import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import autotune.fingerprint as package
from autotune.errors import UnknownNameError
from autotune.fingerprint import device_named, load_profiles, named_device, probe
from autotune.fingerprint.cpu import cpu_digest
from tests.fingerprint import machines
from tests.fingerprint.fake_nvml import DRIVER_NOT_LOADED, FakeNvml, NVMLError, h200, orin, slice_of

ALWAYS = {"kind", "cores", "isa", "memory_bytes", "l2_bytes", "l3_bytes", "family"}
NO_NVML = FakeNvml(init=NVMLError(DRIVER_NOT_LOADED))


def test_a_host_without_an_accelerator_is_its_cpu(tmp_path: Path) -> None:
    machines.epyc(tmp_path)
    found = probe(str(tmp_path), NO_NVML)
    (cpu,) = found.devices
    assert ("cpu", 0, "AMD EPYC 9554 64-Core Processor", "x86-avx512") == (
        cpu.kind,
        cpu.index,
        cpu.name,
        cpu.family,
    )
    assert cpu_digest(str(tmp_path)) == cpu.digest
    assert cpu is found.default_device
    assert ("no NVML: Driver Not Loaded",) == found.problems


def test_the_default_device_is_the_first_accelerator(tmp_path: Path) -> None:
    machines.epyc(tmp_path)
    found = probe(str(tmp_path), FakeNvml(h200(), h200()))
    assert [("cuda", 0), ("cuda", 1), ("cpu", 0)] == [(d.kind, d.index) for d in found.devices]
    assert found.devices[0] is found.default_device
    assert found.devices[0].digest == found.devices[1].digest
    assert () == found.problems


def test_a_profile_adds_what_cannot_be_probed(tmp_path: Path) -> None:
    machines.epyc(tmp_path)
    device = probe(str(tmp_path), FakeNvml(h200())).default_device
    assert ("nvidia-h200", 232_448, 60 << 20, 64) == tuple(
        device.facts[name] for name in ("family", "shared_memory_per_block_bytes", "l2_bytes", "cores")
    )


def test_a_profile_never_contradicts_the_probe(tmp_path: Path) -> None:
    machines.epyc(tmp_path)
    device = probe(str(tmp_path), FakeNvml(h200(NumGpuCores=128 * 100))).default_device
    assert 100 == device.facts["sm_count"]


def test_a_mig_instance_takes_no_size_of_the_whole_device(tmp_path: Path) -> None:
    machines.epyc(tmp_path)
    gpu = h200(MigMode=[1, 1])
    gpu.instances = [slice_of("NVIDIA H200", "1g.18gb", 16, 16384)]
    device = probe(str(tmp_path), FakeNvml(gpu)).default_device
    assert ("nvidia-h200", "1g.18gb", 16, 0, 16 << 30) == tuple(
        device.facts[name] for name in ("family", "mig_profile", "sm_count", "l2_bytes", "memory_bytes")
    )


def test_an_unknown_accelerator_has_no_profile_and_every_common_fact(tmp_path: Path) -> None:
    machines.epyc(tmp_path)
    device = probe(str(tmp_path), FakeNvml(h200(Name="NVIDIA Z1"))).default_device
    assert ("cuda", "NVIDIA Z1") == (device.family, device.name)
    assert set(device.facts) >= ALWAYS
    assert "shared_memory_per_block_bytes" not in device.facts


def test_an_integrated_gpu_has_the_hosts_memory(tmp_path: Path) -> None:
    machines.grace(tmp_path)
    device = probe(str(tmp_path), FakeNvml(orin())).default_device
    assert 500000000 << 10 == device.facts["memory_bytes"]


@pytest.mark.parametrize("machine", [machines.epyc, machines.xeon, machines.grace, machines.laptop])
def test_every_probed_device_has_the_facts_that_search_spaces_name(machine: Any, tmp_path: Path) -> None:
    machine(tmp_path)
    for device in probe(str(tmp_path), FakeNvml(h200())).devices:
        assert set(device.facts) >= ALWAYS
        assert device.facts["cores"] >= 1


def test_a_machine_that_tells_nothing_is_a_fingerprint_all_the_same(tmp_path: Path) -> None:
    found = probe(str(tmp_path), NO_NVML)
    (cpu,) = found.devices
    assert (1, 0, []) == (cpu.facts["cores"], cpu.facts["memory_bytes"], cpu.facts["isa"])
    assert (
        "no NVML: Driver Not Loaded",
        "the CPU's model_name is unknown: /proc/cpuinfo does not tell",
        "the CPU's isa is unknown: /proc/cpuinfo does not tell",
        "the CPU's l2_bytes is unknown: /sys/devices/system/cpu/*/cache does not tell",
        "the CPU's memory_bytes is unknown: /proc/meminfo does not tell",
    ) == found.problems


def test_this_host_can_be_probed() -> None:
    found = probe()
    assert cpu_digest() == found.devices[-1].digest
    assert 16 == len(found.stack_digest)


@pytest.mark.parametrize("name", sorted(load_profiles()))
def test_a_named_device_has_the_facts_that_search_spaces_name(name: str) -> None:
    device = named_device(name)
    assert (-1, name) == (device.index, device.family)
    assert set(device.facts) >= ALWAYS
    assert None not in device.facts.values()


def test_named_devices_are_the_same_on_any_machine_and_all_different() -> None:
    digests = {named_device(name).digest for name in load_profiles()}
    assert len(load_profiles()) == len(digests)
    assert named_device("nvidia-h200") == named_device("nvidia-h200")


def test_an_h200_can_be_planned_for_where_there_is_none() -> None:
    device = named_device("nvidia-h200")
    assert ("cuda", 90, 132, 227 << 10, 141 << 30) == tuple(
        device.facts[name]
        for name in (
            "kind",
            "compute_capability",
            "sm_count",
            "shared_memory_per_block_bytes",
            "memory_bytes",
        )
    )


def test_devices_are_named_by_kind_index_or_family(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = FakeNvml(h200(), h200(Name="NVIDIA L4"))
    monkeypatch.setitem(sys.modules, "pynvml", gpus)
    named = {name: device_named(name) for name in (None, "cpu", "cuda", "cuda:1", "nvidia-a10")}
    assert ["NVIDIA H200", "cpu", "NVIDIA H200", "NVIDIA L4", "NVIDIA A10"] == [
        device.kind if device.kind == "cpu" else device.name for device in named.values()
    ]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nvidia-h20", "unknown device 'nvidia-h20'; did you mean nvidia-h200"),
        ("cuda", "unknown device of this host 'cuda'"),
        ("cuda:1", "unknown device of this host 'cuda:1'"),
        ("cpu:x", "unknown device of this host 'cpu:x'"),
        ("cpu:1", "unknown device of this host 'cpu:1'; did you mean cpu:0"),
    ],
)
def test_a_device_that_does_not_exist_names_those_that_do(
    name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", NO_NVML)
    with pytest.raises(UnknownNameError) as raised:
        device_named(name)
    assert says in str(raised.value)


def test_the_package_offers_what_it_says_and_loads_it_late() -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018


def test_digests_load_light_modules_of_the_standard_library_alone() -> None:
    """Look-ups in serving processes ask for them; the names are those that cost milliseconds."""
    heavy = "typing re json dataclasses enum tomllib socket hashlib msgspec torch autotune.fingerprint.nvml"
    code = (
        "import sys; before = set(sys.modules)\n"
        "from autotune.fingerprint.cpu import cpu_digest\n"
        "from autotune.fingerprint.stack import stack_digest\n"
        "cpu_digest(); stack_digest('cuda')\n"
        f"print(*sorted((set(sys.modules) - before) & set({heavy!r}.split())))"
    )
    # Without site, whose .pth files may load anything.
    told = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert "" == told.stdout.strip()


@pytest.mark.gpu
def test_a_real_gpu_tells_its_facts() -> None:
    """Skipped, by name, where NVML finds no device."""
    found = probe()
    if found.default_device.kind != "cuda":
        pytest.skip("needs an NVIDIA GPU")
    facts = found.default_device.facts
    assert {"name", "compute_capability", "memory_bytes", "driver"} <= set(facts)
    assert facts["memory_bytes"] > 1 << 30
