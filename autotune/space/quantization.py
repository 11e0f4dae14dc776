"""Which weights of a checkpoint are quantised and how, from the `quantization_config` of its config.json."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from autotune.errors import ModelError
from autotune.space.config_json import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Wrappers of a language model (vision and so on) put one of these before its modules' names.
PREFIXES = ("", "language_model.", "model.language_model.")

IGNORE_KEYS = ("ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules")
"""What the quantisation methods call the list of modules that stay as they were."""


@dataclass(frozen=True)
class WeightFormat:
    """How a checkpoint stores a weight matrix.

    Attributes:
        name: `native` (the model's data type), `int4_g32`, `fp8_block128x128`, `mxfp4`, ...
        granule: a rank's share of a dimension must be a multiple of this for its scales to be shared out.
    """

    name: str = "native"
    granule: int = 1


NATIVE = WeightFormat()


def weight_formats(quantization: Any, where: str) -> Callable[[str], WeightFormat]:
    """A function from a module's name (`model.layers.1.mlp.experts.0.up_proj`) to its weight's format.

    Args:
        quantization: the `quantization_config` of a config.json; None when the checkpoint is not quantised.
        where: its file and place, for messages.

    Raises:
        ModelError: it is not of the form that Hugging Face checkpoints have.
    """
    if quantization is None:
        return lambda _: NATIVE
    if not isinstance(quantization, dict):
        raise ModelError(f"{where}: expected an object, found {shown(quantization)}")
    # modelopt wrote the second name alone before it wrote both.
    method = quantization.get("quant_method", quantization.get("quant_algo"))
    if not isinstance(method, str):
        raise ModelError(f"{where}.quant_method is missing; it names how the weights are stored")
    groups = _groups(quantization, method, where)
    ignored = _names(quantization, IGNORE_KEYS, where)
    if method != "compressed-tensors" and not quantization.get("lm_head"):
        ignored.append("lm_head")

    def format_of(module: str) -> WeightFormat:
        if any(matches(pattern, module) for pattern in ignored):
            return NATIVE
        for targets, weight_format in groups:
            if "Linear" in targets or any(matches(pattern, module) for pattern in targets):
                return weight_format
        return NATIVE

    return format_of


def matches(pattern: str, module: str) -> bool:
    """Whether an entry of an ignore or target list means this module.

    Entries are whole names, leading or inner parts of names, shell patterns, or, after `re:`, regular
    expressions that match from the start (as compressed-tensors has them).
    """
    for prefix in PREFIXES:
        name = prefix + module
        if pattern.startswith("re:"):
            if re.match(pattern[3:], name):
                return True
        elif f".{pattern}." in f".{name}." or any(fnmatchcase(name, p) for p in (pattern, f"{pattern}.*")):
            return True
    return False


def _groups(config: Mapping[str, Any], method: str, where: str) -> list[tuple[list[str], WeightFormat]]:
    """Targets and format of each group of modules."""
    if method != "compressed-tensors":
        return [(["Linear"], _whole_model_format(config, method, where))]
    groups = config.get("config_groups")
    if not isinstance(groups, dict):
        raise ModelError(f"{where}.config_groups is missing; with compressed-tensors it tells the formats")
    found = []
    for name, group in groups.items():
        place = f"{where}.config_groups.{name}"
        if not isinstance(group, dict):
            raise ModelError(f"{place}: expected an object, found {shown(group)}")
        weights = group.get("weights")
        if weights is not None:
            found.append((_names(group, ("targets",), place), _group_format(weights, f"{place}.weights")))
    return found


def _whole_model_format(config: Mapping[str, Any], method: str, where: str) -> WeightFormat:
    """The format of methods that treat all their modules alike."""
    if method == "fp8":
        block = config.get("weight_block_size")
        return WeightFormat("fp8") if block is None else _blocks(block, f"{where}.weight_block_size")
    if method in ("awq", "gptq"):
        bits = _whole(config, "bits", where)
        symmetric = not config.get("zero_point", False) and config.get("sym", True)
        return _integers(bits, config.get("group_size"), bool(symmetric), where)
    algorithm = config.get("quant_algo")
    return WeightFormat((algorithm if isinstance(algorithm, str) else method).lower())


def _group_format(weights: Any, where: str) -> WeightFormat:
    """The format of one compressed-tensors group."""
    if not isinstance(weights, dict):
        raise ModelError(f"{where}: expected an object, found {shown(weights)}")
    bits = _whole(weights, "num_bits", where)
    if weights.get("type", "int") == "int":
        return _integers(bits, weights.get("group_size"), weights.get("symmetric", True) is True, where)
    if weights.get("strategy") == "block":
        return _blocks(weights.get("block_structure"), f"{where}.block_structure", f"fp{bits}")
    return WeightFormat(f"fp{bits}_{weights.get('strategy', 'tensor')}")


def _integers(bits: int, group: Any, symmetric: bool, where: str) -> WeightFormat:
    # -1 and null both mean one scale per row.
    grouped = group not in (None, -1)
    if grouped and (isinstance(group, bool) or not isinstance(group, int) or not 1 <= group <= 65536):
        raise ModelError(f"{where}.group_size: expected a whole number from 1, found {shown(group)}")
    name = f"int{bits}" + (f"_g{group}" if grouped else "") + ("" if symmetric else "_asymmetric")
    return WeightFormat(name, group if grouped else 1)


def _blocks(block: Any, where: str, kind: str = "fp8") -> WeightFormat:
    if (
        not isinstance(block, list)
        or len(block) != 2
        or not all(type(side) is int and 1 <= side <= 65536 for side in block)
    ):
        raise ModelError(f"{where}: expected two whole numbers such as [128, 128], found {shown(block)}")
    return WeightFormat(f"{kind}_block{block[0]}x{block[1]}", math.lcm(*block))


def _whole(table: Mapping[str, Any], key: str, where: str) -> int:
    value = table.get(key)
    if type(value) is not int or not 1 <= value <= 16:
        raise ModelError(f"{where}.{key}: expected a number of bits from 1 to 16, found {shown(value)}")
    return value


def _names(table: Mapping[str, Any], keys: tuple[str, ...], where: str) -> list[str]:
    """The module names and patterns listed under any of `keys`."""
    found: list[str] = []
    for key in keys:
        names = table.get(key)
        if names is None:
            continue
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ModelError(f"{where}.{key}: expected a list of names, found {shown(names)}")
        for name in names:
            if name.startswith("re:"):
                try:
                    re.compile(name[3:])
                except re.error as error:
                    raise ModelError(
                        f"{where}.{key}: {name!r} is not a regular expression: {error}"
                    ) from None
        found += names
    return found
