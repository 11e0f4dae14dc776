"""A Gaussian process over the pool: hyperparameters by maximum a posteriori, prediction row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize

if TYPE_CHECKING:
    import numpy.typing as npt

    from autotune.search.sampler.covariance import Covariance, TrainingCovariance

    Floats = npt.NDArray[np.float64]
    Floats32 = npt.NDArray[np.float32]
    Rows = npt.NDArray[np.intp]

FURTHEST = 4.0
"""Hyperparameters stay within so many prior standard deviations: beyond them a matrix may overflow."""

ROOM = 32
"""Further trials that a posterior makes room for at once."""

ROUNDING = 1e-2
"""Share of its trace added to the diagonal of a matrix that cannot be factorised, in trouble only."""


def fit(training: TrainingCovariance, targets: Floats, start: Floats, iterations: int = 15) -> Floats:
    """Maximise the posterior density of the hyperparameters.

    The search is L-BFGS from the previous optimum, in units of the prior's spread, which makes every
    direction about equally long.

    Args:
        training: the model on the observed rows.
        targets: shape (rows,), of about zero mean and unit variance.
        start: logarithms of the hyperparameters to start from.
        iterations: of L-BFGS, at most.

    Returns:
        Logarithms of the hyperparameters.
    """
    covariance = training.covariance

    def objective(z: Floats) -> tuple[float, Floats]:
        theta = covariance.center + covariance.spread * z
        matrix, parts = training.value(theta)
        factor = np.linalg.cholesky(matrix)
        inverse = _inverse(factor)
        weights = inverse @ targets
        loss = 0.5 * targets @ weights + np.log(np.diag(factor)).sum() + 0.5 * z @ z
        gradient = training.gradient(theta, matrix, parts, inverse - np.outer(weights, weights))
        return float(loss), 0.5 * gradient * covariance.spread + z

    z = np.clip((start - covariance.center) / covariance.spread, -FURTHEST, FURTHEST)
    bounds = [(-FURTHEST, FURTHEST)] * len(z)
    found = minimize(
        objective, z, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations}
    )
    theta: Floats = covariance.center + covariance.spread * found.x
    return theta


class Posterior:
    """Mean and variance at the candidates given the observed rows, extended observation by observation.

    With K = L L' among the observed and C between the observed and the candidates, it keeps V = L^-1 C: a
    new observation adds one row to V, and mean and variance follow from V alone. An observation costs one
    pass over V instead of a factorisation, n times less.

    Args:
        covariance: the model.
        theta: logarithms of its hyperparameters.
        candidates: rows of the pool to predict.
    """

    def __init__(self, covariance: Covariance, theta: Floats, candidates: Rows) -> None:
        self._covariance = covariance
        self._encoding = covariance.encoding
        self._theta = theta
        self._candidates = candidates
        self._indicators = covariance.encoding.indicators(candidates)
        self._rows = np.empty(0, np.intp)
        self._factor = np.zeros((0, 0))
        self._projected = np.empty((0, len(candidates)), np.float32)
        self._variance = covariance.variance(theta, candidates)

    def __len__(self) -> int:
        return len(self._rows)

    def extend(self, rows: Rows) -> None:
        """Condition on further rows; their values come with `predict`.

        Args:
            rows: observed or pending, none twice.
        """
        n, m = len(self._rows), len(rows)
        fresh = self._between(rows, self._candidates, self._indicators)
        known = np.concatenate([self._rows, rows])
        against = self._between(rows, known, self._encoding.indicators(known)).astype(np.float64)
        against[np.arange(m), n + np.arange(m)] += self._covariance.noise(self._theta)
        left = solve_triangular(self._factor, against[:, :n].T, lower=True, check_finite=False).T
        corner = _cholesky(against[:, n:] - left @ left.T)
        self._factor = np.block([[self._factor, np.zeros((n, m))], [left, corner]])
        fresh -= left.astype(np.float32) @ self._projected[:n]
        fresh = solve_triangular(corner.astype(np.float32), fresh, lower=True, check_finite=False)
        if n + m > len(self._projected):
            # In place: a large array is remapped rather than copied, which would take longest of all.
            self._projected.resize((n + m + ROOM, len(self._candidates)), refcheck=False)
        self._projected[n : n + m] = fresh
        self._variance -= np.einsum("ij,ij->j", fresh, fresh)
        self._rows = known

    def forget(self, count: int) -> None:
        """Undo `extend` for the rows after the first `count`."""
        gone = self._projected[count : len(self._rows)]
        self._variance += np.einsum("ij,ij->j", gone, gone)
        self._rows = self._rows[:count]
        self._factor = self._factor[:count, :count]

    def predict(self, targets: Floats) -> tuple[Floats32, Floats32]:
        """Mean and standard deviation at the candidates.

        Args:
            targets: of the first rows; for the rest, pending, the mean itself is believed, which leaves the
                mean as it is and takes their variance away ("kriging believer", Ginsbourger et al. 2010).

        Returns:
            Two arrays of shape (candidates,).
        """
        n = len(targets)
        whitened = solve_triangular(self._factor[:n, :n], targets, lower=True, check_finite=False)
        mean = whitened.astype(np.float32) @ self._projected[:n]
        return mean, np.sqrt(np.maximum(self._variance, 1e-10))

    def smoothed(self, targets: Floats) -> Floats:
        """Mean at the observed rows themselves, the noise taken out: shape (targets,)."""
        factor = self._factor[: len(targets), : len(targets)]
        weights = cho_solve((factor, True), targets, check_finite=False)
        mean: Floats = targets - self._covariance.noise(self._theta) * weights
        return mean

    def _between(self, rows: Rows, others: Rows, indicators: Floats32) -> Floats32:
        return self._covariance.between(self._theta, rows, others, indicators)


def _inverse(factor: npt.NDArray[Any]) -> Floats:
    """The inverse of a matrix whose lower Cholesky factor this is."""
    lower, _ = dpotri(factor, lower=1)
    inverse: Floats = lower + np.tril(lower, -1).T
    return inverse


def _cholesky(matrix: Floats) -> Floats:
    """The factor of a matrix that rounding to single precision may have left short of positive definite."""
    try:
        return np.asarray(np.linalg.cholesky(matrix), np.float64)
    except np.linalg.LinAlgError:
        lifted = matrix + ROUNDING * np.trace(matrix) * np.eye(len(matrix))
        return np.asarray(np.linalg.cholesky(lifted), np.float64)
