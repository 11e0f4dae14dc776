from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from autotune.errors import ModelError, UnknownNameError, UsageError
from autotune.space.models import Geometry, load_model, model_names
from autotune.space.plan import PlannedProblem, most_valuable_first, plan
from autotune.space.problem import Problem
from autotune.space.quantization import WeightFormat
from autotune.space.work import estimated_bytes, estimated_work
from autotune.workloads.registry import workload

KIMI = load_model("kimi-k2.5")
LLAMA = load_model("llama-3.1-8b")
QWEN_MOE = load_model("qwen3-30b-a3b")


def by_role(planned: list[PlannedProblem]) -> dict[str, PlannedProblem]:
    """The problems by role; where two were merged, each under its own."""
    return {role: one for one in planned for role in one.role.split(", ")}


def linears(planned: list[PlannedProblem]) -> dict[str, tuple[int, int]]:
    """(n, k) of every dense layer by role."""
    return {
        role: (one.problem["n"], one.problem["k"])
        for role, one in by_role(planned).items()
        if one.problem.workload == "linear"
    }


def test_kimi_k2_5_at_tp8_has_its_known_dense_layers() -> None:
    assert linears(plan(KIMI, tp=8, batches=[16])) == {
        "qkv_a": (2112, 7168),
        "q_b": (1536, 1536),
        "kv_b": (2048, 512),
        "o": (7168, 1024),
        "dense gate_up": (4608, 7168),
        "dense down": (7168, 2304),
        "shared gate_up": (512, 7168),
        "shared down": (7168, 256),
        "router": (384, 7168),
        "lm_head": (20480, 7168),
    }


def test_kimi_k2_5_at_tp4_has_its_known_dense_layers() -> None:
    found = linears(plan(KIMI, tp=4, batches=[16]))
    assert found["q_b"] == (3072, 1536)
    assert found["o"] == (7168, 2048)
    assert (found["shared gate_up"], found["shared down"]) == ((1024, 7168), (7168, 512))
    assert found["qkv_a"] == (2112, 7168)


@pytest.mark.parametrize(
    ("tp", "ep", "experts", "intermediate"),
    [
        (8, 1, 384, 256),
        (4, 1, 384, 512),
        (16, 1, 384, 128),
        (8, 8, 48, 2048),
        (8, 2, 192, 512),
        (1, 8, 48, 2048),
    ],
)
def test_kimi_k2_5_experts_per_rank(tp: int, ep: int, experts: int, intermediate: int) -> None:
    problem = by_role(plan(KIMI, tp=tp, ep=ep, batches=[16]))["experts"].problem
    assert problem.workload == "fused_moe"
    assert (problem["experts"], problem["intermediate"]) == (experts, intermediate)
    assert (problem["tokens"], problem["top_k"], problem["hidden"]) == (16, 8, 7168)
    assert problem["weight_format"] == "int4_g32"


def test_kimi_k2_5_counts_every_layer() -> None:
    counts = {role: one.count for role, one in by_role(plan(KIMI, tp=8, batches=[16])).items()}
    assert counts == {
        "first norm": 1,
        "norm": 122,
        "qkv_a": 61,
        "q_a norm": 61,
        "q_b": 61,
        "kv_a norm": 61,
        "rotary embedding": 61,
        "kv_b": 61,
        "attention": 61,
        "o": 61,
        "dense gate_up": 1,
        "dense activation": 1,
        "dense down": 1,
        "router": 60,
        "experts": 60,
        "shared gate_up": 60,
        "shared activation": 60,
        "shared down": 60,
        "lm_head": 1,
    }


def test_kimi_k2_5_decodes_with_latent_attention() -> None:
    problem = by_role(plan(KIMI, tp=8, batches=[16], context=8192))["attention"].problem
    assert problem.workload == "mla_decode"
    expected = {
        "batch": 16,
        "context": 8192,
        "heads": 8,
        "kv_lora_rank": 512,
        "qk_nope": 128,
        "qk_rope": 64,
        "v_dim": 128,
        "dtype": "bfloat16",
        "kv_dtype": "bfloat16",
    }
    assert expected.items() <= problem.dimensions.items()


def test_norms_add_the_residual_except_the_first_and_the_latents() -> None:
    found = by_role(plan(KIMI, tp=8, batches=[16]))
    norms = {role: one.problem for role, one in found.items() if one.problem.workload == "rms_norm"}
    assert {role: (p["rows"], p["hidden"], p["residual"]) for role, p in norms.items()} == {
        "first norm": (16, 7168, "none"),
        "norm": (16, 7168, "add"),
        "q_a norm": (16, 1536, "none"),
        "kv_a norm": (16, 512, "none"),
    }


