"""The search behind Optuna's interface."""

from __future__ import annotations

from itertools import product

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from autotune.errors import UsageError
from autotune.search.sampler import PoolSampler
from autotune.space.pool import INACTIVE, Parameter, Pool

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def pool() -> Pool:
    """Two implementations, only the second of which has a tile and warps."""
    parameters = (
        Parameter("implementation", ("torch", "triton")),
        Parameter("threads", (1, 2, 4)),
        Parameter("tile", (16, 32, 64, 128)),
        Parameter("warps", (1, 2, 4, 8)),
    )
    torch = [(0, threads, INACTIVE, INACTIVE) for threads in range(3)]
    triton = [(1, INACTIVE, tile, warps) for tile, warps in product(range(4), range(4))]
    return Pool(parameters, np.array(torch + triton, np.int32))


def latency(configuration) -> float:
    if configuration["implementation"] == "torch":
        return 8.0 / configuration["threads"]
    return 1.0 + abs(np.log2(configuration["tile"]) - 6) + abs(np.log2(configuration["warps"]) - 2)


def configurations(pool, study):
    return [pool.find(trial.params) for trial in study.trials]


def test_an_objective_sees_real_parameter_values_each_configuration_once(pool):
    sampler = PoolSampler(pool)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: latency(sampler.suggest(trial)), n_trials=len(pool))

    rows = configurations(pool, study)
    assert sorted(rows) == list(range(len(pool)))
    assert study.best_params == {"implementation": "triton", "tile": 64, "warps": 4}


def test_parameters_may_be_suggested_by_hand_in_any_order(pool):
    study = optuna.create_study(sampler=PoolSampler(pool))

    def objective(trial):
        implementation = trial.suggest_categorical("implementation", ["torch", "triton"])
        if implementation == "torch":
            return latency(
                {"implementation": "torch", "threads": trial.suggest_categorical("threads", [1, 2, 4])}
            )
        warps = trial.suggest_categorical("warps", [1, 2, 4, 8])
        tile = trial.suggest_categorical("tile", [16, 32, 64, 128])
        return latency({"implementation": implementation, "tile": tile, "warps": warps})

    study.optimize(objective, n_trials=12)
    assert None not in configurations(pool, study)


def test_what_the_configuration_does_not_have_is_refused(pool):
    study = optuna.create_study(sampler=PoolSampler(pool))
    trial = study.ask()
    with pytest.raises(UsageError, match="asks for 'stages'"):
        trial.suggest_categorical("stages", [1, 2])


def test_a_batch_asked_at_once_has_no_repeats_and_may_be_told_in_any_order(pool):
    sampler = PoolSampler(pool)
    study = optuna.create_study(sampler=sampler)
    for _ in range(3):
        trials = [study.ask() for _ in range(5)]
        chosen = [sampler.suggest(trial) for trial in trials]
        for trial, configuration in reversed(list(zip(trials, chosen, strict=True))):
            study.tell(trial, latency(configuration))
    assert len(set(configurations(pool, study))) == 15


def test_trials_of_another_process_are_learnt_and_its_running_ones_are_taken(pool):
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, sampler=PoolSampler(pool, seed=1), study_name="shared")
    other = optuna.load_study(storage=storage, sampler=PoolSampler(pool, seed=1), study_name="shared")
    rows = []
    for turn in range(16):
        one = study if turn % 2 else other
        trial = one.ask()
        rows.append(pool.find(trial.relative_params))
        if turn % 3:
            one.tell(trial, latency(one.sampler.suggest(trial)))
    assert len(set(rows)) == 16


def test_when_nothing_is_left_the_best_is_measured_again(pool):
    sampler = PoolSampler(pool)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: latency(sampler.suggest(trial)), n_trials=len(pool) + 2)
    best = pool.find(study.best_params)
    assert configurations(pool, study)[-2:] == [best, best]


def test_when_everything_failed_there_is_nothing_to_propose(pool):
    sampler = PoolSampler(pool)
    study = optuna.create_study(sampler=sampler)
    for _ in range(len(pool)):
        trial = study.ask()
        sampler.suggest(trial)
        study.tell(trial, state=TrialState.FAIL)
    with pytest.raises(UsageError, match="nothing is left"):
        sampler.suggest(study.ask())


def test_an_enqueued_configuration_comes_first_and_is_not_repeated(pool):
    sampler = PoolSampler(pool)
    study = optuna.create_study(sampler=sampler)
    default = {"implementation": "torch", "threads": 2}
    study.enqueue_trial(default)
    study.optimize(lambda trial: latency(sampler.suggest(trial)), n_trials=len(pool))
    assert study.trials[0].params == default
    assert sorted(configurations(pool, study)) == list(range(len(pool)))


def test_what_is_expected_of_a_proposal_is_known_but_not_of_an_enqueued_one(pool):
    sampler = PoolSampler(pool)
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: latency(sampler.suggest(trial)), n_trials=6)
    assert sampler.expected_improvement is not None
    study.enqueue_trial({"implementation": "torch", "threads": 2})
    sampler.suggest(study.ask())
    assert sampler.expected_improvement is None


def test_trials_added_by_hand_are_learnt_from(pool):
    sampler = PoolSampler(pool)
    study = optuna.create_study(sampler=sampler)
    distributions = {p.name: optuna.distributions.CategoricalDistribution(p.values) for p in pool.parameters}
    for row in range(len(pool) - 1):
        params = pool.configuration(row)
        study.add_trial(
            create_trial(
                value=latency(params),
                params=params,
                distributions={name: distributions[name] for name in params},
            )
        )
    assert sampler.suggest(study.ask()) == pool.configuration(len(pool) - 1)


def test_a_rate_is_maximised(pool):
    sampler = PoolSampler(pool)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(lambda trial: 1 / latency(sampler.suggest(trial)), n_trials=12)
    assert study.best_value == 1.0


def test_a_violated_constraint_counts_as_a_failure(pool):
    sampler = PoolSampler(pool)
    study = optuna.create_study(sampler=sampler)
    for _ in range(8):
        trial = study.ask()
        configuration = sampler.suggest(trial)
        trial.set_constraint("memory", 1.0 if configuration["implementation"] == "torch" else -1.0)
        study.tell(trial, 0.01 if configuration["implementation"] == "torch" else latency(configuration))
    tried = [trial.params["implementation"] for trial in study.trials]
    assert "triton" in tried[-3:]


def test_a_pruned_trial_counts_with_what_it_last_reported(pool):
    sampler = PoolSampler(pool)
    study = optuna.create_study(sampler=sampler)

    def objective(trial):
        cost = latency(sampler.suggest(trial))
        trial.report(cost, step=0)
        if cost > 2.5:
            raise optuna.TrialPruned
        return cost

    study.optimize(objective, n_trials=12)
    assert study.best_value == 1.0


def test_several_objectives_find_the_pareto_front(pool):
    sampler = PoolSampler(pool)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)

    def objective(trial):
        configuration = sampler.suggest(trial)
        return latency(configuration), float(configuration.get("tile", 8))

    study.optimize(objective, n_trials=15)
    assert {trial.params.get("tile") for trial in study.best_trials} >= {64, 128}
