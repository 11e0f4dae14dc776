"""What compiling the configurations of a batch side by side, before any is timed, saves of a search's time.

    python benchmarks/compile_ahead.py [--workload linear] [-p m=16,n=1024,k=1024] [--configurations 16]

The same configurations of C++ kernels are made ready to be timed twice, each time with an empty cache: built
one by one, and in batches of as many as there are cores, compiled side by side and then built. Printed:
seconds of either way and their ratio, several times in turn, since a machine's speed drifts. Wants the
machine to itself.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from autotune.cli.options import problem
from autotune.config import load_settings
from autotune.errors import AutotuneError, UsageError
from autotune.fingerprint import device_named
from autotune.space.searchspace import SearchSpace
from autotune.worker.configured import configured_worker
from autotune.workloads.registry import declaration, workload

if TYPE_CHECKING:
    from autotune.space.problem import Problem
    from autotune.store.records import Configuration


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", default="linear")
    parser.add_argument("-p", "--problem", default="m=16,n=1024,k=1024")
    parser.add_argument("--configurations", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    try:
        wanted = problem(options.workload, [options.problem])
        chosen = _distinct(wanted, options.configurations)
        print(f"{wanted}: {len(chosen)} configurations of different kernels, {os.cpu_count()} cores")
        print("round   one by one   side by side   ratio")
        ratios = []
        for number in range(options.rounds):
            alone, together = (_seconds(wanted, chosen, ahead) for ahead in (False, True))
            ratios.append(alone / together)
            print(f"{number:5}{alone:11.1f} s{together:13.1f} s{ratios[-1]:8.2f}")
    except AutotuneError as error:
        print(f"compile_ahead: {error}", file=sys.stderr)
        return error.exit_code
    print(f"median ratio {statistics.median(ratios):.2f}")
    return 0


def _distinct(wanted: Problem, most: int) -> list[Configuration]:
    """Configurations that need a kernel of their own each."""
    space = SearchSpace.build(declaration(wanted.workload), wanted, device_named("cpu").facts)
    known, chosen = set(), []
    for row in range(len(space)):
        configuration = space.pool.configuration(row)
        kernels = workload(wanted.workload).native_kernels(wanted, configuration)
        if kernels and not known & set(kernels):
            known |= set(kernels)
            chosen.append(configuration)
    if not chosen:
        raise UsageError(f"{wanted}: no configuration has a kernel to compile")
    return chosen[:most]


def _seconds(wanted: Problem, chosen: list[Configuration], ahead: bool) -> float:
    """Until all are built, with an empty cache of kernels."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["AUTOTUNE_CACHE_DIR"] = cache
        with configured_worker(load_settings().worker, device_named("cpu")) as worker:
            compilers = worker.prepare(wanted, 0).compilers
            batch = compilers if ahead else 1
            start = time.perf_counter()
            for first in range(0, len(chosen), batch):
                if batch > 1:
                    worker.compile(chosen[first : first + batch])
                for configuration in chosen[first : first + batch]:
                    worker.build("slot", configuration)
            return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
