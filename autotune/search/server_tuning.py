"""Tuning a server: one study over the settings of its spec, proven by interleaved restarts."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.errors import TrialError, UnknownNameError, UsageError
from autotune.fingerprint.management import library_for
from autotune.fingerprint.stack import stack_digest, stack_facts
from autotune.measure.load.tails import fewest_to_keep, least_requests
from autotune.search.budget import Budget
from autotune.search.final import REMEASURE_SHARE
from autotune.search.objective import SERVED, Objective
from autotune.search.study import Study
from autotune.server.bench import PERCENTILE, ServerBench
from autotune.space.searchspace import SearchSpace
from autotune.store.records import StudyKey, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.fingerprint import Device
    from autotune.measure.comparison import Rules
    from autotune.search.budget import Progress
    from autotune.server.spec import ServerSpec
    from autotune.store.reading import HistoryReader
    from autotune.store.recorder import Recorder
    from autotune.store.records import Winner

OBJECTIVES = ("throughput", "latency", "tail")
VERSION_SECONDS = 120.0
LONGEST_VERSION = 120
HOST_FACTS = ("libc", "kernel", "nvidia_driver", "knobs")
"""Of this process's stack, those that a server in another environment shares."""


@dataclass(frozen=True)
class ServedObjective(Objective):
    """An objective whose samples are starts of a server: one takes what it takes, whatever its value.

    Attributes:
        took: seconds of the last sample.
    """

    took: Callable[[], float] = lambda: 0.0

    def sample_seconds(self, value: float) -> float:  # noqa: ARG002 - the contract's
        """What one sample takes."""
        return self.took()


def check_served_objective(spec: ServerSpec, objective: str) -> None:
    """Refuse what a spec's load cannot show.

    Raises:
        UnknownNameError: it is no objective of a server.
        UsageError: the load has too few requests, or there are no limits to meet.
    """
    if objective not in OBJECTIVES:
        raise UnknownNameError("objective of a server", objective, OBJECTIVES)
    slo, counted = spec.sections.slo, spec.counted
    if objective == "throughput":
        if not slo.limits:
            raise UsageError(
                f"{spec.path}: [slo] sets no limit, and throughput is the largest rate that keeps one; "
                "give ttft_ms, tpot_ms or e2e_ms, or tune for --objective latency"
            )
        needed = fewest_to_keep(slo.percentile)
        if spec.least_rate > spec.sections.load.rate:
            raise UsageError(
                f"{spec.path}: load.seconds = {spec.sections.load.seconds:g} at load.rate = "
                f"{spec.sections.load.rate:g} leaves fewer than the {needed} requests that "
                f"[slo] percentile = {slo.percentile:g} needs; raise one of the two"
            )
        what = f"[slo] percentile = {slo.percentile:g}"
    else:
        needed = least_requests(PERCENTILE[objective])
        what = f"--objective {objective}"
    if counted < needed:
        raise UsageError(
            f"{spec.path}: load.requests leaves {counted} after warm-up, and {what} needs {needed} "
            "to be shown"
        )


def server_stack(spec: ServerSpec, device: Device) -> tuple[str, dict[str, Any]]:
    """Digest and facts of the software that serves: an upgrade of the server is another stack.

    Raises:
        UsageError: the spec's version command does not tell.
    """
    known = stack_facts()
    facts: dict[str, Any] = {
        "server": spec.sections.name,
        "version": _version(spec),
        **{name: known[name] for name in HOST_FACTS},
    }
    return stack_digest(device.kind, facts), facts


def accelerator_memory(device: Device) -> Callable[[frozenset[int]], int | None]:
    """Tells what processes hold on a device; None where it is the CPU, or its library does not tell."""
    if device.kind == "cpu":
        return lambda _: None

    def held(pids: frozenset[int]) -> int | None:
        try:
            with library_for(device.kind) as library:
                uses = library.device(device.index).processes()
        except Exception:
            return None
        told = [use.memory for use in uses if use.pid in pids and use.memory is not None]
        return sum(told) if told else None

    return held


