"""What this node and the fleet tell each other, as the history keeps it; see `docs/fleet.md`.

What the fleet has not received is the outbox. It is in the history, so a kill loses nothing of it. Every step
can be done twice without harm, since each entry is known by its digest.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from autotune.store.encoding import choice_columns, from_json, winner_columns
from autotune.store.history import insert, mark_stale, note
from autotune.store.records import Configuration, Winner

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from autotune.space.problem import Problem
    from autotune.store.history import History
    from autotune.store.reading import HistoryReader

AT_ONCE = 100
"""Entries that are sent, or taken, in one piece: some ten milliseconds of the daemon's time."""
PERCENTILES = range(101)
"""Samples that travel with a measurement: enough for its percentiles to come out as they were."""
MOST_REFUTATIONS = 2
"""Nodes on which a winner did not hold, beyond which no other node starts from it."""


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One thing that a node tells the fleet.

    Attributes:
        kind: `winner`; `refutation` or `verification` of another node's; `request`, a wish not fulfilled yet.
        subject: digest of the winner that was measured again.
        latency_ns: of the configuration, as measured by the node.
        baseline_ns: of the baseline, as measured by the node.
        speedup: over the baseline.
        body: JSON: a `Winner`, a `Verdict` or a `Request`.
        made_at: seconds since the epoch, by the node's clock.
    """

    digest: str
    kind: str
    node: str
    device: str
    stack: str
    workload: str
    problem: str
    objective: str
    subject: str | None
    latency_ns: float | None
    baseline_ns: float | None
    speedup: float | None
    body: str
    made_at: float


class Verdict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node found of another's winner: it `holds`, was `beaten` by a third, or is `refuted`."""

    outcome: str


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A problem that a look-up asked for and that is not decided."""

    dimensions: dict[str, int | str]
    max_error: float | None = None


class Cursor(msgspec.Struct, frozen=True):
    """How far the fleet's entries of a device and stack were read."""

    device: str
    stack: str
    seq: int
    chain: str


class Standpoint(msgspec.Struct, frozen=True):
    """What an exchange starts from.

    Attributes:
        node: this node's name in the fleet.
        mark: of what it sent last; empty if nothing.
        unsent: entries to be sent, the earliest first; more may wait.
    """

    node: str
    mark: str
    cursors: list[Cursor]
    unsent: list[Entry]


class Summary(msgspec.Struct, frozen=True):
    """Where a node stands, in numbers."""

    waiting: int
    known: int
    unverified: int


def digest_of(entry: Entry) -> str:
    """What an entry is known by; a request is the same whoever makes it."""
    node = "" if entry.kind == "request" else entry.node
    told = [entry.kind, node, entry.device, entry.stack, entry.workload, entry.problem, entry.objective]
    return hashlib.sha256(msgspec.json.encode([*told, entry.subject, entry.body])).hexdigest()


def sealed(entry: Entry) -> Entry:
    """The entry with its digest."""
    return msgspec.structs.replace(entry, digest=digest_of(entry))


def winner_entry(node: str, winner: Winner) -> Entry:
    """What a node says of a winner that it proved."""
    slim = thinned(winner)
    best = slim.choices[0]
    return sealed(
        Entry(
            "",
            "winner",
            node,
            winner.device,
            winner.stack,
            winner.workload,
            winner.problem,
            winner.objective,
            None,
            best.latency_ns,
            best.proof.baseline_ns,
            best.proof.against_baseline.ratio,
            msgspec.json.encode(slim).decode(),
            winner.decided_at,
        )
    )


def thinned(winner: Winner) -> Winner:
    """A winner with as many samples as its percentiles need."""
    choices = []
    for choice in winner.choices:
        measured = choice.measurement
        if measured is not None and len(measured.samples_ns) > len(PERCENTILES):
            samples = tuple(max(1, round(measured.percentile_ns(q))) for q in PERCENTILES)
            measured = msgspec.structs.replace(measured, samples_ns=samples)
        choices.append(msgspec.structs.replace(choice, measurement=measured))
    return msgspec.structs.replace(winner, choices=tuple(choices))


