"""Native kernels: compiled once, kept, and refused in one line."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
import torch

from autotune.errors import InternalError, UsageError
from autotune.workloads import native
from autotune.workloads.native import Workspaces, compile_kernel
from autotune.workloads.native_attention import Tiling, Widths, native_attention

if TYPE_CHECKING:
    from pathlib import Path

LATENT: dict[str, int | str] = {"NOPE": 16, "ROPE": 16, "V": 16, "RANK": 16, "SEQUENCES": 2, "TYPE": "float"}


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for compiled kernels."""
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path))
    return tmp_path / "native"


def test_a_kernel_is_compiled_once(compiled: Path) -> None:
    compile_kernel("latent.cpp", LATENT)
    (kept,) = compiled.iterdir()
    written = kept.stat().st_mtime_ns
    compile_kernel("latent.cpp", LATENT)
    assert [path.stat().st_mtime_ns for path in compiled.iterdir()] == [written]


def test_another_definition_is_another_kernel(compiled: Path) -> None:
    compile_kernel("latent.cpp", LATENT)
    compile_kernel("latent.cpp", {**LATENT, "V": 32})
    assert len(list(compiled.iterdir())) == 2


def test_what_does_not_compile_says_why_and_leaves_nothing(compiled: Path) -> None:
    with pytest.raises(InternalError, match=r"latent\.cpp: .* failed with .*-DTYPE=nonsense.*error"):
        compile_kernel("latent.cpp", {**LATENT, "TYPE": "nonsense"})
    assert list(compiled.iterdir()) == []


def test_a_machine_without_a_compiler_is_told_so(compiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(compiled))
    monkeypatch.delenv("CXX", raising=False)
    native._compiler.cache_clear()
    with pytest.raises(UsageError, match="install g\\+\\+"):
        compile_kernel("latent.cpp", LATENT)
    native._compiler.cache_clear()


def test_calls_under_way_have_workspaces_of_their_own() -> None:
    workspaces = Workspaces()
    with workspaces.lent(100) as first, workspaces.lent(100) as second:
        assert first != second
    with workspaces.lent(50) as again:
        assert again in (first, second)


def test_threads_may_call_one_kernel_at_once() -> None:
    attend = native_attention(
        torch.float32, torch.float32, torch.float32, Widths(16, 0, 16), Tiling(rows=4, block=16, tile=4)
    )
    inputs = [
        [torch.randn(2, 4, 1, 16), torch.randn(2, 1, 300, 16), torch.randn(2, 1, 300, 16)] for _ in range(4)
    ]
    outputs = [torch.empty(2, 4, 1, 16) for _ in inputs]

    def call(i: int) -> None:
        query, key, value = inputs[i]
        for _ in range(20):
            attend(query, key, None, value, outputs[i], scale=0.25, splits=2)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (query, key, value), out in zip(inputs, outputs, strict=True):
        weights = (query @ key.mT * 0.25).softmax(-1)
        torch.testing.assert_close(out, weights @ value)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("rows", "packed"), [(1, False), (2, False), (8, False), (4, True)])
def test_attention_in_two_part_keys_of_any_strides(rows: int, packed: bool, causal: bool) -> None:
    """Keys in two parts, values a view of the first, positions not contiguous, several splits."""
    if packed and not torch.cpu._is_avx512_bf16_supported():
        pytest.skip("packed keys need AVX512-BF16")
    tiling = Tiling(rows, block=48, tile=12, prefetch=4, packed=packed)
    attend = native_attention(torch.bfloat16, torch.bfloat16, torch.float32, Widths(64, 32, 64), tiling)
    query = torch.randn(2, 5, 6, 96).bfloat16().transpose(1, 2)
    latent, rope = torch.randn(2, 101, 2, 64).bfloat16(), torch.randn(2, 2, 101, 32).bfloat16()
    key1, out = latent.transpose(1, 2), torch.empty(2, 5, 6, 64).transpose(1, 2)
    attend(query, key1, rope, key1, out, scale=0.1, splits=3, causal=causal)
    keys = torch.cat([key1, rope], -1).repeat_interleave(3, 1).double()
    scores = query.double() @ keys.mT * 0.1
    if causal:
        scores.masked_fill_(torch.ones(5, 101, dtype=torch.bool).triu(97), -torch.inf)
    expected = scores.softmax(-1) @ key1.repeat_interleave(3, 1).double()
    torch.testing.assert_close(
        out.double(), expected, rtol=2e-2 if packed else 1e-5, atol=2e-3 if packed else 1e-5
    )
