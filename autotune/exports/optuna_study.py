"""Our studies as Optuna's: for its plots, and for tools that open its storages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.store.records import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from autotune.store.listing import TrialRow

_MEASURED = frozenset({Verdict.OK, Verdict.NOISY})
_PRUNED = frozenset({Verdict.INFEASIBLE, Verdict.PREEMPTED})


def distributions(configurations: Iterable[dict[str, Any]]) -> dict[str, BaseDistribution]:
    """What each setting was seen to take: a range of whole numbers or of reals, else the values themselves.

    Args:
        configurations: of one study; a setting that only some of them have is drawn from those.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    seen: dict[str, dict[Any, Any]] = {}
    for configuration in configurations:
        for name, value in configuration.items():
            seen.setdefault(name, {}).setdefault((type(value).__name__, value), value)
    found: dict[str, BaseDistribution] = {}
    for name, values in seen.items():
        kinds = {type(value) for value in values.values()}
        numbers = [value for value in values.values() if type(value) in (int, float)]
        if kinds == {int}:
            found[name] = IntDistribution(min(numbers), max(numbers))
        elif kinds <= {int, float}:
            found[name] = FloatDistribution(float(min(numbers)), float(max(numbers)))
        else:
            found[name] = CategoricalDistribution(list(values.values()))
    return found


def optuna_trials(
    trials: Sequence[TrialRow], shown: Callable[[Any], Any] = lambda value: value
) -> list[FrozenTrial]:
    """Trials as Optuna keeps them; the value is the screened median in milliseconds.

    What failed has the state FAIL, what was never run or was stopped PRUNED; the verdict, its reason and the
    other figures are user attributes.

    Args:
        trials: of one study.
        shown: applied to names and to values that are text.
    """
    configurations = [_scalars(trial.configuration, shown) for trial in trials]
    known = distributions(configurations)
    pairs = zip(trials, configurations, strict=True)
    return [_frozen(trial, settings, known, shown) for trial, settings in pairs]


def _scalars(configuration: dict[str, Any], shown: Callable[[Any], Any]) -> dict[str, Any]:
    """Settings as Optuna takes them; what it does not know, such as a list, as text."""
    plain = {}
    for name, value in configuration.items():
        known = value if value is None or isinstance(value, bool | int | float) else str(value)
        plain[shown(name)] = shown(known) if isinstance(known, str) else known
    return plain


def _frozen(
    trial: TrialRow,
    settings: dict[str, Any],
    known: dict[str, BaseDistribution],
    shown: Callable[[Any], Any],
) -> FrozenTrial:
    from datetime import datetime, timedelta

    from optuna.trial import TrialState, create_trial

    value = trial.p50_ns / 1e6 if trial.verdict in _MEASURED and trial.p50_ns else None
    state = TrialState.COMPLETE if value is not None else TrialState.FAIL
    if value is None and trial.verdict in _PRUNED:
        state = TrialState.PRUNED
    facts = {
        "number": trial.number,
        "verdict": shown(str(trial.verdict)),
        "stage": trial.stage,
        "reason": shown(trial.reason),
        "error": trial.error,
        "memory_bytes": trial.memory_bytes,
        "p99_ns": trial.p99_ns,
        "compile_seconds": trial.compile_seconds,
    }
    made = create_trial(
        state=state,
        value=value,
        params=settings,
        distributions={name: known[name] for name in settings},
        user_attrs={name: fact for name, fact in facts.items() if fact not in (None, "")},
    )
    made.datetime_start = datetime.fromtimestamp(trial.started_at)
    made.datetime_complete = made.datetime_start + timedelta(
        seconds=trial.compile_seconds + trial.measure_seconds
    )
    return made
