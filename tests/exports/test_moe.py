"""Fused MoE tables: found and read by the rules of vLLM and SGLang, and no row worse than their default."""

from __future__ import annotations

import json

import pytest

from autotune.cli import main
from autotune.exports.tables import GRID
from tests.exports import loading
from tests.exports.conftest import TUNED
from tests.store.factories import AnyDevice, gpu

ROW = {name: value for name, value in TUNED.items() if name != "implementation"}
BF16_DEFAULT = {
    "BLOCK_SIZE_M": 64,
    "BLOCK_SIZE_N": 128,
    "BLOCK_SIZE_K": 64,
    "GROUP_SIZE_M": 1,
    "num_warps": 8,
    "num_stages": 3,
}
"""vLLM's at 512 tokens over 384 experts."""


def export(tmp_path, *words: str, kind: str = "vllm-moe"):
    folder = tmp_path / "configs"
    assert main(["export", kind, "--to", str(folder), *words]) == 0
    return folder


def refused(capsys, *words: str) -> str:
    assert main(list(words)) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told


def provenance(folder, name: str) -> dict:
    return json.loads((folder.parent / f"{folder.name}.provenance" / f"{name}.json").read_text())


def test_vllm_reads_winners_and_defaults_for_all_other_sizes(winners, tmp_path) -> None:
    """The whole grid is there: the winner at 16 tokens, vLLM's own values elsewhere."""
    winners.moe(16)
    folder = export(tmp_path)
    rows = loading.vllm_moe(folder, "NVIDIA H200", 384, 256, None, None)
    assert list(GRID) == list(rows)
    assert ROW == rows[16]
    assert BF16_DEFAULT == rows[512]
    assert all(type(value) is int for row in rows.values() for value in row.values())


def test_the_only_other_key_is_the_version_of_triton(winners, tmp_path) -> None:
    winners.moe(16)
    (file,) = export(tmp_path).iterdir()
    content = json.loads(file.read_text())
    assert "3.6.0" == content.pop("triton_version")
    assert all(size.isdecimal() for size in content)


def test_provenance_lies_beside_the_folder(winners, tmp_path) -> None:
    study = winners.moe(16)
    folder = export(tmp_path)
    (file,) = folder.iterdir()
    told = provenance(folder, file.name)
    assert ("winner", study) == (told["rows"]["16"]["from"], told["rows"]["16"]["study"])
    assert {"from": "default", "why": "not tuned"} == told["rows"]["32"]
    assert "NVIDIA H200" == told["device"]["name"]


@pytest.mark.parametrize(
    ("device", "file"),
    [
        ("NVIDIA H200 NVL", "device_name=NVIDIA_H200.json"),
        ("NVIDIA H100 80GB HBM3", "device_name=NVIDIA_H100_80GB_HBM3.json"),
        ("NVIDIA GH200 480GB", "device_name=NVIDIA_GH200_480GB.json"),
        ("AMD Instinct MI300X/OAM", "device_name=AMD_Instinct_MI300X_OAM.json"),
    ],
)
def test_vllms_names_of_devices(winners, tmp_path, device: str, file: str) -> None:
    """Spaces and slashes become underscores, and the H200 family is one device."""
    winners.moe(16, device=AnyDevice("cuda", 0, device, "cuda", {}, "99" * 8))
    folder = export(tmp_path)
    assert [f"E=384,N=256,{file}"] == [path.name for path in folder.iterdir()]
    assert loading.vllm_moe(folder, device, 384, 256, None, None)


def test_an_instance_of_mig_is_a_device_of_its_own(winners, tmp_path) -> None:
    facts = {"mig_profile": "1g.18gb"}
    winners.moe(16, device=AnyDevice("cuda", 0, "NVIDIA H100", "cuda", facts, "98" * 8))
    (file,) = export(tmp_path).iterdir()
    assert "E=384,N=256,device_name=NVIDIA_H100_MIG_1g.18gb.json" == file.name


