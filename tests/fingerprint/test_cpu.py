import os
from pathlib import Path

import pytest

from autotune.fingerprint.cpu import DIGEST_FACTS, FAMILIES, cpu_digest, cpu_facts
from tests.fingerprint import machines

MIB = 1 << 20


def test_a_whole_machine_is_told(tmp_path: Path) -> None:
    machines.epyc(tmp_path)
    facts = cpu_facts(str(tmp_path))
    assert ("x86-avx512", "x86_64", "AuthenticAMD") == tuple(
        facts[name] for name in ("family", "architecture", "vendor")
    )
    assert (25, 17, 0) == (facts["cpu_family"], facts["cpu_model"], facts["stepping"])
    assert "AMD EPYC 9554 64-Core Processor" == facts["model_name"]
    assert ["avx2", "avx512_bf16", "avx512_vnni", "avx512bw", "avx512f", "avx512vl", "f16c", "fma"] == facts[
        "isa"
    ]
    assert (64, False, 2) == (facts["cores"], facts["smt"], facts["numa_nodes"])
    assert (32 << 10, MIB, 8 * 32 * MIB) == (facts["l1d_bytes"], facts["l2_bytes"], facts["l3_bytes"])
    assert (263856640 << 10, 252) == (facts["memory_bytes"], facts["memory_gib"])


def test_affinity_leaves_two_of_64_cores_and_their_cache_and_node(tmp_path: Path) -> None:
    machines.epyc(tmp_path, allowed="40-41")
    facts = cpu_facts(str(tmp_path))
    assert (2, 32 * MIB, 1) == (facts["cores"], facts["l3_bytes"], facts["numa_nodes"])


def test_affinity_may_spread_over_caches_and_nodes(tmp_path: Path) -> None:
    machines.epyc(tmp_path, allowed="0,63")
    facts = cpu_facts(str(tmp_path))
    assert (2, 2 * 32 * MIB, 2) == (facts["cores"], facts["l3_bytes"], facts["numa_nodes"])


def test_a_version_1_quota_leaves_two_of_64_cores(tmp_path: Path) -> None:
    write = machines.epyc(tmp_path)
    write("proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/x\n")
    write("sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us", "150000\n")
    write("sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us", "100000\n")
    write("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", f"{4 << 30}\n")
    facts = cpu_facts(str(tmp_path))
    assert (2, 4) == (facts["cores"], facts["memory_gib"])
    # Two threads at a time use no more than two caches, wherever they run.
    assert 2 * 32 * MIB == facts["l3_bytes"]


def test_a_version_1_quota_of_minus_one_is_no_limit(tmp_path: Path) -> None:
    write = machines.epyc(tmp_path)
    write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    facts = cpu_facts(str(tmp_path))
    assert (64, 252) == (facts["cores"], facts["memory_gib"])


def test_a_container_sees_its_version_1_quota_at_the_top_of_its_mount(tmp_path: Path) -> None:
    """The path in /proc/self/cgroup is the host's and does not exist inside."""
    write = machines.epyc(tmp_path)
    write("proc/self/cgroup", "5:cpu,cpuacct:/kubepods/pod1/c1\n")
    write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "200000\n")
    write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert 2 == cpu_facts(str(tmp_path))["cores"]


def test_of_nested_version_2_groups_the_strictest_quota_holds(tmp_path: Path) -> None:
    write = machines.epyc(tmp_path)
    write("proc/self/cgroup", "0::/system.slice/job.scope/leaf\n")
    write("sys/fs/cgroup/system.slice/cpu.max", "800000 100000\n")
    write("sys/fs/cgroup/system.slice/job.scope/cpu.max", "150000 100000\n")
    write("sys/fs/cgroup/system.slice/job.scope/leaf/cpu.max", "max 100000\n")
    write("sys/fs/cgroup/system.slice/memory.max", f"{8 << 30}\n")
    write("sys/fs/cgroup/system.slice/job.scope/leaf/memory.max", "max\n")
    facts = cpu_facts(str(tmp_path))
    assert (2, 8) == (facts["cores"], facts["memory_gib"])


def test_a_version_2_quota_of_max_is_no_limit(tmp_path: Path) -> None:
    write = machines.epyc(tmp_path)
    write("proc/self/cgroup", "0::/\n")
    write("sys/fs/cgroup/cpu.max", "max 100000\n")
    assert 64 == cpu_facts(str(tmp_path))["cores"]


def test_a_quota_of_half_a_core_is_one_core(tmp_path: Path) -> None:
    write = machines.epyc(tmp_path)
    write("sys/fs/cgroup/cpu.max", "50000 100000\n")
    assert 1 == cpu_facts(str(tmp_path))["cores"]


def test_amx_makes_the_family(tmp_path: Path) -> None:
    machines.xeon(tmp_path)
    facts = cpu_facts(str(tmp_path))
    assert ("x86-amx", True, 105 * MIB, 1) == tuple(
        facts[name] for name in ("family", "smt", "l3_bytes", "numa_nodes")
    )
    assert {"amx_tile", "amx_int8", "amx_bf16", "avx512_fp16", "avx_vnni"} <= set(facts["isa"])


