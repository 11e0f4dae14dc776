"""What a workload names to be compiled ahead is what its build compiles."""

from __future__ import annotations

import subprocess

import pytest

from autotune.workloads import native
from autotune.workloads.registry import declaration, workload

PROBLEMS = {
    "linear": {"m": 2, "n": 64, "k": 64, "dtype": "float32"},
    "attention": {
        "batch": 1,
        "q_len": 1,
        "kv_len": 32,
        "heads": 2,
        "kv_heads": 1,
        "head_dim": 32,
        "causal": "no",
        "dtype": "float32",
    },
    "mla_decode": {
        "batch": 1,
        "context": 32,
        "heads": 2,
        "kv_lora_rank": 32,
        "qk_nope": 32,
        "qk_rope": 32,
        "v_dim": 32,
        "dtype": "float32",
        "kv_dtype": "float32",
    },
    "fused_moe": {
        "tokens": 2,
        "experts": 4,
        "top_k": 2,
        "hidden": 64,
        "intermediate": 64,
        "dtype": "float32",
        "weight_format": "int4_g32",
    },
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_after_compiling_ahead_a_build_compiles_nothing(name, monkeypatch, tmp_path) -> None:
    from autotune.space import SearchSpace

    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path))
    facts = {"kind": "cpu", "cores": 1, "isa": [], "memory_bytes": 1 << 34, "l2_bytes": 0, "l3_bytes": 0}
    problem = declaration(name).problem(PROBLEMS[name])
    pool = SearchSpace.build(declaration(name), problem, facts).pool
    every = [pool.configuration(row) for row in range(len(pool))]
    natives = [each for each in every if each["implementation"].startswith("native")]
    assert not any(workload(name).native_kernels(problem, each) for each in every if each not in natives)
    configuration = natives[-1]
    for kernel in workload(name).native_kernels(problem, configuration):
        native.compile_ahead(kernel)

    def refuses(command: list[str], **_: object) -> None:
        raise AssertionError(f"compiles {command}")

    monkeypatch.setattr(subprocess, "run", refuses)
    weights = workload(name).weights(problem, seed=0)
    assert callable(workload(name).build(problem, configuration, weights))


def test_a_kernel_is_the_same_in_whatever_order_it_is_defined() -> None:
    first = native.NativeKernel.of("linear.cpp", {"A": 1, "B": 2})
    assert first == native.NativeKernel.of("linear.cpp", {"B": 2, "A": 1})
