"""A history of a million trials: what every command and page takes, look-ups, publishing, and bytes a trial.

    python benchmarks/history_scale.py                       # a million of 10,000 problems, some minutes
    python benchmarks/history_scale.py --trials 20000 --problems 200

Exits 1 when anything is over its limit. What counts is processor time, which is the wall clock of a machine
that does nothing else, as all is in memory; the wall clock stands beside it. A page is asked for three times,
the best counts. A command is run as its user runs it, its interpreter's start included. First look-ups are
made in fresh processes, by turns beside a history of ten winners, so that whatever else runs slows both.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console
from rich.progress import track

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from autotune.fingerprint import device_named  # noqa: E402
from autotune.fingerprint.stack import stack_facts  # noqa: E402
from autotune.space.declared import declared  # noqa: E402
from autotune.space.problem import Problem  # noqa: E402
from autotune.store import open_history  # noqa: E402
from autotune.store.encoding import choice_columns, trial_columns, winner_columns  # noqa: E402
from autotune.store.history import insert, mark_stale  # noqa: E402
from autotune.store.records import Verdict  # noqa: E402
from tests.store.factories import EPOCH, SPACE, choice, measurement, trial  # noqa: E402

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from autotune.store import History

PAGE_SECONDS = 0.3
COMMAND_SECONDS = 3.0
PUBLISH_SECONDS = 0.2
MOST_SLOWER = 1.5
"""Look-ups may take so many times what they take with ten winners."""
WORKLOADS = ("linear", "attention", "fused_moe", "mla_decode", "rms_norm")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TRIES = 3
AT_ONCE = 500  # problems written in one transaction
OWN_STACK = "from autotune.fingerprint import stack\nprint(stack.stack_digest('cpu'))"
LOOKUPS = 15
"""Fresh processes for each kind of answer and each history; the best counts."""
ASKED = {
    "exact": {"m": 16, "n": 1024, "k": 2048},
    "nearest": {"m": 20, "n": 1024, "k": 2048},
    "default": {"m": 16, "n": 1000, "k": 2048},
}
"""Problems of `linear`, by what is found of them in either history."""

PAGES = (
    "/",
    "/workload",
    "/workload?name=linear",
    "/workload?name=linear&sort=speedup&page=10",
    "/workload?sort=latency",
    "/workload?search=m=64",
    "/trade-offs",
    "/winner/7",
    "/studies",
    "/studies?page=90",
    "/studies?verdict=wrong",
    "/studies?sort=trials",
    "/studies?sort=best",
    "/study/7",
    "/study/7/trial/3",
    "/generations",
    "/generation/2",
    "/plot/speedups",
    "/workload/plot/sizes?name=linear",
    "/winner/7/plot/front",
    "/study/7/plot/convergence",
    "/study/7/plot/parallel?implementation=torch",
    "/study/7/plot/importance?implementation=torch",
    "/study/7/plot/slices?implementation=torch",
    "/study/7/plot/verdicts",
)
COMMANDS = (
    ("history",),
    ("history", "linear", "-p", "m=16"),
    ("history", "--verdict", "wrong"),
    ("history", "--sort", "best"),
    ("show", "7"),
    ("show", "7/3"),
    ("report",),
    ("report", "--sort", "speedup"),
    ("compare", "7", "8"),
    ("compare", "generation:1", "generation:2"),
    ("diff",),
    ("rollback", "--list"),
)


def problem_of(number: int) -> Problem:
    """The problem of that number: ten sizes of each shape."""
    workload = WORKLOADS[number // len(SIZES) % len(WORKLOADS)]
    size, shape = SIZES[number % len(SIZES)], 1024 + 64 * (number // (len(SIZES) * len(WORKLOADS)))
    sizes = {"m": size, "n": shape, "k": 2048}
    if workload == "linear":  # which is looked up
        return Problem.of(workload, declared(workload).dimensions or (), sizes)
    return Problem(workload, {**sizes, "dtype": "bfloat16"}, nearest=("m",))


def generate(folder: str, trials: int, problems: int) -> None:
    """Make the history: as many trials for every problem, one winner with one alternative each."""
    each = max(1, trials // problems)
    host = device_named("cpu")
    device, stack = host.digest, _looked_up(OWN_STACK, folder)
    with open_history(folder) as history:
        history.record_device(host)
        history.record_stack(stack, stack_facts())
        history.connection.execute("PRAGMA synchronous = OFF")
        templates = [trial_columns(0, _trial(number)) for number in range(each)]
        chunks = range(0, problems, AT_ONCE)
        for first in track(chunks, f"{problems:,} problems", console=Console(stderr=True)):
            with history.writing() as connection:
                for number in range(first, min(first + AT_ONCE, problems)):
                    _study(connection, number, device, stack, templates)
                mark_stale(connection)
        history.publish("first")


def _trial(number: int) -> Any:
    rng = random.Random(number)
    verdict = rng.choices([Verdict.OK, Verdict.WRONG, Verdict.NOISY, Verdict.COMPILE_ERROR], [90, 1, 5, 4])[0]
    measured = verdict in (Verdict.OK, Verdict.NOISY)
    taken = measurement(rng.uniform(1e6, 4e6), 40, seed=number) if measured else None
    settings = {"implementation": rng.choice(["torch", "native"]), "threads": rng.choice([1, 2, 4])}
    settings |= {"tile_m": rng.choice([1, 2, 4, 8]), "tile_n": rng.choice([16, 32, 64]), "layout": "nk"}
    return trial(number, verdict, configuration=settings, measurement=taken)


def _study(
    connection: sqlite3.Connection, number: int, device: str, stack: str, templates: list[dict[str, Any]]
) -> None:
    problem = problem_of(number)
    named = {"workload": problem.workload, "problem": problem.key, "device": device, "stack": stack}
    winner_row = winner_columns_of(problem, device, stack)
    dimensions = winner_row["dimensions"]
    row = {**named, "dimensions": dimensions, "objective": "latency", "space": SPACE, "seed": 0}
    row |= {"space_facts": "{}", "state": "ended", "started_at": EPOCH + number}
    study = insert(connection, "study", {**row, "ended_at": EPOCH + number + 60, "end_reason": "budget"})
    columns = list(max(templates, key=len))
    marks = ", ".join("?" * len(columns))
    names = ", ".join(columns)
    connection.executemany(
        f"INSERT INTO trial({names}) VALUES ({marks})",
        [tuple(study if name == "study" else one.get(name) for name in columns) for one in templates],
    )
    won = {**winner_row, "study": study, "state": "current"}
    moments = {"decided_at": EPOCH + number, "changed_at": EPOCH + number}
    winner = insert(connection, "winner", {**won, **moments})
    for rank, latency in ((0, 4e5 + number), (1, 3e5 + number)):
        insert(connection, "choice", choice_columns(winner, choice(rank, latency)))


def winner_columns_of(problem: Problem, device: str, stack: str) -> dict[str, Any]:
    """The row of a winner of a problem."""
    from autotune.store.records import Winner

    return winner_columns(
        Winner(
            problem.workload,
            problem.key,
            problem.dimensions,
            problem.neighbourhood,
            device,
            stack,
            "latency",
            SPACE,
            0.002,
            (),
            EPOCH,
        )
    )


def publishing_seconds(history: History) -> Iterator[tuple[float, float]]:
    """Wall clock and processor time of publishing after one more decision, each time."""
    for number in range(TRIES):
        with history.writing() as connection:
            connection.execute("UPDATE winner SET decided_at = decided_at + 1 WHERE id = ?", (number + 1,))
            mark_stale(connection)
        used, started = time.process_time(), time.perf_counter()
        history.publish(f"again {number}")
        yield time.perf_counter() - started, time.process_time() - used


def lookup_seconds(folders: tuple[str, ...], match: str) -> list[tuple[float, float]]:
    """The first look-up of a process, opening the snapshot included: wall clock and processor time.

    Args:
        folders: of histories, which are asked by turns.
        match: what is found.
    """
    script = (
        "used, started = time.process_time(), time.perf_counter()\n"
        f"found = autotune.get_best_config('linear', **{ASKED[match]!r})\n"
        "print(time.perf_counter() - started, time.process_time() - used, found.match)\n"
    )
    taken: dict[str, list[tuple[float, float]]] = {folder: [] for folder in folders}
    for turn in range(LOOKUPS):
        for folder in folders[:: 1 if turn % 2 else -1]:
            wall, cpu, found = _looked_up(script, folder).split()
            assert found == match, f"found {found}, expected {match}"
            taken[folder].append((float(wall), float(cpu)))
    return [(min(wall for wall, _ in one), min(cpu for _, cpu in one)) for one in taken.values()]


def _looked_up(script: str, folder: str) -> str:
    """What a process prints that looks up with the base install alone, whose stack has no torch."""
    return subprocess.run(
        [sys.executable, "-S", "-W", "ignore", "-c", f"import time, autotune\n{script}"],
        env={**os.environ, "AUTOTUNE_STATE_DIR": folder, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def command_seconds(folder: str, words: tuple[str, ...]) -> tuple[float, float]:
    """A command, its interpreter's start included: wall clock and processor time."""
    taken = []
    for _ in range(2):
        used, started = _children_seconds(), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "autotune", *words],
            env={**os.environ, "AUTOTUNE_STATE_DIR": folder},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        taken.append((time.perf_counter() - started, _children_seconds() - used))
    return min(wall for wall, _ in taken), min(cpu for _, cpu in taken)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def page_seconds(site: str, path: str, server: psutil.Process) -> tuple[float, float]:
    """A page or a figure, as a browser asks for it: wall clock, and processor time of the server."""
    taken = []
    for _ in range(TRIES):
        used, started = sum(server.cpu_times()[:2]), time.perf_counter()
        with urllib.request.urlopen(site + path) as answer:
            answer.read()
        taken.append((time.perf_counter() - started, sum(server.cpu_times()[:2]) - used))
    return min(wall for wall, _ in taken), min(cpu for _, cpu in taken)


