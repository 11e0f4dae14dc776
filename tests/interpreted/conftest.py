"""Tests of Triton kernels in Triton's interpreter; see `tests/test_interpreted.py`, which runs them."""

import os

import numpy as np
import pytest
import torch

# Triton decides when it is imported whether kernels are interpreted: these tests have a process of their own.
collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]


@pytest.fixture(autouse=True, scope="session")
def _float8_rounds_with_its_carry():
    """Triton 3.9's interpreter loses the carry and the subnormals of float8; torch rounds as the GPU does."""
    from triton import language as tl
    from triton.runtime import interpreter

    original = interpreter._convert_float
    types = {tl.float32: torch.float32, tl.float16: torch.float16, tl.float8e4nv: torch.float8_e4m3fn}

    def convert(data, source, target, rounding):
        if tl.float8e4nv not in (source, target) or source not in types or target not in types:
            return original(data, source, target, rounding)
        given = torch.from_numpy(np.ascontiguousarray(data)).view(types[source])
        size = target.primitive_bitwidth // 8
        raw = (
            given.to(types[target]).contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[size])
        )
        return raw.numpy().view(f"uint{8 * size}").reshape(data.shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_convert_float", convert)
        yield
