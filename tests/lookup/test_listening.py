"""`autotune.listen()`: what `@triton.autotune` found is written down, bounded, and never fails anybody."""

from __future__ import annotations

import json
import math
import sys
from types import SimpleNamespace

import pytest

import autotune
from autotune.cli import main
from autotune.lookup import listening, warning
from autotune.lookup.listening import Listener
from tests.lookup.test_tuned import CONFIGS, Config, make

TIMINGS = {CONFIGS[0]: [0.3, 0.2, 0.4], CONFIGS[1]: [math.inf] * 3}


def finding(**changes):
    def scale():
        pass

    given = {
        "fn": SimpleNamespace(fn=scale),
        "key": (100, "torch.float16"),
        "best_config": CONFIGS[0],
        "configs_timings": TIMINGS,
        "duration": 1.5,
        "cache_hit": False,
    }
    return given | changes


@pytest.fixture
def triton(monkeypatch):
    """A Triton whose listener can be set."""
    knobs = SimpleNamespace(autotuning=SimpleNamespace(listener=None))
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(knobs=knobs, __version__="3.6.0"))
    monkeypatch.setattr(warning, "_given", set())
    return knobs.autotuning


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_was_found_is_a_line(triton, tmp_path) -> None:
    path = tmp_path / "found.jsonl"
    assert autotune.listen(str(path))
    triton.listener(**finding())
    (told,) = lines(path)
    assert told["function"].endswith(".scale")
    assert ([100, "torch.float16"], "3.6.0", 1.5) == (told["key"], told["triton"], told["seconds"])
    assert {"BLOCK": 64, "num_warps": 4, "num_stages": 3, "num_ctas": 1} == told["best"]
    assert [[0.3, 0.2, 0.4], [None] * 3] == [times for _, times in told["timings"]]


def test_a_listener_that_was_there_is_still_called(triton, tmp_path) -> None:
    heard: list[dict] = []
    triton.listener = lambda **told: heard.append(told)
    autotune.listen(str(tmp_path / "found.jsonl"))
    autotune.listen(str(tmp_path / "found.jsonl"))
    triton.listener(**finding())
    assert [1.5] == [told["duration"] for told in heard]
    assert 1 == len(lines(tmp_path / "found.jsonl"))


def test_the_file_has_a_bound(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(listening, "LARGEST_BYTES", 2000)
    listener = Listener(str(tmp_path / "found.jsonl"))
    for _ in range(50):
        listener(**finding())
    assert 0 < (tmp_path / "found.jsonl").stat().st_size <= 2000
    assert lines(tmp_path / "found.jsonl")


def test_timings_that_are_too_many_for_a_line_are_left_out(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(listening, "LONGEST_LINE", 900)
    many = {Config({"BLOCK": block}): [1.0] for block in range(100)}
    Listener(str(tmp_path / "found.jsonl"))(**finding(configs_timings=many))
    assert [] == lines(tmp_path / "found.jsonl")[0]["timings"]


@pytest.mark.filterwarnings("ignore:autotune")
@pytest.mark.parametrize(
    "broken", [{"configs_timings": 7}, {"key": 7}, {"fn": None, "configs_timings": None}]
)
def test_nothing_odd_fails_the_process(tmp_path, broken: dict) -> None:
    Listener(str(tmp_path / "found.jsonl"))(**finding(**broken))


@pytest.mark.filterwarnings("ignore:autotune")
def test_a_file_that_cannot_be_written_fails_nobody(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    Listener(str(tmp_path / "file" / "found.jsonl"))(**finding())


@pytest.mark.filterwarnings("ignore:autotune")
def test_without_triton_it_says_no(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(warning, "_given", set())
    assert not autotune.listen()


def test_findings_of_a_kernel_come_back_as_an_earlier_study(tmp_path, monkeypatch, node, capsys) -> None:
    """By the function's name and the key's length; what was cut short or is another's is passed over."""
    from autotune.fingerprint import named_device
    from autotune.search.imported import FromImports
    from autotune.search.objective import LATENCY
    from autotune.space.problem import Problem

    made = make()
    monkeypatch.setattr(listening, "_device", lambda: "NVIDIA H200")
    path = tmp_path / "found.jsonl"
    monkeypatch.setenv("AUTOTUNE_LISTEN_FILE", str(path))
    listener = Listener(str(path))
    listener(**finding(fn=made.fn))
    listener(**finding())
    with path.open("a") as file:
        file.write('{"function": "kernel"\n[]\n')
    assert main(["import", "triton-autotune", made.name]) == 0
    source = FromImports(str(node.state), named_device("nvidia-h200"))
    (earlier,) = source(Problem(made.name, {"n": 100, "dtype": "float16"}), LATENCY)
    first, second = earlier.study.configurations
    assert {"implementation": "triton", "BLOCK": 64, "num_warps": 4, "num_stages": 3} == first
    assert (0.3, True) == (earlier.study.values[0], math.isnan(earlier.study.values[1]))
    assert 8 == second["num_warps"]
    capsys.readouterr()
    path.write_text("")
    assert main(["import", "triton-autotune", made.name]) == 2
    assert "0 findings, none of kernel with the key (n)" in capsys.readouterr().err
    assert main(["import", "triton-autotune", "nothing"]) == 2
