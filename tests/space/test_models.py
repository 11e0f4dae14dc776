from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from autotune import paths
from autotune.errors import ModelError, UnknownNameError
from autotune.space.models import Mla, Moe, load_model, model_names
from autotune.space.quantization import WeightFormat, matches, weight_formats

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Config = Callable[..., str]

DENSE = {
    "architectures": ["NeverSeenForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 1000,
}

MOE = {**DENSE, "num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Writes a config.json of the dense model with changes; a change to None removes the field."""

    def config(base: dict[str, Any] = DENSE, **changes: Any) -> str:
        table = {key: value for key, value in {**base, **changes}.items() if value is not None}
        path = tmp_path / "config.json"
        path.write_text(json.dumps(table))
        return str(path)

    return config


@pytest.fixture
def rejected(tmp_path: Path) -> Callable[[str], str]:
    """The one line about a model, without its file's name."""

    def rejected(path: str) -> str:
        with pytest.raises(ModelError) as caught:
            load_model(path)
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith(path)
        return message.removeprefix(path).removeprefix(": ")

    return rejected


def test_ten_models_ship() -> None:
    assert model_names() == [
        "deepseek-v3",
        "gpt-oss-120b",
        "kimi-k2",
        "kimi-k2.5",
        "llama-3.1-70b",
        "llama-3.1-8b",
        "qwen3-235b-a22b",
        "qwen3-30b-a3b",
        "qwen3-32b",
        "qwen3-8b",
    ]


@pytest.mark.parametrize(
    ("name", "hidden", "layers", "dense", "width", "heads", "kv_heads", "head_dim", "vocab"),
    [
        ("kimi-k2.5", 7168, 61, 1, 18432, 64, 64, 192, 163840),
        ("kimi-k2", 7168, 61, 1, 18432, 64, 64, 192, 163840),
        ("deepseek-v3", 7168, 61, 3, 18432, 128, 128, 192, 129280),
        ("qwen3-8b", 4096, 36, 36, 12288, 32, 8, 128, 151936),
        ("qwen3-32b", 5120, 64, 64, 25600, 64, 8, 128, 151936),
        ("qwen3-30b-a3b", 2048, 48, 0, 0, 32, 4, 128, 151936),
        ("qwen3-235b-a22b", 4096, 94, 0, 0, 64, 4, 128, 151936),
        ("llama-3.1-8b", 4096, 32, 32, 14336, 32, 8, 128, 128256),
        ("llama-3.1-70b", 8192, 80, 80, 28672, 64, 8, 128, 128256),
        ("gpt-oss-120b", 2880, 36, 0, 0, 64, 8, 64, 201088),
    ],
)
def test_shipped_models_have_their_published_numbers(
    name: str,
    hidden: int,
    layers: int,
    dense: int,
    width: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    vocab: int,
) -> None:
    model = load_model(name)
    assert model.name == name
    assert (model.hidden, model.layers, model.dense_layers, model.intermediate) == (
        hidden,
        layers,
        dense,
        width,
    )
    assert (model.heads, model.kv_heads, model.head_dim, model.vocab) == (heads, kv_heads, head_dim, vocab)
    assert model.dtype == "bfloat16"
    assert model.unplanned == ()


@pytest.mark.parametrize(
    ("name", "moe"),
    [
        ("kimi-k2.5", Moe(60, 384, 8, 2048, 2048)),
        ("deepseek-v3", Moe(58, 256, 8, 2048, 2048)),
        ("qwen3-30b-a3b", Moe(48, 128, 8, 768)),
        ("qwen3-235b-a22b", Moe(94, 128, 8, 1536)),
        ("gpt-oss-120b", Moe(36, 128, 4, 2880)),
        ("llama-3.1-8b", None),
    ],
)
def test_shipped_mixtures_of_experts(name: str, moe: Moe | None) -> None:
    assert load_model(name).moe == moe


def test_latent_attention_is_told_from_its_fields() -> None:
    assert load_model("kimi-k2.5").mla == Mla(1536, 512, 128, 64, 128)
    assert load_model("qwen3-8b").mla is None


def test_of_k2_5_only_the_routed_experts_are_quantised() -> None:
    formats = load_model("kimi-k2.5").formats
    assert formats.experts == WeightFormat("int4_g32", 32)
    assert {formats.attention, formats.dense, formats.shared, formats.lm_head} == {WeightFormat("native")}


@pytest.mark.parametrize("name", ["kimi-k2", "deepseek-v3"])
def test_fp8_checkpoints_spare_the_output_layer(name: str) -> None:
    formats = load_model(name).formats
    block = WeightFormat("fp8_block128x128", 128)
    assert {formats.attention, formats.dense, formats.shared, formats.experts} == {block}
    assert formats.lm_head == WeightFormat("native")


def test_of_gpt_oss_only_the_experts_are_quantised() -> None:
    formats = load_model("gpt-oss-120b").formats
    assert (formats.experts.name, formats.attention.name, formats.lm_head.name) == (
        "mxfp4",
        "native",
        "native",
    )


def test_half_of_the_layers_of_gpt_oss_slide() -> None:
    model = load_model("gpt-oss-120b")
    assert (model.full_layers, model.sliding_layers, model.window) == (18, 18, 128)


def test_an_unknown_name_suggests_the_closest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown model 'kimi-k25'; did you mean kimi-k2\.5"):
        load_model("kimi-k25")


def test_a_hub_name_suggests_the_shipped_one() -> None:
    with pytest.raises(ModelError, match=r"'moonshotai/Kimi-K2\.5'; did you mean kimi-k2\.5\?"):
        load_model("moonshotai/Kimi-K2.5")


def test_a_path_that_is_not_there_says_what_to_give() -> None:
    with pytest.raises(ModelError, match=r"^/gone/config\.json: no such file; give the config\.json of"):
        load_model("/gone/config.json")


def test_an_operators_file_replaces_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "search_spaces" / "models"
    folder.mkdir(parents=True)
    (folder / "qwen3-8b.json").write_text(json.dumps(DENSE))
    (folder / "ours.json").write_text(json.dumps(DENSE))
    monkeypatch.setattr(paths, "OVERRIDE_DIR", str(tmp_path))
    assert load_model("qwen3-8b").hidden == 64
    assert load_model("ours").hidden == 64


def test_an_architecture_never_seen_is_fine(config: Config) -> None:
    model = load_model(config())
    assert (model.hidden, model.heads, model.kv_heads, model.head_dim) == (64, 8, 2, 8)
    assert (model.dense_layers, model.full_layers, model.dtype) == (4, 4, "bfloat16")


def test_a_folder_stands_for_its_config_json(config: Config) -> None:
    assert load_model(os.path.dirname(config())).hidden == 64


def test_without_key_value_heads_attention_is_multi_head(config: Config) -> None:
    assert load_model(config(num_key_value_heads=None)).kv_heads == 8


def test_a_nested_language_model_is_found_and_inherits(config: Config) -> None:
    quantization = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    path = config(
        {}, text_config=DENSE, torch_dtype="float16", quantization_config=quantization, hidden_size=1
    )
    model = load_model(path)
    assert (model.hidden, model.dtype, model.formats.dense.name) == (64, "float16", "fp8_block128x128")


def test_a_doubly_nested_language_model_is_found(config: Config) -> None:
    assert load_model(config({}, thinker_config={"text_config": DENSE})).hidden == 64


@pytest.mark.parametrize(
    ("changes", "moe"),
    [
        ({}, Moe(4, 16, 2, 32)),
        ({"first_k_dense_replace": 1, "n_shared_experts": 2}, Moe(3, 16, 2, 32, 64)),
        ({"decoder_sparse_step": 2}, Moe(2, 16, 2, 32)),
        ({"mlp_only_layers": [0, 3]}, Moe(2, 16, 2, 32)),
        ({"moe_layer_freq": [0, 1, 1, 1]}, Moe(3, 16, 2, 32)),
        ({"moe_intermediate_size": None}, Moe(4, 16, 2, 128)),
        ({"shared_expert_intermediate_size": 96}, Moe(4, 16, 2, 32, 96)),
        ({"model_type": "llama4_text"}, Moe(4, 16, 2, 32, 32)),
        ({"num_experts": None, "num_local_experts": 8}, Moe(4, 8, 2, 32)),
        ({"num_experts": 0}, None),
        ({"first_k_dense_replace": 4}, None),
    ],
)
def test_which_layers_have_experts(config: Config, changes: dict[str, Any], moe: Moe | None) -> None:
    model = load_model(config(MOE, **changes))
    assert model.moe == moe
    assert model.dense_layers == 4 - (moe.layers if moe else 0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sliding_window": 16}, (0, 4, 16)),
        ({"sliding_window": 16, "use_sliding_window": False}, (4, 0, 0)),
        ({"sliding_window": 16, "sliding_window_pattern": 2}, (2, 2, 16)),
        ({"sliding_window": 16, "layer_types": ["full_attention"] * 4}, (4, 0, 16)),
        (
            {"sliding_window": 16, "layer_types": ["full_attention", *["sliding_attention"] * 3]},
            (1, 3, 16),
        ),
    ],
)
def test_which_layers_slide(config: Config, changes: dict[str, Any], expected: tuple[int, ...]) -> None:
    model = load_model(config(**changes))
    assert (model.full_layers, model.sliding_layers, model.window) == expected


def test_what_no_workload_covers_is_told(config: Config) -> None:
    kinds = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]
    model = load_model(config(layer_types=kinds, index_topk=2048))
    assert model.full_layers == 1
    assert model.unplanned == (
        "3 layers of linear_attention",
        "the indexer of sparse attention (index_topk)",
    )


