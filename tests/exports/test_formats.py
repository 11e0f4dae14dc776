"""The other formats: float8 products, modules of Triton, vllm serve, Kernel Tuner; and what is imported."""

from __future__ import annotations

import gzip
import json
import runpy
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from autotune.cli import main
from autotune.exports.tables import GRID
from autotune.fingerprint import device_named, named_device
from autotune.search.imported import FromImports
from autotune.search.landscape import read_landscape
from autotune.search.objective import ENERGY, LATENCY
from autotune.space import Implementation, SearchSpace, SpaceDeclaration
from autotune.space.problem import Dimension, Problem
from autotune.store import open_history
from autotune.store.records import Verdict
from tests.exports import loading
from tests.exports.conftest import TUNED
from tests.exports.test_moe import ROW, refused
from tests.store.factories import problem as linear
from tests.store.factories import promote, study_key, trial

if TYPE_CHECKING:
    from pathlib import Path


def run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def test_block_fp8_is_read_by_both_systems(winners, tmp_path) -> None:
    """No key but sizes; vLLM keeps H200s apart here, SGLang wants a space; each has its own default."""
    winners.linear(16)
    run("export", "block-fp8", "--to", tmp_path / "v", "--device-name", "NVIDIA H200 NVL")
    run("export", "block-fp8", "--to", tmp_path / "s", "--for", "sglang")
    vllm = loading.vllm_block_fp8(tmp_path / "v", "NVIDIA H200 NVL", 2112, 7168, [128, 128])
    sglang = loading.sglang_block_fp8(tmp_path / "s", "NVIDIA H200", 2112, 7168, [128, 128])
    assert list(GRID) == list(vllm) == list(sglang)
    assert ROW == vllm[16] == sglang[16]
    assert (2, 3) == (vllm[1]["num_stages"], sglang[1]["num_stages"])
    assert (64, 128, 128, 32) == tuple(vllm[1].values())[:4]


def test_block_fp8_is_for_float8_in_blocks_alone(winners, tmp_path, capsys) -> None:
    winners.add("linear", {"m": 16, "n": 64, "k": 64, "weight_format": "native"}, TUNED)
    assert "fp8_block128x128" in refused(capsys, "export", "block-fp8", "--to", str(tmp_path / "v"))
    assert "did you mean vllm" in refused(
        capsys, "export", "block-fp8", "--to", str(tmp_path / "v"), "--for", "vlm"
    )


def test_a_module_of_triton_configs(winners, tmp_path, monkeypatch) -> None:
    """It runs where Triton is, and its constants and options are the winners'."""
    kernel = {"implementation": "triton", "BLOCK": 64, "num_warps": 8, "num_stages": 2}
    winners.add("softmax", {"rows": 512, "width": 256}, kernel)
    winners.add("softmax", {"rows": 16, "width": 256}, {"implementation": "torch"})
    file = tmp_path / "softmax_configs.py"
    run("export", "triton", "softmax", "--to", file)
    fake = SimpleNamespace(Config=lambda kwargs, **options: (kwargs, options))
    monkeypatch.setitem(sys.modules, "triton", fake)
    made = runpy.run_path(str(file))
    assert ("rows", "width") == made["KEY"]
    assert {(512, 256): ({"BLOCK": 64}, {"num_warps": 8, "num_stages": 2})} == made["CONFIGS"]
    assert made["DEFAULT"] is None
    told = json.loads(
        (tmp_path.parent / f"{tmp_path.name}.provenance" / "softmax_configs.py.json").read_text()
    )
    assert (1, 1) == (told["tuned"], told["left_out"])


def test_a_module_needs_a_name_and_a_kernel(winners, tmp_path, capsys) -> None:
    winners.add("softmax", {"rows": 16}, {"implementation": "torch"})
    assert "nothing to write" in refused(
        capsys, "export", "triton", "softmax", "--to", str(tmp_path / "a.py")
    )
    assert "name of a Python module" in refused(capsys, "export", "triton", "softmax", "--to", "a-b.py")


