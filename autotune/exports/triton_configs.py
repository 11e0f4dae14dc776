"""Winners of Triton kernels as a Python module of `triton.Config`s: for code that cannot import autotune.

    from kernel_configs import CONFIGS, DEFAULT, KEY
    config = CONFIGS.get((m, n, k), DEFAULT)
    kernel[grid](x, y, m, n, k, **config.all_kwargs())

`list(CONFIGS.values())` is also a short list for `@triton.autotune(configs=..., key=KEY)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.errors import UsageError
from autotune.exports.files import ExportedFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.exports.winners import Winners

OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")
"""What `triton.Config` takes by its own names; all else are the kernel's constants."""


def is_triton(configuration: Mapping[str, Any]) -> bool:
    """Whether a configuration is of an implementation in Triton: so its name says, or it sets warps."""
    return "num_warps" in configuration or str(configuration.get("implementation")).startswith("triton")


def triton_module(workload: str, winners: Winners, default: Mapping[str, Any], filename: str) -> ExportedFile:
    """The module.

    Args:
        workload: its name.
        winners: of it; those that are not of a Triton kernel are left out.
        default: the configuration for what is not tuned; empty where the baseline is no Triton kernel.
        filename: of the module.

    Raises:
        UsageError: no winner is of a Triton kernel.
    """
    chosen = [d for d in winners.decisions if is_triton(d.winner.choices[0].configuration)]
    if not chosen:
        raise UsageError(f"no winner of {workload} is a Triton kernel's; there is nothing to write")
    names = list(chosen[0].winner.dimensions)
    stack, device = winners.stack, winners.device
    lines = [
        f'"""Configurations of {workload}, proven by autotune on {_plain(device.name)}, '
        f'Triton {_plain(stack.facts.get("triton"))}."""',
        "",
        "import triton",
        "",
        f"KEY = {tuple(names)!r}",
        "",
        "CONFIGS = {",
    ]
    rows: dict[str, Any] = {}
    for decision in sorted(chosen, key=lambda d: _order(d.winner.dimensions)):
        best = decision.winner.choices[0]
        key = tuple(decision.winner.dimensions.values())
        gain = best.proof.against_baseline
        lines.append(f"    {key!r}: {_config(best.configuration)},  # {gain.ratio:.2f}x its baseline")
        rows[",".join(map(str, key))] = {
            "decision": decision.id,
            "study": decision.study,
            "is_baseline": best.is_baseline,
            "latency_ns": best.latency_ns,
            "speedup": [gain.low, gain.ratio, gain.high],
            "error": best.error,
        }
    lines += ["}", "", f"DEFAULT = {_config(default) if is_triton(default) else None}"]
    told = {
        "workload": workload,
        "device": {"name": device.name, "digest": device.digest, "family": device.family},
        "stack": {"digest": stack.digest, "triton": stack.facts.get("triton")},
        "left_out": len(winners.decisions) - len(chosen),
        "tuned": len(chosen),
        "rows": rows,
    }
    return ExportedFile(filename, "\n".join(lines) + "\n", told)


def _config(configuration: Mapping[str, Any]) -> str:
    """`triton.Config(...)` as source; values are numbers, booleans and text alone."""
    constants = {
        name: value
        for name, value in configuration.items()
        if name != "implementation" and name not in OPTIONS
    }
    for name, value in configuration.items():
        if not isinstance(value, int | float | str):
            raise UsageError(f"{name}={value!r} cannot be written as a constant of a Triton kernel")
    options = "".join(f", {name}={configuration[name]!r}" for name in OPTIONS if name in configuration)
    return f"triton.Config({constants!r}{options})"


def _order(dimensions: Mapping[str, int | str]) -> list[tuple[bool, Any]]:
    return [(isinstance(value, str), value) for value in dimensions.values()]


def _plain(text: Any) -> str:
    """Text that may stand in a docstring."""
    return "".join(c for c in str(text) if c.isprintable() and c not in '"\\')
