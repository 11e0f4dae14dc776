"""`@autotune.tuned` over real Triton kernels: launched, looked up and tuned in the interpreter."""

import json
import runpy
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

import autotune
from autotune.cli import main
from autotune.space import SearchSpace
from autotune.space.problem import Problem
from autotune.workloads import registry

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "tuned_kernel.py"
CONFIGS = [triton.Config({"BLOCK": block}) for block in (16, 64)]


@autotune.tuned(
    configs=CONFIGS,
    key=["n"],
    reset_to_zero=["total"],
    grid=lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),),
    inputs=lambda p, draw: {"x": draw(p["n"]), "total": draw.empty(1), "n": p["n"]},
    reference=lambda problem, x: x.double().sum().view(1),
)
@triton.jit
def interpreted_sum(x, total, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(total, tl.sum(tl.load(x + offsets, offsets < n, 0.0), 0))


@autotune.tuned(
    configs=CONFIGS,
    key=["n"],
    restore_value=["x"],
    grid=lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),),
    inputs=lambda p, draw: {"x": draw(p["n"]), "n": p["n"]},
    reference=lambda problem, x: x.double() + 1,
)
@triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK"] == 0})
@triton.jit
def interpreted_increment(x, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n
    tl.store(x + offsets, tl.load(x + offsets, inside) + 1, inside)


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    for variable, name in (("STATE_DIR", "state"), ("CACHE_DIR", "cache"), ("CONFIG", "config.toml")):
        monkeypatch.setenv(f"AUTOTUNE_{variable}", str(tmp_path / name))
    (tmp_path / "config.toml").write_text("[measure]\nscreen_seconds = 0.05\n")


@pytest.mark.filterwarnings("ignore:autotune")
def test_a_launch_with_the_default_is_right():
    """By position or by name, over a grid that is a function of constants."""
    x, total = torch.randn(100), torch.zeros(1)
    interpreted_sum[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]),)](x, total, n=100)
    torch.testing.assert_close(total, x.sum().view(1))


@pytest.mark.parametrize("name", ["interpreted_sum", "interpreted_increment"])
def test_every_configuration_is_right_as_a_workload(name):
    """Fresh outputs, zeroed or restored where the kernel needs it, and inputs left alone."""
    workload, declared = registry.workload(name), registry.declaration(name)
    problem = Problem(name, {"n": 100, "dtype": "float32"})
    space = SearchSpace.build(declared, problem, {"kind": "cpu"})
    activations = workload.activations(problem, seed=1)
    before = {name: tensor.clone() for name, tensor in activations.items()}
    expected = workload.reference(problem, {}, activations)
    for row in range(len(space)):
        kernel = workload.build(problem, space.pool.configuration(row), {})
        first, second = (kernel(*activations.values()) for _ in range(2))
        torch.testing.assert_close(first.double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(second.double(), expected, rtol=1e-5, atol=1e-5)
        assert first.data_ptr() != second.data_ptr()
    assert all(torch.equal(before[name], tensor) for name, tensor in activations.items())
    assert len(CONFIGS) == len(space)


def test_cost_counts_tensors_once_and_restored_ones_twice():
    problem = Problem("", {"n": 100, "dtype": "float32"})
    assert 404 == registry.workload("interpreted_sum").cost(problem).bytes
    assert 800 == registry.workload("interpreted_increment").cost(problem).bytes


def test_the_example_is_tuned_on_the_command_line_and_then_looked_up(capsys):
    """As a user does it; the very launch that fell back to the default before has what was decided."""
    made = runpy.run_path(str(EXAMPLE))
    x, out = torch.ones(64), torch.empty(64)
    with pytest.warns(autotune.AutotuneWarning, match="best.db"):
        made["scaled_add"][made["grid"]](x, x, out, 64)
    assert (out == 3).all()

    words = ["-p", "n=64,dtype=float32", "--budget", "4s", "--trials", "2", "--json"]
    assert main(["tune", "scaled_add", "--module", str(EXAMPLE), *words]) == 0
    winner = json.loads(capsys.readouterr().out)["outcomes"][0]["winner"]["choices"][0]["configuration"]

    autotune.refresh()
    made["scaled_add"].refresh()
    config = made["scaled_add"].config(x, x, out, 64)
    assert winner == {"implementation": "triton", **made["scaled_add"].settings(config)}
    best = autotune.get_best_config("scaled_add", device="cpu", n=64, dtype="float32")
    assert ("exact", winner) == (best.match, dict(best))
