"""Recorded search landscapes: a whole space measured once, so that a search can be replayed anywhere.

The format is the cache layout of Kernel Tuner (github.com/KernelTuner/kernel_tuner): JSON, gzipped or not,
with `tune_params` (parameter -> values), `tune_params_keys` (their order) and `cache` (one entry per
configuration, its `time` in milliseconds, or the name of the error with which it failed). A parameter that a
configuration's implementation does not have is `null`, which Kernel Tuner takes for one more value.

Read as well is the list that Kernel Tuner returns as the results of a run: an object per configuration, its
parameters first, then `time`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.errors import UsageError
from autotune.space.pool import INACTIVE, Parameter, Pool

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

LONGEST_MS = 1e12
"""Times beyond this are the markers by which old caches said "failed" (1e20), not measurements."""


@dataclass(frozen=True, eq=False)
class Landscape:
    """Every valid configuration of one kernel on one device, with what it took there.

    Attributes:
        name: of the file, without its suffixes.
        kernel: what the file says it tunes.
        device: where it was measured.
        pool: the configurations that no static constraint rules out.
        times: shape (configurations,), milliseconds; NaN where the configuration was tried and failed.
    """

    name: str
    kernel: str
    device: str
    pool: Pool
    times: Floats

    def __len__(self) -> int:
        return len(self.pool)

    @cached_property
    def optimum(self) -> float:
        """The shortest time, in milliseconds."""
        return float(np.nanmin(self.times))

    def random_best(self, evaluations: int) -> Floats:
        """Expected best time of a random search without replacement, after 1, 2, ... evaluations.

        Exact, by order statistics: the best of `t` out of `n` is the `i`-th fastest with probability
        C(n-i, t-1) / C(n, t). Failed configurations count as the worst valid one, as in the scoring of
        autotuning_methodology 1.1 (github.com/AutoTuningAssociation/autotuning_methodology).

        Args:
            evaluations: how many to draw at most; beyond the size of the space the optimum is certain.

        Returns:
            Shape (evaluations,), milliseconds.
        """
        ordered = np.sort(np.nan_to_num(self.times, nan=np.nanmax(self.times)))
        n = len(ordered)
        expected = np.full(evaluations, ordered[0])
        still_unseen = np.ones(n)  # P(none of the draws is among the i fastest), for i = 0 .. n-1
        ranks = np.arange(n)
        for drawn in range(min(evaluations, n)):
            still_unseen = still_unseen * np.clip((n - ranks - drawn) / (n - drawn), 0.0, 1.0)
            is_best = still_unseen - np.append(still_unseen[1:], 0.0)
            expected[drawn] = is_best @ ordered
        return expected

    def scores(self, best_so_far: Floats, first: int = 10) -> Floats:
        """The field's score P of each run: 0 is random search, 1 finds the optimum at once.

        P_t = (random(t) - found(t)) / (random(t) - optimum), averaged over evaluations `first` to the last.
        A method's score is the mean over its runs.

        Args:
            best_so_far: shape (runs, evaluations), milliseconds: best time found.
            first: the evaluation that the average starts at.

        Returns:
            Shape (runs,).
        """
        found = best_so_far[:, first - 1 :]
        random = self.random_best(best_so_far.shape[1])[first - 1 :]
        # Once random search is all but certain of the optimum there is nothing left to be better at.
        worth = random - self.optimum > 1e-9 * self.optimum
        scores: Floats = ((random - found)[:, worth] / (random - self.optimum)[worth]).mean(axis=1)
        return scores


def read_landscape(path: Path | str) -> Landscape:
    """Read a landscape from a cache file.

    Args:
        path: of a `.json` or `.json.gz` file.

    Raises:
        UsageError: the file cannot be read, or is not in the layout.
    """
    path = Path(path)
    content = read_cache(path)
    try:
        names, entries = content["tune_params_keys"], list(content["cache"].values())
        parameters = tuple(_parameter(name, content["tune_params"][name]) for name in names)
        codes = [[_code(p, entry[p.name]) for p in parameters] for entry in entries]
        times = np.array([_time(entry) for entry in entries])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: not in the layout of a Kernel Tuner cache: {error!r}") from None
    if not np.isfinite(times).any():
        raise UsageError(f"{path}: holds no configuration that was measured")
    name = path.name.removesuffix(".gz").removesuffix(".json")
    pool = Pool(parameters, np.array(codes, np.int32))
    return Landscape(name, content.get("kernel_name") or name, content.get("device_name", ""), pool, times)


def read_cache(path: Path) -> dict[str, Any]:
    """The content of a cache file, gzipped or not; a list of results is made one.

    Raises:
        UsageError: it cannot be read, or is not JSON of either layout.
    """
    try:
        raw = path.read_bytes()
        content = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read as JSON: {error}; expected a Kernel Tuner cache") from None
    if isinstance(content, list) and content and all(isinstance(e, dict) and "time" in e for e in content):
        if next(iter(content[0])) == "time":
            raise UsageError(f"{path}: no parameter before `time`; expected a result's parameters first")
        return _cache_of(content)
    if not isinstance(content, dict):
        raise UsageError(
            f"{path}: not in the layout of a Kernel Tuner cache: expected a JSON object, or a list of results"
        )
    return content


def _cache_of(results: list[dict[str, Any]]) -> dict[str, Any]:
    """A list of results in the layout of a cache, as far as it tells."""
    keys = list(takewhile(lambda key: key != "time", results[0]))
    values = {key: list(dict.fromkeys(result.get(key) for result in results)) for key in keys}
    cache = {",".join(str(result.get(key)) for key in keys): result for result in results}
    untold = {"device_name": "", "kernel_name": "", "problem_size": 1}
    return {**untold, "tune_params_keys": keys, "tune_params": values, "cache": cache}


def _parameter(name: str, values: list[Any]) -> Parameter:
    """A column of the pool; numbers ascend, as a pool wants them."""
    parameter = Parameter(name, tuple(value for value in values if value is not None))
    return Parameter(name, tuple(sorted(parameter.values))) if parameter.is_ordinal else parameter


def _code(parameter: Parameter, value: Any) -> int:
    return INACTIVE if value is None else parameter.values.index(value)


def _time(entry: Mapping[str, Any]) -> float:
    """Milliseconds, NaN for a configuration that failed."""
    time = entry["time"]
    return float(time) if isinstance(time, int | float) and 0 < time < LONGEST_MS else np.nan
