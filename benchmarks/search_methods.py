"""The searches that `search_efficiency.py` compares, each replaying one landscape with one seed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import random
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from autotune.search.landscape import Landscape, read_cache, read_landscape
from autotune.search.sampler import PoolSearch, PriorStudy
from autotune.space.pool import INACTIVE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from autotune.space.pool import Pool

MOST_PROPOSALS = 20
"""Proposals per evaluation after which a search that keeps repeating itself, or proposing what is invalid, is
stopped; its best so far then stands for the rest."""

optuna.logging.set_verbosity(optuna.logging.ERROR)


class BudgetSpentError(Exception):
    """The budget of evaluations, or of proposals, is used up."""


@dataclass
class Replay:
    """One run on a landscape: what was tried, in order.

    A configuration that a static constraint rules out is free, and so is one tried before, whose result is
    known; both are proposals all the same. One that was compiled or run and failed is an evaluation.
    """

    landscape: Landscape
    evaluations: int
    rows: list[int] = field(default_factory=list)
    proposals: int = 0
    seconds: float = 0.0

    def evaluate(self, row: int | None) -> float:
        """The time of a row in milliseconds, NaN where it failed; None is a configuration that is invalid."""
        if len(self.rows) >= min(self.evaluations, len(self.landscape)):
            raise BudgetSpentError
        if self.proposals >= MOST_PROPOSALS * self.evaluations:
            raise BudgetSpentError
        self.proposals += 1
        if row is None:
            return np.nan
        if row not in self.rows:
            self.rows.append(row)
        return float(self.landscape.times[row])

    @contextlib.contextmanager
    def thinking(self) -> Iterator[None]:
        """Counts the processor time within as the search's own; a run may be stopped while others measure."""
        started = time.process_time()
        yield
        self.seconds += time.process_time() - started

    def best_so_far(self) -> list[float]:
        """Best time after each evaluation; before the first success, the worst there is."""
        times = self.landscape.times[self.rows]
        best = np.fmin.accumulate(np.concatenate([[np.nanmax(self.landscape.times)], times]))[1:]
        return [*best.tolist(), *[float(best[-1])] * (self.evaluations - len(best))]


def pool_search(replay: Replay, seed: int, prior: Sequence[PriorStudy] = ()) -> None:
    """Our own, cold or with earlier studies."""
    with replay.thinking():
        search = PoolSearch(replay.landscape.pool, seed, prior)
    while True:
        with replay.thinking():
            row = search.ask()
        value = replay.evaluate(row)
        with replay.thinking():
            search.tell(row, None if np.isnan(value) else value)


def random_search(replay: Replay, seed: int) -> None:
    """Valid configurations in random order."""
    for row in np.random.default_rng(seed).permutation(len(replay.landscape)):
        replay.evaluate(int(row))
    raise BudgetSpentError


def optuna_search(
    sampler: Callable[[int], optuna.samplers.BaseSampler], pruned: bool
) -> Callable[[Replay, int], None]:
    """An Optuna sampler over categorical parameters.

    Args:
        sampler: makes it from a seed.
        pruned: what is invalid or failed is told so, else as the worst value so far: a sampler that learns
            nothing of pruned trials would propose it for ever.
    """

    def search(replay: Replay, seed: int) -> None:
        pool = replay.landscape.pool
        with warnings.catch_warnings(), replay.thinking():
            warnings.simplefilter("ignore")
            study = optuna.create_study(sampler=sampler(seed))
        worst = np.nan
        while True:
            with warnings.catch_warnings(), replay.thinking():
                warnings.simplefilter("ignore")
                trial = study.ask()
                chosen = _suggest(trial, pool)
            value = replay.evaluate(pool.find(chosen))
            with replay.thinking():
                worst = float(np.fmax(worst, value))
                told = worst if np.isnan(value) and not pruned else value
                if np.isnan(told):
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                else:
                    study.tell(trial, told)

    return search


def _suggest(trial: optuna.Trial, pool: Pool) -> dict[str, Any]:
    """A configuration as Optuna has conditional spaces: the implementation, then only what it has."""
    active = np.ones(len(pool.parameters), bool)
    chosen: dict[str, Any] = {}
    for position, parameter in enumerate(pool.parameters):
        if not active[position]:
            continue
        chosen[parameter.name] = trial.suggest_categorical(parameter.name, parameter.values)
        if parameter.name == "implementation":
            code = parameter.values.index(chosen[parameter.name])
            active = (pool.codes[pool.codes[:, position] == code] != INACTIVE).any(axis=0)
    return chosen


