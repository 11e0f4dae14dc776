"""Whether a search gains by what the compiler says of configurations: registers, spills and shared memory.

    python benchmarks/compiled_features.py [--seeds 12] [--trials 60] [--dimensions m=256,n=2112,k=7168]

Simulated: the space is `linear`'s `triton` on an H200 as it is declared; registers, spills and shared memory
are computed from tiles, warps and stages, and the time of a configuration from them (how many programs a
multiprocessor holds, what spilling costs) and from the waves of tiles. The search's Gaussian process gets
the three as columns that it may regress on:

    none       it does not, as shipped
    compiled   they are known of the configurations that were tried, and missing of all others
    all        they are known of every configuration, as if the whole space were compiled first

Printed are geometric means over seeds of best / optimum after 10, 25 and 50 trials, and their spread.
"""

from __future__ import annotations

import argparse
import math
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from autotune.cli.options import problem
from autotune.fingerprint import device_named
from autotune.search.sampler import PoolSearch
from autotune.search.sampler.covariance import Covariance
from autotune.space.pool import Pool
from autotune.space.searchspace import SearchSpace
from autotune.workloads.registry import declaration

if TYPE_CHECKING:
    import numpy.typing as npt

    from autotune.space.problem import Problem

    Floats = npt.NDArray[np.float64]

AT = (10, 25, 50)
MULTIPROCESSORS, REGISTERS, SHARED_BYTES, WARPS = 132, 65536, 228 << 10, 64
MOST_REGISTERS = 255
"""Of a thread; what does not fit is spilled."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--trials", type=int, default=max(AT))
    parser.add_argument("--dimensions", default="m=256,n=2112,k=7168")
    options = parser.parse_args()
    wanted = problem("linear", [options.dimensions])
    pool = _pool(wanted)
    found = [_simulated(pool.configuration(row), wanted) for row in range(len(pool))]
    costs, features = np.array([cost for cost, _ in found]), np.array([facts for _, facts in found])
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)
    print(f"{len(pool)} configurations, {options.seeds} seeds, {platform.machine()}")
    print(f"{'columns':9} " + " ".join(f"{f'@{count}':>13}" for count in AT))
    for known in ("none", "compiled", "all"):
        paths = [_search(pool, costs, features, known, seed, options.trials) for seed in range(options.seeds)]
        logs = np.log(np.array(paths))
        spread = logs.std(axis=0, ddof=1) / math.sqrt(len(paths))
        cells = (f"{math.exp(logs[:, n - 1].mean()):.3f} ± {spread[n - 1]:.3f}" for n in AT)
        print(f"{known:9} " + " ".join(f"{cell:>13}" for cell in cells), flush=True)
    return 0


def _pool(wanted: Problem) -> Pool:
    """The configurations of `triton`."""
    space = SearchSpace.build(declaration("linear"), wanted, device_named("nvidia-h200").facts)
    name = space.pool.parameters[0].values.index("triton")
    return Pool(space.pool.parameters, space.pool.codes[space.pool.codes[:, 0] == name])


def _simulated(one: dict[str, Any], wanted: Problem) -> tuple[float, tuple[float, float, float]]:
    """A configuration's time in arbitrary units, and what a compiler would say of it."""
    m, n, k = one["block_m"], one["block_n"], one["block_k"]
    warps, stages, parts = one["warps"], one["stages"], one.get("split_k", 1)
    threads = 32 * warps
    needed = 40 + (m * n + (m + n) * k // 4) / threads
    registers, spilled = min(needed, MOST_REGISTERS), max(needed - MOST_REGISTERS, 0.0)
    shared = (m + n) * k * 2 * max(stages - 1, 1)
    programs = min(REGISTERS // (registers * threads), SHARED_BYTES // shared, WARPS // warps)
    tiles = math.ceil(wanted["m"] / m) * math.ceil(wanted["n"] / n) * parts
    waves = math.ceil(tiles / (MULTIPROCESSORS * max(programs, 1)))
    # A wave takes as long as its tiles need the matrix unit or the memory, less what overlaps.
    compute, moved = m * n * k / 512 * max(programs, 1), (m + n) * k * max(programs, 1) / 24
    overlap = 1 - 0.8 * min(1.0, (stages - 1 + programs) / 6)
    block = max(compute, moved) + overlap * min(compute, moved) + 60
    steps = math.ceil(wanted["k"] / k / parts)
    cost = waves * steps * block * (1 + spilled / 64) * (1 + 0.04 * (parts - 1))
    return cost, (math.log(registers), math.log1p(spilled), math.log(shared))


def _search(pool: Pool, costs: Floats, features: Floats, known: str, seed: int, trials: int) -> list[float]:
    """Best / optimum after each trial."""
    search = PoolSearch(pool, seed)
    columns = np.zeros(features.shape, np.float32)
    if known != "none":
        # The search reads them whenever it fits, so that what is written later counts.
        search._covariance = Covariance(search._encoding, columns)
        search._theta = search._covariance.center
    if known == "all":
        columns[:] = features
    best, path = math.inf, []
    for _ in range(trials):
        row = search.ask()
        assert row is not None, "the space is larger than the trials"
        columns[row] = features[row] if known != "none" else 0.0
        search.tell(row, float(costs[row]))
        best = min(best, float(costs[row]))
        path.append(best / float(costs.min()))
    return path


if __name__ == "__main__":
    sys.exit(main())
