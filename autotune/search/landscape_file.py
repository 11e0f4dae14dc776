"""A landscape while it is recorded: a file that is whole after every configuration.

The layout is that of `read_landscape`, and Kernel Tuner's simulation mode replays it. Beyond it, the section
`autotune` says what was measured, where, in which order, and how the baseline drifted meanwhile; an entry has
its `verdict` with the reason, its relative error, the bytes that it holds, and what each of `rounds` took.
"""

from __future__ import annotations

import gzip
import json
import math
import os
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any

from autotune.errors import UsageError
from autotune.search.landscape import read_cache
from autotune.space.pool import INACTIVE
from autotune.store.records import Verdict
from autotune.store.statedir import sync_file, sync_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from autotune.space.searchspace import SearchSpace
    from autotune.store.records import Configuration

SECTION = "autotune"

IDENTITY = ("workload", "problem", "device", "stack", "space", "max_error", "seed", "sample_seconds")
"""Facts that must agree for a recording to be taken up again: else its times would not belong together."""

SUFFIXES = (".json", ".json.gz")

FAILURES = {
    Verdict.INFEASIBLE: "InvalidConfig",
    Verdict.COMPILE_ERROR: "CompilationFailedConfig",
}
"""Kernel Tuner's name of a failure; every other one is its `RuntimeFailedConfig`."""


