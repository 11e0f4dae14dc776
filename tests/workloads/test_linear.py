from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
import torch
from conformance import Conformance, space_of

from autotune.errors import ProblemError, SpaceError, UnknownNameError, UsageError
from autotune.fingerprint.cpu import cpu_facts
from autotune.measure.correctness import relative_error
from autotune.space.declaration import load_declaration
from autotune.workloads import native
from autotune.workloads.float8 import dequantise_blocks
from autotune.workloads.int4 import unpack_int4_g32
from autotune.workloads.linear import Linear


class TestLinear(Conformance):
    workload = "linear"
    problems = (
        {"m": 1, "n": 96, "k": 128},
        {"m": 13, "n": 37, "k": 33},
        {"m": 4, "n": 7, "k": 50},
        {"m": 16, "n": 64, "k": 192, "weight_format": "int4_g32"},
        {"m": 1, "n": 80, "k": 64, "weight_format": "int4_g32"},
        {"m": 5, "n": 140, "k": 130, "weight_format": "fp8_block128x128"},
        {"m": 3, "n": 48, "k": 64, "dtype": "float16"},
        {"m": 2, "n": 40, "k": 96, "dtype": "float16", "weight_format": "int4_g32"},
        {"m": 5, "n": 40, "k": 96, "dtype": "float16"},
        {"m": 6, "n": 33, "k": 47, "dtype": "float32"},
        {"m": 2, "n": 64, "k": 64, "dtype": "float32", "weight_format": "int4_g32"},
    )
    lossy_errors: ClassVar = {
        "int8_dynamic": 0.05,
        "int8_weight_only": 0.02,
        "int4_weight_only": 0.15,
        "native_int4": 0.15,
        "native_rounded": 0.01,
    }


def problem(**dimensions):
    return load_declaration("linear").problem(dimensions)


def test_cost_by_hand():
    """3 x 4 by 5 x 4 in bfloat16: 60 multiply-adds; 20 weights, 12 inputs, 15 outputs."""
    assert (120, 94, "bfloat16") == Linear().cost(problem(m=3, n=5, k=4))


def test_cost_of_4_bit_weights_by_hand():
    """2 x 64 by 3 x 64: 96 bytes of weights, 6 scales, 128 inputs and 6 outputs of float32."""
    cost = Linear().cost(problem(m=2, n=3, k=64, dtype="float32", weight_format="int4_g32"))
    assert (768, 96 + 4 * (6 + 128 + 6), "float32") == cost


def test_cost_of_float8_blocks_by_hand():
    """2 x 130 by 3 x 130: 390 bytes of weights, two scales of float32, 260 inputs and 6 outputs."""
    cost = Linear().cost(problem(m=2, n=3, k=130, dtype="float16", weight_format="fp8_block128x128"))
    assert (1560, 390 + 2 * 4 + 2 * (260 + 6), "float16") == cost


def test_k_that_is_no_whole_number_of_groups_is_refused():
    """Before anything is made of it, by the workload and by its search space."""
    odd = problem(m=1, n=8, k=33, weight_format="int4_g32")
    with pytest.raises(ProblemError, match=r"k=33.*not a multiple of 32"):
        Linear().weights(odd, seed=0)
    with pytest.raises(SpaceError, match=r"k % 32 == 0"):
        space_of(odd)


def test_unknown_implementation_is_refused():
    with pytest.raises(UnknownNameError, match="did you mean native"):
        Linear().build(problem(m=1, n=8, k=8), {"implementation": "natve"}, {"weight": torch.ones(8, 8)})