def prepare(history: History, wishes: Iterable[Entry] = (), *, serve: bool = True) -> Standpoint:
    """Put what was decided and wished since into the outbox, and tell where an exchange starts.

    Args:
        history: of this node.
        wishes: requests that wait, with any name of a node.
        serve: whether look-ups find what is not verified here.
    """
    with history.writing() as connection:
        node = _state(connection, "node") or str(uuid.uuid4())
        _set_state(connection, "node", node)
        if (_state(connection, "serve") or "1") != str(int(serve)):
            _set_state(connection, "serve", str(int(serve)))
            mark_stale(connection)
        queued = int(_state(connection, "queued") or 0)
    fresh = [
        one
        for one in history.decisions(state="current", after=queued)
        if one.origin is None and one.study is not None
    ]
    entries = [winner_entry(node, one.winner) for one in fresh if not _is_known(history, one.winner)]
    entries += [sealed(msgspec.structs.replace(wish, node=node)) for wish in wishes]
    with history.writing() as connection:
        _put(connection, entries, received=False)
        last = connection.execute("SELECT ifnull(max(id), 0) FROM winner").fetchone()[0]
        _set_state(connection, "queued", str(last))
    return standpoint(history)


def standpoint(history: HistoryReader) -> Standpoint:
    """Where an exchange starts, by what the history holds."""
    state = {row["key"]: row["value"] for row in history.rows("SELECT * FROM fleet_state")}
    unsent = history.records(
        entry_of, "SELECT * FROM fleet_entry WHERE received = 0 ORDER BY made_at, digest LIMIT ?", AT_ONCE
    )
    cursors = history.records(lambda row: Cursor(**dict(row)), "SELECT * FROM fleet_cursor")
    return Standpoint(state.get("node", ""), state.get("mark", ""), cursors, unsent)


def take(
    history: History, entries: Sequence[Entry], cursors: Iterable[Cursor], sent: Iterable[str], mark: str
) -> list[Entry]:
    """Keep what an exchange brought, all of it or nothing; returns the entries that are new here.

    Args:
        history: of this node.
        entries: of the fleet, found right; this node's own among them.
        cursors: how far they go.
        sent: digests of what the fleet has received now.
        mark: of it; empty if nothing was sent.
    """
    with history.writing() as connection:
        new = _put(connection, entries, received=True)
        connection.executemany(
            "UPDATE fleet_entry SET received = 1 WHERE digest = ?", [(digest,) for digest in sent]
        )
        connection.executemany(
            "INSERT OR REPLACE INTO fleet_cursor VALUES (?, ?, ?, ?)",
            [(one.device, one.stack, one.seq, one.chain) for one in cursors],
        )
        if mark:
            _set_state(connection, "mark", mark)
        node = _state(connection, "node") or ""
        keys = dict.fromkeys(
            (e.workload, e.problem, e.objective, e.device, e.stack)
            for e in new
            if e.kind in ("winner", "refutation") and e.node != node
        )
        for key in keys:
            _adopt(connection, node, key)
    return new


def forget_received(history: History) -> None:
    """Begin anew: the fleet's database is not the one that was told before, or was put back.

    All that is known here, of this node and of others, is sent again, and all is read again.
    """
    with history.writing() as connection:
        connection.execute("UPDATE fleet_entry SET received = 0")
        connection.execute("DELETE FROM fleet_cursor")
        connection.execute("DELETE FROM fleet_state WHERE key = 'mark'")
        note(connection, "fleet_begun_anew", "fleet", {})


