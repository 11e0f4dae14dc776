"""`linear`'s Triton kernels in the interpreter, against the product in float64 of the stored weights."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from autotune.fingerprint import device_named
from autotune.space import SearchSpace
from autotune.workloads.float8 import BLOCK, dequantise_blocks, quantise_blocks
from autotune.workloads.int4 import pack_int4_g32, unpack_int4_g32
from autotune.workloads.kernels.gemm_fp8 import quantise_groups, quantise_whole_rows
from autotune.workloads.kernels.gemm_int4 import repack
from autotune.workloads.registry import declaration, workload

H200 = device_named("nvidia-h200").facts
# float16 has a unit of 2^-11; sums are in float32.
TOLERANCE = {"float16": 5e-4, "float32": 1e-6}
# Of 8-bit floating point, part is the interpreter's, which loses carries (see below).
LOSSY = {"triton_int4": 0.15, "triton_int8": 0.02, "triton_fp8_block": 0.1, "triton_fp8_weight_only": 0.1}

GEMM = {
    "block_m": 16, "block_n": 32, "block_k": 32, "group_m": 1, "split_k": 1, "persistent": False,
    "descriptors": False, "weight_layout": "nk", "swap": False, "warps": 4, "stages": 3,
}  # fmt: skip
GEMV = {"block_n": 4, "block_k": 64, "split_k": 1, "warps": 4, "stages": 2}
INT4 = {"block_m": 16, "block_n": 32, "block_k": 64, "group_m": 1, "split_k": 1, "swap": False}
INT4 |= {"warps": 4, "stages": 2}
CHANGES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "triton": (
        GEMM,
        [
            {},
            {"split_k": 3, "group_m": 2},
            {"persistent": True, "group_m": 4},
            {"descriptors": True},
            {"descriptors": True, "persistent": True, "swap": True, "block_k": 64},
            {"swap": True, "split_k": 2},
            {"weight_layout": "kn", "block_n": 64},
            {"block_m": 32, "block_n": 16, "block_k": 128},
        ],
    ),
    "triton_gemv": (GEMV, [{}, {"split_k": 3, "block_n": 2}, {"block_n": 16, "block_k": 128, "stages": 1}]),
    "triton_int4": (INT4, [{}, {"swap": True, "split_k": 2}, {"block_k": 128, "group_m": 2, "block_n": 16}]),
    "triton_int8": (INT4, [{}, {"swap": True, "split_k": 2}, {"block_k": 128, "group_m": 2}]),
    "triton_fp8_block": (INT4, [{}, {"swap": True, "split_k": 2}, {"block_k": 128, "group_m": 2}]),
    "triton_fp8_weight_only": (INT4, [{}, {"swap": True, "split_k": 2}, {"block_k": 128, "group_m": 2}]),
}
SIZES = [(1, 40, 72), (5, 33, 96), (33, 70, 136)]
CASES = [
    (name, change, size)
    for name, (_, changes) in CHANGES.items()
    for change in changes
    for size in SIZES
    if not (name == "triton_gemv" and size[0] > 16)
]


def relative_error(configuration: dict[str, Any], **dimensions: Any) -> float:
    linear, problem = workload("linear"), declaration("linear").problem(dimensions)
    weights, activations = linear.weights(problem, 1), linear.activations(problem, 2)
    expected = linear.reference(problem, weights, activations)
    found = linear.build(problem, configuration, weights)(*activations.values())
    assert (expected.shape, activations["x"].dtype) == (found.shape, found.dtype)
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(("name", "change", "size"), CASES, ids=str)
def test_every_setting_is_right_at_awkward_sizes(name: str, change: dict[str, Any], size: Any) -> None:
    """None of m, n, k is a multiple of its block; each size is tried in one of the two types."""
    m, n, k = size
    if name == "triton_int4":
        k = k // 32 * 32
    dtype = "float32" if m == 5 else "float16"
    configuration = {"implementation": name, **CHANGES[name][0], **change}
    assert relative_error(configuration, m=m, n=n, k=k, dtype=dtype) <= LOSSY.get(name, TOLERANCE[dtype])


@pytest.mark.parametrize("change", CHANGES["triton_int4"][1], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_weight_stored_in_4_bits_loses_nothing(change: dict[str, Any], dtype: str) -> None:
    for m, k in ((3, 96), (17, 320)):
        configuration = {"implementation": "triton_int4", **INT4, **change}
        error = relative_error(configuration, m=m, n=40, k=k, dtype=dtype, weight_format="int4_g32")
        assert error <= TOLERANCE[dtype]


@pytest.mark.parametrize("change", CHANGES["triton_fp8_weight_only"][1], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_weight_stored_in_float8_blocks_loses_nothing(change: dict[str, Any], dtype: str) -> None:
    configuration = {"implementation": "triton_fp8_weight_only", **INT4, **change}
    stored = {"dtype": dtype, "weight_format": "fp8_block128x128"}
    assert relative_error(configuration, m=17, n=150, k=300, **stored) <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["triton", "triton_gemv"])
def test_a_dense_kernel_takes_a_weight_stored_in_4_bits(name: str) -> None:
    configuration = {"implementation": name, **CHANGES[name][0]}
    assert relative_error(configuration, m=2, n=24, k=64, dtype="float16", weight_format="int4_g32") <= 1e-3


@pytest.mark.parametrize("m", [1, 16])
def test_configurations_of_the_space_are_right(m: int) -> None:
    """As declared for an H200, two of each implementation; small tiles, which the interpreter can afford."""
    declared = declaration("linear")
    problem = declared.problem({"m": m, "n": 40, "k": 288, "dtype": "float16"})
    space = SearchSpace.build(declared, problem, H200, max_error=1.0)
    known = {name: [] for name in CHANGES}
    for row in range(len(space)):
        configuration = space.pool.configuration(row)
        tile = [configuration.get(f"block_{axis}", 1) for axis in "mnk"]
        if configuration["implementation"] in known and tile[0] * tile[1] * tile[2] <= 1 << 15:
            known[configuration["implementation"]].append(configuration)
    for name, configurations in known.items():
        for configuration in random.Random(m).sample(configurations, min(2, len(configurations))):
            error = relative_error(configuration, **problem.dimensions)
            assert error <= LOSSY.get(name, TOLERANCE["float16"]), configuration


def test_float8_kernels_compute_what_their_rounded_operands_say() -> None:
    """What is left of the error once both sides are rounded is that of float32 sums."""
    torch.manual_seed(0)
    x, weight = torch.randn(5, 300), torch.randn(140, 300)
    stored, scale = quantise_groups(x)
    rounded = stored.double() * scale.double().repeat_interleave(BLOCK, 1)[:, :300]
    expected = rounded @ dequantise_blocks(*quantise_blocks(weight), torch.float64).T
    problem = declaration("linear").problem({"m": 5, "n": 140, "k": 300, "dtype": "float32"})
    configuration = {"implementation": "triton_fp8_block", **INT4}
    found = workload("linear").build(problem, configuration, {"weight": weight})(x)
    assert float((found.double() - expected).norm() / expected.norm()) <= 1e-6


def test_rows_are_rounded_as_torch_rounds_them() -> None:
    from autotune.workloads.float8 import quantise_rows

    x = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0))
    expected, found = quantise_rows(x), quantise_whole_rows(x)
    torch.testing.assert_close(expected[1], found[1])
    # Where a value is rounded up to a power of two, the interpreter of Triton 3.9 loses the carry.
    comparable = (expected[0].view(torch.uint8) & 7) != 0
    expected_values, found_values = (part[0].float()[comparable] for part in (expected, found))
    torch.testing.assert_close(expected_values, found_values, rtol=2**-3, atol=2**-9)


@pytest.mark.parametrize("k", [32, 64, 160])
def test_repacking_moves_values_and_changes_none(k: int) -> None:
    weight = torch.randn(6, k, generator=torch.Generator().manual_seed(0))
    packed, scale = pack_int4_g32(weight)
    octets, scales = repack(packed, scale)
    steps = torch.stack([octets.view(6, -1, 32) & 15, octets.view(6, -1, 32) >> 4], dim=2).float() - 8
    found = (steps * scales.unsqueeze(-1)).view(6, -1)
    assert torch.equal(unpack_int4_g32(packed, scale, torch.float32), found[:, :k])
    assert not found[:, k:].any()
