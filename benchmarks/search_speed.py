"""What a proposal of the search costs on a large space, on one core.

    python benchmarks/search_speed.py [--configurations N] [--observations N] [--proposals N]

The space is made up: ten parameters of a tiled kernel, thinned at random to the number of configurations,
with a smooth cost and 1 % of noise. The search makes as many observations as asked for, of its own choosing,
and then further proposals. Timed is `ask` and `tell` together, all that a trial waits for. Printed: mean,
median, 95th percentile and longest, in milliseconds of processor time, of the proposals before and after.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

# One thread: the limit is stated for one core.
for knob in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(knob, "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np  # noqa: E402

from autotune.search.sampler import PoolSearch  # noqa: E402
from autotune.space.pool import Parameter, Pool  # noqa: E402

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

PARAMETERS = (
    Parameter("block_m", (16, 32, 64, 96, 128, 192, 256)),
    Parameter("block_n", (16, 32, 64, 96, 128, 192, 256)),
    Parameter("block_k", (16, 32, 64, 128)),
    Parameter("group_m", (1, 2, 4, 8, 16)),
    Parameter("warps", (1, 2, 4, 8, 16)),
    Parameter("stages", (1, 2, 3, 4, 5, 6)),
    Parameter("split_k", (1, 2, 4, 8)),
    Parameter("layout", ("row", "column", "blocked")),
    Parameter("prefetch", (False, True)),
    Parameter("pad", (False, True)),
)


def space(configurations: int, random: np.random.Generator) -> tuple[Pool, Floats]:
    """A pool of so many configurations and what each costs, in milliseconds."""
    codes = np.array(list(product(*(range(len(p.values)) for p in PARAMETERS))), np.int32)
    codes = codes[np.sort(random.choice(len(codes), configurations, replace=False))]
    position = codes / np.array([len(p.values) - 1 for p in PARAMETERS])
    best = random.uniform(size=len(PARAMETERS))
    log_cost = ((position - best) ** 2) @ random.exponential(size=len(PARAMETERS))
    return Pool(PARAMETERS, codes), np.exp(log_cost + 0.01 * random.normal(size=configurations))


def main() -> int:
    """Time the proposals and print what they took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configurations", type=int, default=100_000)
    parser.add_argument("--observations", type=int, default=200)
    parser.add_argument("--proposals", type=int, default=100)
    arguments = parser.parse_args()
    pool, costs = space(arguments.configurations, np.random.default_rng(0))
    started = time.process_time()
    search = PoolSearch(pool, 0)
    print(f"{len(pool)} configurations prepared in {1e3 * (time.process_time() - started):.0f} ms, once")
    milliseconds = []
    for _ in range(arguments.observations + arguments.proposals):
        started = time.process_time()
        row = search.ask()
        assert row is not None, "there are more configurations than proposals"
        search.tell(row, float(costs[row]))
        milliseconds.append(1e3 * (time.process_time() - started))
    before, after = np.split(np.array(milliseconds), [arguments.observations])
    print("milliseconds per proposal      mean    p50    p95    max")
    for label, times in (
        (f"the first {len(before)}", before),
        (f"the {len(after)} after {len(before)} observations", after),
    ):
        numbers = (times.mean(), *np.percentile(times, [50, 95]), times.max())
        print(f"{label:<28}" + "".join(f"{number:7.1f}" for number in numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
