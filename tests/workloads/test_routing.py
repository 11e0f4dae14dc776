"""Routing: no repetition, skew, seed, and how many experts are hit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.workloads.routing import draw_routing, expected_hits, popularity


@settings(deadline=None, max_examples=50)
@given(
    tokens=st.integers(1, 40),
    experts=st.integers(1, 60),
    data=st.data(),
    exponent=st.sampled_from([0.0, 0.5, 2.0]),
    seed=st.integers(0, 1000),
)
def test_a_token_never_chooses_an_expert_twice(
    tokens: int, experts: int, data: st.DataObject, exponent: float, seed: int
) -> None:
    top_k = data.draw(st.integers(1, experts))
    ids, weights = draw_routing(tokens, experts, top_k, exponent, seed)
    assert ids.shape == weights.shape == (tokens, top_k)
    assert ids.dtype == torch.int64
    assert all(len(set(row)) == top_k for row in ids.tolist())
    assert 0 <= int(ids.min()) <= int(ids.max()) < experts
    torch.testing.assert_close(weights.sum(-1), torch.ones(tokens))


def test_routing_follows_the_seed() -> None:
    first, again, other = (draw_routing(9, 50, 4, 0.5, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def loads(exponent: float) -> torch.Tensor:
    """Tokens of each of 100 experts, most popular first, as multiples of the mean."""
    ids, _ = draw_routing(20_000, 100, 2, exponent, seed=3)
    counts = torch.bincount(ids.view(-1), minlength=100).double()
    return counts.sort(descending=True).values / counts.mean()


def test_uniform_routing_loads_experts_alike() -> None:
    assert float(loads(0.0)[0]) < 1.2


def test_skewed_routing_prefers_the_popular() -> None:
    measured, expected = loads(0.5), popularity(100, 0.5).sort(descending=True).values * 100
    torch.testing.assert_close(measured[5:50], expected[5:50], rtol=0.1, atol=0.0)
    assert float(measured[0]) > 3


def test_popular_experts_stay_popular_with_another_seed() -> None:
    tops = [
        torch.bincount(draw_routing(5000, 64, 2, 0.5, seed)[0].view(-1)).topk(3).indices.tolist()
        for seed in (1, 2)
    ]
    assert set(tops[0]) & set(tops[1])


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "exponent"),
    [
        (1, 384, 8, 0.5),
        (16, 384, 8, 0.5),
        (16, 384, 8, 0.0),
        (64, 128, 8, 0.5),
        (4, 32, 4, 0.5),
        (3, 6, 6, 0.5),
    ],
)
def test_expected_hits_are_what_draws_give(tokens: int, experts: int, top_k: int, exponent: float) -> None:
    hits = [len(draw_routing(tokens, experts, top_k, exponent, seed)[0].unique()) for seed in range(60)]
    assert expected_hits(tokens, experts, top_k, exponent) == pytest.approx(sum(hits) / len(hits), rel=0.03)
