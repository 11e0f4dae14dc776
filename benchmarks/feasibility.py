"""How many configurations that a space declares valid for a GPU the compiler rejects, without having the GPU.

    python benchmarks/feasibility.py [--device nvidia-h200 ...] [--workload linear ...] [--sample 40] [--seed 0]

For every device named, every problem below and every implementation with kernels of our own, configurations
are drawn at random from the valid ones and compiled for the device's compute capability. Printed: points of the
implementation, those that the declared constraints leave, how many were compiled, how many of them cannot run
and why, and how many have threads that spill registers. A configuration that cannot run although it is valid
is one that a constraint in `search_spaces/` should rule out.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from autotune.cli.options import problem
from autotune.errors import AutotuneError
from autotune.fingerprint import device_named
from autotune.space.searchspace import SearchSpace
from autotune.worker.feasibility import CompilePool
from autotune.workloads.registry import declaration

if TYPE_CHECKING:
    from autotune.fingerprint import Device
    from autotune.space.problem import Problem
    from autotune.space.searchspace import Offer
    from autotune.store.records import Feasibility

DEVICES = ("nvidia-a100-80gb", "nvidia-h200", "nvidia-b200")
PROBLEMS = {
    "linear": (
        "m=1,n=2112,k=7168",
        "m=16,n=7168,k=2048",
        "m=64,n=1536,k=1536",
        "m=256,n=4608,k=7168,dtype=float16",
        "m=4096,n=7168,k=1024",
        "m=16,n=7168,k=2048,weight_format=int4_g32",
    ),
}
NO_LIMIT = 1e9
"""An error that admits every implementation, lossy ones too."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", nargs="+", default=DEVICES)
    parser.add_argument("--workload", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("-p", "--problem", nargs="+", help="instead of those above; with one workload")
    parser.add_argument("--implementation", nargs="+", help="instead of all")
    parser.add_argument("--sample", type=int, default=40, help="of each implementation and problem")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started, rejected = time.monotonic(), 0
    print(
        f"{'device':17} {'implementation':17} {'points':>9} {'valid':>7} {'compiled':>8} {'rejected':>8} {'spill':>6}"
    )
    try:
        for name in options.device:
            for workload in options.workload:
                for text in options.problem or PROBLEMS[workload]:
                    rejected += _problem(device_named(name), problem(workload, [text]), options)
    except AutotuneError as error:
        print(f"feasibility: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{rejected} rejected; {time.monotonic() - started:.0f} s")
    return 0


def _problem(device: Device, wanted: Problem, options: argparse.Namespace) -> int:
    """Compile a sample of each implementation; returns how many were rejected."""
    print(f"{wanted}")
    space = SearchSpace.build(declaration(wanted.workload), wanted, device.facts, NO_LIMIT)
    rejected = 0
    with CompilePool(wanted, device.facts) as pool:
        for offer in space.offers:
            if offer.valid and (not options.implementation or offer.name in options.implementation):
                rejected += _implementation(device, space, offer, pool, options)
    return rejected


def _implementation(
    device: Device, space: SearchSpace, offer: Offer, pool: CompilePool, options: argparse.Namespace
) -> int:
    codes = space.pool.codes[:, 0]
    number = space.pool.parameters[0].values.index(offer.name)
    rows = [row for row in range(len(space)) if codes[row] == number]
    drawn = random.Random(options.seed).sample(rows, min(options.sample, len(rows)))
    found = pool.feasibilities([space.pool.configuration(row) for row in drawn])
    if not any(each.kernels or each.infeasible or each.unknown for each in found):
        return 0  # no kernel of ours
    infeasible = [(row, each) for row, each in zip(drawn, found, strict=True) if each.infeasible]
    counts = (
        f"{offer.raw:9,} {offer.valid:7,} {len(found):8} {len(infeasible):8} {sum(map(_spills, found)):6}"
    )
    print(f"{device.family:17} {offer.name:17} {counts}", flush=True)
    for reason, count in Counter(each.unknown for each in found if each.unknown).items():
        print(f"    {count} cannot be told: {reason}")
    for row, each in infeasible:
        print(f"    {each.infeasible}: {space.pool.configuration(row)}")
    return len(infeasible)


def _spills(found: Feasibility) -> bool:
    return any(kernel.local_bytes for kernel in found.kernels)


if __name__ == "__main__":
    sys.exit(main())
