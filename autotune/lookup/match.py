"""Finding the best published configuration for a question, the closest kind of match first.

1. `exact`: this problem, on this device, under this software stack.
2. `drifted`: the same under another stack, the latest decision first.
3. `nearest`: on this device, at the size closest in log2 space; under this stack before others.
4. `similar`: this problem on another device of the same kind and family, the latest decision first; never one
   that uses more threads than this process has cores.

Under a limit on the latency, what was proven for a tighter one counts too; of equal matches the loosest limit
has the fastest configuration.

Which group of choices answers does not depend on the bound of the error; within it the fastest choice that
keeps the bound does. So a tighter bound never gives a choice with more error, nor a looser one a slower
choice. Where none keeps the bound, the answer is what is known to be most accurate: the baseline, or else a
choice.
"""

from __future__ import annotations

from autotune.lookup.warning import warn_once
from autotune.space.declared import limit_ns
from autotune.space.problem import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from autotune.lookup.published import Published, Rows
    from autotune.lookup.question import Question
    from autotune.lookup.target import Target

    Answer = tuple[sqlite3.Row, dict[str, Any] | None, bool, tuple[tuple[float, float], ...]]

INFINITY = float("inf")
KINDS = ("exact", "fleet", "drifted", "nearest", "similar")


class Found:
    """A published choice that answers a question.

    Attributes:
        match: the kind of match.
        tuned_for: the problem it was tuned for.
        objective: the objective that it was decided for, with its own limit.
        row: its row of the table `choice`.
        configuration: decoded; None where the baseline is to be answered.
        keeps_bound: whether its error is within what the caller accepts.
        looser: error, and how much faster than this, of choices that are faster and less accurate.
    """

    __slots__ = ("configuration", "keeps_bound", "looser", "match", "objective", "row", "tuned_for")

    def __init__(
        self,
        match: str,
        tuned_for: Problem,
        objective: str,
        row: sqlite3.Row,
        configuration: dict[str, Any] | None,
        keeps_bound: bool,
        looser: tuple[tuple[float, float], ...],
    ) -> None:
        self.match = match
        self.objective = objective
        self.tuned_for = tuned_for
        self.row = row
        self.configuration = configuration
        self.keeps_bound = keeps_bound
        self.looser = looser


def find(published: Published, question: Question, target: Target) -> Found | None:
    """The best published choice for a question; None if there is none that it allows."""
    if target.digest is None:
        return None
    answers = (
        _find(published, question, objective, target, target.digest)
        for objective in _objectives(published, question)
    )
    return min(
        (found for found in answers if found),
        # A baseline that stayed is worth less than what was proven for a tighter limit.
        key=lambda found: (not found.keeps_bound, KINDS.index(found.match), found.row["is_baseline"]),
        default=None,
    )


def _objectives(published: Published, question: Question) -> list[str]:
    """The objective asked for, then the same under tighter limits, the loosest first."""
    limit = limit_ns(question.objective)
    if limit is None:
        return [question.objective]
    tighter = {
        own: objective
        for objective in published.objectives(question.problem)
        if (own := limit_ns(objective)) is not None and own < limit
    }
    return [question.objective, *(tighter[own] for own in sorted(tighter, reverse=True))]


def _find(
    published: Published, question: Question, objective: str, target: Target, device: str
) -> Found | None:
    """The best published choice for a question that was decided for this very objective."""
    for match, tuned_for, choices in _matches(published, question, objective, target, device):
        if objective != question.objective and any(row["is_baseline"] for row in choices):
            continue  # that nothing met a tighter limit says nothing of this one
        answer = _Group(published, question, match, target).answer(choices)
        if answer is not None:
            return Found(match, tuned_for, objective, *answer)
    return None


class _Group:
    """Choices that one study published together, as a question's answer.

    Args:
        published: that they are from.
        question: what is asked.
        match: how close the group is.
        target: where the answer will run.
    """

    def __init__(self, published: Published, question: Question, match: str, target: Target) -> None:
        self._published = published
        self._question = question
        self._match = match
        self._target = target

    def answer(self, choices: Rows) -> Answer | None:
        """The best choice, decoded, whether it keeps the bound, and what a looser one buys.

        None if the group has none that the question allows, whatever its error.
        """
        asks = self._question
        plain = asks.max_error is None and not asks.qualifiers
        for row in _by_preference(asks, choices):
            configuration = self._allowed(row)
            if configuration is not None:
                return row, configuration, True, self._looser(choices, row["error"], row["speedup"])
        rest = sorted(choices, key=lambda row: (_or(row["error"], INFINITY), row["rank"]))
        if plain or not any(self._allowed(row) for row in rest):
            return None
        # The bound cannot be kept with these qualifiers: what has the least error is nearest to it.
        baseline_error, most_accurate = _or(rest[0]["baseline_error"], INFINITY), rest[0]
        for row in rest:
            configuration = self._allowed(row)
            if configuration is not None and _or(row["error"], INFINITY) < baseline_error:
                looser = self._looser(choices, row["error"], row["speedup"])
                return row, configuration, False, looser
        keeps = asks.max_error is None or baseline_error <= asks.max_error
        return most_accurate, None, keeps, self._looser(choices, baseline_error, 1.0)

    def _looser(
        self, choices: Rows, error: float | None, speedup: float | None
    ) -> tuple[tuple[float, float], ...]:
        """The steps of the front above an error: each is faster than all with less."""
        found: list[tuple[float, float]] = []
        known, fastest = _or(error, INFINITY), _or(speedup, 0.0)
        if not fastest:
            return ()
        for row in sorted(choices, key=lambda row: (_or(row["error"], INFINITY), -_or(row["speedup"], 0.0))):
            its, gain = _or(row["error"], INFINITY), _or(row["speedup"], 0.0) / fastest
            if known < its < INFINITY and gain > (found[-1][1] if found else 1.0) and self._allowed(row):
                found.append((its, gain))
        return tuple(found)

    def _allowed(self, row: sqlite3.Row) -> dict[str, Any] | None:
        """The configuration of a choice, unless it is damaged, lacks the qualifiers or needs more cores."""
        configuration = self._published.configuration(row)
        if configuration is None:
            path = self._published.path
            warn_once(f"row of {path}", f"{path}: passed over a damaged configuration")
            return None
        fixed = self._question.qualifiers.items()
        if any(configuration.get(name, ...) != value for name, value in fixed):
            return None
        threads = configuration.get("threads")
        runs = self._match != "similar" or not isinstance(threads, int) or threads <= self._target.cores
        return configuration if runs else None