ROPE = ("tokens", "heads", "kv_heads", "head_dim", "rotary_dim")


def rope(planned: list[PlannedProblem]) -> tuple[Any, ...]:
    """Dimensions of the rotary embedding, and how often it runs."""
    one = by_role(planned)["rotary embedding"]
    return (*(one.problem[name] for name in ROPE), one.count)


def test_latent_attention_turns_a_part_of_its_own_and_one_key_for_all_heads() -> None:
    planned = plan(KIMI, tp=8, batches=[16])
    assert (16, 8, 1, 64, 64, 61) == rope(planned)
    assert "neighbours" in by_role(planned)["rotary embedding"].note


def test_grouped_attention_turns_whole_heads_or_the_share_that_is_stated() -> None:
    assert (16, 8, 2, 128, 128, 32) == rope(plan(LLAMA, tp=4, batches=[16]))
    partial = replace(LLAMA, rotary_dim=32)
    assert (16, 8, 2, 128, 32, 32) == rope(plan(partial, tp=4, batches=[16]))
    none = plan(replace(LLAMA, rotary_layers=0), batches=[16])
    assert "rope" not in {one.problem.workload for one in none}


def test_activations_have_the_width_of_a_rank() -> None:
    found = by_role(plan(KIMI, tp=8, batches=[16]))
    assert (found["dense activation"].problem["intermediate"], found["dense activation"].problem["rows"]) == (
        2304,
        16,
    )
    assert found["shared activation"].problem["intermediate"] == 256


def test_only_the_routed_experts_of_kimi_k2_5_are_int4() -> None:
    formats = Counter(
        one.problem["weight_format"]
        for one in plan(KIMI, tp=8, batches=[16])
        if one.problem.workload in ("linear", "fused_moe")
    )
    assert formats == {"native": 10, "int4_g32": 1}


@pytest.mark.parametrize("name", ["kimi-k2", "deepseek-v3"])
def test_float8_checkpoints_are_planned_as_they_are_stored(name: str) -> None:
    found = by_role(plan(load_model(name), tp=8, batches=[16]))
    for role in ("qkv_a", "experts", "shared down"):
        assert (found[role].problem["weight_format"], found[role].note) == ("fp8_block128x128", "")
    for role in ("router", "lm_head"):
        assert (found[role].problem["weight_format"], found[role].note) == ("native", "")


def test_gpt_oss_whose_format_no_workload_knows_has_noted_experts_and_two_kinds_of_attention() -> None:
    found = by_role(plan(load_model("gpt-oss-120b"), tp=2, batches=[16], context=4096))
    assert found["experts"].note == "the checkpoint stores mxfp4; planned with bfloat16 weights"
    assert found["qkv"].note == ""
    assert (found["attention"].problem["kv_len"], found["attention"].count) == (4096, 18)
    assert (found["sliding attention"].problem["kv_len"], found["sliding attention"].count) == (128, 18)
    assert "dense gate_up" not in found


def test_grouped_query_attention_brings_fused_layers() -> None:
    planned = plan(LLAMA, tp=2, batches=[16], context=1000)
    assert linears(planned) == {
        "qkv": (3072, 4096),
        "o": (4096, 2048),
        "dense gate_up": (14336, 4096),
        "dense down": (4096, 7168),
        "lm_head": (64128, 4096),
    }
    attention = by_role(planned)["attention"].problem
    expected = {"batch": 16, "q_len": 1, "kv_len": 1000, "heads": 16, "kv_heads": 4, "head_dim": 128}
    assert {**expected, "causal": "no"}.items() <= attention.dimensions.items()


def test_key_value_heads_are_copied_when_there_are_more_ranks() -> None:
    found = by_role(plan(QWEN_MOE, tp=8, batches=[1]))
    assert found["attention"].problem["kv_heads"] == 1
    assert found["qkv"].problem["n"] == (4 + 2 * 1) * 128


def test_qwen3_normalises_query_and_key_heads() -> None:
    found = by_role(plan(load_model("qwen3-8b"), tp=2, batches=[3]))
    assert (found["q norm"].problem["rows"], found["k norm"].problem["rows"]) == (3 * 16, 3 * 4)
    assert found["q norm"].problem["hidden"] == 128


