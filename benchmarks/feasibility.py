"""How many configurations that a space declares valid for a GPU the compiler rejects, without having the GPU.

    python benchmarks/feasibility.py [--device nvidia-h200 ...] [--workload ...] [--sample N | --corners N]

For every device named, every problem of `space_corners.py` and every implementation with kernels of our own,
configurations are drawn at random from the valid ones, or taken from the space's corners, and compiled for
the device's compute capability. Printed: points of
the implementation, those that the declared constraints leave, how many were compiled, how many of them cannot
run and why, and how many have threads that spill registers. A configuration that cannot run although it is
valid is one that a constraint in `search_spaces/` should rule out.
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from autotune.cli.options import problem
from autotune.errors import AutotuneError
from autotune.fingerprint import device_named
from autotune.space.searchspace import SearchSpace
from autotune.worker.feasibility import CompilePool
from autotune.workloads.registry import declaration
from benchmarks.space_corners import ANY_ERROR, FAMILIES, PROBLEMS, spread

if TYPE_CHECKING:
    from autotune.fingerprint import Device
    from autotune.space.problem import Problem
    from autotune.space.searchspace import Offer
    from autotune.store.records import Feasibility


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", nargs="+", default=FAMILIES)
    parser.add_argument("--workload", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("-p", "--problem", nargs="+", help="instead of those above; with one workload")
    parser.add_argument("--implementation", nargs="+", help="instead of all")
    parser.add_argument("--sample", type=int, default=40, help="of each implementation and problem")
    parser.add_argument("--corners", type=int, help="of each implementation, or a few more; no sample then")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started, rejected = time.monotonic(), 0
    numbers = f"{'points':>9} {'valid':>7} {'compiled':>8} {'rejected':>8} {'spill':>6}"
    print(f"{'device':17} {'implementation':17} {numbers}")
    try:
        for name in options.device:
            for workload in options.workload:
                declared = declaration(workload)
                own = [declared.problem(dimensions) for dimensions in PROBLEMS[workload]]
                given = [problem(workload, [text]) for text in options.problem or ()]
                for wanted in given or own:
                    rejected += _problem(device_named(name), wanted, options)
    except AutotuneError as error:
        print(f"feasibility: {error}", file=sys.stderr)
        return error.exit_code
    seconds = time.monotonic() - started
    print(f"{rejected} rejected; Triton {version('triton')}, {platform.machine()}, {seconds:.0f} s")
    return 0


def _problem(device: Device, wanted: Problem, options: argparse.Namespace) -> int:
    """Compile a sample of each implementation; returns how many were rejected."""
    print(f"{wanted}")
    space = SearchSpace.build(declaration(wanted.workload), wanted, device.facts, ANY_ERROR)
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
    valid = [space.pool.configuration(row) for row in rows]
    if options.corners:
        drawn = spread(valid, options.corners)
    else:
        drawn = random.Random(options.seed).sample(valid, min(options.sample, len(valid)))
    found = pool.feasibilities(drawn)
    if not any(each.kernels or each.infeasible or each.unknown for each in found):
        return 0  # no kernel of ours
    infeasible = [(one, each) for one, each in zip(drawn, found, strict=True) if each.infeasible]
    counts = (
        f"{offer.raw:9,} {offer.valid:7,} {len(found):8} {len(infeasible):8} {sum(map(_spills, found)):6}"
    )
    print(f"{device.family:17} {offer.name:17} {counts}", flush=True)
    for reason, count in Counter(each.unknown for each in found if each.unknown).items():
        print(f"    {count} cannot be told: {reason}")
    for one, each in infeasible:
        print(f"    {each.infeasible}: {one}")
    return len(infeasible)


def _spills(found: Feasibility) -> bool:
    return any(kernel.local_bytes for kernel in found.kernels)


if __name__ == "__main__":
    sys.exit(main())
