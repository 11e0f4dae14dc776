"""A history with winners as a study on a GPU would leave them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from autotune.space.problem import Problem
from autotune.store import open_history
from autotune.store.records import Interval, Proof
from tests.store import factories
from tests.store.conftest import state

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["state"]

DTYPES = {"dtype": "bfloat16"}
MOE = {"top_k": 8, "hidden": 7168, "experts": 384, "intermediate": 256}
TUNED = {
    "implementation": "triton",
    "BLOCK_SIZE_M": 16,
    "BLOCK_SIZE_N": 128,
    "BLOCK_SIZE_K": 128,
    "GROUP_SIZE_M": 2,
    "num_warps": 4,
    "num_stages": 4,
}
STACK_FACTS = {"python": "3.12.3", "torch": "2.12.0+cu130", "triton": "3.6.0"}


class Winners:
    """Puts winners into a history as the store has them after a study."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def add(
        self,
        workload: str,
        dimensions: dict[str, Any],
        configuration: dict[str, Any],
        *,
        device: Any = None,
        stack: str = factories.STACK,
        is_baseline: bool = False,
        trials: tuple[tuple[dict[str, Any], float], ...] = (),
        objective: str = "latency",
        decided_at: float = factories.EPOCH,
    ) -> int:
        """Record a study with its trials (configuration, nanoseconds) and promote; returns its number."""
        device = device or factories.gpu()
        problem = Problem(workload, dimensions)
        key = factories.study_key(
            workload=workload, problem=problem.key, device=device.digest, stack=stack, objective=objective
        )
        choice = factories.choice(
            0,
            4e5,
            configuration,
            is_baseline=is_baseline,
            trial=None if is_baseline else 0,
            proof=Proof(40, 0.99, 0.01, 4e5, 6e5, Interval(1.5, 1.45, 1.55), stopped="decided"),
        )
        with open_history(str(self.state)) as history:
            history.record_device(device)
            history.record_stack(stack, STACK_FACTS)
            study = history.begin_study(key, problem.dimensions)
            for number, (tried, nanoseconds) in enumerate(trials):
                measured = factories.measurement(nanoseconds, seed=number)
                history.add_trial(study, factories.trial(number, configuration=tried, measurement=measured))
            winner = factories.winner(
                workload=workload,
                problem=problem.key,
                dimensions=problem.dimensions,
                neighbourhood=problem.neighbourhood,
                device=device.digest,
                stack=stack,
                objective=objective,
                choices=(choice,),
                decided_at=decided_at,
            )
            history.promote(study, winner)
            history.end_study(study, "trials")
        return int(study)

    def moe(self, tokens: int, configuration: dict[str, Any] = TUNED, **changes: Any) -> int:
        """A winner of `fused_moe` as Kimi K2.5 at TP8 has it."""
        extra = {name: changes.pop(name) for name in list(changes) if name in _DIMENSIONS}
        given = {"tokens": tokens, **MOE, **DTYPES, "weight_format": "native", "routing": "skewed", **extra}
        return self.add("fused_moe", given, configuration, **changes)

    def linear(self, m: int, configuration: dict[str, Any] = TUNED, **changes: Any) -> int:
        """A winner of `linear` over float8 blocks."""
        given = {"m": m, "n": 2112, "k": 7168, **DTYPES, "weight_format": "fp8_block128x128"}
        return self.add("linear", given, configuration, **changes)


_DIMENSIONS = {"top_k", "hidden", "experts", "intermediate", "dtype", "weight_format", "routing"}


@pytest.fixture
def winners(state, tmp_path, monkeypatch) -> Winners:
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(state))
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("AUTOTUNE_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text("")
    return Winners(state)