def test_float8_in_blocks(winners, tmp_path) -> None:
    """`block_shape` stands without a space for vLLM, with one for SGLang, and defaults are of its sides."""
    winners.moe(16, weight_format="fp8_block128x128")
    vllm = loading.vllm_moe(export(tmp_path), "NVIDIA H200", 384, 256, "fp8_w8a8", [128, 128])
    folder = export(tmp_path / "sglang", kind="sglang-moe")
    sglang = loading.sglang_moe(folder, "3.6.0", "NVIDIA H200", 384, 256, "fp8_w8a8", [128, 128])
    assert ROW == vllm[16] == sglang[16]
    assert (16, 1, 3) == (vllm[4]["BLOCK_SIZE_M"], vllm[4]["GROUP_SIZE_M"], vllm[4]["num_stages"])
    assert (64, 32, 3) == (sglang[4]["BLOCK_SIZE_M"], sglang[4]["GROUP_SIZE_M"], sglang[4]["num_stages"])


def test_float8_without_blocks(winners, tmp_path) -> None:
    winners.moe(16, weight_format="fp8")
    vllm = loading.vllm_moe(export(tmp_path), "NVIDIA H200", 384, 256, "fp8_w8a8", None)
    folder = export(tmp_path / "sglang", kind="sglang-moe")
    sglang = loading.sglang_moe(folder, "3.6.0", "NVIDIA H200", 384, 256, "fp8_w8a8", None)
    assert 128 == vllm[512]["BLOCK_SIZE_K"]
    assert (64, 4) == (sglang[64]["BLOCK_SIZE_M"], sglang[64]["num_warps"])
    assert (128, 8) == (sglang[512]["BLOCK_SIZE_M"], sglang[512]["num_warps"])


def test_four_bits(winners, tmp_path) -> None:
    """N is unpacked for vLLM and packed for SGLang; vLLM needs SPLIT_K; no block shape is named."""
    winners.moe(16, weight_format="int4_g32")
    vllm = loading.vllm_moe(export(tmp_path), "NVIDIA H200", 384, 128, "int4_w4a16", [0, 32])
    folder = export(tmp_path / "sglang", kind="sglang-moe")
    sglang = loading.sglang_moe(folder, "3.6.0", "NVIDIA H200", 384, 128, "int4_w4a16", [0, 32])
    assert {**ROW, "SPLIT_K": 1} == vllm[16]
    assert ROW == sglang[16]
    assert all(row["SPLIT_K"] == 1 for row in vllm.values())


@pytest.mark.parametrize("experts", [8, 48, 384])
def test_defaults_of_four_bits_do_for_every_batch_they_serve(winners, tmp_path, experts: int) -> None:
    """Where the CUDA kernel is not taken (above 6 tokens an expert), Triton needs 16 rows and a group."""
    winners.moe(4096, weight_format="int4_g32", experts=experts)
    rows = loading.vllm_moe(export(tmp_path), "NVIDIA H200", experts, 128, "int4_w4a16", [0, 32])
    for batch in range(1, 3000):
        row = loading.chosen(rows, batch)
        if 8 * batch / experts > 6:
            assert row["BLOCK_SIZE_M"] >= 16
        assert row["GROUP_SIZE_M"] == 1


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"is_baseline": True}, "nothing beat the baseline"),
        ({"configuration": {"implementation": "torch"}}, "won by what the file cannot say"),
        ({"configuration": {**TUNED, "BLOCK_SIZE_N": 96}}, "won by what the file cannot say"),
    ],
)
def test_where_tuning_did_not_win_the_default_is_pinned(winners, tmp_path, what: dict, why: str) -> None:
    winners.moe(512, **what)
    folder = export(tmp_path)
    (file,) = folder.iterdir()
    assert BF16_DEFAULT == loading.vllm_moe(folder, "NVIDIA H200", 384, 256, None, None)[512]
    assert why == provenance(folder, file.name)["rows"]["512"]["why"]


@pytest.mark.parametrize(("default_ns", "row"), [(3.9e5, BF16_DEFAULT), (5e5, ROW)])
def test_a_winner_slower_than_the_systems_default_is_not_exported(
    winners, tmp_path, default_ns: float, row: dict
) -> None:
    """A study that tried vLLM's default knows which is faster, whatever its own baseline was."""
    default = {"implementation": "triton", **BF16_DEFAULT}
    winners.moe(512, trials=((TUNED, 4e5), (default, default_ns)))
    assert row == loading.vllm_moe(export(tmp_path), "NVIDIA H200", 384, 256, None, None)[512]


