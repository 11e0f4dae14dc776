"""Tuned fused MoE kernels, as vLLM's VLLM_TUNED_CONFIG_FOLDER and SGLang's SGLANG_MOE_CONFIG_DIR hold them.

Experts are those on this rank and N is the width inside one of them on this rank, whatever the parallelism. A
winner of `fused_moe` stands for `tokens`, which the file calls M.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.exports import formats
from autotune.exports.files import ExportedFile
from autotune.exports.tables import as_json, launched, one_shape, provenance, split_by, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autotune.exports.formats import Quantisation
    from autotune.exports.tables import Row
    from autotune.exports.winners import Winners
    from autotune.store.reading import HistoryReader

WORKLOAD, SIZE = "fused_moe", "tokens"
IDENTITY = ("experts", "intermediate", "weight_format")
"""Dimensions by which files differ; all others must agree, for the name has no place for them."""

MOST_TOKENS_OF_CUDA_KERNEL = 6
"""Tokens per expert up to which vLLM multiplies 4-bit weights in a CUDA kernel of its own."""


def vllm_files(
    reader: HistoryReader, winners: Winners, name: str | None = None, version: str | None = None
) -> Iterator[ExportedFile]:
    """One file for each shape among the winners, in vLLM's layout.

    Args:
        reader: of the history the winners are from.
        winners: of `fused_moe`.
        name: of the device, as torch reports it; as recorded by default.
        version: of Triton; that of the winners' stack by default.
    """
    triton = formats.triton_version(winners.stack, version)
    device = formats.vllm_device(formats.device_name(winners.device, name))
    rocm = winners.device.kind == "rocm"
    for group in split_by(winners, IDENTITY):
        dimensions = one_shape(group, SIZE)
        kind = formats.quantisation(dimensions)
        experts, width, top_k = (int(dimensions[one]) for one in ("experts", "intermediate", "top_k"))
        block = "" if kind.block_shape is None else f",block_shape={kind.block_shape}".replace(" ", "")
        dtype = "" if kind.dtype is None else f",dtype={kind.dtype}"
        yield _file(
            f"E={experts},N={width},device_name={device}{dtype}{block}.json",
            reader,
            group,
            vllm_default(experts, top_k, kind, rocm),
            _with_split_k if kind.dtype == "int4_w4a16" else _without_split_k,
            triton,
            in_file=True,
        )


def sglang_files(
    reader: HistoryReader, winners: Winners, name: str | None = None, version: str | None = None
) -> Iterator[ExportedFile]:
    """One file for each shape among the winners, in SGLang's layout; see `vllm_files`."""
    triton = formats.triton_version(winners.stack, version)
    device = formats.sglang_device(formats.device_name(winners.device, name))
    rocm = winners.device.kind == "rocm"
    for group in split_by(winners, IDENTITY):
        dimensions = one_shape(group, SIZE)
        kind = formats.quantisation(dimensions)
        experts, width = int(dimensions["experts"]), int(dimensions["intermediate"])
        # SGLang takes the width from the packed weight, which holds two 4-bit values in a byte.
        packed = width // 2 if kind.dtype == "int4_w4a16" else width
        block = "" if kind.block_shape is None else f",block_shape={kind.block_shape}"
        dtype = "" if kind.dtype is None else f",dtype={kind.dtype}"
        yield _file(
            f"configs/triton_{triton.replace('.', '_')}/"
            f"E={experts},N={packed},device_name={device}{dtype}{block}.json",
            reader,
            group,
            _sglang_default(experts, kind, rocm),
            _without_split_k,
            triton,
            in_file=False,
        )


def _file(
    path: str,
    reader: HistoryReader,
    winners: Winners,
    default: Callable[[int], Row],
    shape: Callable[[Row], Row],
    triton: str,
    *,
    in_file: bool,
) -> ExportedFile:
    made = table(reader, winners, SIZE, default, shape)
    return ExportedFile(
        path,
        as_json(made.rows, triton if in_file else None),
        provenance(winners, SIZE, triton, made.origins, made.tuned),
    )


def _with_split_k(row: Row) -> Row:
    return {"SPLIT_K": 1, **row}


def _without_split_k(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "SPLIT_K" or value != 1}


def vllm_default(experts: int, top_k: int, kind: Quantisation, rocm: bool) -> Callable[[int], Row]:
    """What vLLM does without a file, since its pull request 34846 of February 2026."""

    def default(tokens: int) -> Row:
        if kind.dtype == "fp8_w8a8" and kind.block is not None:
            return {
                "BLOCK_SIZE_M": 16 if tokens <= 64 else 64,
                "BLOCK_SIZE_N": kind.block[0],
                "BLOCK_SIZE_K": kind.block[1],
                "GROUP_SIZE_M": 1 if tokens <= 16 else 32,
                "num_warps": 4,
                "num_stages": 2 if rocm else 3,
            }
        if kind.dtype == "int4_w4a16" and kind.block is not None:
            return _vllm_int4_default(tokens, experts, top_k, kind.block[1], rocm)
        small = tokens <= 64
        rows = next((rows for most, rows in ((32, 16), (96, 32), (512, 64)) if tokens <= most), 128)
        return {
            "BLOCK_SIZE_M": rows,
            "BLOCK_SIZE_N": 64 if small else 128,
            "BLOCK_SIZE_K": 128 if small or kind.dtype == "fp8_w8a8" else 64,
            "GROUP_SIZE_M": 16 if tokens // max(experts, 1) > 128 else 1,
            "num_warps": 4 if tokens <= 128 else 8,
            "num_stages": 2 if rocm else 4 if tokens <= 32 else 3,
        }

    return default


def _vllm_int4_default(tokens: int, experts: int, top_k: int, group: int, rocm: bool) -> Row:
    """Without BLOCK_SIZE_N and _K: where they are absent, vLLM sets them for the call, as without a file.

    A row serves batches near its own too, of which some may go to the Triton kernel and others to the CUDA
    kernel. It must do for both: GROUP_SIZE_M always stands, and tiles have 16 rows where Triton may run.
    """
    rows = 16 if tokens <= 20 else 32 if tokens <= 40 else 64
    if group in (32, 64, 128) and not rocm:
        per_expert = tokens * top_k / experts
        if per_expert <= MOST_TOKENS_OF_CUDA_KERNEL:
            rows = 16 if 2 * per_expert > MOST_TOKENS_OF_CUDA_KERNEL else min(16, tokens)
    return {"BLOCK_SIZE_M": rows, "GROUP_SIZE_M": 1, "SPLIT_K": 1}


def _sglang_default(experts: int, kind: Quantisation, rocm: bool) -> Callable[[int], Row]:
    """What SGLang does without a file."""

    def default(tokens: int) -> Row:
        few = tokens <= experts
        if kind.dtype == "fp8_w8a8" and kind.block is not None:
            return launched((64, *kind.block), 32, 4, 2 if rocm else 3)
        if kind.dtype == "fp8_w8a8":
            stages = 2 if rocm else 4
            return launched((64, 128, 128), 1, 4, stages) if few else launched((128, 256, 128), 32, 8, stages)
        return launched((16, 32, 64), 1) if few else launched((64, 64, 32), 8)

    return default
