"""Reading other systems' files: tuned tables of vLLM and SGLang, Kernel Tuner's cache, Triton's findings."""

from __future__ import annotations

import json
import math
import re
import time
from typing import TYPE_CHECKING, Any

from autotune.errors import UsageError
from autotune.exports.tables import NEEDED, OPTIONAL
from autotune.fingerprint.profile import profile_for
from autotune.lookup.tuned import joined, plain
from autotune.search.imported import Import
from autotune.search.landscape import read_landscape

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from autotune.fingerprint import Device
    from autotune.lookup.tuned import TunedKernel
    from autotune.space import Problem, SpaceDeclaration

_NAME = re.compile(
    r"E=(?P<experts>\d+),N=(?P<width>\d+),device_name=(?P<device>[^,]+)"
    r"(?:,dtype=(?P<dtype>\w+))?(?:,block_shape=\[(?P<rows>\d+),\s?(?P<columns>\d+)\])?\.json"
)

UNKNOWN_GROUP = 32
"""Columns that share a scale of 4-bit weights, which the name does not tell: that of Kimi K2.5."""


def read_moe_table(path: Path, declared: SpaceDeclaration, given: Mapping[str, str]) -> list[Import]:
    """The configurations of a tuned fused MoE file, one import for each batch size.

    The file says nothing of how fast they are, so they are candidates: tried early, proven like any other.

    Args:
        path: whose name says which shape and device it is for.
        declared: the space of `fused_moe`.
        given: dimensions that the name does not tell: `hidden` and `top_k` at least.

    Raises:
        UsageError: the name or the content is not such a file's.
        ProblemError: a dimension is missing or wrong.
    """
    told = _NAME.fullmatch(path.name)
    if told is None:
        raise UsageError(
            f"{path}: its name does not say what it is for; expected "
            "E=...,N=...,device_name=...[,dtype=...][,block_shape=[...]].json"
        )
    kind, family = _device(told["device"])
    fixed = {
        "experts": told["experts"],
        "intermediate": told["width"],
        **_format(told["dtype"], told["rows"], told["columns"], path),
        **given,
    }
    imports = []
    for tokens, row in _rows(path).items():
        problem = declared.problem({"tokens": str(tokens), **fixed})
        imports.append(
            Import(
                "fused_moe",
                problem.dimensions,
                kind,
                family,
                [row],
                [],
                str(path.resolve()),
                time.time(),
            )
        )
    return imports


def read_kernel_tuner(path: Path, problem: Problem, declared: SpaceDeclaration, device: Device) -> Import:
    """The measured configurations of a Kernel Tuner cache, as an earlier study of a problem.

    Args:
        path: of the cache, gzipped or not.
        problem: that the cache is taken to be of.
        declared: the space of its workload.
        device: that it was measured on, or one of the same family.

    Raises:
        UsageError: it is no such cache, or has no parameter in common with the space.
    """
    landscape = read_landscape(path)
    names = {parameter.name for parameter in landscape.pool.parameters}
    known = {name for one in declared.implementations.values() for name in (*one.qualifiers, *one.parameters)}
    if not names & known:
        raise UsageError(
            f"{path}: its parameters ({', '.join(sorted(names))}) are none of {problem.workload}'s "
            f"({', '.join(sorted(known))})"
        )
    return Import(
        problem.workload,
        problem.dimensions,
        device.kind,
        device.family,
        [landscape.pool.configuration(row) for row in range(len(landscape))],
        [None if math.isnan(value) else float(value) for value in landscape.times],
        str(path.resolve()),
        time.time(),
    )


def read_findings(path: Path, kernel: TunedKernel, declared: SpaceDeclaration) -> list[Import]:
    """What `autotune.listen` wrote of a kernel, as an earlier study for each key and device.

    Args:
        path: of the file.
        kernel: whose function `triton.autotune` had under the same key.
        declared: its space.

    Raises:
        UsageError: the file cannot be read, or holds nothing of this kernel on a device that it names.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}; see autotune.listen()") from None
    imports = [found for line in lines if (found := _finding(line, path, kernel, declared)) is not None]
    if not imports:
        raise UsageError(
            f"{path}: {len(lines)} findings, none of {kernel.base_fn.__name__} with the key "
            f"({', '.join(kernel.keys)}) and timings"
        )
    return imports


def _finding(line: str, path: Path, kernel: TunedKernel, declared: SpaceDeclaration) -> Import | None:
    """One line as an import; None if it is of another kernel, or was cut short."""
    try:
        told = json.loads(line)
        name, key, timings = told["function"].rpartition(".")[2], told["key"], told["timings"]
        keys, types = key[: len(kernel.keys)], key[len(kernel.keys) :]
        configurations = [{**kernel.baseline, **_known(settings, kernel)} for settings, _ in timings]
        values = [times[0] for _, times in timings]
        device = str(told["device"] or "")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    if name != kernel.base_fn.__name__ or len(keys) < len(kernel.keys) or not timings or not device:
        return None
    dtypes = joined([str(one).removeprefix("torch.") for one in types])
    dimensions = {**dict(zip(kernel.keys, map(plain, keys), strict=True)), kernel.dtype_name: dtypes}
    kind, family = _device(device)
    source = f"{path.resolve()}#{family}"
    return Import(
        kernel.name,
        declared.problem(dimensions).dimensions,
        kind,
        family,
        configurations,
        values,
        source,
        time.time(),
    )


def _known(settings: Mapping[str, Any], kernel: TunedKernel) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in kernel.baseline}


def _device(name: str) -> tuple[str, str]:
    """Kind and family of a device as files name it."""
    spelt = name.replace("_", " ")
    kind = "rocm" if spelt.startswith("AMD") else "cuda"
    profile = profile_for({"kind": kind, "name": spelt})
    return kind, profile.family if profile else kind


def _format(dtype: str | None, rows: str | None, columns: str | None, path: Path) -> dict[str, str]:
    """The dimensions that say how weights are stored."""
    if dtype is None:
        return {}
    if dtype == "float32":
        return {"dtype": "float32"}
    if dtype == "int4_w4a16":
        return {"weight_format": f"int4_g{UNKNOWN_GROUP}"}
    if dtype == "fp8_w8a8":
        return {"weight_format": f"fp8_block{rows}x{columns}" if rows else "fp8"}
    raise UsageError(f"{path}: dtype={dtype} is no weight format of fused_moe")


def _rows(path: Path) -> dict[int, dict[str, Any]]:
    """Configurations by batch size, checked key by key."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a JSON object of batch sizes")
    rows = {}
    for size, row in content.items():
        if size == "triton_version":
            continue
        if not size.isdecimal() or not isinstance(row, dict):
            raise UsageError(f"{path}: {size!r} is not a batch size with a configuration")
        for name, value in row.items():
            if name not in (*NEEDED, *OPTIONAL) or type(value) is not int:
                raise UsageError(f"{path}: {size}: {name}={value!r} is no parameter of the kernel")
        rows[int(size)] = row
    if not rows:
        raise UsageError(f"{path}: holds no configuration")
    return rows