def test_a_gate_beside_the_query_widens_its_projection() -> None:
    found = by_role(plan(replace(LLAMA, query_gate=True), tp=2, batches=[1]))
    assert found["qkv"].problem["n"] == (2 * 16 + 2 * 4) * 128


def test_equal_problems_are_merged_and_their_counts_added() -> None:
    # With query and key-value latents of one width their norms are the same problem.
    model = replace(KIMI, mla=replace(KIMI.mla, q_lora_rank=512)) if KIMI.mla else KIMI
    planned = plan(model, tp=8, batches=[16])
    merged = by_role(planned)["q_a norm"]
    assert merged.role == "q_a norm, kv_a norm"
    assert merged.count == 122
    assert len(planned) == len({one.problem for one in planned})


def test_a_batch_given_twice_counts_once() -> None:
    assert plan(KIMI, tp=8, batches=[16, 16]) == plan(KIMI, tp=8, batches=[16])


def test_every_batch_brings_its_own_problems() -> None:
    planned = plan(KIMI, tp=8, batches=[1, 16])
    assert len(planned) == 2 * len(plan(KIMI, tp=8, batches=[16]))
    assert {one.problem["m"] for one in planned if one.problem.workload == "linear"} == {1, 16}


def test_int4_dense_layers_are_planned_as_such() -> None:
    model = replace(LLAMA, formats=replace(LLAMA.formats, dense=WeightFormat("int4_g32", 32)))
    found = by_role(plan(model, tp=2, batches=[1]))
    assert found["dense down"].problem["weight_format"] == "int4_g32"
    assert found["qkv"].problem["weight_format"] == "native"


def test_an_activation_other_than_silu_is_not_planned() -> None:
    found = by_role(plan(replace(LLAMA, activation="gelu"), batches=[1]))
    assert "dense activation" not in found
    assert "dense gate_up" in found


def test_prefill_computes_every_token_and_one_distribution() -> None:
    found = by_role(plan(LLAMA, tp=2, context=512, phases=["prefill"]))
    assert found["qkv"].problem["m"] == 512
    assert found["lm_head"].problem["m"] == 1
    attention = found["attention"].problem
    assert (attention["batch"], attention["q_len"], attention["kv_len"], attention["causal"]) == (
        1,
        512,
        512,
        "yes",
    )


def test_prefill_of_sliding_layers_is_noted() -> None:
    found = by_role(plan(load_model("gpt-oss-120b"), context=512, phases=["prefill"]))
    merged = found["sliding attention"]
    assert merged.problem["kv_len"] == 512
    assert merged.note == "planned over the whole context; the engine attends to a band of 128"


def test_expert_parallelism_says_what_its_load_stands_for() -> None:
    note = by_role(plan(KIMI, tp=8, ep=8, batches=[16]))["experts"].note
    assert note == "planned with every choice among the rank's 48 experts, the worst case"


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_every_shipped_model_can_be_planned(name: str, tp: int) -> None:
    planned = plan(load_model(name), tp=tp)
    assert len(planned) >= 15
    assert all(one.count >= 1 for one in planned)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (
            KIMI,
            {"tp": 3},
            "kimi-k2.5: tp=3 does not work: it does not divide the 64 attention heads; "
            "tp may be 1, 2, 4, 8, 16, 32, 64",
        ),
        (
            KIMI,
            {"tp": 8, "ep": 5},
            "kimi-k2.5: ep=5 does not work: it does not divide the 384 experts; "
            "ep may be 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 384",
        ),
        (
            KIMI,
            {"tp": 8, "ep": 3},
            "kimi-k2.5: ep=3 does not work: neither it nor tp=8 is a multiple of the other; "
            "ep may be 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 384",
        ),
        (LLAMA, {"ep": 2}, "llama-3.1-8b: ep=2 does not work: the model has no experts; ep may be 1"),
        (
            replace(LLAMA, heads=48, kv_heads=6),
            {"tp": 4},
            "llama-3.1-8b: tp=4 does not work: 6 key-value heads can be neither split nor copied evenly; "
            "tp may be 1, 2",
        ),
        (LLAMA, {"tp": 0}, "tp=0 is out of range; expected a whole number from 1 to 4096"),
        (LLAMA, {"tp": -8}, "tp=-8 is out of range; expected a whole number from 1 to 4096"),
        (LLAMA, {"tp": 10**9}, "tp=1000000000 is out of range; expected a whole number from 1 to 4096"),
        (LLAMA, {"tp": True}, "tp=True is out of range; expected a whole number from 1 to 4096"),
        (LLAMA, {"batches": []}, "a plan needs at least one batch size, e.g. 1,16,64"),
        (LLAMA, {"batches": [16, 0]}, "batch=0 is out of range; expected a whole number from 1"),
        (LLAMA, {"batches": [2**40]}, "batch=1099511627776 is out of range; expected a whole number from 1"),
        (LLAMA, {"context": -1}, "context=-1 is out of range; expected a whole number from 1"),
        (LLAMA, {"context": 200_000}, "llama-3.1-8b: context=200000 exceeds its 131072 positions"),
    ],
)
def test_what_cannot_be_planned_is_told_in_one_line(
    model: Geometry, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError) as caught:
        plan(model, **arguments)
    assert str(caught.value) == message