def test_vllm_serve_starts_with_the_winner(winners, tmp_path) -> None:
    """Options with dashes in YAML, whose text is quoted; variables in an environment file."""
    configuration = {
        "implementation": "vllm",
        "max_num_seqs": 256,
        "enable_prefix_caching": False,
        "kv_cache_dtype": "off",
        "VLLM_ATTENTION_BACKEND": "FLASH ATTN",
    }
    winners.add("vllm_serve", {"tp": 8}, configuration, objective="throughput")
    (tmp_path / "moe").mkdir()
    run(
        "export",
        "vllm-serve",
        "vllm_serve",
        "--to",
        tmp_path / "s",
        "--moe",
        tmp_path / "moe",
        "--generation",
        3,
    )
    assert ["max-num-seqs: 256", "enable-prefix-caching: false", 'kv-cache-dtype: "off"'] == (
        (tmp_path / "s" / "vllm.yaml").read_text().splitlines()
    )
    assert [
        'VLLM_ATTENTION_BACKEND="FLASH ATTN"',
        f"VLLM_TUNED_CONFIG_FOLDER={tmp_path / 'moe'}",
        "AUTOTUNE_GENERATION=3",
    ] == (tmp_path / "s" / "vllm.env").read_text().splitlines()


def test_vllm_serve_refuses_what_it_cannot_choose_or_write(winners, tmp_path, capsys) -> None:
    to = ("--to", str(tmp_path / "s"))
    assert "nothing to write" in refused(capsys, "export", "vllm-serve", *to)
    assert "is not a folder" in refused(capsys, "export", "vllm-serve", *to, "--moe", str(tmp_path / "no"))
    winners.add("serve", {"tp": 8}, {"a b": 1}, objective="throughput")
    assert "is not the name of an option" in refused(capsys, "export", "vllm-serve", "serve", *to)
    winners.add("serve", {"tp": 4}, {"max_num_seqs": 1}, objective="throughput")
    assert "choose with -p" in refused(capsys, "export", "vllm-serve", "serve", *to)


def study(state: Path) -> int:
    """A study with two measured trials, one that failed, and one that was preempted."""
    with open_history(str(state)) as history:
        number = promote(history)
        history.begin_study(study_key(), linear().dimensions)
        history.add_trial(number, trial(3, Verdict.COMPILE_ERROR))
        history.add_trial(number, trial(4, Verdict.PREEMPTED))
    return number


def test_a_study_is_a_landscape_that_kernel_tuner_and_we_read(winners, tmp_path) -> None:
    number = study(winners.state)
    run("export", "kernel-tuner", number, "--to", tmp_path / "study.json.gz")
    landscape = read_landscape(tmp_path / "study.json.gz")
    assert (4, 3) == (len(landscape), int((landscape.times > 0).sum()))
    assert landscape.optimum == pytest.approx(1.0, rel=0.02)
    text = gzip.decompress((tmp_path / "study.json.gz").read_bytes()).decode()
    assert "}\n}" == text[-3:]


def test_a_study_fits_the_schema_of_results(winners, tmp_path) -> None:
    number = study(winners.state)
    run("export", "kernel-tuner", number, "--t4", "--to", tmp_path / "study.json")
    content = json.loads((tmp_path / "study.json").read_text())
    assert ["correct", "correct", "correct", "compile"] == [one["invalidity"] for one in content["results"]]
    jsonschema = pytest.importorskip("jsonschema")
    kernel_tuner = pytest.importorskip("kernel_tuner.file_utils")
    jsonschema.validate(content, kernel_tuner.output_file_schema("results")[1])


def test_an_existing_file_is_not_overwritten(winners, tmp_path, capsys) -> None:
    number = study(winners.state)
    (tmp_path / "study.json").write_text("mine")
    words = ("export", "kernel-tuner", str(number), "--to", str(tmp_path / "study.json"))
    assert "is there already" in refused(capsys, *words)
    assert "mine" == (tmp_path / "study.json").read_text()
    assert "unknown study '99'" in refused(capsys, "export", "kernel-tuner", "99", "--to", "x.json")


MOE_SPACE = SpaceDeclaration(
    "moe",
    {"tokens": Dimension("tokens", nearest=True), "experts": Dimension("experts")},
    {
        "torch": Implementation(parameters={"threads": [1]}),
        "triton": Implementation(
            parameters={
                "BLOCK_SIZE_M": [16, 64],
                "BLOCK_SIZE_N": [64, 128],
                "BLOCK_SIZE_K": [64, 128],
                "GROUP_SIZE_M": [1, 2],
                "num_warps": [4, 8],
                "num_stages": [3, 4],
            }
        ),
    },
    {"implementation": "torch", "threads": 1},
)


