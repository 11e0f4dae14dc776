"""Bayesian optimisation over an enumerated pool of configurations."""

from __future__ import annotations

from autotune.search.sampler.pool_sampler import PoolSampler
from autotune.search.sampler.pool_search import PoolSearch, Settings
from autotune.search.sampler.prior import PriorStudy

__all__ = ["PoolSampler", "PoolSearch", "PriorStudy", "Settings"]
