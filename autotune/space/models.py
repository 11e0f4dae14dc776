"""Geometries of models: the numbers of a Hugging Face config.json from which a plan follows."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autotune import paths
from autotune.errors import ModelError, UnknownNameError
from autotune.space.config_json import Fields, read_config, shown
from autotune.space.quantization import NATIVE, WeightFormat, weight_formats

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = "search_spaces/models"

DTYPES = ("bfloat16", "float16", "float32")

SLIDING = ("sliding_attention", "chunked_attention")

FOREIGN = {
    "hybrid_override_pattern": "layers that are neither attention nor feed-forward",
    "hybrid_layer_pattern": "attention whose heads differ between layers",
    "linear_attn_config": "linear attention",
    "compress_ratios": "compressed attention",
    "index_topk": "the indexer of sparse attention",
    "routed_expert_hidden_size": "experts of another width than the model",
}
"""Fields that tell of parts no workload covers; a plan of such a model says so."""


@dataclass(frozen=True)
class Mla:
    """Multi-head latent attention (DeepSeek V2, arXiv:2405.04434): its ranks and head sizes.

    Attributes:
        q_lora_rank: None when the query is projected directly.
    """

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope: int
    qk_rope: int
    v_dim: int


@dataclass(frozen=True)
class Moe:
    """A mixture of experts.

    Attributes:
        layers: how many layers have one; the others are dense.
        intermediate: of one routed expert.
        shared_intermediate: of all shared experts together; 0 without any.
    """

    layers: int
    experts: int
    top_k: int
    intermediate: int
    shared_intermediate: int = 0


@dataclass(frozen=True)
class WeightFormats:
    """How each part of the checkpoint is stored; norms, routers and embeddings are always native."""

    attention: WeightFormat = NATIVE
    dense: WeightFormat = NATIVE
    shared: WeightFormat = NATIVE
    experts: WeightFormat = NATIVE
    lm_head: WeightFormat = NATIVE


@dataclass(frozen=True)
class Geometry:
    """The numbers of a decoder-only transformer that decide which problems it brings.

    Attributes:
        name: the shipped name, or the file it came from.
        kv_heads: equal to `heads` for multi-head attention, fewer for grouped-query attention.
        head_dim: of queries, keys and values; with `mla`, of queries and keys.
        dense_layers: layers with a dense feed-forward block.
        intermediate: width of that block; 0 without any.
        full_layers: layers whose softmax attention sees the whole context.
        sliding_layers: layers whose softmax attention sees the last `window` positions.
        qk_norm: whether query and key heads are normalised.
        query_gate: whether the query projection also brings a gate as wide as the query.
        positions: longest context; None when not stated.
        rotary_dim: leading part of a head that a rotary embedding turns; with latent attention, `qk_rope`, a
            part of its own.
        rotary_layers: layers that have such an embedding.
        unplanned: parts of the model that no workload covers, in words.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    dtype: str
    dense_layers: int
    intermediate: int
    full_layers: int
    sliding_layers: int = 0
    window: int = 0
    mla: Mla | None = None
    moe: Moe | None = None
    formats: WeightFormats = field(default_factory=WeightFormats)
    activation: str = "silu"
    qk_norm: bool = False
    query_gate: bool = False
    positions: int | None = None
    rotary_dim: int = 0
    rotary_layers: int = 0
    unplanned: tuple[str, ...] = ()


def model_names() -> list[str]:
    """Names that `load_model` knows without a path."""
    return sorted(paths.data_files(FOLDER, ".json"))


def load_model(name_or_path: str) -> Geometry:
    """The geometry of a model.

    Args:
        name_or_path: a name under `search_spaces/models/`, the operator's or ours, or a path to a Hugging
            Face config.json or to its folder. A name wins over a folder called the same; `./name` means the
            folder.

    Raises:
        UnknownNameError: no shipped model and no file has this name.
        ModelError: the file cannot be read, or lacks a number that a plan needs.
    """
    shipped = paths.data_files(FOLDER, ".json")
    if name_or_path in shipped:
        return read_geometry(shipped[name_or_path], name_or_path)
    path = os.path.expanduser(name_or_path)
    if os.path.isdir(path):
        return read_geometry(os.path.join(path, "config.json"))
    if os.path.lexists(path):
        return read_geometry(path)
    # `moonshotai/Kimi-K2.5` is how the hub calls the model shipped as `kimi-k2.5`; another publisher's model
    # of the same name may be quantised otherwise, so this is a hint and no more.
    last = os.path.basename(name_or_path.rstrip(os.sep)).lower()
    if last in shipped:
        raise ModelError(f"unknown model {name_or_path!r}; did you mean {last}?")
    if os.sep in name_or_path or name_or_path.endswith(".json"):
        raise ModelError(
            f"{path}: no such file; give the config.json of a checkpoint, its folder, or one of "
            f"{', '.join(sorted(shipped))}"
        )
    raise UnknownNameError("model", name_or_path, shipped)


