"""What was imported from elsewhere: measured configurations and mere candidates, as a start for searches.

Each import is a file of its own below the state folder, whole or not there, so that importing needs no
history. One with values is an earlier study like any other; one without names configurations to try first.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from autotune.search.sampler.prior import PriorStudy
from autotune.search.transfer import OTHER_DEVICE, OTHER_STACK, Earlier, size_distance
from autotune.store.statedir import sync_file, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autotune.fingerprint import Device
    from autotune.search.objective import Objective
    from autotune.space.problem import Problem
    from autotune.space.searchspace import SearchSpace
    from autotune.store.records import Configuration

FOLDER = "imports"
LARGEST_BYTES = 64 << 20
"""Of one file; a landscape of 100,000 configurations takes about 20 MB."""


class Import(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Configurations of one problem on one kind of device.

    Attributes:
        workload: its name.
        dimensions: of the problem.
        kind: of device.
        family: of device.
        configurations: in a space's parameters; those without `implementation` are for whichever takes them.
        values: what each cost, in any unit, None for one that failed; empty where nothing is known of them.
        source: where they are from, for people.
        imported_at: seconds since the epoch.
    """

    workload: str
    dimensions: dict[str, int | str]
    kind: str
    family: str
    configurations: list[dict[str, Any]]
    values: list[float | None]
    source: str
    imported_at: float


def keep(state_dir: str, imported: Import) -> str:
    """Keep an import; one of the same source, problem and device replaces the earlier. Returns the path.

    Raises:
        OSError: it cannot be written.
    """
    identity = [
        imported.workload,
        imported.dimensions,
        imported.kind,
        imported.family,
        os.path.basename(imported.source),
    ]
    name = hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:16]
    folder = os.path.join(state_dir, FOLDER)
    os.makedirs(folder, exist_ok=True)
    path, fresh = os.path.join(folder, f"{name}.json"), os.path.join(folder, f".{name}.{os.getpid()}.new")
    try:
        with open(fresh, "wb") as file:
            file.write(msgspec.json.encode(imported))
        sync_file(fresh)
        os.replace(fresh, path)
        sync_folder(folder)
    finally:
        with suppress(OSError):
            os.unlink(fresh)
    return path


def encoded(imports: Sequence[Import]) -> bytes:
    """Imports as the daemon takes them to keep."""
    return msgspec.json.encode(list(imports))


class FromImports:
    """The imports of a state folder, for one device; see `transfer.Source`.

    Args:
        state_dir: read when called; a file that is damaged counts as missing.
        device: to be tuned on.
    """

    def __init__(self, state_dir: str, device: Device) -> None:
        self._folder = os.path.join(state_dir, FOLDER)
        self._device = device

    def __call__(
        self,
        problem: Problem,
        objective: Objective,
        but: int | None = None,  # noqa: ARG002 - no import is a study in the history
    ) -> Iterator[Earlier]:
        """Imports with values, which are times, the nearest first; none where energy counts."""
        if objective.energy:
            return
        for distance, imported in self._near(problem):
            if len(imported.values) == len(imported.configurations):
                values = [float("nan") if value is None else value for value in imported.values]
                # Under which software is not known.
                yield Earlier(distance + OTHER_STACK, PriorStudy(imported.configurations, values))

    def candidates(self, space: SearchSpace, most: int) -> list[Configuration]:
        """Configurations that imports only name, as this space has them, the nearest size first."""
        found: list[Configuration] = []
        for _, imported in self._near(space.problem):
            if imported.values:
                continue
            for configuration in imported.configurations:
                known = fitted(space, configuration)
                if known is not None and known not in found:
                    found.append(known)
                if len(found) >= most:
                    return found
        return found

    def _near(self, problem: Problem) -> list[tuple[float, Import]]:
        fixed = {name: value for name, value in problem.dimensions.items() if name not in problem.nearest}
        near = []
        for imported in self._all():
            same = all(imported.dimensions.get(name) == value for name, value in fixed.items())
            if imported.workload != problem.workload or imported.kind != self._device.kind or not same:
                continue
            distance = size_distance(problem, imported.dimensions)
            near.append((distance + OTHER_DEVICE * (imported.family != self._device.family), imported))
        return sorted(near, key=lambda one: one[0])

    def _all(self) -> Iterator[Import]:
        try:
            names = sorted(name for name in os.listdir(self._folder) if name.endswith(".json"))
        except OSError:
            return
        for name in names:
            path = os.path.join(self._folder, name)
            with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
                if os.path.getsize(path) <= LARGEST_BYTES:
                    with open(path, "rb") as file:
                        yield msgspec.json.decode(file.read(), type=Import)


def fitted(space: SearchSpace, configuration: Configuration) -> Configuration | None:
    """A configuration as a space has it, its implementation found; None if the space does not."""
    columns = {parameter.name: parameter.values for parameter in space.pool.parameters}
    # One way to split K is none: files say so or leave it out.
    for spelt in (configuration, {"SPLIT_K": 1, **configuration}, _without_split(configuration)):
        for implementation in columns["implementation"]:
            wanted = {"implementation": implementation, **spelt}
            if space.pool.find(wanted) is not None:
                return wanted
    return None


def _without_split(configuration: Configuration) -> Configuration:
    return {name: value for name, value in configuration.items() if (name, value) != ("SPLIT_K", 1)}
