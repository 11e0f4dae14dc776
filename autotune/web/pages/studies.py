"""Studies: all, one with its trials, and one trial with its samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.cli import explanation, output
from autotune.cli.history import study_row, verdict_named
from autotune.store import ordering
from autotune.store.listing import study_count, trial_rows, winner_rows
from autotune.web.page import Option, Page, Plot
from autotune.web.pages import shown
from autotune.web.question import address
from autotune.web.tables import Column, Table

if TYPE_CHECKING:
    from autotune.store import HistoryReader
    from autotune.store.entries import StudyEntry
    from autotune.store.records import Trial, Verdict
    from autotune.web.question import Question

STATES = ("running", "ended", "interrupted")

STUDY_COLUMNS = [
    Column("study", shown.text("study"), shown.study_link, number=True),
    Column("problem", shown.problem, order="problem"),
    Column("objective", shown.text("objective")),
    shown.marked("state", shown.STATE_MARKS, "state"),
    Column("ended by", shown.text("end_reason")),
    Column("started", shown.figure("started_at", output.moment), order="started", moment=True),
    Column("trials", shown.text("trials"), number=True, order="trials"),
    Column("best", shown.figure("best_ns", output.latency), number=True, order="best"),
]

SUMMARIES = {
    "convergence": (
        "Convergence",
        "Each trial's screened median in the order they ran, and the best so far; lower is better. The "
        "winner is decided later, in the final.",
    ),
    "importance": (
        "Parameter importance",
        "How much of the difference between good trials and the others each setting explains (PED-ANOVA).",
    ),
    "verdicts": ("Verdicts", "How the trials ended, by implementation."),
    "parallel": (
        "Parallel coordinates",
        "Each line is a trial through its latency and its settings; the stronger it is, the faster was the "
        "trial.",
    ),
    "slices": ("Slices", "Latency over the values of each setting, whatever the others were."),
}


def study_rows(entries: list[StudyEntry]) -> list[dict[str, Any]]:
    """Studies as rows of a table."""
    return [{**study_row(entry), "dimensions": entry.dimensions} for entry in entries]


def studies(reader: HistoryReader, question: Question) -> Page:
    """All studies."""
    order = question.choice("sort", ordering.STUDIES, "started")
    state = question.choice("state", ("all", *STATES), "all")
    verdict = verdict_named(question.text("verdict"))
    filters = {
        "workload": question.text("name"),
        "device": question.text("device"),
        "stack": question.text("stack"),
        "objective": question.text("objective"),
        "state": None if state == "all" else state,
        "verdict": verdict,
    }
    found = reader.studies(
        **filters,
        order=order,
        descending=question.descending,
        limit=question.limit,
        offset=question.offset,
    )
    total = study_count(reader, **filters)
    states = [
        Option(one, question.address(state=None if one == "all" else one, page=None), one == state)
        for one in ("all", *STATES)
    ]
    fields = (("name", "workload"), ("verdict", "with a trial that was"), ("device", "device digest"))
    return Page(
        title="Studies",
        section="Studies",
        choices={"State": states},
        fields=shown.filtered(question, *fields, ("stack", "stack digest")),
        tables=[
            Table("studies", "Studies", STUDY_COLUMNS, study_rows(found), total, order, "No such study.")
        ],
    )


def study(reader: HistoryReader, question: Question) -> Page:
    """One study: how it converged, what mattered, how its trials ended, and what it decided."""
    entry = reader.study(question.numbers["study"])
    counts = reader.verdicts(entry.id)
    verdict = verdict_named(question.text("verdict"))
    known = implementations(reader, entry.id)
    implementation = question.text("implementation") or (known[0] if known else None)
    key = entry.key
    name = shown.problem({"workload": key.workload, "dimensions": entry.dimensions})
    facts = {
        "The study": {
            "problem": ", ".join(f"{name}={value}" for name, value in entry.dimensions.items()),
            "objective": key.objective,
            "started": output.moment(entry.started_at),
            "ended": _ended(entry),
            "best screened": output.latency(entry.best_ns),
            "device": shown.device_name(reader)({"device": key.device}),
            "stack": key.stack,
            "seed": str(entry.seed),
        },
        "What was searched": explanation.space(entry),
    }
    verdicts = {
        "Verdict": [
            Option(f"all ({entry.trials})", question.address(verdict=None, page=None), verdict is None),
            *(
                Option(f"{one} ({count})", question.address(verdict=one, page=None), one == verdict)
                for one, count in sorted(counts.items(), key=lambda pair: -pair[1])
            ),
        ],
        "Implementation in the plots": [
            Option(one, question.address(implementation=one), one == implementation) for one in known
        ],
    }
    plots = [
        Plot(
            plot,
            title,
            summary,
            address(f"/study/{entry.id}/plot/{plot}", implementation=implementation),
            tall=plot in ("parallel", "slices"),
        )
        for plot, (title, summary) in SUMMARIES.items()
        if entry.trials
    ]
    return Page(
        title=f"Study {entry.id}: {name}",
        section="Studies",
        lead=_lead(entry),
        facts=facts,
        links=[(f"All studies of {key.workload}", address("/studies", name=key.workload))],
        choices={title: options for title, options in verdicts.items() if options},
        tables=[_decisions(reader, entry.id), _trials(reader, question, entry, counts, verdict)],
        plots=plots,
        live=entry.state == "running",
    )


def trial(reader: HistoryReader, question: Question) -> Page:
    """One trial: its samples, clocks, error, and what building it took."""
    entry = reader.study(question.numbers["study"])
    found = reader.trial(entry.id, question.numbers["trial"])
    measured = found.measurement
    here = f"/study/{entry.id}/trial"
    beside = [
        (title, f"{here}/{number}")
        for title, number in (("Trial before", found.number - 1), ("Next trial", found.number + 1))
        if 0 <= number < entry.trials
    ]
    samples = measured.samples_ns if measured else ()
    rows = [{"sample": number, "ns": taken} for number, taken in enumerate(samples)]
    first = question.offset
    columns = [
        Column("sample", shown.text("sample"), number=True),
        Column("took", shown.figure("ns", output.latency), number=True),
        Column("nanoseconds", lambda row: f"{row['ns']:,}", number=True),
    ]
    plots = []
    if samples:
        told = "All samples in the order taken, and how they are distributed. A drift shows on the left; two "
        told += "humps on the right mean two states of the machine."
        plots = [Plot("samples", "Samples", told, f"{here}/{found.number}/plot/samples", tall=True)]
    return Page(
        title=f"Study {entry.id}, trial {found.number}",
        section="Studies",
        lead=[output.configuration(found.configuration)],
        links=[(f"Study {entry.id}", f"/study/{entry.id}"), *beside],
        facts=_trial_facts(found),
        plots=plots,
        tables=[
            Table(
                "samples",
                "Samples in the order taken",
                columns,
                rows[first : first + question.limit],
                len(rows),
                empty="It was not measured.",
            )
        ],
    )


def implementations(reader: HistoryReader, study_id: int) -> list[str]:
    """The implementations that a study tried, that of the best trial first."""
    rows = reader.rows(
        """SELECT json_extract(configuration, '$.implementation') AS name,
            min(CASE WHEN verdict = 'ok' THEN p50_ns END) AS best FROM
            (SELECT configuration, verdict, p50_ns FROM trial WHERE study = ? ORDER BY number LIMIT 2000)
            GROUP BY 1 ORDER BY best IS NULL, best, name""",
        study_id,
    )
    return [str(row["name"]) for row in rows if row["name"]]


def _lead(entry: StudyEntry) -> list[str]:
    if entry.state == "running":
        return [f"It runs: {entry.trials} trials so far. This page is read again by itself."]
    if entry.state == "interrupted":
        return ["Its process was killed. It is taken up again when its problem is tuned again."]
    return []


def _ended(entry: StudyEntry) -> str:
    if entry.ended_at is None:
        return entry.state
    return f"{output.moment(entry.ended_at)}, {explanation.why_ended(entry.end_reason)}"


def _decisions(reader: HistoryReader, study_id: int) -> Table:
    rows = output.as_rows(winner_rows(reader, study=study_id, limit=100))
    columns = [
        Column("decided", shown.figure("decided_at", output.moment), shown.winner_link, moment=True),
        shown.marked("state", shown.STATE_MARKS, "state"),
        Column("configuration", shown.chosen),
        Column("latency", shown.figure("latency_ns", output.latency), number=True),
        Column("speed-up", shown.speedup, number=True),
        Column("roofline", shown.figure("limit_share", output.share), number=True),
        Column("note", shown.text("note")),
    ]
    return Table("decisions", "What it decided", columns, rows, empty="It decided nothing.")


def _trials(
    reader: HistoryReader,
    question: Question,
    entry: StudyEntry,
    counts: dict[Verdict, int],
    verdict: Verdict | None,
) -> Table:
    order = question.choice("sort", ordering.TRIALS, "number")
    rows = trial_rows(
        reader,
        entry.id,
        verdict=verdict,
        order=order,
        descending=question.descending,
        limit=question.limit,
        offset=question.offset,
    )
    columns = [
        Column(
            "trial",
            shown.text("number"),
            lambda row: f"/study/{entry.id}/trial/{row['number']}",
            number=True,
            order="number",
        ),
        Column("configuration", shown.figure("configuration", output.configuration)),
        shown.marked("verdict", shown.VERDICT_MARKS, "verdict", order="verdict"),
        Column("reason", shown.text("reason")),
        Column("p50", shown.figure("p50_ns", output.latency), number=True, order="p50"),
        Column("p99", shown.figure("p99_ns", output.latency), number=True),
        Column("error", shown.figure("error", output.error), number=True, order="error"),
        Column("memory", shown.figure("memory_bytes", output.size), number=True, order="memory"),
        Column("compile", lambda row: f"{row['compile_seconds']:.1f} s", number=True, order="compile"),
    ]
    total = counts.get(verdict, 0) if verdict else entry.trials
    return Table("trials", "Trials", columns, output.as_rows(rows), total, order, "No such trial.")


def _trial_facts(found: Trial) -> dict[str, dict[str, str]]:
    settings = {name: output.value(value) for name, value in found.configuration.items()}
    outcome = {
        "verdict": found.verdict.value,
        "stage reached": found.stage,
        "reason": found.reason or "-",
        "relative error": output.error(found.error),
        "memory": output.size(found.memory_bytes),
        "started": output.moment(found.started_at),
    }
    spent = {
        "building": f"{found.compile_seconds:.2f} s (packing weights, compiling, the first call)",
        "measuring": f"{found.measure_seconds:.2f} s",
    }
    facts = {"Outcome": outcome, "Settings": settings, "Time spent": spent}
    measured = found.measurement
    if measured and measured.samples_ns:
        facts["Measurement"] = {
            "p50": output.latency(measured.p50_ns),
            "p90": output.latency(measured.p90_ns),
            "p99": output.latency(measured.p99_ns),
            "mean": output.latency(measured.mean_ns),
            "variation": f"{100 * measured.variation:.1f} %",
            "samples": f"{len(measured.samples_ns)}, {measured.stopped.replace('_', ' ')}",
            "timer": f"{measured.timer}, {measured.cache} cache",
        }
        if measured.joules is not None:
            facts["Measurement"]["energy"] = f"{output.energy(measured.joules)} a call"
        facts["Clocks and throttling"] = {
            **{name: f"{mhz:.0f} MHz" for name, mhz in measured.clocks.items()},
            "thrown away": f"{measured.discarded} because the device was throttled",
        }
    return facts