def kernel_tuner_search(strategy: str, path: Path) -> Callable[[Replay, int], None]:
    """A strategy of Kernel Tuner in its simulation mode."""

    def search(replay: Replay, seed: int) -> None:
        import kernel_tuner

        content, file = _simulation_cache(path)
        names = content["tune_params_keys"]
        keys = frozenset(content["cache"])

        def recorded(*values: Any, **named: Any) -> bool:
            """The static constraints; Kernel Tuner calls them by position, by name and with a dictionary."""
            if values and isinstance(values[0], dict):
                named = values[0]
            return ",".join(str(v) for v in ([named[name] for name in names] if named else values)) in keys

        random.seed(seed)
        np.random.seed(seed)
        with replay.thinking(), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results, _ = kernel_tuner.tune_kernel(
                content["kernel_name"],
                f"__global__ void {content['kernel_name']}() {{}}",
                content.get("problem_size", 1),
                [],
                {name: content["tune_params"][name] for name in names},
                restrictions=[recorded],
                lang="CUDA",
                strategy=strategy,
                strategy_options={"max_fevals": min(replay.evaluations, len(keys))},
                cache=file,
                simulation_mode=True,
                quiet=True,
                seed=seed,
            )
        for result in results:
            active = {name: result[name] for name in names if result[name] is not None}
            replay.evaluate(replay.landscape.pool.find(active))
        raise BudgetSpentError

    return search


@cache
def _simulation_cache(path: Path) -> tuple[dict[str, Any], str]:
    """A landscape as the uncompressed file that Kernel Tuner reads, for as long as this process lives."""
    content = {"problem_size": 1, **read_cache(path)}
    file = Path(tempfile.mkdtemp(prefix="search-efficiency-")) / "cache.json"
    file.write_text(json.dumps(content))
    return content, str(file)


@dataclass(frozen=True)
class Method:
    """A search to compare.

    Attributes:
        label: in tables and figures.
        needs: import name that must be installed.
        seeds: most seeds worth running; fewer than asked for where one run takes minutes.
    """

    label: str
    needs: str = ""
    seeds: int = 1_000_000

    @property
    def installed(self) -> bool:
        """Whether it can run here."""
        return not self.needs or importlib.util.find_spec(self.needs) is not None


METHODS = {
    "cold": Method("autotune, cold"),
    "transfer": Method("autotune, with other devices' studies"),
    "recorded": Method("autotune, with other devices' whole landscapes"),
    "shuffled": Method("autotune, with those studies' times shuffled"),
    "foreign": Method("autotune, with another kernel's studies"),
    "tpe": Method("Optuna TPE, categorical, pruned"),
    "gp": Method("Optuna GP, categorical, invalid as the worst", needs="torch", seeds=2),
    "random": Method("random"),
    "kt-ga": Method("Kernel Tuner genetic algorithm", needs="kernel_tuner"),
    "kt-greywolf": Method("Kernel Tuner adaptive tabu grey wolf", needs="kernel_tuner"),
    "kt-vndx": Method("Kernel Tuner hybrid VNDX", needs="kernel_tuner"),
}

STRATEGIES = {
    "kt-ga": "genetic_algorithm",
    "kt-greywolf": "adaptive_tabu_greywolf",
    "kt-vndx": "hybrid_vndx",
}


def run(
    name: str, path: Path, seed: int, evaluations: int, prior: Sequence[tuple[Path, list[int] | None]]
) -> dict[str, Any]:
    """Run one method on one landscape.

    Args:
        name: a key of `METHODS`.
        path: of the landscape.
        seed: of the method.
        evaluations: budget.
        prior: the landscapes of earlier studies, and the rows that were tried there; None for all of them.

    Returns:
        What is stored: rows tried, best time after each evaluation, proposals, seconds of the search's own.
    """
    replay = Replay(read_landscape(path), evaluations)
    search = {
        "tpe": optuna_search(lambda s: optuna.samplers.TPESampler(seed=s), pruned=True),
        "gp": optuna_search(lambda s: optuna.samplers.GPSampler(seed=s), pruned=False),
        "random": random_search,
        **{key: kernel_tuner_search(strategy, path) for key, strategy in STRATEGIES.items()},
    }.get(name)
    try:
        if search:
            search(replay, seed)
        else:
            studies = _studies(prior, seed if name == "shuffled" else None)
            if name == "foreign":
                studies = [_renamed(study, replay.landscape) for study in studies]
            pool_search(replay, seed, studies)
    except BudgetSpentError:
        pass
    return {
        "rows": replay.rows,
        "best": replay.best_so_far(),
        "proposals": replay.proposals,
        "seconds": replay.seconds,
    }


def _studies(prior: Sequence[tuple[Path, list[int] | None]], shuffle: int | None) -> list[PriorStudy]:
    studies = []
    for path, rows in prior:
        landscape = read_landscape(path)
        rows = list(range(len(landscape))) if rows is None else rows
        times = landscape.times[rows]
        if shuffle is not None:
            times = np.random.default_rng(shuffle).permutation(times)
        studies.append(PriorStudy([landscape.pool.configuration(row) for row in rows], times.tolist()))
    return studies


def _renamed(study: PriorStudy, landscape: Landscape) -> PriorStudy:
    """A study of another kernel as if its parameters were this landscape's, those that vary, in their order.

    Names alone would share too little: a study that shares no parameter says nothing and costs nothing.
    """
    here = [p.name for p in landscape.pool.parameters if len(p.values) > 1]
    there = [name for name in study.configurations[0] if len({c[name] for c in study.configurations}) > 1]
    return PriorStudy(
        [{new: c[old] for new, old in zip(here, there, strict=False)} for c in study.configurations],
        study.values,
    )


if __name__ == "__main__":
    sys.exit("this is a part of search_efficiency.py; run that")
