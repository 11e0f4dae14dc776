"""The contract of a workload: an operation that can be tuned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from autotune.space.problem import Problem
    from autotune.workloads.native import NativeKernel

    Tensors = dict[str, torch.Tensor]
    Kernel = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]


class Cost(NamedTuple):
    """The work that a problem cannot avoid, for the roofline.

    Attributes:
        flops: floating-point operations, a multiply-add counting two.
        bytes: least bytes that must move: every weight and activation read once, every output written once,
            weights in the problem's own storage format.
        dtype: the data type whose matmul ceiling applies.
    """

    flops: int
    bytes: int
    dtype: str


class Workload(ABC):
    """An operation that can be tuned.

    A subclass is stateless: one instance serves many problems. All methods run in the worker. Tensors are on
    `device` ("cpu", "cuda:0"), so that one class serves every device.
    """

    name: ClassVar[str]

    @abstractmethod
    def weights(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """Tensors that are known when a configuration is built, in the format a checkpoint stores them in.

        Values are realistic random data (zeros run faster than real weights on many devices).
        """

    def weight_names(self, problem: Problem) -> tuple[str, ...]:
        """Names of the weights, as `weights` gives them; to be overridden where making them is expensive."""
        return tuple(self.weights(problem, seed=0))

    def native_kernels(
        self,
        problem: Problem,
        configuration: Mapping[str, Any],
    ) -> tuple[NativeKernel, ...]:
        """The C++ kernels that building a configuration compiles, so that they can be compiled before."""
        return ()

    def pack_activations(
        self,
        problem: Problem,
        configuration: Mapping[str, Any],
        activations: Tensors,
        weights: Tensors,
    ) -> Tensors:
        """The activations in the layout that a configuration takes, made outside the timed region.

        It is for what a serving system holds in that layout anyway, such as a KV cache, which may be computed
        with the weights; by default nothing is changed.
        """
        return activations

    @abstractmethod
    def activations(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """Tensors of one call; a kernel takes them by position, in this order."""

    @abstractmethod
    def reference(self, problem: Problem, weights: Tensors, activations: Tensors) -> Any:
        """The result in higher precision than any implementation uses: a tensor, or a tuple of them."""

    @abstractmethod
    def build(self, problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
        """The ready callable of a configuration; packing and compiling happen here, outside the timed region.

        The callable takes the activations by position and returns fresh outputs; it neither changes its
        arguments nor returns one of them. It is right for any activations of the problem's shapes.

        Raises:
            Exception: anything; the trial is recorded as `compile_error` with its message.
        """

    @abstractmethod
    def cost(self, problem: Problem) -> Cost:
        """Work that cannot be avoided."""
