"""Which experts tokens choose: drawn like a trained router's choices, some more popular than others."""

from __future__ import annotations

import math

import torch

EXPONENTS = {"uniform": 0.0, "skewed": 0.5}
"""Exponent s of Zipf's law by name: the r-th most popular expert's share is proportional to r ** -s.

At 0.5 the most popular of 384 experts is drawn 10 times as often as the mean one; at 0 all are alike.
"""

POPULARITY_SEED = 20_000
"""Which experts are popular is a property of the model: the same for every seed of a token's choices."""


def popularity(experts: int, exponent: float) -> torch.Tensor:
    """Shares (experts,) in float64 that sum to 1, in the model's order of experts."""
    shares = torch.arange(1, experts + 1, dtype=torch.float64) ** -exponent
    order = torch.randperm(experts, generator=torch.Generator().manual_seed(POPULARITY_SEED))
    return (shares / shares.sum())[order]


def draw_routing(
    tokens: int, experts: int, top_k: int, exponent: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choices of every token without repetition, and how it mixes them.

    The choices are those of successive draws without replacement, by the Gumbel top-k trick (Kool et al.,
    arXiv:1903.06059).

    Args:
        tokens: how many.
        experts: to choose from.
        top_k: choices of a token, at most `experts`.
        exponent: of Zipf's law; 0 is uniform.
        seed: equal seeds give equal choices.

    Returns:
        int64 ids (tokens, top_k), and float32 weights (tokens, top_k) that sum to 1 for each token.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = -torch.log(-torch.log(torch.rand((tokens, experts), generator=generator, dtype=torch.float64)))
    ids = (popularity(experts, exponent).log() + noise).topk(top_k, dim=-1).indices
    weights = torch.randn((tokens, top_k), generator=generator).softmax(-1)
    return ids, weights


def expected_hits(tokens: int, experts: int, top_k: int, exponent: float) -> float:
    """Expected number of experts that at least one token chooses.

    A token's chance to choose an expert is taken from independent exponential clocks stopped when `top_k` are
    expected to have rung (Rosén, Journal of Applied Probability 34, 1997), within 2 % of successive draws.
    """
    shares = popularity(experts, exponent)
    if top_k >= experts:
        return float(experts)
    low, high = 0.0, 1.0
    while _rung(shares, high) < top_k:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _rung(shares, middle) < top_k else (low, middle)
    missed = torch.exp(-shares * high * tokens)
    return float(experts - missed.sum()) if math.isfinite(high) else float(experts)


def _rung(shares: torch.Tensor, time: float) -> float:
    """Expected number of clocks that have rung by a time."""
    return float((1 - torch.exp(-shares * time)).sum())
