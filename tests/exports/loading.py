"""How vLLM and SGLang find and read tuned tables: their rules, written anew to test files against them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    Configurations = dict[int, dict[str, Any]]


def vllm_moe(
    folder: Path, device: str, experts: int, w2_columns: int, dtype: str | None, block: list[int] | None
) -> Configurations | None:
    """vLLM's fused MoE configurations: N is unpacked, the H200 family is one, `triton_version` is dropped."""
    width = 2 * w2_columns if dtype == "int4_w4a16" else w2_columns
    name = re.sub(r"[\s/]+", "_", device)
    name = "NVIDIA_H200" if "H200" in name.split("_") else name
    parts = [f"E={experts}", f"N={width}", f"device_name={name}"]
    parts += [f"dtype={dtype}"] if dtype else []
    shape = block if block and all(block) else None
    parts += [f"block_shape={shape}".replace(" ", "")] if shape else []
    content = _content(folder / f"{','.join(parts)}.json")
    if content is not None:
        content.pop("triton_version", None)
    return _by_size(content)


def sglang_moe(
    folder: Path,
    triton: str,
    device: str,
    experts: int,
    w2_columns: int,
    dtype: str | None,
    block: list[int] | None,
) -> Configurations | None:
    """SGLang's: this version of Triton, then any other, the newest first; N packed, a space in the block."""
    parts = [f"E={experts}", f"N={w2_columns}", f"device_name={device.replace(' ', '_')}"]
    parts += [f"dtype={dtype}"] if dtype else []
    parts += [f"block_shape={block}"] if block and all(block) else []
    root, name = folder / "configs", f"{','.join(parts)}.json"
    # Every folder that starts so must be a version: one that is not stops the server.
    versions = [
        each.name.removeprefix("triton_") for each in root.iterdir() if each.name.startswith("triton_")
    ]
    newest = sorted(versions, key=lambda v: [int(x) for x in v.split("_")], reverse=True)
    for version in [triton.replace(".", "_"), *newest]:
        content = _content(root / f"triton_{version}" / name)
        if content is not None:
            return _by_size(content)
    return None


def vllm_block_fp8(folder: Path, device: str, n: int, k: int, block: list[int]) -> Configurations | None:
    """vLLM's float8 products: every key is a batch size, and H200s are kept apart."""
    name = re.sub(r"[\s/]+", "_", device)
    file = f"N={n},K={k},device_name={name},dtype=fp8_w8a8,block_shape=[{block[0]},{block[1]}].json"
    return _by_size(_content(folder / file))


def sglang_block_fp8(folder: Path, device: str, n: int, k: int, block: list[int]) -> Configurations | None:
    """SGLang's float8 products: the same with a space in the block."""
    name = device.replace(" ", "_")
    file = f"N={n},K={k},device_name={name},dtype=fp8_w8a8,block_shape=[{block[0]}, {block[1]}].json"
    return _by_size(_content(folder / file))


def chosen(configurations: Configurations, batch: int) -> dict[str, Any]:
    """What is taken for a batch: the nearest size, of two equally near the first in the file."""
    return configurations[min(configurations, key=lambda size: abs(size - batch))]


def _content(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def _by_size(content: dict[str, Any] | None) -> Configurations | None:
    return None if content is None else {int(size): row for size, row in content.items()}
