"""The workloads that are known: ours, those registered in this process, and those of other packages.

Another package names its module in the entry-point group `autotune.workloads`; importing it registers them.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from typing import TYPE_CHECKING, Any

from autotune.errors import ProblemError, UnknownNameError, UsageError
from autotune.lookup.tuned import kernel_named, kernel_names
from autotune.space.declaration import SpaceDeclaration, load_declaration
from autotune.space.declared import ENTRY_POINTS, declare, shipped
from autotune.space.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from autotune.workloads.base import Kernel, Workload

SHIPPED = {
    "attention": "Attention",
    "decode_step": "DecodeStep",
    "fused_moe": "FusedMoe",
    "linear": "Linear",
    "mla_decode": "MlaDecode",
    "rms_norm": "RmsNorm",
    "rope": "Rope",
    "silu_and_mul": "SiluAndMul",
}
"""Class by workload; the module has the workload's name."""

_workloads: dict[str, Workload] = {}
_declarations: dict[str, SpaceDeclaration] = {}


def register(workload: type[Workload] | Workload, space: SpaceDeclaration | None = None) -> Any:
    """Make a workload known in this process; returns what was given, so that it can decorate a class.

    Args:
        workload: the class, or an instance.
        space: its declaration; without one it can be run, but neither tuned nor looked up.

    Raises:
        UsageError: its name is that of a workload of ours, or differs from its space's.
    """
    instance = workload() if isinstance(workload, type) else workload
    name = instance.name
    if name in SHIPPED:
        raise UsageError(f"workload {name!r} ships with autotune; choose another name for yours")
    if space is not None:
        if space.workload != name:
            raise UsageError(
                f"workload {name!r} has a space declared for {space.workload!r}; name them alike"
            )
        qualifiers = {
            q for implementation in space.implementations.values() for q in implementation.qualifiers
        }
        declare(name, space.dimensions.values(), space.baseline, qualifiers=qualifiers)
        _declarations[name] = space
    _workloads[name] = instance
    return workload


def workload(name: str) -> Workload:
    """The workload of a name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in _workloads:
        if name in SHIPPED:
            module = importlib.import_module(f"autotune.workloads.{name}")
            _workloads[name] = getattr(module, SHIPPED[name])()
        else:
            _take_up_kernel(name, run=True)
            if name not in _workloads:
                _load_entry_point(name)
    if name not in _workloads:
        raise UnknownNameError("workload", name, workload_names())
    return _workloads[name]


def declaration(name: str) -> SpaceDeclaration:
    """The declaration of a workload's search space; torch is not imported for one of ours.

    Raises:
        UnknownNameError: there is no such workload, or it was registered without a space.
        SpaceError: the file that declares it is wrong.
    """
    if name not in _declarations and name not in shipped():
        _take_up_kernel(name)
        if name not in _declarations:
            _load_entry_point(name)
    if name in _declarations:
        return _declarations[name]
    if name not in shipped():
        raise UnknownNameError("workload", name, workload_names())
    return load_declaration(name)


def workload_names() -> list[str]:
    """Every workload that can be named here: declared in files, registered, or of other packages."""
    from importlib.metadata import entry_points

    others = (point.name for point in entry_points(group=ENTRY_POINTS))
    return sorted({*shipped(), *_declarations, *kernel_names(), *others})


def import_module(name: str) -> None:
    """Import a module, or a `.py` file, that registers workloads.

    Raises:
        UsageError: it cannot be imported.
    """
    try:
        if name.endswith(".py"):
            _import_file(os.path.abspath(name))
        else:
            importlib.import_module(name)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"module {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def build(
    workload: str,
    best: Mapping[str, Any],
    *,
    problem: Problem | Mapping[str, Any] | None = None,
    **weights: torch.Tensor,
) -> Kernel:
    """The ready callable of a configuration: `build("linear", best, weight=w)(x)`.

    Weights are packed and kernels compiled here, once; the callable takes the activations by position.

    Args:
        workload: its name.
        best: what `get_best_config` gave, or any configuration of the workload.
        problem: the dimensions; those of `best` by default.
        **weights: by the names that the workload gives them.

    Raises:
        UsageError: `best` is no configuration, or the weights are not those that the workload has.
        ProblemError: `problem` is needed and missing.
    """
    made = _workload_and_problem(workload, best, problem)
    expected = made[0].weight_names(made[1])
    if set(weights) != set(expected):
        wanted, given = ", ".join(expected) or "none", ", ".join(weights) or "none"
        raise UsageError(f"{workload}: expected the weights {wanted}; given are {given}")
    if "implementation" not in best:
        raise UsageError(f"{workload}: {dict(best)!r} is no configuration; it names no implementation")
    # A module's parameters ask for gradients; what is packed from them must not keep them alive for that.
    return made[0].build(made[1], best, {name: weights[name].detach() for name in expected})


def _workload_and_problem(
    name: str, best: Mapping[str, Any], problem: Problem | Mapping[str, Any] | None
) -> tuple[Workload, Problem]:
    found = workload(name)
    problem = problem or getattr(best, "problem", None)
    if problem is None:
        raise ProblemError(f"{name}: a plain configuration needs problem=..., e.g. problem={{'m': 16, ...}}")
    return found, problem if isinstance(problem, Problem) else declaration(name).problem(problem)


def _take_up_kernel(name: str, *, run: bool = False) -> None:
    """Register a kernel that `autotune.tuned` decorated; serving, nobody needs its space.

    Args:
        name: of the workload; one that is no kernel's is left.
        run: whether it is to be run as well.

    Raises:
        UsageError: it can only be looked up.
    """
    kernel = kernel_named(name)
    if kernel is None:
        return
    from autotune.workloads.triton_kernel import TritonKernel, space_of

    _declarations[name] = space_of(kernel)
    if run:
        _workloads[name] = TritonKernel(kernel)


def _load_entry_point(name: str) -> None:
    from importlib.metadata import entry_points

    for point in entry_points(group=ENTRY_POINTS, name=name):
        try:
            point.load()
        except Exception as error:
            raise UsageError(f"workload {name!r}: importing {point.value} failed: {error}") from error


def _import_file(path: str) -> None:
    name = f"autotune_module_{os.path.basename(path).removesuffix('.py')}"
    if getattr(sys.modules.get(name), "__file__", None) == path:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise UsageError(f"module {path!r} is not a file; name a module or an existing .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
