"""The pages, each a function from the history and a question to what its template shows."""

from __future__ import annotations

from autotune.web.pages.generations import generation, generations
from autotune.web.pages.overview import overview
from autotune.web.pages.studies import studies, study, trial
from autotune.web.pages.winners import trade_offs, winner, workload

__all__ = [
    "generation",
    "generations",
    "overview",
    "studies",
    "study",
    "trade_offs",
    "trial",
    "winner",
    "workload",
]
