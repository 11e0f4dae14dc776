"""Plans: the exact problems that a model brings to one rank at a parallelism and a batch size.

The layers are fused as the serving engines fuse them: one projection for query, key and value (with latent
attention: one for both latents), one for gate and up, one kernel for all routed experts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.errors import ModelError, UnknownNameError
from autotune.space.declared import declared as declaration
from autotune.space.parallelism import Share, share
from autotune.space.problem import LARGEST_DIMENSION, Problem
from autotune.space.quantization import NATIVE
from autotune.space.work import estimated_work

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autotune.space.models import Geometry, Mla, Moe
    from autotune.space.problem import Dimension
    from autotune.space.quantization import WeightFormat

PHASES = ("decode", "prefill")

WORKLOADS = ("linear", "mla_decode", "attention", "rms_norm", "rope", "silu_and_mul", "fused_moe")


@dataclass(frozen=True)
class PlannedProblem:
    """One problem of a plan.

    Attributes:
        role: what it is in the model, e.g. `q_b`; several, joined by commas, where they are the same problem.
        count: how often it runs in one step of the model (all layers, one new token per sequence).
        note: where it differs from what the engine runs; empty when it does not.
    """

    problem: Problem
    role: str
    count: int
    note: str = ""

    def worth(self, bandwidth_bytes_per_s: float, flops_per_s: float = float("inf")) -> float:
        """Seconds of a step that this problem takes at best: what tuning it can act upon."""
        return self.count * estimated_work(self.problem).seconds(bandwidth_bytes_per_s, flops_per_s)


@dataclass(frozen=True)
class _Step:
    """One step of the model on one rank.

    Attributes:
        sequences: how many sequences are in it.
        rows: how many tokens are computed.
        context: how many tokens each sequence attends to.
        declared: the dimensions of each workload.
    """

    geometry: Geometry
    share: Share
    sequences: int
    rows: int
    context: int
    phase: str
    declared: Mapping[str, Mapping[str, Dimension]]

    def problem(self, workload: str, role: str, count: int, note: str = "", **given: Any) -> PlannedProblem:
        """A problem of the model's data type."""
        dimensions = {"dtype": self.geometry.dtype, **given}
        return PlannedProblem(Problem.of(workload, self.declared[workload], dimensions), role, count, note)

    def linear(
        self, role: str, count: int, n: int, k: int, stored: WeightFormat, rows: int | None = None
    ) -> PlannedProblem:
        """A dense layer, for all tokens of the step unless `rows` says how many."""
        weight_format, note = self.planned_format("linear", stored)
        given = {"m": rows or self.rows, "n": n, "k": k, "weight_format": weight_format}
        return self.problem("linear", role, count, note, **given)

    def norm(self, role: str, count: int, rows: int, hidden: int, residual: str = "none") -> PlannedProblem:
        """A norm of `rows` vectors."""
        return self.problem("rms_norm", role, count, rows=rows, hidden=hidden, residual=residual)

    def rope(self, heads: int, kv_heads: int, head_dim: int, note: str = "") -> PlannedProblem:
        """The rotary embedding of queries and keys."""
        turned = self.geometry.rotary_dim // 2 * 2
        given = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "rotary_dim": turned}
        count = self.geometry.rotary_layers
        return self.problem("rope", "rotary embedding", count, note, tokens=self.rows, **given)

    def planned_format(self, workload: str, stored: WeightFormat) -> tuple[str, str]:
        """The `weight_format` of a problem, and a note where the workload does not know the checkpoint's."""
        if stored.name in (self.declared[workload]["weight_format"].choices or ()):
            return stored.name, ""
        return "native", f"the checkpoint stores {stored.name}; planned with {self.geometry.dtype} weights"


