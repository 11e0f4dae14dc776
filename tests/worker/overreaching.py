"""`y = 2 x`, in Triton: some configurations need more of a GPU than it has, some do not compile."""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl

from autotune.space import Dimension, Implementation, SpaceDeclaration
from autotune.workloads.base import Cost, Workload
from autotune.workloads.launch import launch
from autotune.workloads.registry import register


@triton.jit
def double(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, 2 * tl.load(x + at, mask=at < n), mask=at < n)


@triton.jit
def transpose(x, y, BLOCK: tl.constexpr):
    """Goes through shared memory: BLOCK * BLOCK values of 4 bytes."""
    rows, columns = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    tile = tl.load(x + rows * BLOCK + columns)
    tl.store(y + rows * BLOCK + columns, 2 * tl.trans(tile))


@triton.jit
def misspelt(x, y, n, BLOCK: tl.constexpr):
    tl.store(y, tl.sqare(tl.load(x)))


class Overreaching(Workload):
    name = "overreaching"

    def weights(self, problem, seed, device="cpu"):
        return {}

    def activations(self, problem, seed, device="cpu"):
        return {"x": torch.ones(problem["n"], device=device)}

    def reference(self, problem, weights, activations):
        return 2 * activations["x"].double()

    def cost(self, problem):
        return Cost(problem["n"], 8 * problem["n"], "float32")

    def build(self, problem, configuration, weights):
        what, n = configuration["what"], problem["n"]
        if what == "torch":
            return lambda x: 2 * x
        if what == "needs_data":
            return lambda x: 2 * x if float(x[0]) else x

        def run(x):
            y = torch.empty_like(x)
            if what == "crashes":
                os._exit(3)
            if what == "transpose":
                launch(transpose, (1,), x, y, BLOCK=configuration["block"], num_warps=8)
            else:
                kernel = {"double": double, "misspelt": misspelt}[what]
                launch(kernel, (n // 256,), x, y, n, BLOCK=configuration["block"], num_warps=4)
            return y

        return run


SPACE = SpaceDeclaration(
    "overreaching",
    {"n": Dimension("n")},
    {
        "kernel": Implementation(
            parameters={
                "what": ["torch", "double", "transpose", "misspelt", "needs_data", "crashes"],
                "block": [16, 256],
            }
        )
    },
    {"implementation": "kernel", "what": "torch", "block": 16},
)

register(Overreaching, SPACE)
