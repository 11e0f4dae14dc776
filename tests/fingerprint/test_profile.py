import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from autotune import paths
from autotune.errors import ConfigError, UnknownNameError
from autotune.fingerprint.cpu import cpu_facts, family
from autotune.fingerprint.profile import Profile, load_profiles, profile_for
from tests.fingerprint import machines

FILES = sorted(Path(paths.data_dir("hardware")).glob("*.toml"))
GPUS = {
    "NVIDIA H200": "nvidia-h200",
    "NVIDIA H100 80GB HBM3": "nvidia-h100-sxm",
    "NVIDIA H100 PCIe": "nvidia-h100-pcie",
    "NVIDIA H100 NVL": "nvidia-h100-nvl",
    "NVIDIA B200": "nvidia-b200",
    "NVIDIA A100-SXM4-40GB": "nvidia-a100-40gb",
    "NVIDIA A100-PCIE-40GB": "nvidia-a100-40gb",
    "NVIDIA A100-SXM4-80GB": "nvidia-a100-80gb",
    "NVIDIA A100 80GB PCIe": "nvidia-a100-80gb",
    "NVIDIA L4": "nvidia-l4",
    "NVIDIA L40S": "nvidia-l40s",
    "NVIDIA A10": "nvidia-a10",
    "NVIDIA GeForce RTX 4090": "nvidia-rtx-4090",
    "NVIDIA GeForce RTX 5090": "nvidia-rtx-5090",
    "NVIDIA Jetson AGX Orin Developer Kit": "nvidia-agx-orin",
}
UNKNOWN_GPUS = (
    "NVIDIA GH200 480GB",
    "NVIDIA GB200",
    "NVIDIA H200 NVL",
    "NVIDIA H20",
    "NVIDIA L40",
    "NVIDIA A10G",
    "NVIDIA A100X",
    "NVIDIA GeForce RTX 4090 D",
    "NVIDIA GeForce RTX 4090 Laptop GPU",
    "Orin (nvgpu)",
    "",
)


@pytest.fixture(scope="module")
def profiles() -> dict[str, Profile]:
    return load_profiles()


@pytest.fixture
def overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operator's folder."""
    monkeypatch.setattr(paths, "OVERRIDE_DIR", str(tmp_path))
    folder = tmp_path / "hardware"
    folder.mkdir()
    return folder


def test_every_device_that_is_promised_has_a_profile(profiles: dict[str, Profile]) -> None:
    cpus = {"x86-avx2", "x86-avx512", "x86-amx", "arm-sve"}
    assert {*GPUS.values(), *cpus, "amd-mi300x"} == set(profiles)


@pytest.mark.parametrize(("name", "expected"), GPUS.items())
def test_a_gpu_is_recognised_by_its_name(name: str, expected: str, profiles: dict[str, Profile]) -> None:
    found = profile_for({"kind": "cuda", "name": name}, profiles)
    assert found is not None
    assert expected == found.family


@pytest.mark.parametrize("name", UNKNOWN_GPUS)
def test_a_gpu_with_a_similar_name_is_not(name: str, profiles: dict[str, Profile]) -> None:
    assert profile_for({"kind": "cuda", "name": name}, profiles) is None


@pytest.mark.parametrize("machine", [machines.epyc, machines.xeon, machines.grace, machines.laptop])
def test_a_cpu_belongs_to_the_family_that_look_ups_take_it_for(
    machine: Any, tmp_path: Path, profiles: dict[str, Profile]
) -> None:
    machine(tmp_path)
    facts = cpu_facts(str(tmp_path))
    found = profile_for(facts, profiles)
    assert found is not None
    assert facts["family"] == found.family


def test_the_cpu_that_stands_for_a_family_belongs_to_it(profiles: dict[str, Profile]) -> None:
    for profile in profiles.values():
        if profile.match.kind == "cpu":
            assert profile.family == family(profile.typical.isa or [], "")


def test_a_cpu_without_wide_vectors_has_no_profile(profiles: dict[str, Profile]) -> None:
    assert profile_for({"kind": "cpu", "isa": ["fma"]}, profiles) is None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_number_has_its_source_beside_it(path: Path) -> None:
    """Each line with a number ends in a comment whose first word is one of the file's sources."""
    sources = tomllib.loads(path.read_text())["sources"]
    numbers = [line for line in path.read_text().splitlines() if re.match(r"\w+ = [-0-9]", line)]
    cited = {re.sub(r".*# (\w+).*", r"\1", line) for line in numbers}
    assert numbers
    assert cited <= set(sources), "a number without a source"
    comments = " ".join(re.findall("#.*", path.read_text()))
    assert [] == [name for name in sources if name not in comments], "a source that nothing cites"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rates_are_dense_and_agree_with_one_another(path: Path, profiles: dict[str, Profile]) -> None:
    """Halving the width doubles the rate, on every tensor core made so far; twice that is sparsity."""
    flops = profiles[path.stem].peaks.flops
    for wide, narrow, times in (
        ("tf32", "bfloat16", 2),
        ("bfloat16", "float16", 1),
        ("bfloat16", "float8", 2),
        ("float8", "float4", 2),
        ("int8", "int4", 2),
    ):
        if wide in flops and narrow in flops and (path.stem, narrow) != ("nvidia-rtx-5090", "float4"):
            assert flops[narrow] == pytest.approx(times * flops[wide], rel=0.02)