def plan(
    geometry: Geometry,
    *,
    tp: int = 1,
    ep: int = 1,
    batches: Sequence[int] = (1, 16, 64),
    context: int = 4096,
    phases: Sequence[str] = ("decode",),
) -> list[PlannedProblem]:
    """The problems of one rank, equal ones merged, in the order of the model.

    Biases and attention sinks belong to no workload and are not planned; neither is the prefill of latent
    attention, whose keys and values differ in width.

    Args:
        geometry: the model.
        tp: ranks that share attention and dense layers.
        ep: ranks that the routed experts are dealt out to.
        batches: sequences per step of decoding.
        context: tokens each sequence attends to; in prefill, tokens of the one sequence.
        phases: of `decode` and `prefill`.

    Raises:
        ModelError: the model cannot be split this way, or a size is out of range.
    """
    for name, value in [("context", context), *(("batch", batch) for batch in batches)]:
        if type(value) is not int or not 1 <= value <= LARGEST_DIMENSION:
            raise ModelError(f"{name}={value!r} is out of range; expected a whole number from 1")
    if not batches:
        raise ModelError("a plan needs at least one batch size, e.g. 1,16,64")
    if geometry.positions and context > geometry.positions:
        raise ModelError(f"{geometry.name}: context={context} exceeds its {geometry.positions} positions")
    for phase in phases:
        if phase not in PHASES:
            raise UnknownNameError("phase", phase, PHASES)
    part = share(geometry, tp, ep)
    declared = {workload: declaration(workload).dimensions or {} for workload in WORKLOADS}
    steps = [
        _Step(geometry, part, batch, batch, context, "decode", declared)
        for batch in batches
        if "decode" in phases
    ]
    if "prefill" in phases:
        steps.append(_Step(geometry, part, 1, context, context, "prefill", declared))
    merged: dict[Problem, PlannedProblem] = {}
    for step in steps:
        # A batch size given twice is one step, not two.
        for planned in _merge(_problems(step, ep)).values():
            merged.setdefault(planned.problem, planned)
    return list(merged.values())


def most_valuable_first(
    planned: Sequence[PlannedProblem], bandwidth_bytes_per_s: float, flops_per_s: float = float("inf")
) -> list[PlannedProblem]:
    """A plan in order of `worth`.

    Args:
        planned: the plan.
        bandwidth_bytes_per_s: measured ceiling of the memory.
        flops_per_s: measured ceiling of matrix multiplication; unlimited by default.
    """
    return sorted(planned, key=lambda p: -p.worth(bandwidth_bytes_per_s, flops_per_s))


def _merge(planned: Iterator[PlannedProblem]) -> dict[Problem, PlannedProblem]:
    merged: dict[Problem, PlannedProblem] = {}
    for one in planned:
        other = merged.get(one.problem)
        if other is not None:
            notes = dict.fromkeys(filter(None, (other.note, one.note)))
            one = replace(
                other,
                role=f"{other.role}, {one.role}",
                count=other.count + one.count,
                note="; ".join(notes),
            )
        merged[one.problem] = one
    return merged


def _problems(step: _Step, ep: int) -> Iterator[PlannedProblem]:
    """Every problem of a step, in the order of the model."""
    geometry = step.geometry
    yield from _block_norms(step)
    if geometry.mla is not None:
        yield from _latent_attention(step, geometry.mla)
    else:
        yield from _grouped_attention(step)
    if geometry.dense_layers:
        yield from _gated_mlp(
            step, "dense", geometry.dense_layers, step.share.intermediate, geometry.formats.dense
        )
    if geometry.moe is not None:
        yield from _experts(step, geometry.moe, ep)
    # Only the last token of a sequence is turned into a distribution over the vocabulary.
    yield step.linear(
        "lm_head", 1, step.share.vocab, geometry.hidden, geometry.formats.lm_head, rows=step.sequences
    )


def _block_norms(step: _Step) -> Iterator[PlannedProblem]:
    """Norms before attention and before the feed-forward block, and the last one; all but the first add."""
    layers, hidden = step.geometry.layers, step.geometry.hidden
    yield step.norm("first norm", 1, step.rows, hidden, residual="none")
    yield step.norm("norm", 2 * layers, step.rows, hidden, residual="add")