def read_geometry(path: str, name: str | None = None) -> Geometry:
    """The geometry in a Hugging Face config.json.

    Args:
        path: the file.
        name: what to call the model; its path by default.

    Raises:
        ModelError: the file cannot be read, or lacks a number that a plan needs.
    """
    fields = read_config(path)
    layers = fields.number("layers", "num_hidden_layers")
    hidden = fields.number("hidden", "hidden_size")
    heads = fields.number("heads", "num_attention_heads")
    mla, moe = _mla(fields), _moe(fields, layers)
    dense_layers = layers - (moe.layers if moe else 0)
    full_layers, sliding_layers, window, other_layers = _attention_layers(fields, layers)
    head_dim = mla.qk_nope + mla.qk_rope if mla else _head_dim(fields, hidden, heads)
    return Geometry(
        name=name or path,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=_kv_heads(fields, heads),
        head_dim=head_dim,
        vocab=fields.number("vocab", "vocab_size"),
        dtype=_dtype(fields),
        dense_layers=dense_layers,
        intermediate=_dense_width(fields) if dense_layers else 0,
        full_layers=full_layers,
        sliding_layers=sliding_layers,
        window=window,
        mla=mla,
        moe=moe,
        formats=_formats(fields, layers, moe),
        activation=fields.text("hidden_act", fields.text("hidden_activation", "silu")),
        # No field says so: the architecture does.
        qk_norm=fields.text("model_type", "").startswith("qwen3"),
        query_gate=fields.value("attn_output_gate") is True,
        positions=fields.optional("positions", "max_position_embeddings"),
        rotary_dim=mla.qk_rope if mla else _rotary_dim(fields, head_dim),
        rotary_layers=_rotary_layers(fields, layers if mla else full_layers + sliding_layers),
        unplanned=other_layers
        + tuple(f"{what} ({key})" for key, what in FOREIGN.items() if fields.value(key) is not None),
    )


def _kv_heads(fields: Fields, heads: int) -> int:
    """Key-value heads; as many as query heads when the field is absent (multi-head attention)."""
    kv_heads = fields.optional("heads", "num_key_value_heads") or heads
    if heads % kv_heads:
        raise ModelError(
            f"{fields.place('num_key_value_heads')}: {kv_heads} does not divide num_attention_heads, {heads}"
        )
    return kv_heads


def _head_dim(fields: Fields, hidden: int, heads: int) -> int:
    head_dim = fields.optional("head_dim", "head_dim")
    if head_dim is None and hidden % heads:
        raise ModelError(
            f"{fields.place('head_dim')} is missing, and hidden_size, {hidden}, is not a multiple of "
            f"num_attention_heads, {heads}"
        )
    return head_dim or hidden // heads


def _rotary_dim(fields: Fields, head_dim: int) -> int:
    """How much of a head is turned: all of it, or what the partial factor leaves."""
    rope = fields.value("rope_parameters")
    factor = rope.get("partial_rotary_factor") if isinstance(rope, dict) else None
    factor = fields.value("partial_rotary_factor") if factor is None else factor
    if factor is None:
        return head_dim
    if not isinstance(factor, (int, float)) or not 0 < factor <= 1:
        raise ModelError(
            f"{fields.place('partial_rotary_factor')}: expected a share of a head, found {shown(factor)}"
        )
    return int(head_dim * factor)


def _rotary_layers(fields: Fields, layers: int) -> int:
    """How many of the layers with softmax attention have a rotary embedding: all, but where it is said."""
    kind = fields.text("position_embedding_type", "rope")
    if fields.value("alibi") is True or kind not in ("rope", "rotary"):
        return 0
    # Llama 4 and SmolLM 3: 1 for each layer that has one, whatever the name says.
    listed = fields.value("no_rope_layers")
    return sum(bool(entry) for entry in listed[:layers]) if isinstance(listed, list) and listed else layers


def _dense_width(fields: Fields) -> int:
    # In Llama 4, `intermediate_size` is the experts' and the dense layers have a field of their own.
    width = fields.optional("intermediate", "intermediate_size_mlp")
    return width or fields.number("intermediate", "intermediate_size")


def _mla(fields: Fields) -> Mla | None:
    kv_lora_rank = fields.optional("hidden", "kv_lora_rank")
    if kv_lora_rank is None:
        return None
    return Mla(
        q_lora_rank=fields.optional("hidden", "q_lora_rank"),
        kv_lora_rank=kv_lora_rank,
        qk_nope=fields.number("head_dim", "qk_nope_head_dim"),
        qk_rope=fields.number("head_dim", "qk_rope_head_dim"),
        v_dim=fields.number("head_dim", "v_head_dim"),
    )


