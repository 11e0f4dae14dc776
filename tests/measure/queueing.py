"""Queueing theory of a server with one place, a constant service time and Poisson arrivals (M/D/1)."""

from __future__ import annotations

import math


def mean_wait(utilisation: float, service: float) -> float:
    """Pollaczek and Khinchine's mean wait, for constant service."""
    return utilisation * service / (2 * (1 - utilisation))


def wait_at_most(x: float, utilisation: float, service: float) -> float:
    """Share of requests that wait at most `x` (Erlang 1909; Gross & Harris, section 5.1)."""
    rate = utilisation / service
    terms = (
        (rate * (k * service - x)) ** k / math.factorial(k) * math.exp(-rate * (k * service - x))
        for k in range(math.floor(x / service) + 1)
    )
    return (1 - utilisation) * math.fsum(terms)


def rate_with_wait(share: float, x: float, service: float) -> float:
    """The largest rate at which that share waits at most `x`."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if wait_at_most(x, middle, service) >= share:
            low = middle
        else:
            high = middle
    return low / service