def measure(folder: str, trials: int) -> bool:
    """Measure everything and print it; whether all is within its limit."""
    path = os.path.join(folder, "history.db")
    print(f"file {os.path.getsize(path) / 2**20:.0f} MiB, {os.path.getsize(path) / trials:.0f} bytes a trial")
    print(f"snapshot {os.path.getsize(os.path.join(folder, 'best.db')) / 2**20:.1f} MiB")
    rows: list[tuple[str, float, float, float]] = []
    with open_history(folder) as history:
        wall, cpu = map(min, zip(*publishing_seconds(history), strict=True))
        rows.append(("publishing after a decision", cpu, wall, PUBLISH_SECONDS))
    with tempfile.TemporaryDirectory(prefix="autotune-scale-") as few:
        generate(few, 100, 10)
        for match in ASKED:
            (_, small), (wall, cpu) = lookup_seconds((few, folder), match)
            name = f"first look-up of a process ({match}); with ten winners {1e3 * small:.1f} ms"
            rows.append((name, cpu, wall, MOST_SLOWER * small))
    for words in COMMANDS:
        wall, cpu = command_seconds(folder, words)
        rows.append((f"autotune {' '.join(words)}", cpu, wall, COMMAND_SECONDS))
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "autotune", "web", "--port", port]
    environment = {**os.environ, "AUTOTUNE_STATE_DIR": folder}
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            site = server.stdout.readline().strip().rstrip("/") if server.stdout else ""
            process = psutil.Process(server.pid)
            for page in PAGES:
                wall, cpu = page_seconds(site, page, process)
                rows.append((page, cpu, wall, PAGE_SECONDS))
        finally:
            server.terminate()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("processor, of at most, wall clock; in ms")
    for name, cpu, wall, limit in rows:
        over = "  OVER" if cpu > limit else ""
        print(f"{1e3 * cpu:8.1f} {1e3 * limit:8.1f} {1e3 * wall:8.1f}  {name}{over}")
    return all(cpu <= limit for _, cpu, _, limit in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1_000_000)
    parser.add_argument("--problems", type=int, default=10_000)
    parser.add_argument("--folder", help="where to make it, or where it is already")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="autotune-scale-") as temporary:
        folder = given.folder or temporary
        if not os.path.exists(os.path.join(folder, "history.db")):
            started = time.perf_counter()
            generate(folder, given.trials, given.problems)
            print(f"made in {time.perf_counter() - started:.0f} s", file=sys.stderr)
        return 0 if measure(folder, given.trials) else 1


if __name__ == "__main__":
    sys.exit(main())
