"""Winners: of a workload, one with its proof, and what else could be chosen for less error or memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.cli import explanation, output
from autotune.search.influence import influences
from autotune.search.objective import objective_named
from autotune.store import ordering
from autotune.store.listing import decision, succeeded, summaries, trial_rows, winner_count, winner_rows
from autotune.web.page import Option, Page, Plot
from autotune.web.pages import shown
from autotune.web.question import address
from autotune.web.tables import Column, Table

if TYPE_CHECKING:
    from autotune.store import HistoryReader
    from autotune.store.entries import Decision
    from autotune.store.listing import TrialRow
    from autotune.store.records import Choice
    from autotune.web.question import Question

MOST_TRIALS = 5000
STATES = ("current", "superseded", "withdrawn")
FIELDS = (("search", "problem has"), ("device", "device digest"), ("stack", "stack digest"))


def workload(reader: HistoryReader, question: Question) -> Page:
    """All winners, or those of one workload: each with its interval and share of the roofline."""
    name, state = question.text("name"), question.choice("state", STATES, "current")
    known = sorted({one.workload for one in summaries(reader)})
    choices = {
        "Workload": [
            Option("all", address("/workload"), name is None),
            *(Option(one, address("/workload", name=one), one == name) for one in known),
        ],
        "Decisions": [Option(one, question.address(state=one, page=None), one == state) for one in STATES],
    }
    plots = []
    if name is not None:
        told = (
            "Median latency of tuned and untuned over the size that varies; hover for the figures, click for "
        )
        told += "the winner. The groups with the most sizes are drawn; filter for others."
        plots = [
            Plot(
                "sizes",
                "Latency over size",
                told,
                question_plot(question, "/workload/plot/sizes"),
                tall=True,
            )
        ]
    return Page(
        title=f"Winners of {name}" if name else "Winners",
        section="Winners",
        choices=choices,
        fields=shown.filtered(question, *FIELDS, ("objective", "objective")),
        tables=[_winners(reader, question, "winners", state=state)],
        plots=plots,
    )


def question_plot(question: Question, path: str) -> str:
    """The address of a plot of what the page shows."""
    return address(path, **{k: v for k, v in question.parameters.items() if k not in ("page", "sort")})


def trade_offs(reader: HistoryReader, question: Question) -> Page:
    """Winners that have alternatives: faster with more error, smaller, or both."""
    return Page(
        title="Qualifier trade-offs",
        section="Trade-offs",
        lead=[
            "Problems for which something else was proven beside the winner: faster at more error, or with "
            "less memory. Each leads to its Pareto front."
        ],
        fields=shown.filtered(question, ("name", "workload"), *FIELDS),
        tables=[_winners(reader, question, "trade-offs", state="current", alternatives=True)],
    )


def winner(reader: HistoryReader, question: Question) -> Page:
    """One decision: its proof, the front it lies on, what its settings are worth, and where it holds."""
    found = decision(reader, question.numbers["winner"])
    won = found.winner
    best, objective = won.choices[0], objective_named(won.objective, won.workload)
    study = reader.study(found.study) if found.study is not None else None
    trials = trial_rows(reader, found.study, limit=MOST_TRIALS) if found.study is not None else []
    facts = {
        "The proof": explanation.proof(best, won.baseline_error, objective),
        "Where": explanation.where(reader, found),
    }
    if study is not None:
        facts["What was searched"] = explanation.space(study)
        facts["What became of the trials"] = explanation.verdicts(trials)
    lead = [
        explanation.verdict(best, objective),
        *explanation.reasons(best, influences(best.configuration, succeeded(trials))),
        *explanation.unproven(best, trials),
        f"This decision is {found.state}" + (f": {found.note}" if found.note else "") + ".",
        *_allowed(won.choices, question.real("max_error")),
    ]
    row = {"workload": won.workload, "dimensions": won.dimensions}
    links = [("All winners of the workload", shown.workload_link(row))]
    if study is not None:
        links.insert(0, (f"Study {study.id}", f"/study/{study.id}"))
    return Page(
        title=shown.problem(row),
        section="Trade-offs" if len(won.choices) > 1 else "Winners",
        lead=lead,
        facts=facts,
        links=links,
        fields=shown.filtered(question, ("max_error", "accepted relative error")),
        tables=[_choices(found), *_settings(best, trials)],
        plots=[
            Plot(
                "front",
                "Trade-offs: latency, error and memory",
                "Each point is a configuration; nearer to the lower left is better, and a larger point takes "
                "more memory. The line joins what was proven and is beaten by nothing in both; screened ones "
                "were measured less carefully. Click a point for its trial.",
                f"/winner/{found.id}/plot/front",
                tall=True,
            )
        ],
    )


def _allowed(choices: tuple[Choice, ...], accepted: float | None) -> list[str]:
    """What a look-up that accepts so much error is given."""
    if accepted is None:
        return []
    fitting = [choice for choice in choices if choice.error <= accepted]
    if not fitting:
        return [f"Nothing here has a relative error of at most {accepted:g}."]
    best = min(fitting, key=lambda choice: choice.latency_ns)
    return [
        f"A look-up with max_error={accepted:g} gets {output.configuration(best.configuration)}: "
        f"{output.latency(best.latency_ns)} at an error of {output.error(best.error)}."
    ]


def _winners(
    reader: HistoryReader, question: Question, table: str, *, state: str, alternatives: bool = False
) -> Table:
    filters: dict[str, Any] = {
        "workload": question.text("name"),
        "search": question.text("search"),
        "device": question.text("device"),
        "stack": question.text("stack"),
        "objective": question.text("objective"),
        "neighbourhood": question.text("neighbourhood"),
        "state": state,
        "alternatives": "yes" if alternatives else None,
    }
    order = question.choice("sort", ordering.WINNERS, "decided")
    rows = winner_rows(
        reader,
        **filters,
        order=order,
        descending=question.descending,
        limit=question.limit,
        offset=question.offset,
    )
    several = len({row.objective for row in rows}) > 1
    columns = [
        Column("problem", shown.problem, shown.winner_link, order="problem"),
        Column("device", shown.device_name(reader)),
        *([Column("objective", shown.text("objective"))] if several else []),
        Column("winner", shown.chosen),
        Column("baseline", shown.figure("baseline_ns", output.latency), number=True),
        Column("latency", shown.figure("latency_ns", output.latency), number=True, order="latency"),
        Column("speed-up", shown.speedup, number=True, order="speedup"),
        Column("roofline", shown.figure("limit_share", output.share), number=True, order="limit"),
        Column("error", shown.figure("error", output.error), number=True),
        Column("memory", shown.figure("memory_bytes", output.size), number=True),
        Column("decided", shown.figure("decided_at", output.moment), order="decided", moment=True),
        shown.told_study(),
    ]
    caption = "Winners with alternatives" if alternatives else f"Winners, {state}"
    total = winner_count(reader, **filters)
    return Table(table, caption, columns, output.as_rows(rows), total, order, "No such winner.")


def _choices(found: Decision) -> Table:
    rows = [
        {
            "rank": choice.rank,
            "configuration": choice.configuration,
            "is_baseline": choice.is_baseline,
            "latency_ns": choice.latency_ns,
            "speedup": choice.proof.against_baseline.ratio,
            "speedup_low": choice.proof.against_baseline.low,
            "speedup_high": choice.proof.against_baseline.high,
            "error": choice.error,
            "memory_bytes": choice.memory_bytes,
            "rounds": choice.proof.rounds,
            "study": found.study,
            "trial": choice.trial,
        }
        for choice in found.winner.choices
    ]
    columns = [
        Column("", lambda row: "winner" if row["rank"] == 0 else f"point {row['rank']}"),
        Column("configuration", shown.chosen),
        Column("latency", shown.figure("latency_ns", output.latency), number=True),
        Column("speed-up", shown.speedup, number=True),
        Column("error", shown.figure("error", output.error), number=True),
        Column("memory", shown.figure("memory_bytes", output.size), number=True),
        Column("trial", shown.text("trial"), shown.trial_link, number=True),
    ]
    return Table("front", "The Pareto front over latency, error and memory", columns, rows)


def _settings(best: Choice, trials: list[TrialRow]) -> list[Table]:
    worth = influences(best.configuration, succeeded(trials))
    if best.is_baseline or not any(one.cost for one in worth):
        return []
    columns = [
        Column("setting", lambda row: f"{row['name']}={output.value(row['value'])}"),
        Column("the best without it", lambda row: output.value(row["other"]) if row["cost"] else "-"),
        Column("costs", lambda row: explanation.worth_of(row["cost"]), number=True),
        Column("others tried", shown.text("tried"), number=True),
    ]
    return [Table("settings", "What each setting is worth, as screened", columns, output.as_rows(worth))]
