"""What a fleet costs its database: simulated nodes that read and send for a while, against one PostgreSQL.

    python benchmarks/fleet.py [--nodes 1000] [--minutes 10] [--poll 60] [--out FILE]

Each node makes the exchanges that a real one makes, each over a connection of its own; only its history is
simulated. The server is started here, with `fsync` on, and stopped in the end. Printed are the times of pulls
and of whole exchanges as nodes see them, the processor time of the server for each exchange, and what that
would be for more nodes. Server and nodes share this machine, so times are upper bounds.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import psutil
from sqlalchemy import event

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autotune.daemon.fleet_messages import Cell
from autotune.fleet.connection import connect
from autotune.fleet.exchange import Exchange
from autotune.store.fleet import AT_ONCE, Cursor, Entry, Standpoint, winner_entry
from tests.fleet.postgres import PostgresServer
from tests.store.factories import CPU_FACTS, problem, winner

THREADS = 24
"""Exchanges that run side by side: most of an exchange is waiting for the server."""
CELLS = 10
"""Kinds of node: device and stack."""
DECIDE_SECONDS = 300.0
"""How often a node decides something: a busy fleet that tunes without end."""
VERIFY_SHARE = 0.3
"""Of what a node decides, how much verifies another's winner."""


BYTES_PER_ROW = "SELECT pg_total_relation_size('fleet.entry') / greatest(1, count(*)) FROM fleet.entry"


class SimulatedNode:
    """A node whose history is a few numbers; see `autotune.fleet.exchange.Store`."""

    def __init__(self, number: int) -> None:
        cell = number % CELLS
        self.node = str(uuid.uuid4())
        self.cell = Cell(
            f"{0xC0000000 + cell:x}" * 2, f"{0x51000000 + cell:x}" * 2, "cpu", "EPYC", "x86", CPU_FACTS
        )
        self.mark = ""
        self.cursor: Cursor | None = None
        self.unsent: dict[str, Entry] = {}
        self.known: list[str] = []
        self.decided = 0
        self.next_decision = random.uniform(0, DECIDE_SECONDS)

    def decide(self) -> None:
        self.decided += 1
        if self.known and random.random() < VERIFY_SHARE:
            self._verify(random.choice(self.known))
            return
        m = random.randrange(1, 4096)
        made = winner(m, device=self.cell.device, stack=self.cell.stack, decided_at=time.time())
        entry = winner_entry(self.node, made)
        self.unsent[entry.digest] = entry

    def _verify(self, subject: str) -> None:
        from autotune.store.fleet import sealed

        key = problem(1).key
        cell, told = (self.cell.device, self.cell.stack), '{"outcome":"holds"}'
        about = (*cell, "linear", key, "latency", subject)
        entry = Entry("", "verification", self.node, *about, 4e5, 8e5, 2.0, told, time.time())
        made = sealed(entry)
        self.unsent[made.digest] = made

    def prepare(self) -> tuple[Standpoint, list[Cell]]:
        return self._standpoint(), [self.cell]

    def take(self, entries: list[Entry], cursors: list[Cursor], sent: list[str], mark: str) -> Standpoint:
        # A real node decodes and keeps them; what it keeps here is enough to verify some.
        self.known += [entry.digest for entry in entries if entry.kind == "winner"][-3:]
        del self.known[:-50]
        self.cursor = cursors[-1] if cursors else self.cursor
        for digest in sent:
            self.unsent.pop(digest, None)
        self.mark = mark or self.mark
        return self._standpoint()

    def forget(self) -> Standpoint:
        self.cursor, self.mark = None, ""
        return self._standpoint()

    def _standpoint(self) -> Standpoint:
        cursors = [self.cursor] if self.cursor else []
        return Standpoint(self.node, self.mark, cursors, list(self.unsent.values())[:AT_ONCE])


