"""`autotune spaces --compile`: which configurations of a space can run on a GPU that need not be here."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autotune.cli import output
from autotune.worker.feasibility import CompilePool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.fingerprint import Device
    from autotune.space import SearchSpace
    from autotune.store.records import Configuration, Feasibility

SEED = 0
EXAMPLES = 3
"""Configurations that are printed for every reason."""


@dataclass
class Tally:
    """What compiling showed of one implementation.

    Attributes:
        compiled: configurations that were.
        feasible: those that can run.
        without_kernels: feasible ones that launch nothing that could be compiled ahead, such as torch's own.
        spilling: feasible ones with a kernel whose registers did not suffice.
        infeasible: how many cannot run, by reason.
        unknown: of how many it cannot be told, by reason.
        most: the largest need of a feasible one, by name.
        seconds: spent on them, by all processes together.
    """

    compiled: int = 0
    feasible: int = 0
    without_kernels: int = 0
    spilling: int = 0
    infeasible: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    most: dict[str, int] = field(default_factory=lambda: {"shared_bytes": 0, "registers": 0})
    seconds: float = 0.0

    def count(self, found: Feasibility) -> None:
        """Add one configuration."""
        self.compiled += 1
        self.seconds += found.seconds
        if found.infeasible:
            self.infeasible[found.infeasible] += 1
        elif found.unknown:
            self.unknown[found.unknown] += 1
        else:
            self.feasible += 1
            self.without_kernels += not found.kernels
            self.spilling += any(kernel.local_bytes for kernel in found.kernels)
            for name in self.most:
                self.most[name] = max(
                    self.most[name], *(getattr(kernel, name) for kernel in found.kernels), 0
                )


def compile_space(
    space: SearchSpace, device: Device, sample: int | None, modules: Sequence[str], *, as_json: bool
) -> None:
    """Compile a space's configurations and print what is feasible, by implementation.

    Args:
        space: of a problem on the device.
        device: a GPU, of this host or named.
        sample: how many configurations to draw; None for all.
        modules: that register workloads.
        as_json: print JSON.

    Raises:
        UsageError: kernels cannot be compiled ahead for the device.
    """
    from rich.progress import Progress

    rows = range(len(space))
    chosen = rows if sample is None or sample >= len(rows) else random.Random(SEED).sample(rows, sample)
    configurations = [space.pool.configuration(row) for row in chosen]
    tallies = {name: Tally() for name in space.settings}
    ruled_out: dict[str, list[Configuration]] = {}
    with (
        CompilePool(space.problem, device.facts, modules) as pool,
        Progress(console=output.console, transient=True, disable=as_json) as progress,
    ):
        task = progress.add_task("compiling", total=len(configurations))
        for i, found in pool.as_told(configurations):
            tallies[configurations[i]["implementation"]].count(found)
            if found.infeasible:
                ruled_out.setdefault(found.infeasible, []).append(configurations[i])
            progress.advance(task)
    if as_json:
        output.print_json(_as_plain(space, device, tallies, ruled_out))
    else:
        _print(space, device, tallies, ruled_out)


def _as_plain(
    space: SearchSpace,
    device: Device,
    tallies: dict[str, Tally],
    ruled_out: dict[str, list[Configuration]],
) -> dict[str, Any]:
    return {
        "problem": str(space.problem),
        "device": device.name,
        "compute_capability": device.facts["compute_capability"],
        "digest": space.digest,
        "configurations": len(space),
        "compiled": sum(tally.compiled for tally in tallies.values()),
        "implementations": [
            {
                "implementation": name,
                "valid": next(offer.valid for offer in space.offers if offer.name == name),
                **{
                    key: getattr(tally, key)
                    for key in ("compiled", "feasible", "without_kernels", "spilling")
                },
                "infeasible": dict(tally.infeasible),
                "unknown": dict(tally.unknown),
                "most": tally.most,
                "seconds": round(tally.seconds, 3),
            }
            for name, tally in tallies.items()
        ],
        "infeasible": [{"reason": reason, "configurations": found} for reason, found in ruled_out.items()],
    }


def _print(
    space: SearchSpace,
    device: Device,
    tallies: dict[str, Tally],
    ruled_out: dict[str, list[Configuration]],
) -> None:
    target = f"{device.name}, compute capability {device.facts['compute_capability'] / 10:.1f}"
    output.console.print(f"{space.problem} on {target}")
    numbers = ("valid", "compiled", "feasible", "spilling")
    table = output.table("implementation", *numbers, "most shared memory", "most registers", right=numbers)
    for name, tally in tallies.items():
        valid = next(offer.valid for offer in space.offers if offer.name == name)
        counts = [f"{count:,}" for count in (valid, tally.compiled, tally.feasible, tally.spilling)]
        compiled = tally.feasible > tally.without_kernels
        most = [output.size(tally.most["shared_bytes"]), str(tally.most["registers"])] if compiled else []
        table.add_row(name, *counts, *(most or ["no kernel to compile" if tally.feasible else "-", "-"]))
    output.console.print(table)
    for name, tally in tallies.items():
        for reason, count in tally.infeasible.most_common():
            output.console.print(f"{name}: {count:,} infeasible: {reason}")
            for configuration in [c for c in ruled_out[reason] if c["implementation"] == name][:EXAMPLES]:
                output.console.print(f"    {output.configuration(configuration)}")
        for reason, count in tally.unknown.most_common():
            output.console.print(f"{name}: {count:,} cannot be told without the device: {reason}")
    compiled, seconds = (sum(getattr(t, key) for t in tallies.values()) for key in ("compiled", "seconds"))
    infeasible = sum(sum(tally.infeasible.values()) for tally in tallies.values())
    output.console.print(
        f"\n{compiled:,} of {len(space):,} configurations compiled in {seconds:,.0f} s of processor time; "
        f"{infeasible:,} infeasible; space digest {space.digest}"
    )
