"""How fast the daemon makes room: from a lease, or the first sign of another process, to the worker gone.

    python benchmarks/yield.py --times 100                  # leases; the machine may be busy
    python benchmarks/yield.py --times 20 --cause foreign   # wants the machine to itself

The device is the CPU. Each time, a study of a stock problem runs for a random while, and then the daemon is
asked for a lease (or a process begins to use a core). The clock runs until every process of the study, the
worker's included, has ended, as the kernel tells by their descriptors. `answer` is when `pause --wait`
returns.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1]))

from autotune.daemon.control import Ask, Resume, Wanted, ask
from benchmarks.running_daemon import RunningDaemon

SETTINGS = """
[daemon]
devices = ["cpu"]
[gate]
looks = 2
look_seconds = 0.3
watch_seconds = {watch_seconds}
others_cpu = {others_cpu}
others_running = 1000
memory_available = 0.01
[study]
budget_seconds = 3600
[metrics]
address = ""
"""
PROBLEMS = [{"m": 16, "n": 2112 + 64 * number, "k": 2048} for number in range(100)]
"""Enough of them: a study that is preempted goes on where it was, and is decided after some ten times."""
TARGET_SECONDS = 0.25
PAUSE = """
import time
from autotune.daemon.control import Pause, ask
input()
ask(Pause(wait=True))
print(time.monotonic())
"""
BURN = "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nwhile True: pass"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--cause", choices=["lease", "foreign"], default="lease")
    parser.add_argument("--watch-seconds", type=float, default=0.5, help="[gate] watch_seconds")
    parser.add_argument("--others-cpu", type=float, default=None, help="[gate] others_cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # Whether others use the machine says nothing about a lease.
    limit = options.others_cpu or (1.0 if options.cause == "lease" else 0.15)
    settings = SETTINGS.format(watch_seconds=options.watch_seconds, others_cpu=limit)
    draw = random.Random(options.seed)
    found: dict[str, list[float]] = {"worker gone": [], "all gone": [], "answer": []}
    with RunningDaemon(settings) as daemon:
        ask(Ask([Wanted("linear", problem) for problem in PROBLEMS]))
        for _ in track(range(options.times), "interrupted", console=Console(stderr=True)):
            processes = _running_study(daemon)
            time.sleep(draw.uniform(0.0, 2.0))
            seconds = _by_lease(processes) if options.cause == "lease" else _by_foreign(processes)
            for name, value in seconds.items():
                found[name].append(value)
    return _report(options.cause, options.watch_seconds, found)


def _running_study(daemon: RunningDaemon) -> dict[int, str]:
    """Wait for a study that tries configurations; returns the descriptors of its processes."""

    def searching() -> bool:
        study = daemon.device()["study"] or {}
        return study.get("phase") == "searching"

    daemon.wait_until(searching)
    (study,) = psutil.Process(daemon.process.pid).children()
    (warden,) = study.children()
    (worker,) = warden.children()
    pids = {"study": study.pid, "warden": warden.pid, "worker": worker.pid}
    return {os.pidfd_open(pid): name for name, pid in pids.items()}


def _by_lease(processes: dict[int, str]) -> dict[str, float]:
    # In another process, so that this one can see the ends while the question waits for its answer.
    with subprocess.Popen(
        [sys.executable, "-c", PAUSE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as asking:
        assert asking.stdin is not None, "piped"
        assert asking.stdout is not None, "piped"
        time.sleep(0.5)  # it has started
        began = time.monotonic()
        asking.stdin.write("\n")
        asking.stdin.flush()
        ends = _ends(processes, began)
        ends["answer"] = float(asking.stdout.readline()) - began
    ask(Resume())
    return ends


def _by_foreign(processes: dict[int, str]) -> dict[str, float]:
    with subprocess.Popen([sys.executable, "-c", BURN]) as burning:
        while psutil.Process(burning.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        time.sleep(0.3)
        began = time.monotonic()
        burning.send_signal(signal.SIGCONT)
        ends = _ends(processes, began)
        burning.kill()
    return ends


def _ends(processes: dict[int, str], began: float) -> dict[str, float]:
    poll, ended = select.poll(), {}
    for descriptor in processes:
        poll.register(descriptor, select.POLLIN)
    while len(ended) < len(processes):
        for descriptor, _ in poll.poll():
            ended[processes[descriptor]] = time.monotonic() - began
            poll.unregister(descriptor)
            os.close(descriptor)
    return {"worker gone": ended["worker"], "all gone": max(ended.values())}


def _report(cause: str, watch_seconds: float, found: dict[str, list[float]]) -> int:
    looks = f"looks every {watch_seconds:g} s"
    sign = "a lease" if cause == "lease" else f"a core in use by another process ({looks})"
    print(f"\nfrom {sign}, {len(found['worker gone'])} times, milliseconds\n")
    print(f"{'until':14}{'p50':>8}{'p90':>8}{'p99':>8}{'max':>8}")
    for name, values in found.items():
        if not values:
            continue
        told = [1e3 * np.percentile(values, q) for q in (50, 90, 99, 100)]
        print(f"{name:14}" + "".join(f"{value:8.0f}" for value in told))
    if cause != "lease":
        return 0
    reached = np.percentile(found["worker gone"], 99) <= TARGET_SECONDS
    print(
        f"\ntarget: p99 of the worker at most {1e3 * TARGET_SECONDS:.0f} ms: {'met' if reached else 'missed'}"
    )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