@pytest.mark.parametrize("weight_format", ["native", "int4_g32", "fp8_block128x128"])
def test_large_weights_are_of_one_scale(weight_format):
    """Those made by repeating a block too: rows differ, and the reference equals a plain product."""
    large = problem(m=2, n=1200, k=4096, weight_format=weight_format)
    weights = Linear().weights(large, seed=0)
    unpack = {
        "native": torch.Tensor.to,
        "int4_g32": unpack_int4_g32,
        "fp8_block128x128": dequantise_blocks,
    }
    dense = unpack[weight_format](*weights.values(), torch.float32)
    assert (1200, 4096) == tuple(dense.shape)
    assert 1200 == len(dense.float().unique(dim=0))
    assert dense.float().std().item() == pytest.approx(4096**-0.5, rel=0.2)
    activations = Linear().activations(large, seed=0)
    expected = activations["x"].double() @ dense.double().T
    torch.testing.assert_close(
        Linear().reference(large, weights, activations), expected, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("m", [1, 2, 5, 16])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_native_takes_every_remainder(m, dtype):
    """Rows, columns and k that fill no tile or pair, wherever x lies in memory."""
    generator = torch.Generator().manual_seed(m)
    weight = torch.randn(21, 11, generator=generator).to(getattr(torch, dtype))
    storage = torch.randn(m * 11 + 1, generator=generator).to(weight.dtype)
    configuration = {"implementation": "native", "tile_m": 4, "tile_n": 16, "prefetch": 0, "threads": 2}
    kernel = Linear().build(problem(m=m, n=21, k=11, dtype=dtype), configuration, {"weight": weight})
    for x in (storage[1:].view(m, 11), storage[:-1].view(11, m).t()):
        expected = x.double() @ weight.double().T
        assert relative_error(kernel(x), expected) < 3e-3


def test_native_refuses_an_input_of_another_shape():
    """Rather than read beyond its end."""
    configuration = {"implementation": "native", "tile_m": 2, "tile_n": 16, "prefetch": 0, "threads": 1}
    kernel = Linear().build(problem(m=2, n=16, k=8), configuration, {"weight": torch.ones(16, 8).bfloat16()})
    with pytest.raises(UsageError, match=r"\(2, 4\); expected torch.bfloat16 \(2, 8\)"):
        kernel(torch.ones(2, 4).bfloat16())
    with pytest.raises(UsageError, match=r"torch.float32"):
        kernel(torch.ones(2, 8))


def test_concurrent_calls_do_not_share_a_workspace():
    """Calls of one kernel from several threads each give their own result."""
    weight = torch.randn(64, 256).bfloat16()
    configuration = {"implementation": "native", "tile_m": 4, "tile_n": 16, "prefetch": 0, "threads": 1}
    kernel = Linear().build(problem(m=16, n=64, k=256), configuration, {"weight": weight})
    inputs = [torch.randn(16, 256).bfloat16() for _ in range(8)]
    expected = [kernel(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            assert all(map(torch.equal, expected, pool.map(kernel, inputs)))


@pytest.mark.parametrize(("m", "most"), [(1, 32), (4, 32), (16, 32), (64, 32)])
def test_space_of_kimi_is_modest(m, most):
    """A study of seconds can try most of what is offered losslessly."""
    assert 5 < len(space_of(problem(m=m, n=2112, k=7168))) <= most


@pytest.mark.skipif("avx2" not in cpu_facts()["isa"], reason="needs an x86 CPU with AVX2")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("implementation", ["native", "native_int4"])
def test_native_needs_no_avx_512(implementation, dtype, monkeypatch):
    """The same source, compiled for a CPU that lacks it."""
    flags = tuple("-march=haswell" if flag == "-march=native" else flag for flag in native.FLAGS)
    monkeypatch.setattr(native, "FLAGS", flags)
    monkeypatch.setattr(native, "LANES", 8)
    made = problem(m=5, n=21, k=64, dtype=dtype, weight_format="int4_g32")
    weights, activations = Linear().weights(made, seed=0), Linear().activations(made, seed=0)
    configuration = {"implementation": implementation, "tile_m": 4, "tile_n": 16, "prefetch": 0, "threads": 2}
    kernel = Linear().build(made, configuration, weights)
    assert (
        relative_error(kernel(*activations.values()), Linear().reference(made, weights, activations)) < 3e-3
    )
