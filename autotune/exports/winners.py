"""The winners that an export writes: those of one workload on one device, under one software stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from autotune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.store.entries import Decision, DeviceEntry, StackEntry
    from autotune.store.reading import HistoryReader


class Winners(NamedTuple):
    """Current winners that were decided together.

    Attributes:
        device: on which.
        stack: under which software.
        decisions: the latest first.
        other_stacks: how many more there are under other stacks, which one file must not mix.
    """

    device: DeviceEntry
    stack: StackEntry
    decisions: Sequence[Decision]
    other_stacks: int


def current_winners(
    reader: HistoryReader,
    workload: str,
    dimensions: Mapping[str, str],
    *,
    objective: str = "latency",
    device: str | None = None,
) -> Winners:
    """The winners that hold for a workload, of the stack decided under last.

    Args:
        reader: of the history.
        workload: its name.
        dimensions: that their problems must have, as text.
        objective: that they were decided for.
        device: digest, family or kind of device; None where only one has winners, accelerators first.

    Raises:
        UsageError: there are none, or several devices have some.
    """
    found = [
        decision
        for decision in reader.decisions(workload=workload, objective=objective, state="current")
        if all(str(decision.winner.dimensions.get(name)) == value for name, value in dimensions.items())
    ]
    chosen = _device(reader, found, workload, dimensions, device)
    here = [decision for decision in found if decision.winner.device == chosen.digest]
    digest = here[0].winner.stack
    stack = reader.stack(digest)
    assert stack is not None, "a winner's stack is recorded before it"
    decided = [decision for decision in here if decision.winner.stack == digest]
    return Winners(chosen, stack, decided, len(here) - len(decided))


def _device(
    reader: HistoryReader,
    found: Sequence[Decision],
    workload: str,
    dimensions: Mapping[str, str],
    name: str | None,
) -> DeviceEntry:
    digests = {decision.winner.device for decision in found}
    devices = [entry for entry in reader.devices() if entry.digest in digests]
    told = ", ".join(f"{key}={value}" for key, value in dimensions.items())
    asked = f"{workload} with {told}" if told else workload
    if name is not None:
        named = [entry for entry in devices if name in (entry.digest, entry.family, entry.kind)]
        if not named:
            there = ", ".join(f"{entry.digest} ({entry.name})" for entry in devices) or "none"
            raise UsageError(f"--device {name!r}: has no winner of {asked}; devices that have one: {there}")
        devices = named
    if not devices:
        raise UsageError(f"no winner of {asked} is in the history; tune it first: autotune tune {workload}")
    accelerators = [entry for entry in devices if entry.kind != "cpu"] or devices
    if len(accelerators) > 1:
        there = ", ".join(f"{entry.digest} ({entry.name})" for entry in accelerators)
        raise UsageError(f"several devices have winners of {asked}: {there}; name one with --device")
    return accelerators[0]
