"""The study process: it searches on one device, and has the daemon keep what it finds.

`python -m autotune.daemon.study SOCKET DAEMON`, both numbers; only the daemon starts it. It may be killed at
any moment, and dies with the daemon; its worker dies with it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from msgspec.structs import replace

from autotune.daemon import messages
from autotune.daemon.channel import DaemonGone
from autotune.daemon.companion import die_with
from autotune.daemon.remote_history import RemoteHistory, StudyChannel, study_channel
from autotune.errors import (
    AutotuneError,
    ConfigError,
    DatabaseError,
    InternalError,
    StateError,
    TrialError,
    UsageError,
)

if TYPE_CHECKING:
    from autotune.search.shared_study import Sharing
    from autotune.search.study import Progress
    from autotune.search.tuning import Tuner
    from autotune.space.problem import Problem
    from autotune.store.records import Winner


def main(arguments: list[str]) -> int:
    """Serve the daemon until it says `Finish` or is gone; returns the exit status.

    Args:
        arguments: the descriptor of the socket to the daemon, and the daemon's process id.
    """
    descriptor, daemon = int(arguments[0]), int(arguments[1])
    if not die_with(daemon):
        return 1
    channel = study_channel(descriptor)
    try:
        begin = channel.hear()
        if not isinstance(begin, messages.Begin):
            raise InternalError(f"the daemon began with {type(begin).__name__}; expected Begin")
        _serve(channel, begin)
    except DaemonGone:
        return 1
    except AutotuneError as error:
        unreadable, damaged = isinstance(error, StateError), isinstance(error, DatabaseError)
        channel.tell(messages.Broken(str(error), unreadable, damaged))
        return error.exit_code
    return 0


def _serve(channel: StudyChannel, begin: messages.Begin) -> None:
    from autotune.fingerprint import device_named
    from autotune.measure.comparison import Rules
    from autotune.search.tuning import Tuner
    from autotune.store import read_history
    from autotune.worker.configured import configured_worker
    from autotune.workloads.registry import import_module, workload_names

    for module in begin.worker.modules:
        import_module(module)
    device = device_named(begin.device)
    rules = Rules(margin=begin.measure.margin, confidence=begin.measure.confidence)
    with (
        RemoteHistory(read_history(begin.state_dir), channel) as history,
        configured_worker(begin.worker, device) as worker,
    ):
        tuner = Tuner(history, worker, device, rules, begin.seed, sharing=_sharing(begin))
        channel.tell(messages.Ready(tuner.stack, tuple(workload_names())))
        while True:
            match channel.hear():
                case messages.Work() as work:
                    channel.tell(_ended(tuner, work, begin, channel))
                case messages.Plan() as plan:
                    _tune_all(tuner, plan, begin, channel)
                    return
                case messages.Finish():
                    return
                case other:
                    raise InternalError(
                        f"the daemon said {type(other).__name__}; expected Work, Plan or Finish"
                    )


def _sharing(begin: messages.Begin) -> Sharing | None:
    """How equal nodes of the fleet, or else equal devices of this host, search together with this one."""
    found = None
    if begin.fleet.url:
        from autotune.fleet.studies import sharing_of

        found = sharing_of(begin.fleet, device=begin.device if begin.together else "")
    if found is None and begin.together:
        from autotune.search.local_storage import sharing_here

        return sharing_here(begin.state_dir, begin.device)
    return found


def _tune_all(tuner: Tuner, plan: messages.Plan, begin: messages.Begin, channel: StudyChannel) -> None:
    """Do a whole plan, and tell of each problem what became of it."""
    from autotune.search.study import Budget
    from autotune.search.tuning import Goal
    from autotune.workloads.registry import declaration

    problems = [declaration(one.workload).problem(one.dimensions) for one in plan.problems]
    budget = Budget(plan.seconds, plan.trials, begin.measure.screen_seconds, begin.measure.final_share)
    for outcome in tuner.tune_all(
        problems,
        Goal(plan.objective, plan.max_error),
        budget,
        plan.total_seconds,
        again=plan.again,
        observe=lambda now: channel.tell(_progressed(now)),
    ):
        problem, place = outcome.problem, problems.index(outcome.problem)
        if outcome.winner is not None:
            ended = _decided(problem, outcome.winner, outcome.fresh)
        else:
            ended = messages.Ended(problem.key, failure=outcome.failure, elsewhere=outcome.elsewhere)
        channel.tell(replace(ended, place=place))


def _ended(tuner: Tuner, work: messages.Work, begin: messages.Begin, channel: StudyChannel) -> messages.Ended:
    """Do one piece of work."""
    from autotune.search.study import Budget
    from autotune.search.tuning import Goal
    from autotune.workloads.registry import declaration

    try:
        problem = declaration(work.workload).problem(work.dimensions)
        goal = Goal(work.objective, work.max_error)
        winner = None if work.again else tuner.decided(problem, goal)
        fresh = winner is None
        if winner is None:
            trials = begin.study.trials if work.trials is None else work.trials
            budget = Budget(work.seconds, trials, begin.measure.screen_seconds, begin.measure.final_share)
            winner = tuner.tune(problem, goal, budget, lambda now: channel.tell(_progressed(now)))
    except ConfigError:  # the worker's interpreter no longer starts: that is not the problem's fault
        raise
    except UsageError as error:
        return messages.Ended(refusal=str(error))
    except TrialError as error:
        return messages.Ended(key=problem.key, failure=f"the baseline failed: {error}")
    return messages.Ended(problem.key, elsewhere=True) if winner is None else _decided(problem, winner, fresh)


def _decided(problem: Problem, winner: Winner, fresh: bool) -> messages.Ended:
    best = winner.choices[0]
    speedup = best.proof.against_baseline.ratio
    return messages.Ended(problem.key, fresh, best.is_baseline, best.latency_ns, speedup)


def _progressed(now: Progress) -> messages.Progressed:
    return messages.Progressed(
        now.problem, now.phase, now.possible, now.tried, now.best_ns, now.speedup, now.trying, now.stage
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