def test_a_quantised_width_must_be_split_between_blocks() -> None:
    # As Qwen3-30B-A3B-FP8 cannot be served at TP8 without expert parallelism.
    model = replace(
        QWEN_MOE, formats=replace(QWEN_MOE.formats, experts=WeightFormat("fp8_block128x128", 128))
    )
    with pytest.raises(ModelError, match=r"768, split 8 ways is no multiple of 128.*ep may be 4, 8, 16"):
        plan(model, tp=8)
    assert by_role(plan(model, tp=8, ep=4))["experts"].problem["intermediate"] == 384


def test_an_unknown_phase_is_told() -> None:
    with pytest.raises(UnknownNameError, match="unknown phase 'decoding'; did you mean decode"):
        plan(LLAMA, phases=["decoding"])


def test_a_batch_too_large_for_a_norm_of_heads_is_told_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"rows=\d+ is out of range"):
        plan(load_model("qwen3-8b"), batches=[2**30])


def test_the_work_of_a_dense_layer() -> None:
    problem = by_role(plan(KIMI, tp=8, batches=[16]))["q_b"].problem
    work = estimated_work(problem)
    assert work.flops == 2 * 16 * 1536 * 1536
    assert work.bytes == 2 * (1536 * 1536 + 16 * 1536 + 16 * 1536)
    assert work.seconds(work.bytes, work.flops / 3) == 3


def test_int4_weights_move_nine_sixteenths_of_a_byte() -> None:
    dimensions = {"m": 1, "n": 64, "k": 32, "dtype": "bfloat16", "weight_format": "int4_g32"}
    assert estimated_bytes(Problem("linear", dimensions)) == 64 * (32 / 2 + 2) + 2 * (64 + 32)


def test_only_experts_that_are_chosen_move() -> None:
    problem = by_role(plan(KIMI, tp=8, batches=[1]))["experts"].problem
    assert estimated_bytes(problem) == pytest.approx(8 * 3 * 7168 * 256 * 0.5625 + 2 * 2 * 7168)


@pytest.mark.parametrize("name", ["kimi-k2.5", "llama-3.1-8b", "gpt-oss-120b"])
def test_all_planned_problems_have_work(name: str) -> None:
    for one in plan(load_model(name), context=128, phases=["decode", "prefill"]):
        assert estimated_work(one.problem).flops > 0
        assert estimated_bytes(one.problem) > 0


@pytest.mark.parametrize("name", ["kimi-k2.5", "llama-3.1-8b"])
def test_estimates_agree_with_the_workloads_own_figures(name: str) -> None:
    # The workload counts the experts that its skewed routing really touches: a tenth less than an even one.
    for one in plan(load_model(name), tp=8):
        cost, work = workload(one.problem.workload).cost(one.problem), estimated_work(one.problem)
        assert work.bytes == pytest.approx(cost.bytes, rel=0.15)
        assert work.flops == pytest.approx(cost.flops, rel=0.01)


def test_work_of_a_workload_of_ones_own_is_not_known() -> None:
    with pytest.raises(UnknownNameError, match="unknown stock workload 'mine'"):
        estimated_work(Problem("mine", {"n": 1}))


def test_the_most_valuable_problem_comes_first() -> None:
    ordered = most_valuable_first(plan(KIMI, tp=8, batches=[16]), 20e9, 100e9)
    worths = [one.worth(20e9, 100e9) for one in ordered]
    assert worths == sorted(worths, reverse=True)
    assert [one.role for one in ordered[:3]] == ["experts", "attention", "qkv_a"]


def test_planning_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from autotune.space.models import load_model; from autotune.space.plan import plan; "
        "plan(load_model('kimi-k2.5'), tp=8); print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