def _matches(
    published: Published, question: Question, objective: str, target: Target, device: str
) -> Iterator[tuple[str, Problem, Rows]]:
    """Groups of choices that one study published together, the closest match first."""
    problem = question.problem
    stacks = _grouped(published.tuned(problem, objective, device))
    own = stacks.pop((device, target.stack, problem.key), [])
    yield "fleet" if own and own[0]["origin"] else "exact", problem, own
    for choices in _latest_first(stacks.values()):
        yield "drifted", problem, choices

    neighbours = _grouped(published.neighbours(problem, objective, device))
    for tuned_for, choices in _closest_first(problem, neighbours, target.stack):
        yield "nearest", tuned_for, choices

    family = target.family
    if family is not None:
        relatives = _grouped(published.relatives(problem, objective, device, target.kind, family))
        for choices in _latest_first(relatives.values()):
            yield "similar", problem, choices


def _grouped(rows: Rows) -> dict[tuple[str, str, str], Rows]:
    groups: dict[tuple[str, str, str], Rows] = {}
    for row in rows:
        groups.setdefault((row["device"], row["stack"], row["problem"]), []).append(row)
    return groups


def _latest_first(groups: Iterable[Rows]) -> list[Rows]:
    return sorted(groups, key=lambda choices: -(choices[0]["decided_at"] or 0.0))


def _closest_first(
    problem: Problem, groups: Mapping[tuple[str, str, str], Rows], stack: str
) -> list[tuple[Problem, Rows]]:
    """Choices for neighbours of a problem: this stack first, then by distance; of equals the larger."""
    import math  # an exact answer needs no distance

    def in_log_space(sizes: Mapping[str, int] | Problem) -> list[float]:
        # 0, where a declaration allows it, lies below 1.
        return [math.log2(sizes[name]) if sizes[name] > 0 else -1.0 for name in problem.nearest]

    ranked = []
    for (_, tuned_under, key), choices in groups.items():
        sizes = _sizes(key, problem.nearest)
        if sizes is not None:
            distance = math.dist(in_log_space(sizes), in_log_space(problem))
            order = (tuned_under != stack, distance, [-size for size in sizes.values()])
            neighbour = Problem(problem.workload, {**problem.dimensions, **sizes}, problem.nearest)
            ranked.append((order, neighbour, choices))
    return [(neighbour, choices) for _, neighbour, choices in sorted(ranked, key=lambda entry: entry[0])]


def _sizes(key: str, nearest: tuple[str, ...]) -> dict[str, int] | None:
    """The sizes that a problem's key gives to the nearest dimensions; None if one of them is no size."""
    given = dict(part.split("=", 1) for part in key.split(",") if "=" in part)
    sizes = {name: int(given[name]) for name in nearest if given.get(name, "").isdecimal()}
    return sizes if len(sizes) == len(nearest) else None


def _by_preference(question: Question, choices: Rows) -> list[sqlite3.Row]:
    """The choices that are accurate enough, the best first.

    Rank 0 is the winner under the default rule, no less accurate than the baseline; the others trade speed,
    accuracy and memory, for callers who say what they accept.
    """
    winners = [row for row in choices if row["rank"] == 0]
    if question.max_error is None and not question.qualifiers:
        return winners
    if question.max_error is not None:
        bound = question.max_error
    else:
        bound = max((_or(row["baseline_error"], _or(row["error"], 0.0)) for row in winners), default=0.0)
    accurate = [row for row in choices if _or(row["error"], INFINITY) <= bound]
    accurate.sort(
        # By what was proven: the latency is the median, whatever the objective compares.
        key=lambda row: (-_or(row["speedup"], 0.0), _or(row["error"], INFINITY), row["rank"])
    )
    return accurate


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
