"""The covariance of log time between configurations, its hyperparameters and their prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import squareform

from autotune.search.sampler.encoding import mismatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from autotune.search.sampler.encoding import Encoding

    Experience = Mapping[tuple[str, int, int], float]
    """By how much fits to earlier studies differ from the prior's median, as a logarithm. A key is the kind
    of hyperparameter, the parameter and the coordinate."""

    Floats = npt.NDArray[np.float64]
    Floats32 = npt.NDArray[np.float32]
    Rows = npt.NDArray[np.intp]

JITTER = 1e-6
"""Added to the diagonal, as a share of the signal's variance, so that a factorisation never fails."""


@dataclass(frozen=True)
class Belief:
    """A normal prior on the logarithm of a positive hyperparameter.

    Attributes:
        median: of the hyperparameter itself.
        spread: standard deviation of its logarithm.
    """

    median: float
    spread: float = 1.0


@dataclass(frozen=True)
class Beliefs:
    """What is held about the hyperparameters before any trial, for targets of unit variance.

    Attributes:
        length: length scale along an ordinal parameter, in units of its range, times sqrt(parameters): the
            more parameters share a distance, the longer each must be for the covariance to stay the same.
        alignment: the same along an axis of alignment.
        mismatch: rate at which covariance decays for each parameter whose level differs at all, whatever the
            distance.
        switch: the same in what a single earlier study leaves over, for a parameter without an axis: two
            devices disagree about switches sooner than about sizes. Of several studies, weights say that.
        signal: variance of the function.
        noise: variance of the noise, as a share of the signal's.
        source: variance that a single earlier study's prediction explains, as a share of the signal's. Of
            several, each has its part of what they foretell together, and the same doubt about that part.
        experienced: factor on the spread of a belief that was shifted to what earlier studies' fits found.
    """

    length: Belief = Belief(0.5)
    alignment: Belief = Belief(1.5)
    mismatch: Belief = Belief(0.015, 1.6)
    switch: Belief = Belief(0.3, 1.6)
    signal: Belief = Belief(1.0)
    noise: Belief = Belief(1e-3)
    source: Belief = Belief(0.1, 1.5)
    experienced: float = 0.5


class Covariance:
    """Matern-3/2 over the ordinal distance, times exponential decay per mismatch, plus earlier studies' say.

    k(x, x') = s (M32(r) exp(-sum_p h_p [x_p != x'_p]) + sum_j b_j f_j(x) f_j(x'))
    r^2 = sum_a d_a(x, x')^2 / l_a^2

    with d_a the distance along axis a, and f_j the prediction of the j-th earlier study: its term is that of
    a linear regression on the prediction, whose weight's variance b_j is learned with the rest.

    Args:
        encoding: of the pool.
        predictions: shape (configurations, studies), one column per earlier study; none by default.
        beliefs: prior of the hyperparameters.
        experience: what fits to earlier studies found of them: beliefs are shifted there.
    """

    def __init__(
        self,
        encoding: Encoding,
        predictions: Floats32 | None = None,
        beliefs: Beliefs | None = None,
        experience: Experience | None = None,
    ) -> None:
        beliefs = beliefs or Beliefs()
        self.encoding = encoding
        self._predictions = (
            np.zeros((len(encoding.levels), 0), np.float32) if predictions is None else predictions
        )
        self._axes = encoding.axes
        self._mismatches = {p: mismatch(encoding.counts[p]) for p in encoding.varying}
        crowding = np.sqrt(max(len(encoding.varying), 1))
        lengths = [beliefs.alignment if axis.alignment else beliefs.length for axis in self._axes]
        studies = self._predictions.shape[1]
        switch = beliefs.switch if studies == 1 else beliefs.mismatch
        source = Belief(beliefs.source.median / max(studies, 1) ** 2, beliefs.source.spread)
        ordered = {axis.parameter for axis in self._axes}
        prior = (
            [Belief(length.median * crowding, length.spread) for length in lengths]
            + [beliefs.mismatch if p in ordered else switch for p in self._mismatches]
            + [source] * studies
            + [beliefs.signal, beliefs.noise]
        )
        self.center: Floats = np.log([belief.median for belief in prior])
        self.spread: Floats = np.array([belief.spread for belief in prior])
        self._names = [("length", axis.parameter, axis.coordinate) for axis in self._axes]
        self._names += [("mismatch", p, 0) for p in self._mismatches]
        for i, name in enumerate(self._names):
            if experience and name in experience:
                self.center[i] += experience[name]
                self.spread[i] *= beliefs.experienced

    def experience(self, theta: Floats) -> Experience:
        """What fitted hyperparameters tell the next study, which may have other levels and no such prior."""
        return dict(zip(self._names, theta - self.center, strict=False))

    def signal(self, theta: Floats) -> float:
        """Variance of the part that no earlier study explains."""
        return float(np.exp(theta[-2]))

    def noise(self, theta: Floats) -> float:
        """What the diagonal of the observations' covariance has on top, jitter included."""
        return float(np.exp(theta[-2]) * (np.exp(theta[-1]) + JITTER))

    def variance(self, theta: Floats, rows: Rows) -> Floats32:
        """Prior variance of each row."""
        _, _, sources = self._split(theta)
        explained = self._predictions[rows] ** 2 @ sources.astype(np.float32)
        return np.float32(self.signal(theta)) * (1 + explained)

    def between(self, theta: Floats, rows: Rows, others: Rows, indicators: Floats32) -> Floats32:
        """Covariance between two sets of rows, in single precision.

        Args:
            theta: logarithms of the hyperparameters.
            rows: the shorter side.
            others: the longer side.
            indicators: of `others`, as `Encoding.indicators` gives them.

        Returns:
            Shape (rows, others).
        """
        weights, rates, sources = self._split(theta)
        tables: dict[int, Floats] = {}
        for axis, weight in zip(self._axes, weights, strict=True):
            tables[axis.parameter] = tables.get(axis.parameter, 0.0) + weight * axis.squared
        squared = self.encoding.columns(tables, rows) @ indicators.T
        tables = {p: rate * table for (p, table), rate in zip(self._mismatches.items(), rates, strict=True)}
        decay = self.encoding.columns(tables, rows) @ indicators.T
        # In place, since each of these arrays is several times the cache: this is most of a proposal's cost.
        scaled = np.sqrt(np.multiply(squared, np.float32(3), out=squared), out=squared)
        decay += scaled
        np.exp(np.negative(decay, out=decay), out=decay)
        covariance: Floats32 = np.add(scaled, np.float32(1), out=scaled)
        covariance *= decay
        if len(sources):
            covariance += (self._predictions[rows] * sources.astype(np.float32)) @ self._predictions[others].T
        covariance *= np.float32(self.signal(theta))
        return covariance

    def training(self, rows: Rows) -> TrainingCovariance:
        """The covariance among observed rows, prepared for many values of the hyperparameters."""
        return TrainingCovariance(self, rows)

    def _split(self, theta: Floats) -> tuple[Floats, Floats, Floats]:
        """Inverse squared length scales, mismatch rates, sources' shares."""
        axes, rates = len(self._axes), len(self._mismatches)
        return (
            np.exp(-2 * theta[:axes]),
            np.exp(theta[axes : axes + rates]),
            np.exp(theta[axes + rates : -2]),
        )