def test_an_arm_core_is_named_by_its_id_register(tmp_path: Path) -> None:
    machines.grace(tmp_path)
    facts = cpu_facts(str(tmp_path))
    assert ("arm-sve", "aarch64", "Arm Neoverse V2", "0xd4f") == tuple(
        facts[name] for name in ("family", "architecture", "model_name", "cpu_model")
    )
    assert ["bf16", "dotprod", "fp16", "i8mm", "neon", "sve", "sve2", "sve_bf16", "sve_i8mm"] == facts["isa"]
    assert (72, 114 * MIB, 1) == (facts["cores"], facts["l3_bytes"], facts["numa_nodes"])


def test_odd_files_of_a_hybrid_laptop_leave_their_facts_unknown(tmp_path: Path) -> None:
    machines.laptop(tmp_path)
    facts = cpu_facts(str(tmp_path))
    assert ("x86-avx2", 0, "?", None) == tuple(
        facts[name] for name in ("family", "cpu_model", "stepping", "smt")
    )
    assert (6, 48 << 10, 0, 0) == tuple(
        facts[name] for name in ("cores", "l1d_bytes", "l2_bytes", "memory_bytes")
    )


@pytest.mark.parametrize("missing", ["proc", "sys", ""])
def test_nothing_that_is_missing_stops_the_rest(tmp_path: Path, missing: str) -> None:
    machines.epyc(tmp_path)
    (tmp_path / missing).rename(tmp_path.with_name(f"{tmp_path.name}-gone"))
    facts = cpu_facts(str(tmp_path))
    assert (None if missing != "sys" else "AMD EPYC 9554 64-Core Processor") == facts["model_name"]
    assert {"proc": 64, "sys": 64, "": 1}[missing] == facts["cores"]
    assert (0 if missing != "proc" else MIB) == facts["l2_bytes"]
    assert 16 == len(cpu_digest(str(tmp_path)))


def test_this_machine_is_told_as_the_kernel_tells_it() -> None:
    facts = cpu_facts()
    assert 1 <= facts["cores"] <= len(os.sched_getaffinity(0))
    assert os.uname().machine == facts["architecture"]
    assert cpu_digest() == cpu_digest()


def test_affinity_changes_the_digest_of_this_machine() -> None:
    allowed = os.sched_getaffinity(0)
    if cpu_facts()["cores"] < 2:
        pytest.skip("needs two cores")
    before = cpu_digest()
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert (1, True) == (cpu_facts()["cores"], before != cpu_digest())
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("proc/cpuinfo", "vendor_id : AuthenticAMD\nmodel name : AMD EPYC 9654\nflags : avx2\n"),
        ("proc/self/status", "Cpus_allowed_list:\t0-62\n"),
        ("sys/fs/cgroup/cpu.max", "200000 100000\n"),
        ("proc/meminfo", "MemTotal: 100000000 kB\n"),
        ("sys/devices/system/cpu/smt/active", "1\n"),
        ("sys/devices/system/cpu/cpu0/cache/index2/size", "512K\n"),
        ("sys/devices/system/node/has_cpu", "0\n"),
    ],
)
def test_what_changes_speed_changes_the_digest(tmp_path: Path, path: str, text: str) -> None:
    write = machines.epyc(tmp_path)
    before = cpu_digest(str(tmp_path))
    write(path, text)
    assert before != cpu_digest(str(tmp_path))


def test_what_names_a_unit_or_changes_at_every_boot_does_not(tmp_path: Path) -> None:
    write = machines.epyc(tmp_path)
    before = cpu_digest(str(tmp_path))
    write("proc/sys/kernel/hostname", "node7\n")
    write("proc/sys/kernel/random/boot_id", "5d3f5b5e\n")
    write("sys/class/dmi/id/product_uuid", "4c4c4544\n")
    write("sys/class/dmi/id/board_serial", "S123\n")
    # The firmware kept 20 MB more; and another frequency at the moment.
    write("proc/meminfo", "MemTotal:       263836640 kB\n")
    cpuinfo = (tmp_path / "proc/cpuinfo").read_text()
    write("proc/cpuinfo", cpuinfo.replace("3100.000", "1500.000"))
    assert before == cpu_digest(str(tmp_path))


def test_the_digest_is_of_facts_that_exist(tmp_path: Path) -> None:
    machines.epyc(tmp_path)
    assert set(DIGEST_FACTS) < set(cpu_facts(str(tmp_path)))


def test_only_the_head_of_cpuinfo_is_read(tmp_path: Path) -> None:
    """A pipe that never ends stands for the hundreds of entries that follow the first."""
    machines.epyc(tmp_path)
    (tmp_path / "proc/cpuinfo").unlink()
    (tmp_path / "proc/cpuinfo").symlink_to("/dev/zero")
    assert cpu_facts(str(tmp_path))["model_name"] is None


def test_families_are_ordered_from_the_widest_unit() -> None:
    assert ["x86-amx", "x86-avx512", "x86-avx2", "arm-sve"] == [family for _, family in FAMILIES]
