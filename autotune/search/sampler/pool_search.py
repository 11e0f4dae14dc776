"""The search itself: which configuration of a pool to try next, given what the tried ones cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from autotune.search.sampler.acquisition import expected_improvement
from autotune.search.sampler.covariance import Beliefs, Covariance
from autotune.search.sampler.design import distant_row
from autotune.search.sampler.encoding import Encoding
from autotune.search.sampler.prior import forecast
from autotune.search.sampler.surrogate import Posterior, fit
from autotune.search.sampler.targets import FEW, Targets, cost_scale, scalarised

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from autotune.search.sampler.covariance import Experience
    from autotune.search.sampler.prior import PriorStudy
    from autotune.space.pool import Pool

    Floats = npt.NDArray[np.float64]
    Rows = npt.NDArray[np.intp]


NEAR = 2
"""Parameters in which a candidate may differ from a leader to count as around it."""

MOST_FITTED = 600
"""Trials that the hyperparameters are fitted to: the cost grows with the cube, what they teach hardly."""

LEADERS = 5
"""Best rows around which a large pool is refined."""

AT_ONCE = 100
"""Trials up to which the model is renewed within one proposal; of more, piece by piece over several."""

MOST_AT_ONCE = 1_000_000
"""Covariances up to which it is, some 30 ms."""

FIT = 15
"""Iterations of a fit, from the hyperparameters of the last one."""

PIECE_OF_FIT = 150_000
"""Squared trials times iterations of a fit at a time, to the size of a fit: some 15 ms."""

PIECE_OF_POSTERIOR = 400_000
"""Covariances computed per proposal when piece by piece: some 10 ms at 200 trials."""


@dataclass(frozen=True)
class Settings:
    """What the search may be told otherwise; the defaults are what `docs/search.md` shows to earn most.

    Attributes:
        starts: space-filling trials before the model is asked, where no earlier study says where to start.
        refit_growth: hyperparameters are fitted anew at this many times the trials of the last fit.
        caution: factor on the model's standard deviations. One best fit of the hyperparameters is taken for
            the truth, which makes the model surer than it should be.
        candidates: most rows that the model predicts at once; larger pools are sampled and refined around the
            best.
        beliefs: prior of the hyperparameters.
    """

    starts: int = 4
    refit_growth: float = 1.1
    caution: float = 1.5
    candidates: int = 20_000
    beliefs: Beliefs = field(default_factory=Beliefs)


class PoolSearch:
    """Bayesian optimisation over the rows of a pool: none proposed twice, failures learnt from.

    A Gaussian process over all rows (see `Covariance`) is kept up to date trial by trial; the next row is
    the one of greatest expected improvement. Rows asked and not yet told count as pending: later rows are
    chosen as if they had come out as predicted, so that a batch spreads. Everything follows from the seed.

    With earlier studies, every other row after the first `FEW` is chosen by a search that knows nothing of
    them: what they are wrong about, they would keep the search from finding out.

    Args:
        pool: the valid configurations.
        seed: of the starts, and of the candidates where the pool is larger than the model predicts at once.
        prior: what earlier studies of the same workload found, on other devices, stacks or sizes.
        settings: see there.
        experience: of hyperparameters, where there is no prior to have it from.
    """

    def __init__(
        self,
        pool: Pool,
        seed: int,
        prior: Sequence[PriorStudy] = (),
        settings: Settings | None = None,
        experience: Experience | None = None,
    ) -> None:
        self._pool = pool
        self._settings = settings or Settings()
        self._random = np.random.default_rng(seed)
        self._forecast = forecast(pool, prior, self._settings.beliefs)
        self._expectation = self._forecast.consensus
        self._encoding = Encoding(pool)
        experience = self._forecast.experience or experience
        self._covariance = Covariance(
            self._encoding, self._forecast.columns, self._settings.beliefs, experience
        )
        self._theta = self._covariance.center
        self._free = np.ones(len(pool), bool)
        self._pending: list[int] = []
        self._told: dict[int, list[Floats]] = {}
        self._known: dict[int, Floats] = {}
        self._fitted = 0
        self._candidates: Rows = np.arange(len(pool))
        self._posterior: Posterior | None = None
        self._renewal: Iterator[None] | None = None
        self._expected_improvement: float | None = None
        self._sceptic = PoolSearch(pool, seed, (), settings, experience) if self._forecast else None

    @property
    def told(self) -> int:
        """Rows whose outcome is known, failures included."""
        return len(self._told)

    @property
    def free(self) -> int:
        """Rows that were neither asked for nor told."""
        return int(self._free.sum())

    @property
    def best(self) -> int | None:
        """The row with the lowest value told, of the first objective; None before the first success."""
        first = self._values()[:, 0]
        return list(self._told)[np.nanargmin(first)] if np.isfinite(first).any() else None

    @property
    def expected_improvement(self) -> float | None:
        """By how much the row asked for last was expected to beat the best told, for a rule to stop by.

        A relative difference, so 0.01 is 1 %; of costs themselves where they have both signs. It
        errs on the side of hope, as the proposals do (`Settings.caution`). None where no model chose that
        row: the starts, and the first row of an earlier study.
        """
        return self._expected_improvement

    def exclude(self, row: int) -> None:
        """Never propose this row."""
        self._free[row] = False
        if self._sceptic:
            self._sceptic.exclude(row)

    def ask(self) -> int | None:
        """The row to try next, pending from now on; None when every row has been proposed.

        Hyperparameters are fitted here, not in `tell`, so that telling is free.
        """
        if not self._free.any():
            return None
        tried = len(self._told) + len(self._pending)
        if self._sceptic and tried >= FEW and tried % 2:
            row = self._sceptic._choose()
            self._expected_improvement = self._sceptic._expected_improvement
        else:
            row = self._choose()
        self.reserve(row)
        return row

    def reserve(self, row: int) -> None:
        """A row is being tried on someone else's initiative: pending until told."""
        self._free[row] = False
        if row not in self._pending and row not in self._told:
            self._pending.append(row)
        if self._sceptic:
            self._sceptic.reserve(row)

    def tell(self, row: int, value: float | Sequence[float] | None) -> None:
        """Learn what a row cost; a row told again counts with the median of what was told.

        Args:
            row: asked for or not.
            value: lower is better; with several objectives, one value for each, always as many; None for a
                trial that failed.
        """
        self._free[row] = False
        if row in self._pending:
            self._pending.remove(row)
        told = np.atleast_1d(np.asarray(np.nan if value is None else value, np.float64))
        tellings = self._told.setdefault(row, [])
        tellings.append(told)
        succeeded = [each for each in tellings if np.isfinite(each).all()]
        self._known[row] = np.median(succeeded, axis=0) if succeeded else told
        if self._sceptic:
            self._sceptic.tell(row, value)

    def withdraw(self, row: int) -> None:
        """A pending row came to nothing, through no fault of its own: it may be proposed again.

        One that was told meanwhile stays told.
        """
        if row not in self._pending:
            return
        self._pending.remove(row)
        self._free[row] = row not in self._told
        if self._sceptic:
            self._sceptic.withdraw(row)

    def _choose(self) -> int:
        self._expected_improvement = None
        free = np.flatnonzero(self._free)
        if not self._told and self._forecast:
            return int(free[np.argmin(self._expectation[free])])
        trials = len(self._told) + len(self._pending)
        if not self._told or (not self._forecast and trials < self._settings.starts):
            taken = np.array([*self._told, *self._pending], np.intp)
            return distant_row(self._encoding, taken, free, self._random)
        return self._most_promising()

    def _most_promising(self) -> int:
        """The free candidate of greatest expected improvement."""
        rows = np.array([*self._told], np.intp)
        targets = Targets.of(self._costs(), rows, self._expectation, self._forecast.amplitude)
        posterior = self._conditioned(rows, targets)
        posterior.extend(np.array(self._pending, np.intp))
        mean, deviation = posterior.predict(targets.residual)
        posterior.forget(len(rows))
        mean += targets.offset[self._candidates]
        best = (posterior.smoothed(targets.residual) + targets.offset[rows]).min()
        worth = expected_improvement(mean, deviation * np.float32(self._settings.caution), best)
        worth[~self._free[self._candidates]] = -np.inf
        if np.isneginf(worth.max()):  # every candidate of a large pool has been proposed since the last fit
            return int(self._random.choice(np.flatnonzero(self._free)))
        chosen = int(np.argmax(worth))
        self._expected_improvement = max(float(worth[chosen]), 0.0) * targets.unit
        return int(self._candidates[chosen])

    def _conditioned(self, rows: Rows, targets: Targets) -> Posterior:
        """The posterior given all that was told, its hyperparameters fitted anew when that is due."""
        if self._renewal is None and len(rows) >= self._settings.refit_growth * self._fitted:
            self._fitted = len(rows)
            self._renewal = self._renewed(rows, targets)
        small = len(rows) <= AT_ONCE and len(rows) * len(self._candidates) <= MOST_AT_ONCE
        for _ in self._renewal or ():
            if self._posterior is not None and not small:
                break
        else:
            self._renewal = None
        assert self._posterior is not None, "the first renewal is never interrupted"
        self._posterior.extend(rows[len(self._posterior) :])
        return self._posterior

    def _renewed(self, rows: Rows, targets: Targets) -> Iterator[None]:
        """Fit the hyperparameters anew and build the posterior that goes with them, a piece at a time.

        Until it is finished the search goes on with the posterior it has, which learns of every trial too: a
        proposal never waits for the whole of it.
        """
        chosen = self._fitted_trials(rows, targets)
        training = self._covariance.training(rows[chosen])
        yield
        theta = self._theta
        piece = max(PIECE_OF_FIT // len(chosen) ** 2, 1)
        for done in range(0, FIT, piece):
            theta = fit(training, targets.residual[chosen], theta, min(piece, FIT - done))
            yield
        candidates = self._chosen_candidates(rows, targets)
        yield
        posterior = Posterior(self._covariance, theta, candidates)
        yield
        piece = max(PIECE_OF_POSTERIOR // len(candidates), 1)
        while True:
            known = np.array([*self._told], np.intp)
            posterior.extend(known[len(posterior) : len(posterior) + piece])
            if len(posterior) == len(known):
                break  # before another trial is told
            yield
        self._theta, self._candidates, self._posterior = theta, candidates, posterior

    def _fitted_trials(self, rows: Rows, targets: Targets) -> Rows:
        """Which trials hyperparameters are fitted to: all, or of very many the best half and some others."""
        if len(rows) <= MOST_FITTED:
            return np.arange(len(rows))
        order = np.argsort(targets.residual + targets.offset[rows])
        best, others = np.split(order, [MOST_FITTED // 2])
        return np.concatenate([best, self._random.choice(others, MOST_FITTED // 2, replace=False)])

    def _chosen_candidates(self, rows: Rows, targets: Targets) -> Rows:
        """All rows, where the model can predict them at once; else those near the best, and a sample.

        Near: at most `NEAR` parameters differ from one of the `LEADERS` best rows told.
        """
        most = self._settings.candidates
        if len(self._pool) <= most:
            return self._candidates
        leaders = rows[np.argsort(targets.residual + targets.offset[rows])[:LEADERS]]
        near = np.zeros(len(self._pool), bool)
        for leader in leaders:
            near |= self._encoding.differing(leader) <= NEAR
        around = np.flatnonzero(near & self._free)
        if len(around) > most // 2:
            around = self._random.choice(around, most // 2, replace=False)
        elsewhere = np.flatnonzero(~near & self._free)
        count = min(most - len(around), len(elsewhere))
        return np.concatenate([around, self._random.choice(elsewhere, count, replace=False)])

    def _costs(self) -> Floats:
        """One cost per row told, on the model's scale; with several objectives, weighted anew each time."""
        values = self._values()
        if values.shape[1] == 1:
            return cost_scale(values[:, 0])
        return scalarised(values, self._random.dirichlet(np.ones(values.shape[1])))

    def _values(self) -> Floats:
        """What each row told cost, shape (rows, objectives), in order of first telling; NaN if it failed."""
        objectives = max(map(len, self._known.values()), default=1)
        values = np.full((len(self._known), objectives), np.nan)
        for i, known in enumerate(self._known.values()):
            if np.isfinite(known).all():
                values[i] = known
        return values
