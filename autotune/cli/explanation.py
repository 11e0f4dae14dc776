"""Why a winner is the winner, told as an engineer would tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group

from autotune.cli import output
from autotune.cli.winners import problem_of
from autotune.search.influence import influences
from autotune.search.objective import objective_named
from autotune.store.listing import succeeded
from autotune.store.records import Verdict

if TYPE_CHECKING:
    from autotune.search.influence import Influence
    from autotune.search.objective import Objective
    from autotune.store import HistoryReader
    from autotune.store.entries import Decision, StudyEntry
    from autotune.store.listing import TrialRow
    from autotune.store.records import Choice, Interval

RUNNERS_UP = 5
WIDE = 3.0
"""An interval, or a tail, that spans such a factor is worth a word."""
DECISIVE = 1.05
"""From this cost on, doing without a value is told as a loss; below, screening cannot tell it from noise."""


def explanation(
    reader: HistoryReader, decision: Decision, study: StudyEntry | None, trials: list[TrialRow]
) -> Group:
    """Winner, proof, what matters, runners-up, what was ruled out, and the machine, in that order."""
    winner, best = decision.winner, decision.winner.choices[0]
    objective = objective_named(winner.objective, winner.workload)
    worth = influences(best.configuration, succeeded(trials))
    parts: list[Any] = [
        output.plain(f"{output.problem(problem_of(winner))}, objective {winner.objective}"),
        "",
        output.plain(verdict(best, objective)),
        *map(output.plain, [*reasons(best, worth), *unproven(best, trials)]),
        "",
        "the proof",
        output.facts(proof(best, winner.baseline_error, objective)),
    ]
    if any(one.cost for one in worth) and not best.is_baseline:
        parts += ["", "what matters: the best that was screened without each setting", _influences(worth)]
    if len(winner.choices) > 1:
        parts += ["", "other points of the Pareto front over latency, error and memory"]
        parts.append(_choices(winner.choices[1:]))
    if trials:
        parts += ["", "the best of the others, as screened", _runners_up(trials, best)]
        parts += ["what became of the trials", output.facts(verdicts(trials))]
    if study is not None:
        parts += ["", "what was searched, and what was ruled out before", output.facts(space(study))]
    parts += ["", "where", output.facts(where(reader, decision)), ""]
    return Group(*parts)


def verdict(best: Choice, objective: Objective) -> str:
    """The decision in a sentence or two."""
    proof = best.proof
    sure = f"{100 * proof.confidence:g} % confidence"
    limit = "" if objective.limit_ns is None else f" within p99 {output.latency(objective.limit_ns)}"
    if not proof.rounds:
        return (
            f"{output.configuration(best.configuration)} takes {output.latency(best.latency_ns)}. It was "
            "taken over from a snapshot whose history is lost, so its proof is not known here."
        )
    if best.is_baseline:
        better = "thriftier" if objective.energy else "faster"
        why = f"no challenger was proven {better} by {100 * proof.margin:g} %{limit} at {sure}"
        if proof.rounds < objective.least_rounds:
            why += (
                f". {proof.rounds} rounds are too few to prove anything; at least {objective.least_rounds} "
                "are needed, so give it a larger --budget on a quieter machine"
            )
        elif proof.stopped != "decided":
            why += f" before the rounds ended ({proof.stopped}, {proof.rounds} rounds)"
        return f"The baseline stays: {why}."
    gain = proof.against_baseline
    than = (
        f"takes {gain.ratio:.2f}x less energy than"
        if objective.energy
        else f"is {gain.ratio:.2f}x as fast as"
    )
    return (
        f"{output.configuration(best.configuration)} {than} the baseline{limit}. At {sure} it is "
        f"{bounds(gain)}; a promotion needs more than {1 + proof.margin:g}x."
    )


def reasons(best: Choice, worth: list[Influence]) -> list[str]:
    """What makes a winner fast, and what to be careful about, a sentence each."""
    told = []
    decisive = [one for one in worth if one.cost is not None and one.cost >= DECISIVE][:2]
    if decisive and not best.is_baseline:
        causes = [f"{one.name}={output.value(one.value)}" for one in decisive]
        costs = " and ".join(f"{one.cost:.2f}x" for one in decisive)
        told.append(f"What matters most is {' and '.join(causes)}: the best without takes {costs} as long.")
    against, fresh = best.proof.against_baseline, best.measurement
    if not best.is_baseline and against.high > WIDE * against.low:
        told.append(
            "The interval is wide because the rounds varied much: the gain is sure, its size is not. "
            "'autotune bench' on a quieter machine narrows it."
        )
    if fresh and fresh.samples_ns and fresh.p99_ns > WIDE * fresh.p50_ns:
        told.append(
            f"Its tail is long: p99 is {fresh.p99_ns / fresh.p50_ns:.0f}x the median. Something else ran "
            "beside it, or it is unsteady; tune for --objective tail if that matters."
        )
    return told


def unproven(best: Choice, trials: list[TrialRow]) -> list[str]:
    """What was screened faster than a baseline that stays: most often there was no time left to prove it."""
    faster = [
        trial
        for trial in trials
        if trial.verdict == Verdict.OK
        and trial.p50_ns
        and trial.p50_ns * (1 + best.proof.margin) < min(best.latency_ns, best.proof.baseline_ns)
    ]
    if not best.is_baseline or not faster:
        return []
    first = min(faster, key=lambda trial: trial.p50_ns or 0.0)
    return [
        (
            f"Screening found {len(faster)} faster, the best of them trial {first.number} "
            f"({output.configuration(first.configuration)}) at {output.latency(first.p50_ns)}, but the final "
            "did not prove it. If the study ended on its budget, tune --again with a larger --budget."
        )
    ]


def bounds(interval: Interval) -> str:
    """An interval in words; where the rounds were too few to bound a side, it says so."""
    low = f"at least {interval.low:.2f}x" if interval.low > 1 / output.UNBOUNDED else "no lower bound"
    if interval.high >= output.UNBOUNDED:
        return f"{low}, and no upper bound"
    return f"{low} and at most {interval.high:.2f}x"


def proof(best: Choice, baseline_error: float, objective: Objective) -> dict[str, str]:
    """What was compared with what, and how sure it is."""
    proof = best.proof
    told = {
        "compared": f"by {objective.statistic} with the baseline in {proof.rounds} interleaved rounds, "
        f"{_ended(proof.stopped)}",
        "in the rounds": f"{output.latency(proof.latency_ns)} against {output.latency(proof.baseline_ns)}",
    }
    if proof.joules is not None and proof.baseline_joules is not None:
        told["energy"] = (
            f"{output.energy(proof.joules)} against {output.energy(proof.baseline_joules)} a call"
        )
    if proof.against_incumbent:
        told["winner before it"] = f"this is {output.speedup(proof.against_incumbent)} as fast"
    fresh = best.measurement
    if fresh and fresh.samples_ns:
        tails = f"p90 {output.latency(fresh.p90_ns)}, p99 {output.latency(fresh.p99_ns)}"
        samples = f"{len(fresh.samples_ns)} samples, {fresh.cache} cache"
        if fresh.discarded:
            samples += f", {fresh.discarded} thrown away because the device was throttled"
        told["measured afresh"] = f"p50 {output.latency(fresh.p50_ns)}, {tails}; {samples}"
        if fresh.clocks:
            told["clocks"] = ", ".join(f"{name} {mhz:.0f} MHz" for name, mhz in fresh.clocks.items())
    told["error"] = f"{output.error(best.error)}; the baseline's is {output.error(baseline_error)}"
    told["memory"] = output.size(best.memory_bytes)
    told["roofline"] = roofline(best.limit_share, objective)
    return told


def roofline(share: float | None, objective: Objective) -> str:
    """How far the winner is from what the device could do at best."""
    if share is None:
        return "not known on this device"
    room = f"; at best another {1 / share:.1f}x is left" if 0 < share < 0.95 else ""
    what = "call" if not objective.energy else "call's time"
    return f"{output.share(share)} of what memory bandwidth and matmul rate allow a {what}{room}"


def _ended(stopped: str) -> str:
    words = {
        "decided": "until it was decided",
        "time_cap": "until the time for it was spent",
        "round_cap": "the most there may be",
    }
    return words.get(stopped, stopped)


def _influences(worth: list[Influence]) -> Any:
    table = output.table("setting", "the best without it", "costs", "tried", right=("tried",))
    for one in worth:
        if one.cost is None:
            continue
        others = "-" if one.other is None else output.value(one.other)
        cost = worth_of(one.cost)
        table.add_row(f"{one.name}={output.value(one.value)}", others, cost, str(one.tried))
    fixed = [f"{one.name}={output.value(one.value)}" for one in worth if one.cost is None]
    if fixed:
        table.caption = f"no other value was measured of {', '.join(fixed)}"
        table.caption_justify = "left"
    return table


def worth_of(cost: float | None) -> str:
    """What doing without a value costs, in words where screening cannot tell."""
    if cost is None:
        return "never tried"
    if cost < 1 / DECISIVE:
        return f"{cost:.2f}x, but not in the final"
    return f"{cost:.2f}x" if cost >= DECISIVE else "as good"


def _choices(choices: tuple[Choice, ...]) -> Any:
    table = output.table(
        "configuration", "latency", "speed-up", "error", "memory", right=("latency", "error", "memory")
    )
    for choice in choices:
        table.add_row(
            output.configuration(choice.configuration),
            output.latency(choice.latency_ns),
            output.speedup(choice.proof.against_baseline),
            output.error(choice.error),
            output.size(choice.memory_bytes),
        )
    return table


def _runners_up(trials: list[TrialRow], best: Choice) -> Any:
    table = output.table("trial", "configuration", "p50", "error", "memory", right=("trial", "p50", "error"))
    measured = [trial for trial in trials if trial.p50_ns and trial.configuration != best.configuration]
    for trial in sorted(measured, key=lambda trial: trial.p50_ns or 0.0)[:RUNNERS_UP]:
        settings = output.configuration(trial.configuration)
        memory, median = output.size(trial.memory_bytes), output.latency(trial.p50_ns)
        table.add_row(str(trial.number), settings, median, output.error(trial.error), memory)
    return table


def verdicts(trials: list[TrialRow]) -> dict[str, str]:
    """Each verdict with its count, and the first reasons of those that are no success."""
    told: dict[str, str] = {}
    for verdict in dict.fromkeys(trial.verdict for trial in trials):
        those = [trial for trial in trials if trial.verdict == verdict]
        reasons = list(dict.fromkeys(trial.reason for trial in those if trial.reason))[:2]
        told[verdict] = "; ".join([str(len(those)), *reasons])
    return told


def space(study: StudyEntry) -> dict[str, str]:
    """What was searched, and what was ruled out before anything ran."""
    told = {
        "tried": f"{study.trials} of {study.space_facts.get('configurations', '?')} valid configurations",
        "ended": why_ended(study.end_reason or study.state),
    }
    for offer in study.space_facts.get("offers", []):
        if offer["withheld"]:
            told[offer["name"]] = f"not offered: {offer['withheld']}"
        else:
            steps = ", ".join(f"{left} after {name}" for name, left in offer["steps"])
            told[offer["name"]] = f"{offer['raw']} points" + (f", {steps}" if steps else "")
    told["space"] = f"digest {study.key.space}"
    return told


def why_ended(reason: str) -> str:
    """Why a study ended, in words."""
    words = {
        "budget": "its time was spent",
        "trials": "its limit of trials was reached",
        "exhausted": "everything was tried",
        "improbable": "its model expected nothing more of what was left",
    }
    return f"{reason}: {words[reason]}" if reason in words else reason


def where(reader: HistoryReader, decision: Decision) -> dict[str, str]:
    """The device and the software that a decision holds for."""
    winner = decision.winner
    device, stack = reader.device(winner.device), reader.stack(winner.stack)
    told = {"device": f"{device.name if device else 'unknown'}, digest {winner.device}"}
    if device:
        cores, family = device.facts.get("cores"), device.family
        told["family"] = f"{family}, {cores} cores" if cores else family
    versions = [
        f"{name} {stack.facts[name]}"
        for name in ("python", "torch", "triton")
        if stack and stack.facts.get(name)
    ]
    told["stack"] = ", ".join([*versions, f"digest {winner.stack}"])
    told["decided"] = f"{output.moment(winner.decided_at)}" + (
        f", study {decision.study}" if decision.study else ""
    )
    return told
