"""get_best_config(): the fastest proven configuration for a problem on this machine, in microseconds.

The first look-up of a problem reads the published snapshot; those that follow are one look into a dictionary.
Twice a second at most, a look-up checks whether a newer snapshot was published, or the environment now names
another state folder or generation. Safe to call from threads, and before and after a fork.

Whether a call raises depends on the call and on the installed code alone. Whatever is wrong on the disk, the
answer is the declared baseline under `match="default"`, and one warning per process and cause.
"""

from __future__ import annotations

import os
from _thread import RLock
from time import monotonic

from autotune.errors import StateError, UsageError
from autotune.lookup.best_config import BestConfig
from autotune.lookup.question import Question
from autotune.lookup.snapshots import Snapshots, named_generation
from autotune.lookup.target import check_device, find_target, requested_device
from autotune.lookup.warning import AutotuneWarning, warn_once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from autotune.lookup.match import Found
    from autotune.lookup.published import Published
    from autotune.lookup.target import Target

__all__ = ["AutotuneWarning", "BestConfig", "get_best_config", "refresh"]

NOTICE_SECONDS = 0.5
MOST_ANSWERS = 4096

_answers: dict[tuple[Any, ...], BestConfig] = {}
_look_again_at = 0.0
_snapshots = Snapshots()
_lock = RLock()  # reentrant: a signal handler or a warning's hook may look up while its thread does


def get_best_config(
    workload: str,
    *,
    objective: str = "latency",
    max_error: float | None = None,
    qualifiers: Mapping[str, Any] | None = None,
    device: str | None = None,
    generation: int | str | None = None,
    slo_ms: float | None = None,
    **problem: Any,
) -> BestConfig:
    """The best known configuration for a problem: a read-only mapping that says where it comes from.

    Args:
        workload: name of the workload, e.g. `"linear"`.
        objective: what to be best at: `"latency"`, the median of a call; `"tail"`, its 99th percentile;
            `"throughput"`, calls per second; or `"energy"`, joules per call.
        max_error: greatest relative error accepted, for the fastest choice within it; None for a choice that
            is as accurate as the framework's own default.
        qualifiers: values that the configuration must have, e.g. `{"compute_dtype": "bfloat16"}`.
        device: `"cpu"`, `"cuda"`, `"cuda:1"` or a device digest; None for this host's accelerator if it has
            been tuned and this process can see one, else the CPU.
        generation: number of the snapshot to read and stay with, or the name of one of the fleet's, so that
            all ranks of a job agree; None for `AUTOTUNE_GENERATION`, or else the newest.
        slo_ms: with `"throughput"`, what the 99th percentile of a call must not exceed, in milliseconds; what
            was proven for a tighter limit counts, the loosest first.
        **problem: the workload's dimensions, e.g. `m=16, n=7168, k=2048, dtype="bfloat16"`.

    Raises:
        UnknownNameError: the workload, objective, device, a dimension or a qualifier is unknown.
        ProblemError: a dimension is missing, of the wrong type or out of range.
        UsageError: `max_error`, `qualifiers`, `generation` or `slo_ms` is not of its kind.
    """
    if monotonic() >= _look_again_at:
        _notice()
    # Values that are equal mean the same problem, whatever their type: see Question.
    key = (workload, objective, *problem, *problem.values())
    if (
        max_error is not None
        or qualifiers is not None
        or device is not None
        or generation is not None
        or slo_ms is not None
    ):
        key += _options_key(max_error, qualifiers, device, generation, slo_ms)
    try:
        return _answers[key]
    except (KeyError, TypeError):
        pass  # not asked before, or a value without a hash
    question = Question(
        workload,
        problem,
        objective=objective,
        max_error=max_error,
        qualifiers=qualifiers,
        slo_ms=slo_ms,
    )
    device_name, pinned = check_device(device), _check_generation(generation)
    with _lock:
        best = _answer(question, device_name, pinned)
        _remember(key, best)
    return best


