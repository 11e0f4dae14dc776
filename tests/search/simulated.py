"""A worker whose kernels take no time but say what they would have taken, the same in every run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.errors import TrialError
from autotune.fingerprint.ceilings import Ceilings
from autotune.measure.comparison import compare
from autotune.measure.energy import of_energy
from autotune.measure.statistics import StoppingRule
from autotune.space import Dimension, Implementation, SpaceDeclaration
from autotune.store.records import Configuration, Feasibility, Measurement, Verdict
from autotune.worker.messages import Built, Prepared

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from autotune.measure.comparison import Comparison, Rules
    from autotune.space.problem import Problem

DECLARATION = SpaceDeclaration(
    "simulated",
    {"m": Dimension("m", nearest=True), "n": Dimension("n")},
    {
        "plain": Implementation(),
        "tiled": Implementation(
            qualifiers={"packed": [False, True]},
            parameters={
                "rows": [1, 2, 4, 8, 16, 32],
                "columns": [8, 16, 32, 64, 128, 256],
                "unroll": [1, 2, 4, 8],
            },
        ),
    },
    {"implementation": "plain"},
)
"""289 configurations."""

NOISE = 0.004


def latency_ns(configuration: Configuration, m: int) -> float:
    """A landscape whose optimum moves slowly with `m`; fails where a tile holds more than 4096 values.

    Raises:
        TrialError: it does not compile.
    """
    if configuration["implementation"] == "plain":
        return 9e5
    rows, columns, unroll = (math.log2(configuration[name]) for name in ("rows", "columns", "unroll"))
    if rows + columns > 12:
        raise TrialError(Verdict.COMPILE_ERROR, "out of registers")
    right_rows = min(4.0, 1.0 + math.log2(m) / 3)
    penalty = 0.20 * abs(rows - right_rows) + 0.15 * abs(columns - 6.0) + 0.08 * abs(unroll - 2.0)
    tail = 0.25 * (rows * unroll % 3 == 1)
    return 1e5 * math.exp(penalty + tail + (0.0 if configuration["packed"] else 0.4))


def optimum_ns(m: int) -> float:
    """The least latency of all configurations."""
    best = math.inf
    for rows in (1, 2, 4, 8, 16, 32):
        for columns in (8, 16, 32, 64, 128, 256):
            for unroll in (1, 2, 4, 8):
                values = {"packed": True, "rows": rows, "columns": columns, "unroll": unroll}
                if rows * columns <= 4096:
                    best = min(best, latency_ns({"implementation": "tiled", **values}, m))
    return best


class SimulatedWorker:
    """What a study asks of a worker, answered at once.

    Args:
        cost: latency of a configuration at a size.
        noise: standard deviation of the log of a sample.
        compilers: configurations compiled at once.
        compile_seconds: what each takes; None for a compiler that hangs.
        spiky: whether one in thirty calls of a configuration takes three times as long.
        watts: what a configuration draws.
        infeasible: why a configuration cannot run; empty where it can.
    """

    deadline: float | None = None
    start_seconds = 0.0

    def __init__(
        self,
        cost: Callable[[Configuration, int], float] = latency_ns,
        noise: float = NOISE,
        compilers: int = 1,
        compile_seconds: float | None = 0.0,
        spiky: Callable[[Configuration], bool] = lambda _: False,
        watts: Callable[[Configuration], float] = lambda _: 100.0,
        infeasible: Callable[[Configuration], str] = lambda _: "",
    ) -> None:
        self._infeasible = infeasible
        self.built: list[Configuration] = []
        self.targets: list[Mapping[str, Any] | None] = []
        self._watts_of = watts
        self._watts: dict[str, float] = {}
        self._spiky = spiky
        self._spikes: dict[str, bool] = {}
        self.compiled: list[int] = []
        self._compilers = compilers
        self._compile_seconds = compile_seconds
        self._cost = cost
        self._noise = noise
        self._random = np.random.default_rng(0)
        self._slots: dict[str, float] = {}

    def stack(self) -> dict[str, Any]:
        return {"torch": "2.13.0"}

    def ceilings(self) -> Ceilings:
        return Ceilings(1e11, {"float32": 1e12}, 0.0)

    def kill(self) -> None:
        self._slots.clear()

    def prepare(self, problem: Problem, seed: int) -> Prepared:
        self._m, self._slots = problem["m"], {}
        self._random = np.random.default_rng(seed)
        return Prepared(flops=1000, bytes=1000, dtype="float32", seconds=0.0, compilers=self._compilers)

    def compile(
        self, configurations: Sequence[Configuration], target: Mapping[str, Any] | None = None
    ) -> list[Feasibility]:
        self.compiled.append(len(configurations))
        self.targets.append(target)
        if self._compile_seconds is None:
            raise TrialError(Verdict.HUNG, "compile: no end within 120 s")
        return [Feasibility(self._infeasible(each), seconds=self._compile_seconds) for each in configurations]

    def build(self, slot: str, configuration: Configuration, **_: Any) -> Built:
        self.built.append(configuration)
        self._slots[slot] = self._cost(configuration, self._m)
        self._spikes[slot] = self._spiky(configuration)
        self._watts[slot] = self._watts_of(configuration)
        return Built(0.0, 0, self._slots[slot] / 1e9)

    def check(self, *_: Any) -> float:
        return 1e-3

    def release(self, slot: str) -> None:
        self._slots.pop(slot, None)

    def measure(
        self,
        slot: str,
        *,
        budget_seconds: float,
        clearly_slower_than_ns: float | None = None,
        min_samples: int = 10,
        energy: bool = False,
    ) -> Measurement:
        rule = StoppingRule(
            budget_seconds, min_samples=min_samples, clearly_slower_than_ns=clearly_slower_than_ns
        )
        samples: list[int] = []
        stopped = None
        while stopped is None:
            samples.append(round(self._sample(slot)))
            stopped = rule.stop(samples, sum(samples) / 1e9)
        joules = self._watts[slot] * self._sample(slot) / 1e9 if energy else None
        return Measurement(tuple(samples), stopped, "simulated", joules=joules)

    def compare(
        self,
        slots: Sequence[str],
        *,
        baseline: str,
        incumbent: str | None,
        rules: Rules,
        seed: int,
    ) -> Comparison:
        took: dict[str, list[float]] = {slot: [] for slot in slots}

        def sample(i: int) -> float:
            took[slots[i]].append(self._sample(slots[i]) / 1e9)
            return took[slots[i]][-1] * 1e9 * (self._watts[slots[i]] if rules.energy else 1.0)

        compared = compare(
            sample,
            slots,
            baseline=baseline,
            incumbent=incumbent,
            rules=rules,
            seed=seed,
            clock=lambda: 0.0,
        )
        return of_energy(compared, took) if rules.energy else compared

    def _sample(self, slot: str) -> float:
        spike = 3.0 if self._spikes[slot] and self._random.random() < 1 / 30 else 1.0
        return spike * self._slots[slot] * math.exp(self._noise * self._random.standard_normal())
