"""Reading recorded landscapes, and the score they are for."""

from __future__ import annotations

import gzip
import json
from itertools import combinations

import numpy as np
import pytest

from autotune.errors import UsageError
from autotune.search.landscape import Landscape, read_landscape
from autotune.space.pool import Parameter, Pool

CACHE = {
    "kernel_name": "axpy",
    "device_name": "A4000",
    "tune_params_keys": ["block", "unroll"],
    "tune_params": {"block": [64, 32], "unroll": [0, 1]},
    "cache": {
        "64,0": {"block": 64, "unroll": 0, "time": 2.0},
        "64,1": {"block": 64, "unroll": 1, "time": "RuntimeFailedConfig"},
        "32,1": {"block": 32, "unroll": 1, "time": 3.5},
    },
}


def landscape(times):
    pool = Pool((Parameter("i", tuple(range(len(times)))),), np.arange(len(times), dtype=np.int32)[:, None])
    return Landscape("made", "kernel", "device", pool, np.array(times, float))


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_cache_is_read_compressed_or_not(tmp_path, compress):
    path = tmp_path / "axpy__A4000.json.gz"
    path.write_bytes(compress(json.dumps(CACHE).encode()))

    read = read_landscape(path)

    assert (read.name, read.kernel, read.device) == ("axpy__A4000", "axpy", "A4000")
    assert [read.pool.configuration(row) for row in range(3)] == [
        {"block": 64, "unroll": 0},
        {"block": 64, "unroll": 1},
        {"block": 32, "unroll": 1},
    ]
    np.testing.assert_array_equal(read.times, [2.0, np.nan, 3.5])
    assert read.optimum == 2.0


def test_a_list_of_results_is_read_too(tmp_path):
    path = tmp_path / "axpy__A4000.json"
    path.write_text(json.dumps([{**entry, "GFLOP/s": 1.0} for entry in CACHE["cache"].values()]))

    read = read_landscape(path)

    assert [{"block": 64, "unroll": 0}, {"block": 64, "unroll": 1}] == [
        read.pool.configuration(r) for r in (0, 1)
    ]
    np.testing.assert_array_equal(read.times, [2.0, np.nan, 3.5])


def test_numbers_ascend_whatever_their_order_in_the_file(tmp_path):
    path = tmp_path / "cache.json"
    path.write_text(json.dumps(CACHE))
    assert read_landscape(path).pool.parameters[0].values == (32, 64)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not in the layout"),
        ('[{"time": 1.0, "block": 64}]', "no parameter before `time`"),
        (
            '{"tune_params_keys": ["a"], "tune_params": {}, "cache": {"1": {"a": 1, "time": 1}}}',
            "not in the layout",
        ),
        (json.dumps({**CACHE, "cache": {"64,1": CACHE["cache"]["64,1"]}}), "holds no configuration"),
    ],
)
def test_what_is_no_landscape_is_refused_in_one_line(tmp_path, content, complaint):
    path = tmp_path / "cache.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=complaint) as refusal:
        read_landscape(path)
    assert "\n" not in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_a_missing_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_landscape(tmp_path / "nowhere.json")


def test_random_search_is_expected_to_find_the_mean_over_all_samples():
    times = [3.0, 1.0, np.nan, 7.0, 2.0, 2.0]
    worst_for_failed = [3.0, 1.0, 7.0, 7.0, 2.0, 2.0]
    exact = [np.mean([min(c) for c in combinations(worst_for_failed, t)]) for t in range(1, 7)]

    expected = landscape(times).random_best(8)

    np.testing.assert_allclose(expected, [*exact, 1.0, 1.0])


def test_the_score_is_zero_for_random_search_and_one_for_the_optimum_at_once():
    space = landscape(np.linspace(1, 2, 500))
    assert space.scores(space.random_best(100)[None]) == pytest.approx(0)
    assert space.scores(np.full((3, 100), space.optimum)) == pytest.approx([1, 1, 1])
    assert space.scores(np.full((1, 100), 2.0)) < 0


def test_evaluations_at_which_random_search_is_certain_do_not_count():
    space = landscape(np.linspace(1, 2, 20))
    assert space.scores(np.full((1, 200), space.optimum)) == pytest.approx(1)