def _moe(fields: Fields, layers: int) -> Moe | None:
    experts = fields.optional("experts", "n_routed_experts", "num_experts", "num_local_experts", least=0)
    moe_layers = _moe_layers(fields, layers) if experts else 0
    if not experts or not moe_layers:
        return None
    top_k = fields.number(
        "experts", "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "top_k_experts"
    )
    if top_k > experts:
        raise ModelError(
            f"{fields.place('num_experts_per_tok')}: {top_k} cannot be chosen of {experts} experts"
        )
    # gpt-oss, Mixtral and Llama 4 put the experts' width where others put the dense layers'.
    width = fields.optional("intermediate", "moe_intermediate_size")
    width = width or fields.number("intermediate", "intermediate_size")
    return Moe(moe_layers, experts, top_k, width, _shared_width(fields, width))


def _shared_width(fields: Fields, expert_width: int) -> int:
    """Width of all shared experts together."""
    width = fields.optional(
        "intermediate", "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", least=0
    )
    if width is not None:
        return width
    shared = fields.optional("experts", "n_shared_experts", "num_shared_experts", least=0)
    if shared is None:
        # Llama 4 always has one, and no field for it.
        shared = int(fields.text("model_type", "").startswith("llama4"))
    return shared * expert_width


def _moe_layers(fields: Fields, layers: int) -> int:
    """How many layers have experts, by the rules of DeepSeek, Qwen, Llama 4, or a list."""
    listed = fields.value("moe_layer_freq")
    if isinstance(listed, list):
        return sum(bool(entry) for entry in listed[:layers])
    listed = fields.value("moe_layers")
    if isinstance(listed, list):
        return min(len(listed), layers)
    first = fields.optional("layers", "first_k_dense_replace", least=0) or 0
    every = fields.optional("layers", "moe_layer_freq") or 1
    step = fields.optional("layers", "decoder_sparse_step", "interleave_moe_layer_step") or 1
    dense = fields.value("mlp_only_layers")
    if dense is not None and not isinstance(dense, list):
        raise ModelError(f"{fields.place('mlp_only_layers')}: expected a list, found {shown(dense)}")
    candidates = (layer for layer in range(first, layers) if layer not in (dense or ()))
    return sum(layer % every == 0 and (layer + 1) % step == 0 for layer in candidates)


def _attention_layers(fields: Fields, layers: int) -> tuple[int, int, int, tuple[str, ...]]:
    """Layers of full attention, layers of sliding attention, their window, and what is neither, in words."""
    kinds = fields.names("layer_types")
    window = fields.optional("positions", "sliding_window", "attention_chunk_size") or 0
    if kinds is None:
        if not window or fields.value("use_sliding_window") is False:
            return layers, 0, 0, ()
        # Gemma: every n-th layer is full; Mistral: none is.
        pattern = fields.optional("layers", "sliding_window_pattern")
        full = layers // pattern if pattern else 0
        return full, layers - full, window, ()
    if len(kinds) != layers:
        raise ModelError(f"{fields.place('layer_types')}: {len(kinds)} entries for {layers} layers")
    full, sliding = kinds.count("full_attention"), sum(kind in SLIDING for kind in kinds)
    if sliding and not window:
        raise ModelError(f"{fields.place('sliding_window')} is missing, and layer_types has sliding layers")
    others = sorted({*kinds} - {"full_attention", *SLIDING})
    return full, sliding, window, tuple(f"{kinds.count(kind)} layers of {kind}" for kind in others)


def _formats(fields: Fields, layers: int, moe: Moe | None) -> WeightFormats:
    """Formats by part, asked of a module that stands for it.

    Recipes that spare single layers do so at the ends, so a layer in the middle is asked.
    """
    holder = fields.holder("quantization_config")
    format_of: Callable[[str], WeightFormat] = weight_formats(
        holder.value("quantization_config"), holder.place("quantization_config")
    )
    middle = f"model.layers.{layers // 2}"
    dense = "model.layers.0" if moe else middle
    return WeightFormats(
        attention=format_of(f"{middle}.self_attn.o_proj"),
        dense=format_of(f"{dense}.mlp.up_proj"),
        shared=format_of(f"{middle}.mlp.shared_experts.up_proj"),
        experts=format_of(f"{middle}.mlp.experts.0.up_proj"),
        lm_head=format_of("lm_head"),
    )


def _dtype(fields: Fields) -> str:
    """The data type of what is not quantised; bfloat16 where the checkpoint does not say (gpt-oss)."""
    for name in ("dtype", "torch_dtype"):
        holder = fields.holder(name)
        value = holder.value(name)
        if value is None or value == "auto":
            continue
        dtype = str(value).removeprefix("torch.")
        if dtype not in DTYPES:
            raise ModelError(
                f"{holder.place(name)}: expected one of {', '.join(DTYPES)}, found {shown(value)}"
            )
        return dtype
    return "bfloat16"