def refresh() -> None:
    """Forget every answer and every open snapshot, so that the next look-up reads the newest one at once."""
    global _look_again_at
    with _lock:
        _snapshots.forget()
        _answers.clear()
        _look_again_at = 0.0


def _options_key(
    max_error: Any, qualifiers: Any, device: Any, generation: Any, slo_ms: Any
) -> tuple[Any, ...]:
    # With types, for True equals 1 and is no error bound, nor a generation.
    fixed = tuple(getattr(qualifiers, "items", tuple)())
    numbers = (max_error, generation, slo_ms)
    return (*numbers, *map(type, numbers), device, type(qualifiers), fixed)


def _remember(key: tuple[Any, ...], best: BestConfig) -> None:
    try:
        _answers[key] = best
    except TypeError:
        return  # a value of the call has no hash: it is looked up anew each time
    if len(_answers) > MOST_ANSWERS:
        del _answers[next(iter(_answers))]


def _notice() -> None:
    """Forget what was read if a newer snapshot, another folder or another workload has come to hold."""
    global _look_again_at
    with _lock:
        if _snapshots.renew():
            _answers.clear()
        _look_again_at = monotonic() + NOTICE_SECONDS


def _check_generation(generation: Any) -> int | str | None:
    if generation is None or (type(generation) is int and generation >= 0):
        return generation
    if isinstance(generation, str) and not generation.isdigit():
        try:
            return named_generation(generation, "generation")
        except StateError as error:
            raise UsageError(str(error)) from None
    raise UsageError(f"generation={generation!r} is not the number of a snapshot; expected a whole number")


def _answer(question: Question, device: str | None, generation: int | str | None) -> BestConfig:
    """The answer from the snapshot, or the declared baseline; tells the daemon what was not exact."""
    published = _snapshots.read(generation)
    target = found = None
    try:
        target = find_target(device, published)
        if published is not None:
            from autotune.lookup.match import find

            found = find(published, question, target)
    except Exception as error:  # no state of the disk, nor a probe that fails, may stop the caller
        place = published.path if published else "this machine"
        warn_once(place, f"{place}: cannot be read: {error}; answering with declared baselines")
    if found is None or published is None:
        best = _default(question, target, published)
    else:
        best = _found(question, found, published)
    if best.match != "exact":
        from autotune.lookup.request import send_request

        send_request(question, requested_device(device, target), best.match)
    return best


def _found(question: Question, found: Found, published: Published) -> BestConfig:
    row = found.row
    return BestConfig(
        found.configuration,
        match=found.match,
        workload=question.problem.workload,
        problem=question.problem,
        objective=found.objective,
        tuned_for=found.tuned_for,
        device=row["device"],
        stack=row["stack"],
        generation=published.generation,
        source=published.path,
        latency_ns=row["latency_ns"],
        p99_ns=row["p99_ns"],
        error=row["error"],
        memory_bytes=row["memory_bytes"],
        baseline_ns=row["baseline_ns"],
        speedup=row["speedup"],
        speedup_interval=(row["speedup_low"], row["speedup_high"]),
        is_baseline=bool(row["is_baseline"]),
        limit_share=row["limit_share"],
        study=row["study"],
        trial=row["trial"],
        decided_at=row["decided_at"],
        origin=row["origin"],
    )


def _default(question: Question, target: Target | None, published: Published | None) -> BestConfig:
    from autotune.lookup.baseline import baseline

    return BestConfig(
        baseline(question.problem, target),
        match="default",
        workload=question.problem.workload,
        problem=question.problem,
        objective=question.objective,
        tuned_for=question.problem,
        device=target.digest if target else None,
        generation=published.generation if published else None,
        source=published.path if published else None,
        is_baseline=True,
    )


def _after_fork_in_child() -> None:
    """A child must neither use nor close its parent's SQLite connections; the answers are good for both."""
    _snapshots.abandon()
    _lock.release()


# The lock is held across a fork, so that no thread is inside SQLite while the process is copied.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork_in_child)