def test_a_size_beside_the_grid_is_added(winners, tmp_path) -> None:
    winners.moe(20)
    rows = loading.vllm_moe(export(tmp_path), "NVIDIA H200", 384, 256, None, None)
    assert ROW == rows[20] == loading.chosen(rows, 19)


def test_shapes_that_would_share_a_file_are_refused(winners, tmp_path, capsys) -> None:
    winners.moe(16)
    winners.moe(32, hidden=4096)
    told = refused(capsys, "export", "vllm-moe", "--to", str(tmp_path / "configs"))
    assert "-p hidden=" in told
    assert not (tmp_path / "configs").exists()
    rows = loading.vllm_moe(export(tmp_path, "-p", "hidden=4096"), "NVIDIA H200", 384, 256, None, None)
    assert ROW == rows[32] != rows[16]


def test_shapes_with_names_of_their_own_get_a_file_each(winners, tmp_path) -> None:
    winners.moe(16)
    winners.moe(16, experts=48, intermediate=2048)
    assert 2 == len(list(export(tmp_path).iterdir()))


def test_stacks_are_not_mixed(winners, tmp_path, capsys) -> None:
    """Configurations of the stack decided under last; the count of others is told."""
    winners.moe(16)
    winners.moe(32, stack="52" * 8, decided_at=2e9)
    rows = loading.vllm_moe(export(tmp_path), "NVIDIA H200", 384, 256, None, None)
    assert "1 winners of other software stacks were left out" in capsys.readouterr().out
    assert ROW == rows[32] != rows[16]


def test_several_devices_must_be_told_apart(winners, tmp_path, capsys) -> None:
    winners.moe(16)
    winners.moe(16, device=gpu(1, "91" * 8))
    words = ("export", "vllm-moe", "--to", str(tmp_path / "configs"))
    assert "name one with --device" in refused(capsys, *words)
    assert main([*words, "--device", "91" * 8]) == 0


def test_a_file_of_somebody_else_is_left_alone(winners, tmp_path, capsys) -> None:
    """What no export wrote is kept unless --force; what one wrote is replaced."""
    winners.moe(16)
    folder = export(tmp_path)
    export(tmp_path)
    (file,) = folder.iterdir()
    sidecar = folder.parent / "configs.provenance" / f"{file.name}.json"
    sidecar.unlink()
    words = ("export", "vllm-moe", "--to", str(folder))
    assert "was not written by an export" in refused(capsys, *words)
    assert main([*words, "--force"]) == 0


def test_sglang_finds_it_by_version_and_falls_back_to_what_it_ships(winners, tmp_path) -> None:
    """Its variable replaces the shipped folder, whose files are copied in."""
    winners.moe(16)
    shipped = tmp_path / "package" / "triton_3_2_0"
    shipped.mkdir(parents=True)
    (shipped / "E=8,N=7168,device_name=NVIDIA_H200.json").write_text('{"1": {"BLOCK_SIZE_M": 16}}')
    folder = export(tmp_path, "--shipped", str(shipped.parent), kind="sglang-moe")
    assert ROW == loading.sglang_moe(folder, "3.6.0", "NVIDIA H200", 384, 256, None, None)[16]
    assert loading.sglang_moe(folder, "3.6.0", "NVIDIA H200", 8, 7168, None, None)
    assert loading.sglang_moe(folder, "3.6.0", "NVIDIA H200", 9, 7168, None, None) is None
    assert {"triton_3_2_0", "triton_3_6_0"} == {path.name for path in (folder / "configs").iterdir()}


def test_mistakes_are_told_in_one_line(winners, tmp_path, capsys) -> None:
    to = ("--to", str(tmp_path / "configs"))
    assert "there is no history yet" in refused(capsys, "export", "vllm-moe", *to)
    winners.moe(16)
    assert "no winner of fused_moe with experts=7" in refused(
        capsys, "export", "vllm-moe", *to, "-p", "experts=7"
    )
    assert "devices that have one" in refused(capsys, "export", "vllm-moe", *to, "--device", "nvidia-b200")
    assert "no triton_*" in refused(capsys, "export", "sglang-moe", *to, "--shipped", str(tmp_path))
    assert "Missing option '--to'" in refused(capsys, "export", "vllm-moe")
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(
        capsys, "export", "vllm-moe", "--to", str(tmp_path / "file" / "configs")
    )
