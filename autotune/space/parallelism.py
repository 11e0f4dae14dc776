"""What one rank holds of a model: its heads, widths and experts under tensor and expert parallelism."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.space.models import Geometry

MOST_RANKS = 4096


@dataclass(frozen=True)
class Share:
    """One rank's share.

    Attributes:
        kv_heads: at least 1: with more ranks than key-value heads each is held by several ranks.
        intermediate: of the dense layers.
        vocab: rows of the output layer, padded up to a multiple of the ranks.
        expert_intermediate: of one routed expert: split only among the ranks that expert parallelism leaves.
    """

    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    experts: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0


def share(geometry: Geometry, tp: int, ep: int) -> Share:
    """What one of `tp` ranks holds.

    Attention, dense layers and shared experts are split `tp` ways. Routed experts are dealt out `ep` ways
    and, where `ep` is less than `tp`, each is split among the `tp / ep` ranks that hold it. An `ep` above
    `tp` means that several data-parallel groups share the experts.

    Raises:
        ModelError: the model cannot be split this way; the message names the values that work.
    """
    _check(geometry, "tp", tp, lambda value: _tp_obstacle(geometry, value))
    _check(geometry, "ep", ep, lambda value: _ep_obstacle(geometry, tp, value))
    moe = geometry.moe
    return Share(
        heads=geometry.heads // tp,
        kv_heads=max(1, geometry.kv_heads // tp),
        intermediate=geometry.intermediate // tp,
        vocab=-(-geometry.vocab // tp),
        experts=moe.experts // ep if moe else 0,
        expert_intermediate=moe.intermediate // max(1, tp // ep) if moe else 0,
        shared_intermediate=moe.shared_intermediate // tp if moe else 0,
    )


def _check(geometry: Geometry, name: str, value: int, obstacle: Callable[[int], str]) -> None:
    if type(value) is not int or not 1 <= value <= MOST_RANKS:
        raise ModelError(f"{name}={value!r} is out of range; expected a whole number from 1 to {MOST_RANKS}")
    reason = obstacle(value)
    if reason:
        most = max(geometry.heads, geometry.moe.experts if geometry.moe else 1)
        valid = ", ".join(str(v) for v in range(1, most + 1) if not obstacle(v))
        remedy = f"{name} may be {valid}" if valid else "choose another tp"
        raise ModelError(f"{geometry.name}: {name}={value} does not work: {reason}; {remedy}")


def _tp_obstacle(geometry: Geometry, tp: int) -> str:
    """Why the model cannot be split `tp` ways, empty when it can."""
    if geometry.heads % tp:
        return f"it does not divide the {geometry.heads} attention heads"
    if geometry.mla is None and geometry.kv_heads % tp and tp % geometry.kv_heads:
        return f"{geometry.kv_heads} key-value heads can be neither split nor copied evenly"
    widths = [("dense layers'", geometry.intermediate, geometry.formats.dense.granule)]
    if geometry.moe:
        granule = geometry.formats.shared.granule
        widths.append(("shared experts'", geometry.moe.shared_intermediate, granule))
    return _width_obstacle(widths, tp)


def _ep_obstacle(geometry: Geometry, tp: int, ep: int) -> str:
    """Why the experts cannot be dealt out `ep` ways over ranks of `tp`, empty when they can."""
    if geometry.moe is None:
        return "" if ep == 1 else "the model has no experts"
    if geometry.moe.experts % ep:
        return f"it does not divide the {geometry.moe.experts} experts"
    if tp % ep and ep % tp:
        return f"neither it nor tp={tp} is a multiple of the other"
    granule = geometry.formats.experts.granule
    return _width_obstacle([("experts'", geometry.moe.intermediate, granule)], max(1, tp // ep))


def _width_obstacle(widths: list[tuple[str, int, int]], ranks: int) -> str:
    for whose, width, granule in widths:
        if width % ranks:
            return f"the {whose} width, {width}, cannot be split {ranks} ways evenly"
        if ranks > 1 and width // ranks % granule:
            return (
                f"the {whose} width, {width}, split {ranks} ways is no multiple of {granule}, "
                "the block that its weights are quantised in"
            )
    return ""
