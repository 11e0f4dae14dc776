"""What the daemon costs a node while there is nothing to do: memory, processor time, wake-ups, disk writes.

    python benchmarks/footprint.py --seconds 300

The daemon runs under a pretended service manager that wants to hear from it every 60 s, as the shipped unit
does, and serves its metrics. Figures are the kernel's: /proc/PID/{smaps_rollup,schedstat,status,io}.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.running_daemon import RunningDaemon

SETTINGS = """
[metrics]
address = "127.0.0.1:{port}"
"""
WATCHDOG_SECONDS = 60.0
MOST_MIB = 60.0
MOST_SHARE = 1e-3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0)
    options = parser.parse_args()
    with RunningDaemon(SETTINGS.format(port=_free_port()), WATCHDOG_SECONDS) as daemon:
        pid = daemon.process.pid
        daemon.wait_until(lambda: daemon.device()["state"] == "idle")
        time.sleep(2.0)
        before = _cpu_seconds(pid), _wake_ups(pid), _written(pid)
        time.sleep(options.seconds)
        after = _cpu_seconds(pid), _wake_ups(pid), _written(pid)
        resident, own = _memory(pid)
        threads = len(os.listdir(f"/proc/{pid}/task"))
    cpu, woken, written = (late - early for early, late in zip(before, after, strict=True))
    share = cpu / options.seconds
    print(f"idle for {options.seconds:g} s, {threads} threads\n")
    print(f"resident memory   {resident:8.1f} MiB   (target: under {MOST_MIB:g})")
    print(f"  its own (USS)   {own:8.1f} MiB")
    print(f"processor         {100 * share:8.4f} %     (target: under {100 * MOST_SHARE:g} of a core)")
    print(f"wake-ups          {woken / options.seconds:8.3f} a second")
    print(f"disk writes       {written:8.0f} bytes (target: none)")
    return 0 if resident < MOST_MIB and share < MOST_SHARE and not written else 1


def _memory(pid: int) -> tuple[float, float]:
    """Resident memory, and what is private to the process, in MiB."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        kib = {words[0]: int(words[1]) for line in file if len(words := line.split()) == 3}
    return kib["Rss:"] / 1024, (kib["Private_Clean:"] + kib["Private_Dirty:"]) / 1024


def _cpu_seconds(pid: int) -> float:
    """Processor time of all threads; schedstat counts nanoseconds."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            total += int(file.read().split()[0])
    return total / 1e9


def _wake_ups(pid: int) -> int:
    """How often a thread has gone to sleep, which is how often one woke up."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt"))
    return total


def _written(pid: int) -> int:
    with open(f"/proc/{pid}/io") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("write_bytes"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