@pytest.mark.parametrize(
    "field", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"]
)
def test_a_missing_number_is_named(config: Config, rejected: Callable[[str], str], field: str) -> None:
    assert rejected(config(**{field: None})) == (
        f"{field} is missing, and a plan needs it; "
        "add it, or give the config.json that belongs to the checkpoint"
    )


def test_a_missing_number_of_a_nested_model_is_named_with_its_place(
    config: Config, rejected: Callable[[str], str]
) -> None:
    path = config({}, text_config={"model_type": "x"})
    assert rejected(path).startswith("text_config.num_hidden_layers is missing")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "64"}, "hidden_size: expected a whole number, found '64'"),
        ({"hidden_size": 64.0}, "hidden_size: expected a whole number, found 64.0"),
        ({"hidden_size": True}, "hidden_size: expected a whole number, found True"),
        ({"hidden_size": [64]}, "hidden_size: expected a whole number, found [64]"),
        ({"hidden_size": -64}, "hidden_size: -64 is out of range; expected 1 to 1048576"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: 0 is out of range; expected 1 to 10000"),
        ({"vocab_size": 10**18}, "vocab_size: 1000000000000000000 is out of range; expected 1 to 16777216"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 3 does not divide num_attention_heads, 8"),
        (
            {"hidden_size": 60},
            "head_dim is missing, and hidden_size, 60, is not a multiple of num_attention_heads, 8",
        ),
        ({"kv_lora_rank": 16}, "qk_nope_head_dim is missing"),
        ({"torch_dtype": "int8"}, "torch_dtype: expected one of bfloat16, float16, float32, found 'int8'"),
        ({"layer_types": "full_attention"}, "layer_types: expected a list of names"),
        ({"layer_types": ["full_attention"]}, "layer_types: 1 entries for 4 layers"),
        ({"layer_types": ["sliding_attention"] * 4}, "sliding_window is missing"),
        ({"hidden_act": 1}, "hidden_act: expected a text, found 1"),
        ({"num_experts": 16}, "num_experts_per_tok is missing"),
        ({"num_experts": 2, "num_experts_per_tok": 3}, "num_experts_per_tok: 3 cannot be chosen of 2"),
        ({"num_experts": 2, "num_experts_per_tok": 1, "mlp_only_layers": 1}, "mlp_only_layers: expected a"),
        ({"quantization_config": 3}, "quantization_config: expected an object, found 3"),
        ({"quantization_config": {}}, "quantization_config.quant_method is missing"),
        (
            {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128]}},
            "quantization_config.weight_block_size: expected two whole numbers such as [128, 128]",
        ),
        (
            {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": "lm_head"}},
            "quantization_config.modules_to_not_convert: expected a list of names",
        ),
        (
            {"quantization_config": {"quant_method": "fp8", "ignored_layers": ["re:("]}},
            "quantization_config.ignored_layers: 're:(' is not a regular expression",
        ),
        (
            {"quantization_config": {"quant_method": "compressed-tensors"}},
            "quantization_config.config_groups is missing",
        ),
        (
            {"quantization_config": {"quant_method": "awq", "bits": "4"}},
            "quantization_config.bits: expected a number of bits from 1 to 16",
        ),
    ],
)
def test_a_wrong_value_is_told_in_one_line(
    config: Config, rejected: Callable[[str], str], changes: dict[str, Any], message: str
) -> None:
    assert rejected(config(**changes)).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected a Hugging Face config.json"),
        (b"  \n", "is empty"),
        (b'{"hidden_size": 64,', "is not JSON: "),
        (b"\xff\xfe", "is not JSON: not UTF-8 text"),
        (b"[1]", "expected a JSON object"),
        (b"[" * 100_000, "is not JSON: "),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "is not JSON: "),
    ],
)
def test_what_is_no_config_json_is_told_in_one_line(
    tmp_path: Path, rejected: Callable[[str], str], content: bytes, message: str
) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    assert rejected(str(path)).startswith(message)


