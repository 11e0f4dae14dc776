"""The corners of the spaces of our GPU kernels: compiled by tests, checked and counted on devices."""

from __future__ import annotations

from typing import Any

FAMILIES = ("nvidia-a100-80gb", "nvidia-h200", "nvidia-b200")
"""One for each of sm_80, sm_90 and sm_100."""
ANY_ERROR = 1.0
"""As `max_error`: lossy implementations are offered too."""

_FLOAT8 = {"quantise": "float8_e4m3fn"}
_EXPERTS = {"experts": 384, "top_k": 8, "hidden": 7168, "intermediate": 256}
PROBLEMS: dict[str, list[dict[str, Any]]] = {
    "linear": [
        {"m": 1, "n": 2112, "k": 7168},
        {"m": 16, "n": 7168, "k": 2048},
        {"m": 256, "n": 4608, "k": 7168, "dtype": "float16"},
        {"m": 4096, "n": 7168, "k": 1024},
        {"m": 16, "n": 7168, "k": 2048, "weight_format": "int4_g32"},
    ],
    "rms_norm": [
        {"rows": 4096, "hidden": 7168, "residual": "add"},
        {"rows": 4096, "hidden": 7168, "residual": "add", **_FLOAT8},
        {"rows": 1, "hidden": 1536},
    ],
    "silu_and_mul": [
        {"rows": 4096, "intermediate": 2048},
        {"rows": 4096, "intermediate": 18432, **_FLOAT8},
    ],
    "rope": [{"tokens": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "rotary_dim": 64}],
    "attention": [
        {"batch": 1, "q_len": 1, "kv_len": 8192, "heads": 32, "kv_heads": 8, "head_dim": 128},
        {"batch": 1, "q_len": 4, "kv_len": 999, "heads": 8, "kv_heads": 1, "head_dim": 192, "causal": "yes"},
    ],
    "mla_decode": [{"batch": 1, "context": 4096, "heads": 8}, {"batch": 64, "context": 4096, "heads": 64}],
    "fused_moe": [
        {"tokens": 256, **_EXPERTS},
        {"tokens": 16, **_EXPERTS, "weight_format": "int4_g32"},
        {"tokens": 256, **_EXPERTS, "weight_format": "fp8_block128x128"},
    ],
}


def corners(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those at the ends of two parameters at a time, given the others' ends: where limits are hit.

    Args:
        found: configurations of one implementation.
    """
    names = [name for name in found[0] if name != "implementation"] if found else []
    chosen: dict[tuple[Any, ...], dict[str, Any]] = {}
    for first in names:
        for sign in (1, -1):
            numeric = isinstance(found[0][first], int) and not isinstance(found[0][first], bool)
            rest = [name for name in names if name != first and isinstance(found[0][name], int)]
            for direction in (1, -1):
                best = max(
                    found,
                    key=lambda one, first=first, sign=sign, rest=rest, direction=direction, numeric=numeric: (
                        sign * one[first] if numeric else str(one[first]),
                        sum(direction * one[name] * (1 + i / 7) for i, name in enumerate(rest)),
                    ),
                )
                chosen[tuple(best.values())] = best
    return list(chosen.values())


def spread(found: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most so many of the corners, or a few more, from the first to the last.

    Args:
        found: configurations of one implementation.
        most: of them.
    """
    every = corners(found) or found[:1]  # one without parameters has one configuration and no corner
    return every[:: max(1, len(every) // most)]