def test_a_bfloat16_rate_is_sms_times_clock_times_the_tensor_cores_width(
    profiles: dict[str, Profile],
) -> None:
    """From the same documents, another way: dense operations per SM and cycle, and the boost clock."""
    per_sm_and_cycle = {
        "nvidia-h100-sxm": (4096, 1.83e9),
        "nvidia-a100-40gb": (2048, 1.41e9),
        "nvidia-l40s": (1024, 2.49e9),
        "nvidia-rtx-4090": (512, 2.52e9),
        "nvidia-rtx-5090": (512, 2.407e9),
        "nvidia-a10": (1024, 1.695e9),
        "amd-mi300x": (2048, 2.1e9),
    }
    for name, (width, clock) in per_sm_and_cycle.items():
        profile = profiles[name]
        sms = profile.limits.sm_count or 0
        assert sms * width * clock == pytest.approx(profile.peaks.flops["bfloat16"], rel=0.02), name


def test_a_block_can_be_given_what_its_sm_has(profiles: dict[str, Profile]) -> None:
    for profile in profiles.values():
        limits = profile.limits
        if limits.warp_size:
            assert (limits.shared_memory_per_block_bytes or 0) <= (limits.shared_memory_per_sm_bytes or 0)
            assert (limits.threads_per_block or 0) <= limits.warp_size * (limits.warps_per_sm or 0)


def test_an_operators_file_replaces_ours(overrides: Path) -> None:
    (overrides / "nvidia-h200.toml").write_text('summary = "ours"\n[match]\nkind = "cuda"\nname = "H200"\n')
    assert "ours" == load_profiles()["nvidia-h200"].summary


def test_the_profile_that_asks_for_more_wins(overrides: Path) -> None:
    """An operator's profile of one CPU model stands before the family's."""
    (overrides / "epyc-9554.toml").write_text('summary = "x"\n[match]\nkind = "cpu"\nname = "EPYC 9554"\n')
    facts = {"kind": "cpu", "model_name": "AMD EPYC 9554 64-Core", "isa": ["avx2", "avx512f"]}
    found = profile_for(facts)
    assert found is not None
    assert "epyc-9554" == found.family


HEAD = 'summary = "x"\n[match]\nkind = "cuda"\n'


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        (HEAD + "[limits]\nsm_cuont = 1\n", UnknownNameError, "[limits] 'sm_cuont'; did you mean sm_count"),
        (HEAD + "[peak]\n", UnknownNameError, "table of a device profile 'peak'; did you mean peaks?"),
        ("family = 'y'\n" + HEAD, UnknownNameError, "table of a device profile 'family'"),
        (HEAD + "nmae = 'H200'\n", UnknownNameError, "unknown key of [match] 'nmae'; did you mean name?"),
        (HEAD + "name = '('\n", ConfigError, "match.name is no regular expression"),
        ('summary = "x"\n[match]\nkind = "gpu"\n', ConfigError, "`$.match.kind`"),
        ('summary = "x"\n', ConfigError, "missing required field `match`"),
        (HEAD + "[limits]\nsm_count = 'many'\n", ConfigError, "`$.limits.sm_count`"),
        (HEAD + "[limits]\nsm_count = 0\n", ConfigError, "`$.limits.sm_count`"),
        (HEAD + "[peaks.flops]\nbf16 = 1e12\n", ConfigError, "$.peaks.flops"),
        ("limits = 3\n" + HEAD, ConfigError, "`$.limits`"),
        ("summary = ", ConfigError, "is not TOML"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_line_with_its_path_and_place(
    overrides: Path, text: str, error: type[Exception], says: str
) -> None:
    (overrides / "mine.toml").write_text(text)
    with pytest.raises(error) as raised:
        load_profiles()
    message = str(raised.value)
    assert message.startswith(f"{overrides / 'mine.toml'}: ")
    assert says in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read_is_one_line(overrides: Path) -> None:
    (overrides / "mine.toml").mkdir()
    with pytest.raises(ConfigError, match=r"mine\.toml: cannot be read: Is a directory"):
        load_profiles()
