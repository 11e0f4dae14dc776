"""Tuned products with float8 weights scaled by blocks, as vLLM and SGLang load them.

Neither has a variable that names a folder of one's own, so the files must be copied into the package; no key
but batch sizes is allowed in them. A winner of `linear` with blocks stands for `m`, which the file calls M.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from autotune.errors import UsageError
from autotune.exports import formats
from autotune.exports.files import ExportedFile
from autotune.exports.tables import as_json, launched, one_shape, provenance, split_by, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autotune.exports.winners import Winners
    from autotune.store.reading import HistoryReader

WORKLOAD, SIZE = "linear", "m"
IDENTITY = ("n", "k", "weight_format")


class Reader(NamedTuple):
    """How a system that reads these files differs from the other.

    Attributes:
        device: a device's name in its file names; unlike for mixtures of experts, vLLM keeps H200s apart.
        separator: between the sides of a block.
        stages: of its default.
        folder: in its package.
    """

    device: Callable[[str], str]
    separator: str
    stages: int
    folder: str


READERS = {
    "vllm": Reader(
        lambda name: formats.vllm_device(name, one_h200=False),
        ",",
        2,
        "vllm/model_executor/layers/quantization/utils/configs",
    ),
    "sglang": Reader(formats.sglang_device, ", ", 3, "sglang/srt/layers/quantization/configs"),
}


def block_fp8_files(
    reader: HistoryReader, winners: Winners, name: str | None = None, system: str = "vllm"
) -> Iterator[ExportedFile]:
    """One file for each shape among the winners.

    Args:
        reader: of the history the winners are from.
        winners: of `linear`; those with other weights are left out.
        name: of the device, as torch reports it; as recorded by default.
        system: which one is to read the files: a key of `READERS`.

    Raises:
        UsageError: no winner has float8 weights in blocks.
    """
    how = READERS[system]
    device = how.device(formats.device_name(winners.device, name))
    decisions = [d for d in winners.decisions if formats.quantisation(d.winner.dimensions).block_shape]
    if not decisions:
        raise UsageError(
            "no winner of linear has weight_format=fp8_block128x128; the file is for float8 weights in blocks"
        )
    for group in split_by(winners._replace(decisions=decisions), IDENTITY):
        dimensions = one_shape(group, SIZE)
        block = formats.quantisation(dimensions).block
        assert block is not None, "chosen for having blocks"
        default = launched((64, *block), 32, 4, how.stages)
        made = table(reader, group, SIZE, partial(_whatever_the_size, default))
        shape = how.separator.join(map(str, block))
        triton = winners.stack.facts.get("triton")
        yield ExportedFile(
            f"N={dimensions['n']},K={dimensions['k']},device_name={device},dtype=fp8_w8a8,"
            f"block_shape=[{shape}].json",
            as_json(made.rows),
            provenance(group, SIZE, triton, made.origins, made.tuned),
        )


def _whatever_the_size(default: dict[str, Any], _: int) -> dict[str, Any]:
    """The default, which both systems use for every batch size."""
    return dict(default)
