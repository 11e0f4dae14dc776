"""The processes below one, their processor time and their runnable threads, straight from /proc."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Use(NamedTuple):
    """What a tree of processes used.

    Attributes:
        pids: its processes.
        seconds: processor time since they started, that of ended descendants that were waited for included.
        running: threads that run or wait for a core.
    """

    pids: frozenset[int]
    seconds: float
    running: int


def use_of_tree(root: int, proc: str = "/proc") -> Use:
    """What a process and all below it use; those that end meanwhile are passed over."""
    pids: set[int] = set()
    ticks = running = 0
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        stat = _stat(f"{proc}/{pid}/stat")
        if stat is None or pid in pids:
            continue
        pids.add(pid)
        # utime, stime and, of children that were waited for, cutime and cstime: proc(5), fields 14 to 17.
        ticks += sum(map(int, stat[11:15]))
        for thread in _threads(pid, proc):
            running += _is_running(thread)
            waiting += map(int, _read(f"{thread}/children").split())
    return Use(frozenset(pids), ticks / TICKS_PER_SECOND, running)


def children_of(pid: int, proc: str = "/proc") -> list[int]:
    """The children of a process, whichever of its threads made them."""
    return [int(child) for thread in _threads(pid, proc) for child in _read(f"{thread}/children").split()]


def start_ticks(pid: int, proc: str = "/proc") -> int | None:
    """When a process started, in ticks since the machine did: with its number, what makes it that process."""
    stat = _stat(f"{proc}/{pid}/stat")
    return int(stat[19]) if stat else None


def is_alive(pid: int, proc: str = "/proc") -> bool:
    """Whether there is such a process that has not died: one that nobody has waited for yet has."""
    stat = _stat(f"{proc}/{pid}/stat")
    return stat is not None and stat[0] not in ("Z", "X")


def _threads(pid: int, proc: str) -> Iterator[str]:
    folder = f"{proc}/{pid}/task"
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        yield f"{folder}/{name}"


def _is_running(thread: str) -> bool:
    stat = _stat(f"{thread}/stat")
    return stat is not None and stat[0] == "R"


def _stat(path: str) -> list[str] | None:
    """The fields from the state on: the command before them, in parentheses, may hold anything."""
    text = _read(path)
    return text.rpartition(")")[2].split() if text else None


def _read(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(descriptor, 1 << 16).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)