def note_verdict(connection: sqlite3.Connection, origin: str, winner: Winner) -> None:
    """Record, within the transaction that decides, what became of a winner of the fleet here.

    Args:
        connection: in a transaction.
        origin: digest of its entry.
        winner: what was decided in its place.
    """
    row = connection.execute("SELECT * FROM fleet_entry WHERE digest = ?", (origin,)).fetchone()
    node = _state(connection, "node")
    if row is None or node is None:
        return
    best = winner.choices[0]
    proposed = msgspec.json.decode(row["body"], type=Winner).choices[0].configuration
    if best.configuration == proposed and not best.is_baseline:
        outcome = "holds"
    elif not best.is_baseline and best.proof.against_incumbent is not None:
        outcome = "beaten"
    else:  # the baseline was not beaten, or it did not even run
        outcome = "refuted"
    refuted = outcome == "refuted"
    entry = Entry(
        "",
        "refutation" if refuted else "verification",
        node,
        winner.device,
        winner.stack,
        winner.workload,
        winner.problem,
        winner.objective,
        origin,
        None if refuted else best.latency_ns,
        best.proof.baseline_ns,
        None if refuted else best.proof.against_baseline.ratio,
        msgspec.json.encode(Verdict(outcome)).decode(),
        winner.decided_at,
    )
    _put(connection, [sealed(entry)], received=False)
    kind = "fleet_refuted" if refuted else "fleet_verified"
    note(connection, kind, f"{winner.workload}({winner.problem})", {"entry": origin, "outcome": outcome})


def fleet_candidates(
    reader: HistoryReader, problem: Problem, objective: str, device: str, stack: str
) -> list[Configuration]:
    """What the fleet proved for a problem on equal nodes, the greatest gain first."""
    rows = reader.rows(
        """SELECT body FROM fleet_entry WHERE kind = 'winner' AND workload = ? AND problem = ?
            AND objective = ? AND device = ? AND stack = ? ORDER BY speedup DESC LIMIT 20""",
        problem.workload,
        problem.key,
        objective,
        device,
        stack,
    )
    best = [from_json(row["body"])["choices"][0] for row in rows]
    found: list[Configuration] = []
    for choice in best:
        if not choice.get("is_baseline") and choice["configuration"] not in found:
            found.append(choice["configuration"])
    return found


def summary(reader: HistoryReader) -> Summary:
    """Where this node stands."""
    row = reader.rows(
        """SELECT (SELECT count(*) FROM fleet_entry WHERE received = 0) AS waiting,
            (SELECT count(*) FROM fleet_entry WHERE kind = 'winner') AS known,
            (SELECT count(*) FROM winner WHERE state = 'current' AND origin IS NOT NULL) AS unverified"""
    )[0]
    return Summary(**dict(row))


def _adopt(connection: sqlite3.Connection, node: str, key: tuple[str, ...]) -> None:
    """Have the best of what the fleet proved for a key stand in, where this node has decided nothing."""
    where = "workload = ? AND problem = ? AND objective = ? AND device = ? AND stack = ?"
    current = connection.execute(
        f"SELECT id, origin FROM winner WHERE state = 'current' AND {where}", key
    ).fetchone()
    if current is not None and current["origin"] is None:
        return
    best = _best(connection, node, where, key)
    if current is not None and best is not None and best.digest == current["origin"]:
        return
    now = time.time()
    if current is not None:
        connection.execute(
            "UPDATE winner SET state = ?, changed_at = ?, note = ? WHERE id = ?",
            ("superseded" if best else "withdrawn", now, "the fleet says otherwise", current["id"]),
        )
        mark_stale(connection)
    known = "SELECT 1 FROM device, stack WHERE device.digest = ? AND stack.digest = ?"
    if best is None or not connection.execute(known, key[3:]).fetchone():
        return
    winner = msgspec.json.decode(best.body, type=Winner)
    columns = {**winner_columns(winner), "state": "current", "changed_at": now, "origin": best.digest}
    number = insert(connection, "winner", {**columns, "note": f"proven by node {best.node} of the fleet"})
    # The other choices trade accuracy: those are worth nothing unproven.
    insert(connection, "choice", {**choice_columns(number, winner.choices[0]), "trial": None})
    mark_stale(connection)


