"""The book of requests: who-ever asked, it is the same wish; how often, how lately, and what became of it.

It is kept in a file, written some seconds after a change and not for each one. An ask weighs less with time,
and the least wanted requests make room for new ones.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from autotune.daemon.state_file import read_state, write_state
from autotune.space.problem import problem_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autotune.config import RequestSettings

DAY = 86400.0
FORGOTTEN = 0.01
"""Weight below which a request is dropped: one ask, seven half-lives ago."""
LONGEST_RETRY_SECONDS = DAY
SETTLED_SECONDS = DAY
"""How long further asks for what was decided, or cannot be, are passed over: they come from processes under
another software stack, or that still read an older snapshot."""
MOST_SETTLED = 4096


class Key(NamedTuple):
    """What makes two requests the same wish; `problem` is its text in the order given."""

    device: str
    workload: str
    problem: str
    objective: str
    max_error: float | None


class Entry(msgspec.Struct):
    """A request.

    Attributes:
        device: its name on this host.
        key: of the problem; empty while only a study could tell.
        asked: how often.
        weight: how often, an ask of long ago counting less, as of `last_at`.
        first_at: of the first ask, in seconds since the epoch.
        last_at: of the last.
        match: how the last look-up ended.
        operator: whether an operator asked, which goes before all others.
        again: whether to decide anew what was decided before.
        failures: studies of it that failed.
        failure: why the last one did.
        retry_at: when it may be tried again, in seconds since the epoch.
    """

    device: str
    workload: str
    dimensions: dict[str, int | str]
    key: str
    objective: str
    max_error: float | None
    asked: int = 0
    weight: float = 0.0
    first_at: float = 0.0
    last_at: float = 0.0
    match: str = "default"
    operator: bool = False
    again: bool = False
    failures: int = 0
    failure: str = ""
    retry_at: float = 0.0

    def aged(self, now: float, half_life_days: float) -> float:
        """The weight today; a clock that was set back makes nothing heavier."""
        age = max(0.0, now - self.last_at)
        return float(self.weight * 0.5 ** (age / (half_life_days * DAY)))

    def waits(self, now: float) -> float:
        """Seconds until it may be tried again; none where a clock that was set back makes it endless."""
        left = self.retry_at - now
        return left if 0.0 < left <= LONGEST_RETRY_SECONDS else 0.0


class RequestBook:
    """All requests that wait.

    Args:
        path: of its file.
        settings: how many are kept, and how fast they age.
        clock: seconds since the epoch.

    Attributes:
        notice: what a person should know about the file; empty if nothing.
        changed: whether the file is behind.
    """

    def __init__(self, path: str, settings: RequestSettings, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self.settings = settings
        self._clock = clock
        kept, self.notice = read_state(path, list[Entry], [])
        self._entries = {key_of(entry): entry for entry in kept}
        self._settled: dict[Key, float] = {}
        self.changed = False

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def note(self, entry: Entry) -> bool:
        """Note an ask; whether it is taken: what was settled lately is not, unless an operator asks.

        Args:
            entry: what is asked for, with `match`, `operator` and `again`; the rest is filled in.
        """
        now, key = self._clock(), key_of(entry)
        if not entry.operator and 0 <= now - self._settled.get(key, -SETTLED_SECONDS) < SETTLED_SECONDS:
            return False
        known = self._entries.setdefault(key, entry)
        known.first_at = known.first_at or now
        known.weight = 1.0 + known.aged(now, self.settings.half_life_days)
        known.asked += 1
        known.last_at, known.match = now, entry.match
        if entry.operator:
            known.operator, known.again, known.retry_at = True, entry.again, 0.0
        if len(self._entries) > self.settings.most:
            self._make_room(now, key)
        self.changed = True
        return key in self._entries

    def settle(self, key: Key) -> None:
        """Take out what was decided, or can never be."""
        if self._entries.pop(key, None) is not None:
            self.changed = True
        self._settled.pop(key, None)
        self._settled[key] = self._clock()
        if len(self._settled) > MOST_SETTLED:
            del self._settled[next(iter(self._settled))]

    def fail(self, key: Key, reason: str, retry_seconds: float) -> None:
        """Note that a study failed; it is tried again later, and later still each time."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.failures += 1
            entry.failure = reason
            entry.retry_at = self._clock() + backoff(entry.failures, retry_seconds)
            entry.operator = False
            self.changed = True

    def save(self) -> None:
        """Write the file, if it is behind.

        Raises:
            StateDirError: it cannot be written; it stays behind.
        """
        if self.changed:
            now = self._clock()
            stale = [
                key
                for key, entry in self._entries.items()
                if not entry.operator and entry.aged(now, self.settings.half_life_days) < FORGOTTEN
            ]
            for key in stale:
                del self._entries[key]
            write_state(self._path, list(self._entries.values()))
            self.changed = False

    def _make_room(self, now: float, fresh: Key) -> None:
        """Drop the least wanted one; a new one only goes if all others are wanted more than once."""

        def wanted(key: Key) -> tuple[bool, float, bool]:
            entry = self._entries[key]
            return entry.operator, entry.aged(now, self.settings.half_life_days), key == fresh

        del self._entries[min(self._entries, key=wanted)]


def key_of(entry: Entry) -> Key:
    """What an entry is known by."""
    problem = entry.key or problem_key(dict(sorted(entry.dimensions.items())))
    return Key(entry.device, entry.workload, problem, entry.objective, entry.max_error)


def backoff(failures: int, retry_seconds: float) -> float:
    """Seconds to wait after the n-th failure in a row."""
    return float(min(retry_seconds * 2.0 ** min(failures - 1, 30), LONGEST_RETRY_SECONDS))
