"""Where the search for a composed step starts: at the winners of its operators.

The best parts need not make the best whole, so the whole is what is tried and proven; but the parts' winners
are where to begin. A step may also spend its accuracy otherwise than its parts: what passes between operators
in float32 is not rounded there, and weights may be rounded for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.space.decode_step import WORKLOAD, Operator, operators
from autotune.space.work import estimated_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.space.searchspace import SearchSpace
    from autotune.store.reading import HistoryReader
    from autotune.store.records import Configuration

STEP = "native"
"""The implementation that names one for each group of operators."""

PRODUCTS = ("projections", "mlp", "head")
ROUNDED = ("native_int9", "native_int8")
"""Weights that a step with float32 between its operators may have, the most accurate first."""


def starting_configurations(
    reader: HistoryReader, space: SearchSpace, device: str, stack: str, objective: str = "latency"
) -> list[Configuration]:
    """What to try first: the operators' winners together, then with a step's own ways to be accurate.

    Empty for other workloads, and where no operator was tuned on this device under this stack.

    Args:
        reader: the history.
        space: of the step.
        device: digest.
        stack: digest.
        objective: of the winners.
    """
    problem = space.problem
    if problem.workload != WORKLOAD or STEP not in space.settings:
        return []
    won: dict[str, tuple[Operator, Configuration]] = {}
    for one in operators(problem):
        if one.group is None:
            continue
        winner = reader.incumbent(device, stack, one.problem.workload, one.problem.key, objective)
        if winner is not None and (one.group not in won or _weight(one) > _weight(won[one.group][0])):
            won[one.group] = (one, winner.choices[0].configuration)
    if not won:
        return []
    wanted = _wanted({group: configuration for group, (_, configuration) in won.items()})
    together = nearest(space, wanted)
    found = [together]
    if "float32" in space.settings[STEP].get("activations", ()):
        for how in ROUNDED:
            products = {group: how for group in PRODUCTS if group in together}
            wide = {"activations": "float32", "attention": "native", "cache": "float16", "fusion": True}
            found.append(nearest(space, {**together, **wide, **products}))
    return [one for number, one in enumerate(found) if one not in found[:number]]


def nearest(space: SearchSpace, wanted: Mapping[str, Any]) -> Configuration:
    """The configuration of the step that has most of what is wanted; of equals the first.

    Args:
        space: of the step.
        wanted: settings of the implementation `native`; those that it does not have count for nothing.
    """
    pool = space.pool
    names = {parameter.name: number for number, parameter in enumerate(pool.parameters)}
    rows = pool.codes[:, 0] == pool.parameters[0].values.index(STEP)
    agreeing = rows * 1e3
    for name, value in wanted.items():
        values = pool.parameters[names[name]].values if name in names else ()
        if name != "implementation" and value in values:
            # What decides the kernels counts for more than how they are cut.
            agreeing += (pool.codes[:, names[name]] == values.index(value)) * (
                1.0 if name in _TILES else 10.0
            )
    return pool.configuration(int(agreeing.argmax()))


_TILES = frozenset({"tile_n", "attention_block", "attention_splits", "expert_rows", "expert_block"})


def _weight(one: Operator) -> float:
    """Bytes that it moves in a step."""
    return one.times * estimated_bytes(one.problem)


def _wanted(won: Mapping[str, Configuration]) -> dict[str, Any]:
    """The settings of a step that stand for the winners of its groups."""
    wanted: dict[str, Any] = {"fusion": True}
    for group, configuration in won.items():
        implementation = configuration["implementation"]
        if group in PRODUCTS:
            known = ("torch", "onednn_packed")
            wanted[group] = implementation if implementation in known else "native"
            # One tile for all products: the heaviest group's comes last and stays.
            if "tile_n" in configuration and (group == "head" or "tile_n" not in wanted):
                wanted["tile_n"] = configuration["tile_n"]
        elif group == "attention":
            wanted["attention"] = "native" if implementation in ("native", "grouped", "absorbed") else "torch"
            wanted["attention_block"] = configuration.get("block")
            wanted["attention_splits"] = configuration.get("splits")
        else:
            wanted["experts_by"] = "native" if implementation == "native" else "torch"
            wanted["expert_rows"] = configuration.get("rows")
            wanted["expert_block"] = configuration.get("block")
    return wanted