def test_a_folder_without_config_json_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: no such file; give the config\.json of"):
        load_model(str(tmp_path))


def test_a_device_file_is_not_read() -> None:
    with pytest.raises(ModelError, match=r"^/dev/zero: is no regular file"):
        load_model("/dev/zero")


def test_a_huge_file_is_not_read(tmp_path: Path, rejected: Callable[[str], str]) -> None:
    path = tmp_path / "weights.json"
    with path.open("wb") as file:
        file.truncate(2**30)
    assert rejected(str(path)) == "1073741824 bytes is too large for a config.json"


@pytest.mark.parametrize(
    ("quantization", "name"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}, "int4_g32"),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "int4_g128_asymmetric"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_algo": "FP8"}, "fp8"),
        ({"quant_method": "bitsandbytes"}, "bitsandbytes"),
    ],
)
def test_formats_of_other_methods(quantization: dict[str, Any], name: str) -> None:
    format_of = weight_formats(quantization, "config.json")
    assert format_of("model.layers.1.mlp.up_proj").name == name
    assert format_of("lm_head").name == "native"


def test_compressed_tensors_groups_apply_to_their_targets() -> None:
    groups = {
        "mlp": {"targets": ["re:.*mlp.*"], "weights": {"num_bits": 4, "type": "int", "group_size": 128}},
        "rest": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8,
                "type": "float",
                "strategy": "block",
                "block_structure": [64, 128],
            },
        },
        "activations only": {"targets": ["Linear"], "weights": None},
    }
    table = {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ["lm_head"]}
    format_of = weight_formats(table, "config.json")
    assert format_of("model.layers.1.mlp.up_proj") == WeightFormat("int4_g128", 128)
    assert format_of("model.layers.1.self_attn.o_proj") == WeightFormat("fp8_block64x128", 128)
    assert format_of("lm_head").name == "native"


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("lm_head", False),
        ("mlp", True),
        ("model.layers.1.mlp", True),
        ("model.layers.1.mlp.up_proj", True),
        ("model.layers.1", True),
        ("model.layers.11", False),
        ("model.layers.*.mlp", True),
        ("language_model.model.layers.1.mlp.up_proj", True),
        ("re:.*mlp\\.(gate|up)_proj.*", True),
        ("re:mlp", False),
    ],
)
def test_entries_of_an_ignore_list(pattern: str, matched: bool) -> None:
    assert matches(pattern, "model.layers.1.mlp.up_proj") is matched


@pytest.mark.parametrize(
    ("changes", "turned"),
    [
        ({}, (8, 4)),
        ({"partial_rotary_factor": 0.5}, (4, 4)),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25}}, (2, 4)),
        ({"no_rope_layers": [1, 1, 1, 0]}, (8, 3)),
        ({"position_embedding_type": "absolute"}, (8, 0)),
    ],
)
def test_how_much_of_a_head_is_turned_and_in_how_many_layers(changes, turned, config: Config) -> None:
    geometry = load_model(config(**changes))
    assert turned == (geometry.rotary_dim, geometry.rotary_layers)


def test_a_share_of_a_head_that_is_none_is_refused(config: Config) -> None:
    with pytest.raises(ModelError, match="partial_rotary_factor: expected a share of a head, found 2"):
        load_model(config(partial_rotary_factor=2))
