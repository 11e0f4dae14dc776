from __future__ import annotations

import sys
from typing import ClassVar

import pytest
import torch

from autotune.errors import ProblemError, UnknownNameError, UsageError
from autotune.lookup.best_config import BestConfig
from autotune.space.declaration import Implementation, SpaceDeclaration
from autotune.space.declared import declared
from autotune.space.problem import Dimension
from autotune.workloads import registry
from autotune.workloads.base import Cost, Workload

BASELINE = {
    "implementation": "torch",
    "compute_dtype": "float32",
    "weight_layout": "nk",
    "threads": 1,
}
PROBLEM = {"m": 2, "n": 3, "k": 4, "dtype": "float32"}


class Doubling(Workload):
    """y = 2 * x, for registering."""

    name: ClassVar[str] = "doubling"

    def weights(self, problem, seed, device="cpu"):
        return {}

    def activations(self, problem, seed, device="cpu"):
        return {"x": torch.randn(problem["rows"], generator=torch.Generator().manual_seed(seed))}

    def reference(self, problem, weights, activations):
        return activations["x"].double() * 2

    def build(self, problem, configuration, weights):
        return lambda x: x * 2

    def cost(self, problem):
        return Cost(problem["rows"], 8 * problem["rows"], "float32")


@pytest.fixture(autouse=True)
def forget_registered(monkeypatch):
    """What a test registers is gone after it."""
    for table in ("_workloads", "_declarations"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))


def doubling_space(name="doubling"):
    return SpaceDeclaration(
        name,
        {"rows": Dimension("rows", nearest=True)},
        {"plain": Implementation(qualifiers={"style": ["simple"]})},
        {"implementation": "plain", "style": "simple"},
    )


@pytest.mark.parametrize("name", sorted(registry.SHIPPED))
def test_every_shipped_workload_has_its_class_and_its_space(name):
    assert name == registry.workload(name).name == registry.declaration(name).workload


def test_unknown_workload_names_the_closest():
    with pytest.raises(UnknownNameError, match="did you mean linear"):
        registry.workload("linea")
    with pytest.raises(UnknownNameError, match="did you mean linear"):
        registry.declaration("linea")


@pytest.mark.parametrize("given", [Doubling, Doubling()])
def test_a_registered_workload_is_known_to_tuning_and_look_ups(given):
    assert given is registry.register(given, doubling_space())
    assert "doubling" in registry.workload_names()
    assert isinstance(registry.workload("doubling"), Doubling)
    assert {"implementation", "style"} == declared("doubling").qualifiers


def test_a_name_of_ours_cannot_be_taken():
    taken = type("Linear", (Doubling,), {"name": "linear"})
    with pytest.raises(UsageError, match="ships with autotune"):
        registry.register(taken)


def test_a_space_of_another_name_is_refused():
    with pytest.raises(UsageError, match="name them alike"):
        registry.register(Doubling, doubling_space("tripling"))


def test_build_takes_what_a_look_up_gave():
    """The problem comes with it."""
    best = BestConfig(BASELINE, problem=registry.declaration("linear").problem(PROBLEM))
    weight, x = torch.randn(3, 4), torch.randn(2, 4)
    assert torch.equal(x @ weight.T, registry.build("linear", best, weight=weight)(x))


def test_build_takes_a_plain_configuration_with_its_problem():
    weight, x = torch.randn(3, 4), torch.randn(2, 4)
    kernel = registry.build("linear", BASELINE, problem=PROBLEM, weight=weight)
    assert torch.equal(x @ weight.T, kernel(x))


@pytest.mark.parametrize(
    "configuration",
    [BASELINE, {"implementation": "native", "tile_m": 2, "tile_n": 16, "threads": 1}],
)
def test_build_takes_parameters_of_a_module(configuration):
    """With gradients enabled, as outside of inference code; results ask for none."""
    layer = torch.nn.Linear(4, 3, bias=False)
    x = torch.randn(2, 4)
    with torch.enable_grad():
        y = registry.build("linear", configuration, problem=PROBLEM, weight=layer.weight)(x)
    assert not y.requires_grad
    torch.testing.assert_close(layer(x), y)


def test_build_without_a_problem_says_how_to_give_one():
    with pytest.raises(ProblemError, match="needs problem="):
        registry.build("linear", BASELINE, weight=torch.randn(3, 4))


@pytest.mark.parametrize("weights", [{}, {"w": torch.ones(3, 4)}, {"weight": torch.ones(3, 4), "bias": None}])
def test_build_names_the_weights_that_it_expects(weights):
    with pytest.raises(UsageError, match="linear: expected the weights weight; given are"):
        registry.build("linear", BASELINE, problem=PROBLEM, **weights)


def test_build_of_no_configuration_is_refused():
    with pytest.raises(UsageError, match="names no implementation"):
        registry.build("linear", {}, problem=PROBLEM, weight=torch.ones(3, 4))


def test_a_file_is_imported_once_and_registers_its_workloads(tmp_path):
    module = tmp_path / "kernels.py"
    module.write_text("import collections\nruns = collections.Counter()\nruns['here'] += 1\n")
    registry.import_module(str(module))
    registry.import_module(str(module))
    assert 1 == sys.modules["autotune_module_kernels"].runs["here"]


@pytest.mark.parametrize(
    ("text", "reason"), [("import nonsuch", "nonsuch"), ("(", "never closed"), (None, "not a file")]
)
def test_a_module_that_cannot_be_imported_is_refused_in_one_line(tmp_path, text, reason):
    module = tmp_path / "broken.py"
    if text is not None:
        module.write_text(text)
    with pytest.raises(UsageError, match=reason) as caught:
        registry.import_module(str(module))
    assert "\n" not in str(caught.value)
    assert "autotune_module_broken" not in sys.modules
