"""Functions compiled by Inductor for fixed shapes."""

from __future__ import annotations

import itertools
import types
import warnings
from typing import TYPE_CHECKING, Any

import torch

from autotune.workloads.threads import with_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autotune.workloads.base import Kernel

OPTIONS: dict[str, Any] = {
    # A pool of compiling processes takes longer to start than one small kernel takes to compile.
    "compile_threads": 1,
    # Trying whether each instruction set compiles takes 8 s; the list of the CPU's own comes from cpuinfo.
    "cpp.vec_isa_ok": True,
}

_counter = itertools.count()


def compile_with_inductor(
    function: Callable[..., Any], examples: Sequence[torch.Tensor], threads: int
) -> Kernel:
    """`function`, compiled for the shapes and types of `examples`.

    Args:
        function: of tensors.
        examples: what it will be called with; the values do not matter.
        threads: intra-op threads, which are constants of the compiled code.
    """
    # Dynamo counts recompilations by code object, and gives up after eight.
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_counter)}")
    own = types.FunctionType(
        code, function.__globals__, code.co_name, function.__defaults__, function.__closure__
    )
    kernel = with_threads(torch.compile(own, fullgraph=True, dynamic=False, options=OPTIONS), threads)
    with warnings.catch_warnings():
        # Importing Inductor and tracing warn of torch's own affairs, such as deprecated classes that it uses.
        warnings.simplefilter("ignore")
        kernel(*examples)
    return kernel