class TrainingCovariance:
    """The covariance among observed rows, with its gradient, as functions of the hyperparameters.

    Args:
        covariance: what to evaluate.
        rows: the observed rows.

    Attributes:
        covariance: what is evaluated.
    """

    def __init__(self, covariance: Covariance, rows: Rows) -> None:
        pairs = len(rows) * (len(rows) - 1) // 2
        places = {p: covariance.encoding.pairs(p, rows) for p in covariance._mismatches}
        # Of each two rows one entry, since everything is symmetric and rows do not differ from themselves.
        self._squared = np.array([axis.squared.ravel()[places[axis.parameter]] for axis in covariance._axes])
        self._squared = self._squared.reshape(len(covariance._axes), pairs)
        self._differs = np.array([t.ravel()[places[p]] for p, t in covariance._mismatches.items()])
        self._differs = self._differs.reshape(len(places), pairs)
        self.covariance = covariance
        self._predictions = covariance._predictions[rows].astype(np.float64)

    def value(self, theta: Floats) -> tuple[Floats, tuple[Floats, Floats]]:
        """The covariance matrix, noise included.

        Returns:
            The matrix of shape (rows, rows), and what `gradient` wants back.
        """
        weights, rates, sources = self.covariance._split(theta)
        signal = self.covariance.signal(theta)
        scaled = np.sqrt(3 * (weights @ self._squared))
        decay = signal * np.exp(-scaled - rates @ self._differs)
        own = (1 + scaled) * decay
        matrix: Floats = squareform(own, checks=False)
        matrix[np.diag_indices(len(matrix))] = signal + self.covariance.noise(theta)
        matrix += signal * ((self._predictions * sources) @ self._predictions.T)
        slope = -1.5 * decay  # d own / d squared distance, which is finite at distance 0
        return matrix, (own, slope)

    def gradient(self, theta: Floats, matrix: Floats, parts: tuple[Floats, Floats], outer: Floats) -> Floats:
        """Sum over all pairs of `outer` times the derivative of the matrix by each entry of `theta`.

        Args:
            theta: logarithms of the hyperparameters.
            matrix: as `value` gave it.
            parts: as `value` gave them.
            outer: shape (rows, rows), symmetric.
        """
        own, slope = parts
        weights, rates, sources = self.covariance._split(theta)
        twice = 2 * squareform(outer, checks=False)  # each two rows make two entries
        by_length = -2 * weights * (self._squared @ (twice * slope))
        by_rate = -rates * (self._differs @ (twice * own))
        weighted = outer @ self._predictions
        by_source = self.covariance.signal(theta) * sources * (self._predictions * weighted).sum(axis=0)
        by_signal = (outer * matrix).sum()
        by_noise = np.trace(outer) * np.exp(theta[-2] + theta[-1])
        return np.concatenate([by_length, by_rate, by_source, [by_signal, by_noise]])
