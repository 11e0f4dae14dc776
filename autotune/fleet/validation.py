"""Whether what came from the fleet is right. Whoever may write there may write anything.

An entry is used when its digest is that of its content, its winner is one that a bundle could hold, its
problem is one of a workload known here, and its configuration is in the search space that this node itself
would search, the one without implementations that lose accuracy. A false one is tried, at worst.
"""

from __future__ import annotations

import math
import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING

import msgspec

from autotune.errors import AutotuneError, UsageError
from autotune.exports.bundle import winner_faults
from autotune.space.declared import check_objective
from autotune.space.searchspace import SearchSpace
from autotune.store.fleet import Request, Verdict, digest_of
from autotune.store.records import Winner
from autotune.workloads.registry import declaration

if TYPE_CHECKING:
    from autotune.daemon.fleet_messages import Cell
    from autotune.space.problem import Problem
    from autotune.store.fleet import Entry

LONGEST_BODY = 65_536
MOST_SPACES = 64
"""Search spaces that are kept: entries for one problem come together."""
_FIGURES = ("latency_ns", "baseline_ns", "speedup")


class Validator:
    """Checks entries for the devices of this node.

    Args:
        cells: the devices and stacks of this node.
    """

    def __init__(self, cells: list[Cell]) -> None:
        self._cells = {(cell.device, cell.stack): cell for cell in cells}
        self._spaces: OrderedDict[tuple[str, str, str], SearchSpace] = OrderedDict()

    def fault(self, entry: Entry) -> str:
        """What is wrong with an entry, one line; empty if it is right."""
        try:
            return self._fault(entry)
        except (
            AutotuneError,
            msgspec.MsgspecError,
            ValueError,
            TypeError,
            LookupError,
            ArithmeticError,
        ) as error:
            return " ".join(str(error).split())[:160] or type(error).__name__
        except RecursionError:
            return "nested too deeply"

    def _fault(self, entry: Entry) -> str:
        if digest_of(entry) != entry.digest or str(uuid.UUID(entry.node)) != entry.node:
            return "its digest or its node is not what it says"
        if (entry.device, entry.stack) not in self._cells:
            return "it is for another device or stack"
        if len(entry.body) > LONGEST_BODY or not math.isfinite(entry.made_at) or entry.made_at <= 0:
            return "it is too long, or its moment is wrong"
        figures = [value for name in _FIGURES if (value := getattr(entry, name)) is not None]
        if not all(math.isfinite(value) and value > 0 for value in figures):
            return "a figure cannot be"
        check_objective(entry.objective)
        match entry.kind:
            case "winner":
                return self._winner_fault(entry)
            case "refutation":
                return self._verdict_fault(entry)
            case "request":
                return self._request_fault(entry)
        return f"of a kind that is none: {entry.kind[:20]!r}"

    def _winner_fault(self, entry: Entry) -> str:
        winner = msgspec.json.decode(entry.body, type=Winner)
        # So that nothing is in it that was not looked at: no unknown field, no second spelling of a value.
        if msgspec.json.encode(winner) != entry.body.encode():
            return "holds what a winner does not"
        fault = next(winner_faults(winner, {entry.device}), "")
        if fault:
            return fault
        names = ("workload", "problem", "objective", "device", "stack")
        if any(getattr(winner, name) != getattr(entry, name) for name in names):
            return "says one thing and its winner another"
        best = winner.choices[0]
        told = (best.latency_ns, best.proof.baseline_ns, best.proof.against_baseline.ratio)
        if told != (entry.latency_ns, entry.baseline_ns, entry.speedup) or winner.decided_at != entry.made_at:
            return "its figures are not those of its winner"
        problem = _problem(winner.workload, winner.dimensions)
        if (problem.key, problem.neighbourhood) != (winner.problem, winner.neighbourhood):
            return "its problem is not one of its workload"
        space = self._space(entry, problem)
        if space.pool.find(best.configuration) is None:
            return "its configuration is not in the search space of this device"
        if best.is_baseline != (best.configuration == space.baseline):
            return "what it calls the baseline is not that of this device"
        return ""

    def _verdict_fault(self, entry: Entry) -> str:
        verdict = msgspec.json.decode(entry.body, type=Verdict)
        if verdict.outcome != "refuted" or entry.subject is None:
            return "a verdict that is none"
        return ""

    def _request_fault(self, entry: Entry) -> str:
        request = msgspec.json.decode(entry.body, type=Request)
        problem = _problem(entry.workload, request.dimensions)
        error = request.max_error
        if problem.key != entry.problem or not (error is None or (math.isfinite(error) and error >= 0)):
            return "a request that is none"
        self._space(entry, problem)
        return ""

    def _space(self, entry: Entry, problem: Problem) -> SearchSpace:
        key = (entry.device, problem.workload, problem.key)
        space = self._spaces.pop(key, None)
        if space is None:
            facts = self._cells[entry.device, entry.stack].facts
            space = SearchSpace.build(declaration(problem.workload), problem, facts)
        self._spaces[key] = space
        if len(self._spaces) > MOST_SPACES:
            self._spaces.popitem(last=False)
        return space


def _problem(workload: str, dimensions: dict[str, int | str]) -> Problem:
    problem = declaration(workload).problem(dimensions)
    if problem.dimensions != dimensions:
        raise UsageError("its dimensions are not those of its workload")
    return problem