def _latent_attention(step: _Step, mla: Mla) -> Iterator[PlannedProblem]:
    geometry, heads, layers = step.geometry, step.share.heads, step.geometry.layers
    stored = geometry.formats.attention
    latent, query = mla.kv_lora_rank + mla.qk_rope, heads * geometry.head_dim
    if mla.q_lora_rank is None:
        yield step.linear("q", layers, query, geometry.hidden, stored)
        yield step.linear("kv_a", layers, latent, geometry.hidden, stored)
    else:
        yield step.linear("qkv_a", layers, mla.q_lora_rank + latent, geometry.hidden, stored)
        yield step.norm("q_a norm", layers, step.rows, mla.q_lora_rank)
        yield step.linear("q_b", layers, query, mla.q_lora_rank, stored)
    yield step.norm("kv_a norm", layers, step.rows, mla.kv_lora_rank)
    if geometry.rotary_layers:
        yield step.rope(heads, 1, mla.qk_rope, "engines turn neighbours, and leave the part where it lies")
    kv_b = step.linear("kv_b", layers, heads * (mla.qk_nope + mla.v_dim), mla.kv_lora_rank, stored)
    if step.phase == "prefill":
        yield kv_b
    else:
        yield replace(kv_b, note=_joined(kv_b.note, "absorbed decoding computes it inside mla_decode"))
        yield step.problem(
            "mla_decode",
            "attention",
            layers,
            batch=step.sequences,
            context=step.context,
            heads=heads,
            kv_lora_rank=mla.kv_lora_rank,
            qk_nope=mla.qk_nope,
            qk_rope=mla.qk_rope,
            v_dim=mla.v_dim,
            kv_dtype=geometry.dtype,
        )
    yield step.linear("o", layers, geometry.hidden, heads * mla.v_dim, stored)


def _grouped_attention(step: _Step) -> Iterator[PlannedProblem]:
    geometry, heads, kv_heads = step.geometry, step.share.heads, step.share.kv_heads
    layers, head_dim = geometry.full_layers + geometry.sliding_layers, geometry.head_dim
    if not layers:
        return
    stored = geometry.formats.attention
    columns = heads * (2 if geometry.query_gate else 1) + 2 * kv_heads
    yield step.linear("qkv", layers, columns * head_dim, geometry.hidden, stored)
    if geometry.qk_norm:
        yield step.norm("q norm", layers, step.rows * heads, head_dim)
        yield step.norm("k norm", layers, step.rows * kv_heads, head_dim)
    if geometry.rotary_layers and geometry.rotary_dim >= 2:
        yield step.rope(heads, kv_heads, head_dim)
    if geometry.full_layers:
        yield _attention(step, "attention", geometry.full_layers, step.context)
    if geometry.sliding_layers:
        window, whole = min(geometry.window, step.context), step.context
        # In prefill the window is a band along the diagonal, which the workload cannot say.
        banded = step.phase == "prefill" and window < whole
        sliding = _attention(step, "sliding attention", geometry.sliding_layers, whole if banded else window)
        note = f"planned over the whole context; the engine attends to a band of {window}" if banded else ""
        yield replace(sliding, note=note)
    yield step.linear("o", layers, geometry.hidden, heads * head_dim, stored)


def _attention(step: _Step, role: str, count: int, kv_len: int) -> PlannedProblem:
    decoding = step.phase == "decode"
    return step.problem(
        "attention",
        role,
        count,
        batch=step.sequences,
        q_len=1 if decoding else step.rows,
        kv_len=kv_len,
        heads=step.share.heads,
        kv_heads=step.share.kv_heads,
        head_dim=step.geometry.head_dim,
        # The newest token sees every other: there is nothing to mask.
        causal="no" if decoding else "yes",
    )


def _gated_mlp(
    step: _Step, name: str, count: int, width: int, stored: WeightFormat
) -> Iterator[PlannedProblem]:
    hidden = step.geometry.hidden
    yield step.linear(f"{name} gate_up", count, 2 * width, hidden, stored)
    if step.geometry.activation in ("silu", "swish"):
        yield step.problem("silu_and_mul", f"{name} activation", count, rows=step.rows, intermediate=width)
    yield step.linear(f"{name} down", count, hidden, width, stored)


def _experts(step: _Step, moe: Moe, ep: int) -> Iterator[PlannedProblem]:
    geometry, part = step.geometry, step.share
    # Routers decide: checkpoints never quantise them.
    yield step.linear("router", moe.layers, moe.experts, geometry.hidden, NATIVE)
    weight_format, note = step.planned_format("fused_moe", geometry.formats.experts)
    if ep > 1:
        note = _joined(
            note, f"planned with every choice among the rank's {part.experts} experts, the worst case"
        )
    yield step.problem(
        "fused_moe",
        "experts",
        moe.layers,
        note,
        tokens=step.rows,
        experts=part.experts,
        top_k=min(moe.top_k, part.experts),
        hidden=geometry.hidden,
        intermediate=part.expert_intermediate,
        weight_format=weight_format,
    )
    if part.shared_intermediate:
        yield from _gated_mlp(step, "shared", moe.layers, part.shared_intermediate, geometry.formats.shared)


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))