def decided(
    history: HistoryReader, spec: ServerSpec, device: Device, objective: str, max_error: float | None
) -> Winner | None:
    """The winner of an ended study of the very same spec, settings and goal, on this device and stack."""
    stack, _ = server_stack(spec, device)
    space = SearchSpace.build(spec.declaration, spec.problem, device.facts, max_error)
    found = history.find_study(_key(space, device, stack, objective, max_error))
    current = history.decisions(study=found, state="current", limit=1) if found is not None else ()
    return current[0].winner if current else None


def tune_server(
    history: Recorder,
    spec: ServerSpec,
    device: Device,
    budget: Budget,
    *,
    objective: str = "throughput",
    max_error: float | None = None,
    rules: Rules | None = None,
    seed: int = 0,
    observe: Callable[[Progress], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Winner:
    """Search over a server's settings, prove the best against the untuned server, promote and publish.

    Args:
        history: the record.
        spec: the server.
        device: that it runs on; facts that constraints may name, and whose winners these are.
        budget: what the study may spend.
        objective: `throughput`, the largest rate that keeps the spec's objectives; `latency` and `tail`, the
            median and the 99th percentile of whole answers at the spec's rate.
        max_error: share of the answers' text that may differ from the untuned server's.
        rules: margin and confidence of the proof.
        seed: of proposals, arrivals and prompts.
        observe: called whenever the study's progress has changed.
        tell: called with a line that a person should see.

    Raises:
        TrialError: the untuned server itself cannot be started or does not serve.
        UsageError: the spec does not allow the objective to be shown.
        KeyboardInterrupt: asked to stop; finished trials are kept.
    """
    check_served_objective(spec, objective)
    stack, facts = server_stack(spec, device)
    space = SearchSpace.build(spec.declaration, spec.problem, device.facts, max_error)
    history.record_device(device)
    history.record_stack(stack, facts)
    key = _key(space, device, stack, objective, max_error)
    with ServerBench(
        spec, objective, seed=seed, accelerator_bytes=accelerator_memory(device), tell=tell
    ) as bench:
        served = ServedObjective(
            SERVED.percentile,
            SERVED.least_samples,
            SERVED.least_rounds,
            SERVED.most_finalists,
            took=lambda: bench.sample_seconds,
        )
        study = Study(
            key, space, bench, history, budget, objective=served, rules=rules, observe=observe, seed=seed
        )
        try:
            winner = study.run()
        except TrialError as failure:
            raise _with_budget(failure, bench.sample_seconds) from None
        assert winner is not None, "no other node searches this study"
    history.publish(f"study {study.id}: {space.problem}")
    return winner


def _with_budget(failure: TrialError, sample_seconds: float) -> TrialError:
    """A study that ran out of time, with the time that it needs."""
    if failure.verdict != Verdict.PREEMPTED or not sample_seconds:
        return failure
    # Two contenders in the final, which may take half of the time.
    needed = 2 * 2 * SERVED.least_rounds * sample_seconds / (1 - REMEASURE_SHARE)
    told = f"a start with its load takes {sample_seconds:.0f} s, so give --budget {needed / 60:.0f}m or more"
    return TrialError(failure.verdict, f"{failure.reason}; {told}", failure.slot)


def budget_of(seconds: float, trials: int | None, final_share: float) -> Budget:
    """The budget of a server's study: it ends when its time is over."""
    return Budget(seconds, trials, 0.0, final_share, time.monotonic() + seconds)


def _key(space: SearchSpace, device: Device, stack: str, objective: str, max_error: float | None) -> StudyKey:
    return StudyKey(
        workload=space.problem.workload,
        problem=space.problem.key,
        device=device.digest,
        stack=stack,
        objective=objective,
        space=space.digest,
        max_error=max_error,
    )


def _version(spec: ServerSpec) -> str:
    command = spec.version_command
    if not command:
        return ""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **spec.sections.environment},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{spec.path}: version: {' '.join(command)!r} does not answer: {error}") from None
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        told = f"{' '.join(command)!r} exited with status {done.returncode}: {last[:LONGEST_VERSION]}"
        raise UsageError(f"{spec.path}: version: {told}")
    return lines[-1][:LONGEST_VERSION]
