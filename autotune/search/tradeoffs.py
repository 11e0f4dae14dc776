"""What each qualifier costs and buys: the best configuration of every setting, and the effect of one switch.

A configuration that was in a final is told by its proof. Of all others a screening is all there is: its
median has an interval, and the least of many medians flatters a setting that was tried often.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from autotune.measure.statistics import median_interval
from autotune.store.records import Interval, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from autotune.store.records import Choice, Configuration, Measurement, Trial, Winner

ACCURACY_SLACK = 0.01
"""Errors within this share of each other count as equal, as in a final."""

CONFIDENCE = 0.99
"""Of a screened median."""

LEAST_SAMPLES = 8
"""Of fewer the extremes hold the median with less confidence: 1 - 2 ** (1 - n)."""

UNBOUNDED = 1e6
"""Where nothing is known, as in a comparison that ended too early."""

SECONDS_PER_HOUR = 3600.0


class SettingCost(msgspec.Struct, frozen=True, kw_only=True):
    """One combination of qualifiers, by its fastest configuration.

    Attributes:
        qualifiers: the implementation and the qualifiers that it has.
        configuration: the fastest: of those in a final if there are any, by its median.
        trials: that were measured with these qualifiers.
        is_baseline: whether this is the framework untuned.
        proven: whether it was compared with the baseline in turn, in the same rounds.
        p50_ns: median of a call.
        p99_ns: 99th percentile of the screening; None where there was none.
        variation: coefficient of variation, likewise.
        error: relative error `||out - ref|| / ||ref||`.
        memory_bytes: that the built configuration holds.
        tokens_per_second: at the median; None where it is not known how many tokens a call serves.
        cost_per_million: of a million tokens that pass this operation; None without a price or tokens.
        speedup: over the baseline; its interval is the proof's, or that of the screened median at 99 %.
        ties_with_fastest: whether the difference to the fastest setting of all may be none.
    """

    qualifiers: dict[str, Any]
    configuration: Configuration
    trials: int = 0
    is_baseline: bool = False
    proven: bool = False
    p50_ns: float
    p99_ns: float | None = None
    variation: float | None = None
    error: float | None = None
    memory_bytes: int | None = None
    tokens_per_second: float | None = None
    cost_per_million: float | None = None
    speedup: Interval | None = None
    ties_with_fastest: bool = False

    @property
    def within_noise(self) -> bool:
        """Whether the difference to the baseline may be none."""
        return self.speedup is not None and self.speedup.low <= 1 <= self.speedup.high


class Switch(msgspec.Struct, frozen=True):
    """What switching one qualifier does, all others being those of a setting.

    Attributes:
        qualifier: which.
        before: its value in that setting; None where it has no such qualifier.
        after: the other value.
        cost: of the setting after.
        gain: how many times as fast it is then; None where nothing is known of that.
    """

    qualifier: str
    before: Any
    after: Any
    cost: SettingCost
    gain: Interval | None = None

    @property
    def within_noise(self) -> bool:
        """Whether the switch may change nothing."""
        return self.gain is not None and self.gain.low <= 1 <= self.gain.high


def setting_costs(
    trials: Iterable[Trial],
    winners: Sequence[Winner],
    names: Iterable[str],
    baseline: Mapping[str, Any],
    *,
    tokens: int | None = None,
    price_per_hour: float | None = None,
) -> list[SettingCost]:
    """Every combination of qualifiers that was measured, fastest first; the baseline is one of them.

    Args:
        trials: of one problem on one device and stack.
        winners: that were decided among them by latency, the latest first; they tell of the baseline.
        names: of the qualifiers; the implementation is always one.
        baseline: configuration of the framework untuned.
        tokens: that one call serves.
        price_per_hour: of the device, in any currency.
    """
    named = ("implementation", *names)
    groups: dict[tuple[Any, ...], list[Trial]] = {}
    for trial in trials:
        if trial.verdict is Verdict.OK and trial.measurement is not None:
            groups.setdefault(_qualifiers(trial.configuration, named), []).append(trial)
    proven: dict[tuple[Any, ...], list[Choice]] = {}
    for choice in (choice for winner in winners for choice in winner.choices if not choice.is_baseline):
        proven.setdefault(_qualifiers(choice.configuration, named), []).append(choice)
    baseline_ns = winners[0].choices[0].proof.baseline_ns if winners else None
    costs = [
        _proven_cost(proven[key], group) if key in proven else _screened_cost(group, baseline_ns)
        for key, group in groups.items()
    ]
    costs += [_proven_cost(choices, []) for key, choices in proven.items() if key not in groups]
    if winners and baseline_ns is not None:
        error = winners[0].baseline_error
        costs.append(
            SettingCost(
                qualifiers={},
                configuration=dict(baseline),
                is_baseline=True,
                proven=True,
                p50_ns=baseline_ns,
                error=error,
            )
        )
    rate = 0.0 if price_per_hour is None else price_per_hour / SECONDS_PER_HOUR
    priced = price_per_hour is not None and tokens is not None
    fastest = min((cost for cost in costs if cost.speedup), key=lambda cost: cost.p50_ns, default=None)
    return [
        msgspec.structs.replace(
            cost,
            qualifiers={name: cost.configuration[name] for name in named if name in cost.configuration},
            tokens_per_second=tokens / cost.p50_ns * 1e9 if tokens else None,
            cost_per_million=rate * cost.p50_ns / 1e9 / tokens * 1e6 if priced and tokens else None,
            ties_with_fastest=fastest is not None and (cost is fastest or _may_equal(cost, fastest)),
        )
        for cost in sorted(costs, key=lambda cost: cost.p50_ns)
    ]


def switches(costs: Sequence[SettingCost], of: SettingCost | None = None) -> list[Switch]:
    """The fastest settings that differ from one in one qualifier, for each of its values.

    What only the one implementation has, and not the other, does not count as a difference.

    Args:
        costs: of all settings, fastest first.
        of: the one; the baseline by default.
    """
    origin = of or next((cost for cost in costs if cost.is_baseline), None)
    before = None if origin is None else origin.qualifiers
    found: dict[tuple[str, Any], Switch] = {}
    for cost in costs if before else ():
        assert before is not None
        changed = [
            name
            for name in before.keys() | cost.qualifiers.keys()
            if before.get(name) != cost.qualifiers.get(name)
        ]
        if before["implementation"] != cost.qualifiers["implementation"]:
            changed = [name for name in changed if name in before and name in cost.qualifiers]
        if len(changed) == 1 and cost is not origin:
            name, after = changed[0], cost.qualifiers.get(changed[0])
            gain = _over(cost, origin)
            found.setdefault((name, after), Switch(name, before.get(name), after, cost, gain))
    return sorted(found.values(), key=lambda switch: (switch.qualifier != "implementation", switch.qualifier))


def most_accurate_fastest(costs: Sequence[SettingCost]) -> SettingCost | None:
    """The fastest proven setting that is as accurate as the baseline, if it is another than the baseline."""
    bound = next((cost.error for cost in costs if cost.is_baseline), None)
    for cost in costs:
        accurate = bound is not None and cost.error is not None and cost.error <= bound * (1 + ACCURACY_SLACK)
        if accurate and cost.proven:
            return None if cost.is_baseline else cost
    return None


def _may_equal(cost: SettingCost, other: SettingCost) -> bool:
    gain = _over(cost, other)
    return gain is not None and gain.low <= 1 <= gain.high


def _over(cost: SettingCost, origin: SettingCost | None) -> Interval | None:
    """How many times as fast as another setting one is, both being known against the baseline.

    The bounds are those of the worst case of both intervals: wide, but what was not compared in the same
    rounds is not known any better.
    """
    if origin is None or (cost.speedup is None and not cost.is_baseline):
        return None
    if origin.is_baseline:
        return cost.speedup
    ours, theirs = cost.speedup or _EVEN, origin.speedup
    if theirs is None:
        return None
    return Interval(ours.ratio / theirs.ratio, ours.low / theirs.high, ours.high / theirs.low)


_EVEN = Interval(1.0, 1.0, 1.0)


def _screened_cost(group: Sequence[Trial], baseline_ns: float | None) -> SettingCost:
    best = min(group, key=lambda trial: _measured(trial).p50_ns)
    measured = _measured(best)
    speedup, enough = None, len(measured.samples_ns) >= LEAST_SAMPLES
    if baseline_ns is not None:
        ratio = baseline_ns / measured.p50_ns
        low, high = median_interval(measured.samples_ns, CONFIDENCE)
        speedup = Interval(ratio, baseline_ns / high, baseline_ns / low)
        if not enough:
            speedup = Interval(ratio, 1 / UNBOUNDED, UNBOUNDED)
    return SettingCost(
        qualifiers={},
        configuration=best.configuration,
        trials=len(group),
        p50_ns=measured.p50_ns,
        p99_ns=measured.p99_ns if enough else None,
        variation=measured.variation if enough else None,
        error=best.error,
        memory_bytes=best.memory_bytes,
        speedup=speedup,
    )


def _proven_cost(choices: Sequence[Choice], group: Sequence[Trial]) -> SettingCost:
    best = max(choices, key=lambda choice: choice.proof.against_baseline.ratio)
    screened = [trial for trial in group if trial.configuration == best.configuration]
    measured = best.measurement or (screened[0].measurement if screened else None)
    return SettingCost(
        qualifiers={},
        configuration=best.configuration,
        trials=len(group),
        proven=True,
        p50_ns=best.proof.latency_ns,
        p99_ns=None if measured is None else measured.p99_ns,
        variation=None if measured is None else measured.variation,
        error=best.error,
        memory_bytes=best.memory_bytes,
        speedup=best.proof.against_baseline,
    )


def _qualifiers(configuration: Mapping[str, Any], named: Sequence[str]) -> tuple[Any, ...]:
    return tuple(configuration.get(name) for name in named)


def _measured(trial: Trial) -> Measurement:
    assert trial.measurement is not None, "only measured ones are asked"
    return trial.measurement
