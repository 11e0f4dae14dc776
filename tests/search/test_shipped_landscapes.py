"""The landscapes of our own workloads that ship with the benchmarks: whole, well formed, worth searching."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autotune.search.landscape import Landscape, read_cache, read_landscape
from autotune.search.landscape_file import IDENTITY, SECTION
from autotune.search.sampler import PoolSearch
from autotune.space.pool import INACTIVE

FILES = sorted((Path(__file__).parents[2] / "benchmarks" / "landscapes").glob("*.json.gz"))
EVALUATIONS = 40


def names(path: Path) -> str:
    return path.name.removesuffix(".json.gz")


def best_so_far(landscape: Landscape, seed: int) -> list[float]:
    """A cold search, replayed."""
    search, best = PoolSearch(landscape.pool, seed), [np.nanmax(landscape.times)]
    for _ in range(EVALUATIONS):
        row = search.ask()
        assert row is not None
        time = float(landscape.times[row])
        search.tell(row, None if np.isnan(time) else time)
        best.append(np.fmin(best[-1], time))
    return best[1:]


def test_there_are_landscapes_of_several_workloads() -> None:
    assert len(FILES) >= 6
    assert {"linear", "fused_moe", "mla_decode", "attention"} <= {
        read_landscape(file).kernel for file in FILES
    }


@pytest.mark.parametrize("path", FILES, ids=names)
def test_each_says_what_was_measured_and_where(path) -> None:
    content = read_cache(path)
    facts, entries = content[SECTION], content["cache"]
    assert set(IDENTITY) <= set(facts)
    assert facts["workload"] == content["kernel_name"]
    assert facts["recorded"] == len(entries) >= 100
    assert facts["recorded"] <= facts["configurations"]
    # The baseline was re-measured all along, the last time at the end.
    after = [measured["after"] for measured in facts["baseline_measurements"]]
    assert after[0] == 0
    assert after[-1] == len(entries)
    assert after == sorted(after)
    for key, entry in entries.items():
        assert key == ",".join(str(entry[name]) for name in content["tune_params_keys"])
        assert all(entry[name] in content["tune_params"][name] for name in content["tune_params_keys"])
        assert isinstance(entry["time"], str) or entry["time"] > 0


@pytest.mark.parametrize("path", FILES, ids=names)
def test_each_is_a_space_with_inactive_parameters_and_the_baseline_in_it(path) -> None:
    landscape, facts = read_landscape(path), read_cache(path)[SECTION]
    assert landscape.pool.find(facts["baseline"]) == 0
    assert (landscape.pool.codes == INACTIVE).any()
    found = [landscape.pool.find(landscape.pool.configuration(row)) for row in range(len(landscape))]
    assert found == list(range(len(landscape)))
    # A search has something to find: the baseline is beaten, and few come near the optimum.
    assert landscape.optimum < 0.8 * landscape.times[0]
    assert np.nanmean(landscape.times < 1.05 * landscape.optimum) < 0.25


def test_the_sampler_is_ahead_of_random_search() -> None:
    (path,) = (file for file in FILES if file.name.startswith("attention_batch4"))
    landscape = read_landscape(path)
    runs = np.array([best_so_far(landscape, seed) for seed in range(3)])
    assert landscape.scores(runs).mean() > 0.4
