"""Where a search that may go on as long as it likes ends by itself, and what it has missed by then.

    python benchmarks/search_end.py [LANDSCAPE...] [--seeds N] [--evaluations N]

LANDSCAPE is as for `search_efficiency.py`: recorded landscapes, or folders of them. A study ends with
`improbable` once its model expects next to nothing of a row of proposals (`autotune/search/proposals.py`);
here that rule is applied to replays. Printed: the share of searches that it ended before the evaluations
were spent, the median evaluations of those that it ended, how far from the optimum they were (geometric
mean, 90th percentile, worst), and the share of them that missed more than 1 %.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

for knob in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(knob, "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np  # noqa: E402
from search_efficiency import SHIPPED, files_of  # noqa: E402

from autotune.errors import UsageError  # noqa: E402
from autotune.search.landscape import Landscape, read_landscape  # noqa: E402
from autotune.search.proposals import Proposals  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Sequence

MISSED = 1.01


def replay(landscape: Landscape, seed: int, evaluations: int) -> tuple[bool, int, float]:
    """Search until the rule, or the number of evaluations, ends it.

    Returns:
        Whether the rule did, the evaluations made, and best / optimum.
    """
    proposals = Proposals(landscape.pool, seed)
    best = np.inf
    for made in range(evaluations):
        configuration = proposals.ask()
        if configuration is None or proposals.are_improbable:
            return True, made, best / landscape.optimum
        row = landscape.pool.find(configuration)
        assert row is not None, "proposals are rows of the pool"
        value = float(landscape.times[row])
        proposals.learn(configuration, None if np.isnan(value) else value)
        best = float(np.fmin(best, value))
    return False, evaluations, best / landscape.optimum


def tell(ends: Sequence[tuple[bool, int, float]]) -> None:
    """Print what became of the searches."""
    ended = np.array([by_rule for by_rule, _, _ in ends])
    print(f"searches                           {len(ends)}")
    print(f"ended by the rule                  {ended.mean():.2f}")
    if not ended.any():
        return
    made = np.array([made for by_rule, made, _ in ends if by_rule])
    ratio = np.array([ratio for by_rule, _, ratio in ends if by_rule])
    print(f"evaluations of those, median       {np.median(made):.0f}")
    spread = np.exp(np.log(ratio).mean()), np.percentile(ratio, 90), ratio.max()
    print("best / optimum, mean, 90 %, worst  " + ", ".join(f"{value:.3f}" for value in spread))
    print(f"missed more than {100 * (MISSED - 1):.0f} %               {(ratio > MISSED).mean():.3f}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("landscapes", nargs="*", type=Path, metavar="LANDSCAPE", default=[SHIPPED])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--evaluations", type=int, default=200)
    arguments = parser.parse_args()
    try:
        landscapes = [read_landscape(path) for path in files_of(arguments.landscapes)]
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    tell([replay(one, seed, arguments.evaluations) for one in landscapes for seed in range(arguments.seeds)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