class Load:
    """All nodes, each exchanging every so often, give or take half."""

    def __init__(self, count: int, poll_seconds: float, engine: object) -> None:
        self.nodes = [SimulatedNode(number) for number in range(count)]
        self.poll_seconds = poll_seconds
        self.engine = engine
        self.lock = threading.Lock()
        self.exchange_ms: list[float] = []
        self.pull_ms: list[float] = []
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)
        self.received = self.sent = self.failed = self.late = 0
        self.rushed = threading.Semaphore(THREADS * 2)

    def run(self, seconds: float) -> None:
        began = time.monotonic()
        due = [(random.uniform(0, self.poll_seconds), number) for number in range(len(self.nodes))]
        heapq.heapify(due)
        with ThreadPoolExecutor(THREADS) as pool:
            while due[0][0] < seconds:
                at, number = heapq.heappop(due)
                time.sleep(max(0.0, began + at - time.monotonic()))
                self.late += time.monotonic() - began - at > 1.0
                self.rushed.acquire()
                pool.submit(self._exchange, self.nodes[number], at)
                heapq.heappush(due, (at + self.poll_seconds * random.uniform(0.5, 1.5), number))

    def _before(self, *arguments: object) -> None:
        arguments[4].began = time.perf_counter()

    def _after(self, *arguments: object) -> None:
        if "ORDER BY fleet.entry.seq" in str(arguments[2]):
            self.pull_ms.append(1e3 * (time.perf_counter() - arguments[4].began))

    def _exchange(self, node: SimulatedNode, at: float) -> None:
        try:
            while node.next_decision < at:
                node.decide()
                node.next_decision += DECIDE_SECONDS * random.uniform(0.5, 1.5)
            began = time.perf_counter()
            # Every tenth tells that it is there, as real nodes do each ten minutes.
            ended = Exchange(
                self.engine, node, "simulated", lambda _: "", seen=not node.mark or random.random() < 0.1
            ).run()
            with self.lock:
                self.exchange_ms.append(1e3 * (time.perf_counter() - began))
                self.received += ended.received
                self.sent += ended.sent
        except Exception as error:
            with self.lock:
                self.failed += 1
                if self.failed <= 3:
                    print(f"failed: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
        finally:
            self.rushed.release()


def server_seconds(postmaster: int) -> float:
    """Processor time of the server and of every process that it ever started."""
    process = psutil.Process(postmaster)
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def pull_alone_ms(database: object, times: int = 3000) -> tuple[float, float, float]:
    """p50 and p99 of one pull of up to a page, over a connection that stays, and server CPU for each."""
    from autotune.fleet.exchange import page

    engine = connect(database.settings(), autocommit=True)
    cell = SimulatedNode(0).cell
    last = int(database.sql(f"SELECT coalesce(max(seq), 0) FROM fleet.entry WHERE device = '{cell.device}'"))
    took = []
    before = server_seconds(database.server._process.pid)
    with engine.connect() as connection:
        for _ in range(times):
            began = time.perf_counter()
            connection.execute(page(cell.device, cell.stack, last)).all()
            took.append(1e3 * (time.perf_counter() - began))
    spent = server_seconds(database.server._process.pid) - before
    return percentile(took, 50), percentile(took, 99), 1e3 * spent / times


def percentile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q / 100))] if ordered else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--poll", type=float, default=60.0, help="seconds between exchanges of a node")
    parser.add_argument("--out", help="where the figures go as JSON")
    given = parser.parse_args()
    server = PostgresServer(fsync="on", shared_buffers="128MB")
    try:
        with tempfile.TemporaryDirectory() as folder:
            database = server.create(Path(folder))
            load = Load(given.nodes, given.poll, connect(database.settings(), autocommit=True))
            before, began = server_seconds(server._process.pid), time.monotonic()
            load.run(60 * given.minutes)
            seconds = time.monotonic() - began
            spent = server_seconds(server._process.pid) - before
            figures = {
                "machine": f"{os.cpu_count()} cores, load average {os.getloadavg()[1]:.1f} over five minutes",
                "nodes": given.nodes,
                "seconds": round(seconds),
                "exchanges": len(load.exchange_ms),
                "failed": load.failed,
                "late_by_a_second": load.late,
                "exchanges_per_second": round(len(load.exchange_ms) / seconds, 1),
                "pulls": len(load.pull_ms),
                "pull_ms_p50": round(statistics.median(load.pull_ms), 1),
                "pull_ms_p99": round(percentile(load.pull_ms, 99), 1),
                "exchange_ms_p50": round(statistics.median(load.exchange_ms), 1),
                "exchange_ms_p99": round(percentile(load.exchange_ms, 99), 1),
                "entries_received": load.received,
                "entries_sent": load.sent,
                "server_cpu_share_of_a_core": round(spent / seconds, 3),
                "server_cpu_ms_per_exchange": round(1e3 * spent / len(load.exchange_ms), 2),
                "rows": int(database.sql("SELECT count(*) FROM fleet.entry")),
                "verifications": int(database.sql("SELECT count(*) FROM fleet.verification")),
                "database_bytes": int(database.sql("SELECT pg_database_size(current_database())")),
                "bytes_per_row": int(database.sql(BYTES_PER_ROW)),
            }
            p50, p99, cpu = pull_alone_ms(database)
            figures |= {
                "pull_over_a_kept_connection_ms_p50": round(p50, 2),
                "pull_over_a_kept_connection_ms_p99": round(p99, 2),
                "pull_over_a_kept_connection_server_cpu_ms": round(cpu, 3),
            }
            for nodes, poll in ((10_000, 60), (100_000, 60), (100_000, 600)):
                cores = nodes / poll * spent / len(load.exchange_ms)
                figures[f"cores_for_{nodes}_nodes_polling_each_{poll}_s"] = round(cores, 1)
        print(msgspec.json.format(json.dumps(figures), indent=2))
        if given.out:
            Path(given.out).write_text(json.dumps(figures, indent=2))
    finally:
        server.close()


if __name__ == "__main__":
    main()
