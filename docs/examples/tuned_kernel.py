"""A Triton kernel with @autotune.tuned in the place of @triton.autotune: scaled addition.

Serving, it launches with what was proven for its key, with the first configuration where nothing is known:

    python docs/examples/tuned_kernel.py

It is tuned like any workload (without a GPU: TRITON_INTERPRET=1, which shows that it works and no more):

    autotune tune scaled_add --module docs/examples/tuned_kernel.py -p n=65536,dtype=float32
"""

import os

import torch
import triton
import triton.language as tl

import autotune


def grid(meta):
    """One program for each block."""
    return (triton.cdiv(meta["n"], meta["BLOCK"]),)


@autotune.tuned(
    configs=[
        triton.Config({"BLOCK": block}, num_warps=warps) for block in (256, 1024, 4096) for warps in (4, 8)
    ],
    key=["n"],
    nearest=["n"],  # a winner of another n is a good guess
    # What follows is needed to tune it, and not to launch it.
    outputs=["out"],
    grid=grid,
    inputs=lambda problem, draw: {
        "x": draw(problem["n"], dtype=problem["dtype"]),
        "y": draw(problem["n"], dtype=problem["dtype"]),
        "out": draw.empty(problem["n"], dtype=problem["dtype"]),
        "n": problem["n"],
    },
    reference=lambda problem, x, y: x.double() + 2 * y.double(),
)
@triton.jit
def scaled_add(x, y, out, n, BLOCK: tl.constexpr):
    """out = x + 2 * y, over n elements."""
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n
    total = tl.load(x + offsets, inside) + 2 * tl.load(y + offsets, inside)
    tl.store(out + offsets, total, inside)


if __name__ == "__main__":
    device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
    x, y = torch.randn(2, 65536, device=device)
    out = torch.empty_like(x)
    scaled_add[grid](x, y, out, len(x))
    torch.testing.assert_close(out, x + 2 * y)
    print(scaled_add.config(x, y, out, len(x)))