def test_vllms_file_comes_back_as_candidates(winners, tmp_path) -> None:
    """What was exported and imported again are candidates of the very problem, in the space's own terms."""
    winners.moe(16)
    run("export", "vllm-moe", "--to", tmp_path / "configs")
    (file,) = (tmp_path / "configs").iterdir()
    run("import", "vllm-moe", file, "-p", "hidden=7168,top_k=8")
    device = named_device("nvidia-h200")
    dimensions = {"tokens": 16, "experts": 384}
    space = SearchSpace.build(MOE_SPACE, MOE_SPACE.problem(dimensions), device.facts)
    imports = FromImports(str(winners.state), device)
    asked = Problem("fused_moe", _imported_dimensions(winners.state, 16), ("tokens",))
    near = replace(space, problem=asked)
    assert [TUNED] == imports.candidates(near, 1)
    assert [] == FromImports(str(winners.state), named_device("x86-avx2")).candidates(near, 1)
    assert [] == list(imports(asked, LATENCY))


def _imported_dimensions(state: Path, tokens: int) -> dict:
    found = [json.loads(path.read_text())["dimensions"] for path in (state / "imports").glob("*.json")]
    assert len(GRID) == len(found)
    return next(dimensions for dimensions in found if dimensions["tokens"] == tokens)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tuned.json", "{}", "its name does not say"),
        ("E=8,N=64,device_name=NVIDIA_H200.json", "[]", "expected a JSON object"),
        ("E=8,N=64,device_name=NVIDIA_H200.json", "{", "cannot be read as JSON"),
        ("E=8,N=64,device_name=NVIDIA_H200.json", "{}", "holds no configuration"),
        ("E=8,N=64,device_name=NVIDIA_H200.json", '{"a": {}}', "is not a batch size"),
        ("E=8,N=64,device_name=NVIDIA_H200.json", '{"1": {"x": 1}}', "is no parameter"),
        ("E=8,N=64,device_name=NVIDIA_H200,dtype=int8_w8a8.json", '{"1": {}}', "is no weight format"),
    ],
)
def test_a_file_that_is_no_moe_table_is_refused(winners, tmp_path, capsys, name, content, message) -> None:
    (tmp_path / name).write_text(content)
    words = ("import", "vllm-moe", str(tmp_path / name), "-p", "hidden=64,top_k=2")
    assert message in refused(capsys, *words)


def test_dimensions_that_the_name_lacks_must_be_given(winners, tmp_path, capsys) -> None:
    file = tmp_path / "E=8,N=64,device_name=NVIDIA_H200.json"
    file.write_text('{"1": {"BLOCK_SIZE_M": 16}}')
    assert "dimension 'top_k' is missing" in refused(capsys, "import", "vllm-moe", str(file))


def test_kernel_tuners_cache_comes_back_as_an_earlier_study(winners, tmp_path) -> None:
    """Times become a study of that problem on that device; nothing where energy counts."""
    number = study(winners.state)
    run("export", "kernel-tuner", number, "--to", tmp_path / "study.json")
    for _ in range(2):  # a second time it is the same import
        of = ("linear", "-p", "m=16,n=7168,k=2048", "--device", "cpu")
        run("import", "kernel-tuner", tmp_path / "study.json", *of)
    source = FromImports(str(winners.state), device_named("cpu"))
    asked = Problem(
        "linear", {"m": 32, "n": 7168, "k": 2048, "dtype": "bfloat16", "weight_format": "native"}, ("m",)
    )
    (earlier,) = source(asked, LATENCY)
    assert 1.5 == earlier.distance
    assert (4, 1) == (len(earlier.study.values), sum(value != value for value in earlier.study.values))
    assert [] == list(source(asked, ENERGY))


def test_a_damaged_import_is_passed_over(winners, tmp_path) -> None:
    folder = winners.state / "imports"
    folder.mkdir(parents=True)
    (folder / "0123456789abcdef.json").write_text("{")
    source = FromImports(str(winners.state), named_device("nvidia-h200"))
    assert [] == list(source(Problem("linear", {"m": 1}, ("m",)), LATENCY))


def test_a_cache_of_another_kernel_is_refused(winners, tmp_path, capsys) -> None:
    cache = {
        "tune_params_keys": ["tile"],
        "tune_params": {"tile": [1]},
        "cache": {"1": {"tile": 1, "time": 2.0}},
    }
    (tmp_path / "other.json").write_text(json.dumps(cache))
    words = ("import", "kernel-tuner", str(tmp_path / "other.json"), "rms_norm", "-p", "rows=4,hidden=64")
    assert "its parameters (tile) are none of rms_norm's" in refused(capsys, *words)
