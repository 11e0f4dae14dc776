"""Correctness: how far a kernel's outputs are from the reference, and whether it kept its contract."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from autotune.errors import TrialError
from autotune.measure.poison import poisoned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Outputs = tuple[torch.Tensor, ...]

USELESS_ERROR = 1.0
"""An output of zeros has relative error 1: one that is further off is no approximation of anything."""
GARBAGE_ERROR = 1e6
"""What poisoned memory amounts to, and hardly anything that was computed."""
_BLOCK = 1 << 22
"""Elements converted to float64 at a time: 32 MiB, and no full-size copies of large outputs."""


def check(kernel: Callable[..., Any], cases: Sequence[tuple[Sequence[torch.Tensor], Any]]) -> float:
    """Relative error of a kernel over several cases, the largest.

    All calls come before any comparison, so that an output buffer which a later call overwrites is seen, as
    is a result kept from an earlier call.

    Args:
        kernel: called with a case's arguments, allocations poisoned.
        cases: arguments and reference; at least two that differ.

    Raises:
        TrialError: `wrong`, with the reason.
    """
    with poisoned():
        results = [_outputs(kernel(*arguments)) for arguments, _ in cases]
    for (arguments, _), outputs in zip(cases, results, strict=True):
        if _share_memory(outputs, arguments):
            raise TrialError("wrong", "an output shares memory with an input; expected fresh outputs")
    for i, outputs in enumerate(results):
        if any(_share_memory(outputs, later) for later in results[i + 1 :]):
            raise TrialError("wrong", "two calls returned the same memory; expected fresh outputs")
    return max(
        relative_error(outputs, reference) for outputs, (_, reference) in zip(results, cases, strict=True)
    )


def relative_error(out: Any, reference: Any) -> float:
    """`||out - reference|| / ||reference||`, over several outputs the largest.

    Args:
        out: a tensor or a tuple of them.
        reference: the same in higher precision.

    Raises:
        TrialError: `wrong`: other number, shape or kind of outputs, NaN or infinity, or an error of 1 or
            more.
    """
    outputs, references = _outputs(out), _outputs(reference)
    if len(outputs) != len(references):
        raise TrialError("wrong", f"{len(outputs)} outputs; expected {len(references)}")
    error = max(_relative_error(*pair) for pair in zip(outputs, references, strict=True))
    if error > GARBAGE_ERROR:
        raise TrialError("wrong", f"relative error {error:.3g}: garbage, as in memory that was never written")
    if not error < USELESS_ERROR:
        raise TrialError("wrong", f"relative error {error:.3g}: no nearer to the reference than zeros are")
    return error


def checksum(tensors: Iterable[torch.Tensor]) -> int:
    """A sum over all bytes that the tensors' storages hold, to notice that somebody wrote to them."""
    total = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        whole = storage.nbytes() // 8 * 8
        data = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
        total += int(data[:whole].view(torch.int64).sum()) + int(data[whole:].sum())
    return total


def _outputs(result: Any) -> Outputs:
    outputs = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    for output in outputs:
        if not isinstance(output, torch.Tensor):
            raise TrialError(
                "wrong", f"returned {type(output).__name__}; expected a tensor or a tuple of tensors"
            )
    return outputs


def _share_memory(some: Iterable[torch.Tensor], others: Iterable[torch.Tensor]) -> bool:
    addresses = {tensor.untyped_storage().data_ptr() for tensor in others if tensor.numel()}
    return any(tensor.untyped_storage().data_ptr() in addresses for tensor in some if tensor.numel())


def _relative_error(out: torch.Tensor, reference: torch.Tensor) -> float:
    if out.shape != reference.shape:
        raise TrialError("wrong", f"output of shape {tuple(out.shape)}; expected {tuple(reference.shape)}")
    if out.is_floating_point() != reference.is_floating_point():
        raise TrialError("wrong", f"output of type {out.dtype}; expected the kind of {reference.dtype}")
    # Of a float8 type torch cannot tell; float32 holds all its values.
    finite = torch.isfinite(out.float() if out.is_floating_point() and out.itemsize == 1 else out)
    if not bool(finite.all()):
        share = 1 - float(finite.double().mean())
        raise TrialError("wrong", f"{share:.2%} of the output is NaN or infinite, or was never written")
    difference = norm = 0.0
    for ours, theirs in zip(_blocks(out), _blocks(reference), strict=True):
        exact = theirs.double()
        difference += float((ours.double() - exact).square().sum())
        norm += float(exact.square().sum())
    if norm == 0.0:
        return 0.0 if difference == 0.0 else math.inf
    return math.sqrt(difference / norm)


def _blocks(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    return torch.split(tensor.detach().reshape(-1), _BLOCK)
