"""Why a winner is the winner, told as an engineer would tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group

from autotune.cli import output
from autotune.cli.winners import problem_of
from autotune.search.objective import objective_named

if TYPE_CHECKING:
    from autotune.search.objective import Objective
    from autotune.store import HistoryReader
    from autotune.store.entries import Decision, StudyEntry
    from autotune.store.records import Choice, Trial

RUNNERS_UP = 5


def explanation(
    reader: HistoryReader, decision: Decision, study: StudyEntry | None, trials: list[Trial]
) -> Group:
    """Winner, proof, runners-up, what was ruled out, and the machine, in that order."""
    winner, best = decision.winner, decision.winner.choices[0]
    parts: list[Any] = [
        f"{output.problem(problem_of(winner))}, objective {winner.objective}",
        "",
        _verdict(best, objective_named(winner.objective)),
        output.facts(_proof(best, winner.baseline_error, objective_named(winner.objective))),
    ]
    if len(winner.choices) > 1:
        parts += ["", "other points of the Pareto front", _choices(winner.choices[1:])]
    if trials:
        parts += ["", "runners-up, as screened", _runners_up(trials, best)]
        parts += ["what became of the trials", output.facts(_verdicts(trials))]
    if study is not None:
        parts += ["", "the space", output.facts(_space(study))]
    parts += ["", "where", output.facts(_where(reader, decision)), ""]
    return Group(*parts)


def _verdict(best: Choice, objective: Objective) -> str:
    proof = best.proof
    sure = f"{100 * proof.confidence:g} % confidence"
    limit = "" if objective.limit_ns is None else f" within p99 {output.latency(objective.limit_ns)}"
    if best.is_baseline:
        better = "thriftier" if objective.energy else "faster"
        few = f"; {proof.rounds} rounds are too few" if proof.rounds < objective.least_rounds else ""
        margin = f"{100 * proof.margin:g} %"
        return f"The baseline stays: nothing was proven {better} by {margin}{limit} at {sure}{few}."
    gain = output.speedup(proof.against_baseline)
    than = f"takes {gain} less energy than" if objective.energy else f"is {gain} as fast as"
    return (
        f"{output.configuration(best.configuration)} takes {output.latency(best.latency_ns)} "
        f"and {than} the baseline, at {sure}{limit}."
    )


def _proof(best: Choice, baseline_error: float, objective: Objective) -> dict[str, str]:
    proof = best.proof
    told = {
        "compared": f"by {objective.statistic} with the baseline in {proof.rounds} interleaved rounds, "
        f"{proof.stopped}",
        "in the rounds": f"{output.latency(proof.latency_ns)} against {output.latency(proof.baseline_ns)}",
        "error": f"{output.error(best.error)}, the baseline's is {output.error(baseline_error)}",
        "memory": output.size(best.memory_bytes),
        "of the limit": f"{output.share(best.limit_share)} of what memory bandwidth and matmul rate allow",
    }
    if proof.joules is not None and proof.baseline_joules is not None:
        told["energy"] = (
            f"{output.energy(proof.joules)} against {output.energy(proof.baseline_joules)} a call"
        )
    if proof.against_incumbent:
        told["against the winner before"] = output.speedup(proof.against_incumbent)
    fresh = best.measurement
    if fresh:
        tails = f"p90 {output.latency(fresh.p90_ns)}, p99 {output.latency(fresh.p99_ns)}"
        samples = f"{len(fresh.samples_ns)} samples, {fresh.cache} cache"
        told["measured afresh"] = f"p50 {output.latency(fresh.p50_ns)}, {tails}, {samples}"
        if fresh.clocks:
            told["clocks"] = ", ".join(f"{name} {mhz:.0f} MHz" for name, mhz in fresh.clocks.items())
    return told


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


def _runners_up(trials: list[Trial], best: Choice) -> Any:
    table = output.table("trial", "configuration", "p50", "error", "memory", right=("trial", "p50", "error"))
    measured = [(t.measurement.p50_ns, t) for t in trials if t.measurement]
    measured.sort(key=lambda pair: pair[0])
    for median, trial in [p for p in measured if p[1].configuration != best.configuration][:RUNNERS_UP]:
        settings = output.configuration(trial.configuration)
        memory = output.size(trial.memory_bytes)
        table.add_row(str(trial.number), settings, output.latency(median), output.error(trial.error), memory)
    return table


def _verdicts(trials: list[Trial]) -> dict[str, str]:
    """Each verdict with its count, and the first reasons of those that are no success."""
    told: dict[str, str] = {}
    for verdict in dict.fromkeys(trial.verdict for trial in trials):
        those = [trial for trial in trials if trial.verdict is verdict]
        reasons = list(dict.fromkeys(trial.reason for trial in those if trial.reason))[:2]
        told[verdict] = "; ".join([str(len(those)), *reasons])
    return told


def _space(study: StudyEntry) -> dict[str, str]:
    told = {"digest": study.key.space, "configurations": str(study.space_facts.get("configurations", "?"))}
    for offer in study.space_facts.get("offers", []):
        if offer["withheld"]:
            told[offer["name"]] = f"not offered: {offer['withheld']}"
        else:
            steps = ", ".join(f"{left} after {name}" for name, left in offer["steps"])
            told[offer["name"]] = f"{offer['raw']} points" + (f", {steps}" if steps else "")
    told["ended"] = study.end_reason or study.state
    return told


def _where(reader: HistoryReader, decision: Decision) -> dict[str, str]:
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
