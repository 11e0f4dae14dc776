"""What bundles of other machines brought: kept apart, unproven until this machine has decided itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from autotune.errors import UnknownNameError, UsageError
from autotune.store.encoding import from_json, to_json
from autotune.store.history import insert, note, transaction
from autotune.store.records import Configuration, Interval, Trial

if TYPE_CHECKING:
    from autotune.exports.bundle import Bundle
    from autotune.space.problem import Problem
    from autotune.store.reading import HistoryReader

UNPROVEN, PROVEN, REFUTED = "unproven", "proven here", "another won here"

# The latest decision of this host since the import, on a device that is like the one it came from.
_WINNERS = """SELECT i.*, b.imported_at, (SELECT c.configuration = i.configuration FROM winner w
        JOIN device d ON d.digest = w.device JOIN choice c ON c.winner = w.id AND c.rank = 0
        WHERE w.workload = i.workload AND w.problem = i.problem AND w.objective = i.objective
        AND w.state = 'current' AND w.decided_at >= b.imported_at AND d.kind = i.kind AND d.family = i.family
        ORDER BY w.decided_at DESC LIMIT 1) AS same
    FROM imported_winner i JOIN bundle b ON b.id = i.bundle"""

_LIKE = """SELECT configuration FROM imported_winner WHERE workload = ? AND problem = ? AND objective = ?
    AND kind = ? AND family = ? ORDER BY device = ? DESC, id DESC"""


class BundleEntry(msgspec.Struct, frozen=True):
    """A bundle that was imported."""

    id: int
    digest: str
    made_at: float
    made_by: str
    imported_at: float
    winners: int
    trials: int


class ImportedWinner(msgspec.Struct, frozen=True):
    """A winner of another machine.

    Attributes:
        state: `unproven` until this machine decided the same problem, then `proven here`, `another won here`.
        speedup: over the baseline of the machine that it comes from.
    """

    bundle: int
    workload: str
    problem: str
    objective: str
    device: str
    kind: str
    family: str
    configuration: Configuration
    speedup: float
    state: str


class _ClaimedProof(msgspec.Struct):
    against_baseline: Interval


class _ClaimedChoice(msgspec.Struct):
    proof: _ClaimedProof
    is_baseline: bool = False


class _Claim(msgspec.Struct):
    """What counts of an imported winner; its samples, which are most of it, are passed over."""

    dimensions: dict[str, int | str]
    choices: tuple[_ClaimedChoice, ...]


class Unproven(msgspec.Struct, frozen=True):
    """What an imported winner says of a problem, until a machine like its own has decided it.

    Attributes:
        speedup: over the baseline of the machine that it comes from.
    """

    workload: str
    problem: str
    dimensions: dict[str, int | str]
    objective: str
    speedup: float
    imported_at: float


def take(history: HistoryReader, bundle: Bundle, digest: str) -> int:
    """Keep what a bundle holds, all of it or nothing; returns its number.

    Nothing is published: look-ups find what this machine has proven itself.

    Args:
        history: of the writer, or of a process that it started to write for it.
        bundle: that was read and checked.
        digest: of its content.

    Raises:
        UsageError: it is there already.
        StateError: it cannot be written.
    """
    devices = {device.digest: device for device in bundle.devices}
    with transaction(history) as connection:
        if connection.execute("SELECT 1 FROM bundle WHERE digest = ?", (digest,)).fetchone():
            raise UsageError(f"bundle {digest[:12]} is imported already; 'autotune import list' shows it")
        row = {"digest": digest, "made_at": bundle.made_at, "made_by": bundle.made_by}
        number = insert(connection, "bundle", {**row, "imported_at": time.time()})
        for winner in bundle.winners:
            device = devices[winner.device]
            named = {name: getattr(winner, name) for name in ("workload", "problem", "objective", "device")}
            like = {"kind": device.kind, "family": device.family, "bundle": number}
            chosen = {"configuration": to_json(winner.choices[0].configuration)}
            detail = {"detail": msgspec.json.encode(winner).decode()}
            insert(connection, "imported_winner", {**named, **like, **chosen, **detail})
        for study in bundle.studies:
            device = devices[study.key.device]
            named = {"workload": study.key.workload, "device": device.digest, "stack": study.key.stack}
            like = {"kind": device.kind, "family": device.family, "bundle": number}
            made = insert(
                connection, "imported_study", {**named, **like, "dimensions": to_json(study.dimensions)}
            )
            connection.executemany(
                "INSERT INTO imported_trial VALUES (?, ?, ?)",
                [(made, trial.number, msgspec.json.encode(trial).decode()) for trial in study.trials],
            )
        counts = {"winners": len(bundle.winners), "studies": len(bundle.studies)}
        note(connection, "imported", f"bundle {number}", {"digest": digest, **counts})
    return number


def forget(history: HistoryReader, number: int) -> None:
    """Take an import back: all that came with a bundle goes; what this machine proved since stays.

    Args:
        history: of the writer, or of a process that it started to write for it.
        number: of the bundle.

    Raises:
        UnknownNameError: there is none of that number.
    """
    known = [entry.id for entry in entries(history)]
    if number not in known:
        raise UnknownNameError("bundle", str(number), map(str, known), history.state.history)
    with transaction(history) as connection:
        studies = "SELECT id FROM imported_study WHERE bundle = ?"
        connection.execute(f"DELETE FROM imported_trial WHERE study IN ({studies})", (number,))
        for table, column in (("imported_study", "bundle"), ("imported_winner", "bundle"), ("bundle", "id")):
            connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (number,))
        note(connection, "import_undone", f"bundle {number}", {})


def entries(reader: HistoryReader) -> list[BundleEntry]:
    """The bundles that were imported, the latest first."""
    return reader.records(
        lambda row: BundleEntry(**dict(row)),
        """SELECT b.*, (SELECT count(*) FROM imported_winner w WHERE w.bundle = b.id) AS winners,
            (SELECT count(*) FROM imported_study s JOIN imported_trial t ON t.study = s.id
            WHERE s.bundle = b.id) AS trials FROM bundle b ORDER BY b.id DESC""",
    )


def imported_winners(reader: HistoryReader, bundle: int | None = None) -> list[ImportedWinner]:
    """What bundles brought, and what this machine says of it."""
    where, values = ("WHERE i.bundle = ?", (bundle,)) if bundle is not None else ("", ())
    found = []
    for row in reader.rows(f"{_WINNERS} {where} ORDER BY i.id", *values):
        proof = from_json(row["detail"])["choices"][0]["proof"]
        state = UNPROVEN if row["same"] is None else PROVEN if row["same"] else REFUTED
        names = ("bundle", "workload", "problem", "objective", "device", "kind", "family")
        told = {name: row[name] for name in names}
        chosen = from_json(row["configuration"])
        ratio = proof["against_baseline"]["ratio"]
        found.append(ImportedWinner(**told, configuration=chosen, speedup=ratio, state=state))
    return found


def candidates(
    reader: HistoryReader, problem: Problem, objective: str, kind: str, family: str, device: str
) -> list[Configuration]:
    """What won for a problem on machines of a kind and family, that of an equal device first."""
    rows = reader.rows(_LIKE, problem.workload, problem.key, objective, kind, family, device)
    return [from_json(text) for text in dict.fromkeys(row["configuration"] for row in rows)]


def unproven(reader: HistoryReader, kind: str, family: str) -> list[Unproven]:
    """What was imported from machines of a kind and family; the winners that beat the baseline there.

    Whether this machine has decided since is for the caller to see, who has its decisions at hand.
    """
    found = []
    rows = reader.rows(
        """SELECT i.workload, i.problem, i.objective, i.detail, b.imported_at
            FROM imported_winner i JOIN bundle b ON b.id = i.bundle
            WHERE i.kind = ? AND i.family = ? ORDER BY i.id""",
        kind,
        family,
    )
    for row in rows:
        winner = msgspec.json.decode(row["detail"], type=_Claim)
        best = winner.choices[0]
        if not best.is_baseline:
            named = (row["workload"], row["problem"], winner.dimensions, row["objective"])
            found.append(Unproven(*named, best.proof.against_baseline.ratio, row["imported_at"]))
    return found


def imported_trials(reader: HistoryReader, study: int) -> list[Trial]:
    """The trials of an imported study."""
    rows = "SELECT detail FROM imported_trial WHERE study = ? ORDER BY number"
    return reader.records(lambda row: msgspec.json.decode(row["detail"], type=Trial), rows, study)
