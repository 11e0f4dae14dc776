"""How vLLM and SGLang name tuned tables: device, data type, block shape.

Facts of vLLM (fused_moe.py, fp8_utils.py, August to October 2026) and SGLang (fused_moe_triton_config.py,
fp8_kernel.py, 2026), stated in our own words; `tests/exports/loading.py` loads files by the same rules.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from autotune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.store.entries import DeviceEntry, StackEntry


class Quantisation(NamedTuple):
    """What a weight format is called in file names.

    Attributes:
        dtype: after `dtype=`; None where there is no such part: 16-bit floats.
        block: rows and columns that share a scale; 0 for one that is not divided.
    """

    dtype: str | None
    block: tuple[int, int] | None = None

    @property
    def block_shape(self) -> list[int] | None:
        """What stands after `block_shape=`; None where there is no such part: unless both are divided."""
        return list(self.block) if self.block and all(self.block) else None


def quantisation(dimensions: Mapping[str, int | str]) -> Quantisation:
    """What the weight format of a problem is called.

    Raises:
        UsageError: the reading systems have no name for it.
    """
    stored = str(dimensions.get("weight_format", "native"))
    blocks = re.fullmatch(r"fp8_block(\d+)x(\d+)", stored)
    if stored == "native":
        return Quantisation("float32" if dimensions.get("dtype") == "float32" else None)
    if blocks:
        return Quantisation("fp8_w8a8", (int(blocks[1]), int(blocks[2])))
    if stored == "fp8":
        return Quantisation("fp8_w8a8")
    groups = re.fullmatch(r"int4_g(\d+)", stored)
    if groups:
        return Quantisation("int4_w4a16", (0, int(groups[1])))
    raise UsageError(
        f"weight_format={stored}: has no name in these files; expected native, int4_g<group>, fp8 or "
        "fp8_block<rows>x<columns>"
    )


def device_name(device: DeviceEntry, given: str | None) -> str:
    """The name that the driver gives a device, as torch reports it: an instance of MIG says so.

    Args:
        device: as recorded.
        given: by the caller, in its place.
    """
    if given:
        return given
    profile = device.facts.get("mig_profile")
    return f"{device.name} MIG {profile}" if profile else device.name


def vllm_device(name: str, *, one_h200: bool = True) -> str:
    """A device's name in vLLM's file names: spaces and slashes become underscores.

    Args:
        name: as torch reports it.
        one_h200: whether every device of the H200 family is `NVIDIA_H200`, as for mixtures of experts alone.
    """
    joined = re.sub(r"[\s/]+", "_", name)
    return "NVIDIA_H200" if one_h200 and "H200" in joined.split("_") else joined


def sglang_device(name: str) -> str:
    """A device's name in SGLang's file names."""
    return name.replace(" ", "_")


def triton_version(stack: StackEntry, given: str | None) -> str:
    """The version of Triton that winners were decided under.

    Raises:
        UsageError: the stack does not tell, and nor does the caller.
    """
    found = given or stack.facts.get("triton")
    if not found or not re.fullmatch(r"\d+(\.\d+)+", str(found).partition("+")[0]):
        raise UsageError(
            f"stack {stack.digest}: triton is {found!r}; give its version with --triton-version, e.g. 3.6.0"
        )
    return str(found).partition("+")[0]