class LandscapeFile:
    """A recording, on disk after every change.

    Args:
        path: of the file; one that exists is taken up again.
        space: what is recorded.
        device_name: as its vendor calls it.
        facts: of this recording; those in `IDENTITY` must agree with an existing file's.

    Raises:
        UsageError: the file records something else, or the path cannot be written.
    """

    def __init__(self, path: Path, space: SearchSpace, device_name: str, facts: Mapping[str, Any]) -> None:
        _check_path(path)
        self.path = path
        self._names = [parameter.name for parameter in space.pool.parameters]
        self.header: dict[str, Any] = {
            "device_name": device_name,
            "kernel_name": space.problem.workload,
            "problem_size": list(space.problem.dimensions.values()),
            "tune_params_keys": self._names,
            "tune_params": _values(space),
            "objective": "time",
            SECTION: {**facts, "configurations": len(space), "recorded": 0, "baseline_measurements": []},
        }
        self.entries: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._take_up(read_cache(path))
        self._lines = {key: _line(key, entry) for key, entry in self.entries.items()}

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, configuration: Configuration) -> bool:
        return self._key(configuration) in self.entries

    @property
    def failures(self) -> Counter[str]:
        """Failed configurations by verdict."""
        return Counter(entry["verdict"] for entry in self.entries.values() if isinstance(entry["time"], str))

    @property
    def measured(self) -> list[dict[str, Any]]:
        """Entries with a time, fastest first."""
        timed = [entry for entry in self.entries.values() if not isinstance(entry["time"], str)]
        return sorted(timed, key=lambda entry: float(entry["time"]))

    @property
    def noise(self) -> float | None:
        """A configuration's longest round over its shortest, minus 1, in the median; None with one round."""
        several = [entry["rounds"] for entry in self.measured if len(entry["rounds"]) > 1]
        ratios = [max(times) / min(times) for times in ([one["time"] for one in r] for r in several)]
        return median(ratios) - 1 if ratios else None

    @property
    def baseline(self) -> list[dict[str, float]]:
        """Measurements of the baseline in the order taken: `after` how many configurations, `time`, `std`."""
        found: list[dict[str, float]] = self.header[SECTION]["baseline_measurements"]
        return found

    @property
    def drift(self) -> float | None:
        """The baseline's longest median over its shortest, minus 1; None with fewer than two."""
        times = [measured["time"] for measured in self.baseline]
        return max(times) / min(times) - 1 if len(times) > 1 else None

    def configuration(self, entry: Mapping[str, Any]) -> Configuration:
        """The configuration of an entry: only the parameters that its implementation has."""
        return {name: entry[name] for name in self._names if entry[name] is not None}

    def rounds(self, configuration: Configuration) -> float:
        """How often a configuration was measured; one that failed need not be measured again."""
        entry = self.entries.get(self._key(configuration))
        if entry is None:
            return 0
        return math.inf if isinstance(entry["time"], str) else len(entry["rounds"])

    def add(
        self,
        configuration: Configuration,
        verdict: Verdict,
        facts: Mapping[str, Any],
        latency: Mapping[str, Any] | None = None,
    ) -> None:
        """Record how a configuration ended, the first time or again.

        Its `time` is that of the middle one of its rounds: a disturbance that lasts for seconds spoils one.

        Args:
            configuration: one of the space.
            verdict: of this round.
            facts: of the first round; ignored later, unless it failed.
            latency: `time` and `std` in milliseconds; None where it failed.
        """
        key = self._key(configuration)
        entry = self.entries.get(key, {**dict.fromkeys(self._names), **configuration, **facts})
        if latency is None:
            entry |= {**facts, "time": FAILURES.get(verdict, "RuntimeFailedConfig")}
        else:
            rounds = sorted([*entry.get("rounds", []), dict(latency)], key=lambda one: float(one["time"]))
            entry |= {**rounds[(len(rounds) - 1) // 2], "rounds": rounds}
        self.entries[key] = {**entry, "verdict": str(verdict)}
        self._lines[key] = _line(key, self.entries[key])
        self.save()

    def add_baseline(self, facts: Mapping[str, Any]) -> None:
        """Record a measurement of the baseline, taken after the entries that there are."""
        self.baseline.append({"after": len(self), **facts})
        self.save()

    def save(self) -> None:
        """Replace the file in one step: a reader finds the old one or the new one, whatever happens.

        Written anew for every configuration, 10,000 of them take 0.2 s: less than measuring one.
        """
        self.header[SECTION]["recorded"] = len(self)
        # Kernel Tuner looks at the last three characters to see whether a cache is closed.
        text = f'{json.dumps(self.header)[:-1]}, "cache": {{\n' + ",\n".join(self._lines.values()) + "}\n}"
        content = text.encode()
        if self.path.suffix == ".gz":
            content = gzip.compress(content, mtime=0)
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}.new")
        try:
            fresh.write_bytes(content)
            sync_file(str(fresh))
            fresh.replace(self.path)
        except OSError as error:
            raise UsageError(
                f"{self.path}: cannot be written: {error.strerror}; what was recorded before is kept"
            ) from None
        finally:
            fresh.unlink(missing_ok=True)
        sync_folder(str(self.path.parent))

    def _key(self, configuration: Configuration) -> str:
        return ",".join(str(configuration.get(name)) for name in self._names)

    def _take_up(self, content: dict[str, Any]) -> None:
        """Go on with an existing file."""
        theirs, ours = content.get(SECTION), self.header[SECTION]
        other = "give --out another file, or remove this one"
        if not isinstance(theirs, dict) or not isinstance(content.get("cache"), dict):
            raise UsageError(f"{self.path}: was not made by 'autotune record'; {other}")
        for fact in IDENTITY:
            if theirs.get(fact) != ours[fact]:
                difference = f"{fact} {theirs.get(fact)!r}, this is {ours[fact]!r}"
                raise UsageError(f"{self.path}: was recorded with {difference}; {other}")
        ours["baseline_measurements"] = theirs.get("baseline_measurements", [])
        self.entries = content["cache"]


def _check_path(path: Path) -> None:
    if not path.name.endswith(SUFFIXES):
        raise UsageError(f"--out {str(path)!r}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if path.is_dir():
        raise UsageError(f"--out {str(path)!r}: is a folder; expected a file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise UsageError(f"--out {str(path)!r}: the folder {str(path.parent)!r} cannot be written")


def _values(space: SearchSpace) -> dict[str, list[Any]]:
    """Every value of each parameter, and null where some implementation does not have it."""
    pool = space.pool
    inactive = (pool.codes == INACTIVE).any(axis=0)
    return {
        parameter.name: [*([None] if absent else []), *parameter.values]
        for parameter, absent in zip(pool.parameters, inactive, strict=True)
    }


def _line(key: str, entry: Mapping[str, Any]) -> str:
    return f"{json.dumps(key)}: {json.dumps(entry)}"