def _best(connection: sqlite3.Connection, node: str, where: str, key: tuple[str, ...]) -> Entry | None:
    """The winner with the greatest certain gain, of the latest of each node, that was not refuted."""
    rows = connection.execute(
        f"""SELECT * FROM fleet_entry e WHERE kind = 'winner' AND node != ? AND {where}
            AND (SELECT count(DISTINCT node) FROM fleet_entry r
                WHERE r.kind = 'refutation' AND r.subject = e.digest) < ?
            AND NOT EXISTS (SELECT 1 FROM fleet_entry r
                WHERE r.kind = 'refutation' AND r.subject = e.digest AND r.node = ?)
            ORDER BY made_at, digest""",
        (node, *key, MOST_REFUTATIONS, node),
    ).fetchall()
    latest = {row["node"]: row for row in rows}
    proven = [(certain_gain(row["body"]), row["digest"], row) for row in latest.values()]
    gaining = [one for one in proven if one[0] > 1.0]
    return entry_of(max(gaining)[2]) if gaining else None


def certain_gain(body: str) -> float:
    """The lower bound of a winner's speed-up; 1 for a baseline that nothing beat."""
    best = msgspec.json.decode(body, type=Winner).choices[0]
    return 1.0 if best.is_baseline else best.proof.against_baseline.low


def _is_known(history: HistoryReader, winner: Winner) -> bool:
    """Whether the fleet has this very configuration for a key from elsewhere: it was verified, not found."""
    best = winner.choices[0]
    if best.is_baseline:
        return False
    rows = history.rows(
        """SELECT body FROM fleet_entry WHERE kind = 'winner'
            AND workload = ? AND problem = ? AND objective = ? AND device = ? AND stack = ?
            AND node != ifnull((SELECT value FROM fleet_state WHERE key = 'node'), '')""",
        winner.workload,
        winner.problem,
        winner.objective,
        winner.device,
        winner.stack,
    )
    return any(from_json(row["body"])["choices"][0]["configuration"] == best.configuration for row in rows)


def _put(connection: sqlite3.Connection, entries: Iterable[Entry], *, received: bool) -> list[Entry]:
    """Keep entries; returns those that were not there."""
    new = []
    for entry in entries:
        row = {name: getattr(entry, name) for name in entry.__struct_fields__}
        columns, values = ", ".join(row), ", ".join("?" * (len(row) + 1))
        done = connection.execute(
            f"INSERT INTO fleet_entry({columns}, received) VALUES ({values}) ON CONFLICT DO NOTHING",
            (*row.values(), int(received)),
        )
        if done.rowcount:
            new.append(entry)
        elif received:
            connection.execute("UPDATE fleet_entry SET received = 1 WHERE digest = ?", (entry.digest,))
    return new


def entry_of(row: Any) -> Entry:
    """The entry of a row, which may have more columns."""
    return Entry(**{name: row[name] for name in Entry.__struct_fields__})


def _state(connection: sqlite3.Connection, key: str) -> str | None:
    row = connection.execute("SELECT value FROM fleet_state WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row["value"])


def _set_state(connection: sqlite3.Connection, key: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO fleet_state VALUES (?, ?)", (key, value))


def request_entry(
    device: str,
    stack: str,
    workload: str,
    dimensions: dict[str, int | str],
    key: str,
    objective: str,
    max_error: float | None,
) -> Entry:
    """A wish for the fleet; the node that makes it is filled in when it is put into the outbox."""
    body = msgspec.json.encode(Request(dimensions, max_error)).decode()
    return Entry(
        "", "request", "", device, stack, workload, key, objective, None, None, None, None, body, time.time()
    )
