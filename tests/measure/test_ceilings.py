"""Ceilings are figures of the right size, and a type that cannot be multiplied has none."""

from __future__ import annotations

import torch

from autotune.measure.ceilings import matmul_rate, measure_ceilings, memory_bandwidth


def test_a_bandwidth_counts_the_bytes_of_the_better_of_triad_and_read():
    assert 1e8 < memory_bandwidth(8 << 20, 0.01) < 1e13


def test_a_type_without_a_kernel_has_no_ceiling(monkeypatch):
    def no_kernel(*_):
        raise RuntimeError('"addmm_impl_cpu_" not implemented')

    monkeypatch.setattr(torch, "_int_mm", no_kernel)
    assert matmul_rate("int8", 0.01) == 0.0


def test_ceilings_hold_every_type_that_runs():
    ceilings = measure_ceilings(l3_bytes=0, seconds_per_figure=0.02)
    assert {"float32", "bfloat16"} <= set(ceilings.matmul_flops)
    assert all(rate > 1e8 for rate in ceilings.matmul_flops.values())
    assert ceilings.memory_bandwidth_bytes_per_s > 1e8
    assert ceilings.measured_at > 1.7e9
