"""A configuration is charged for what it allocated and for the weights it kept."""

from __future__ import annotations

import os

import torch

from autotune.measure.memory import MemoryHeld, resident_bytes, says_out_of_memory

MEBIBYTE = 1 << 20


def test_kept_weights_and_copies_are_charged_and_dropped_ones_are_not():
    weights = {"a": torch.ones(4 * MEBIBYTE // 4), "b": torch.ones(8 * MEBIBYTE // 4)}

    def charged(build):
        held = MemoryHeld(weights.values())
        kept = build({name: weight.detach() for name, weight in weights.items()})
        size = held.bytes_since()
        del kept
        return round(size / MEBIBYTE)

    assert charged(lambda _: None) == 0
    assert charged(lambda w: w["a"]) == 4
    assert charged(lambda w: w["b"].view(1024, -1).t()) == 8
    assert charged(lambda w: w["a"].clone()) == 4
    assert charged(lambda w: (w["a"], w["b"].bfloat16())) == 8


def test_resident_memory_of_a_process_that_is_gone_is_zero():
    assert resident_bytes(os.getpid()) > MEBIBYTE
    assert resident_bytes(2**22 + 1) == 0


def test_messages_about_memory_are_recognised():
    assert says_out_of_memory("terminate called: what():  std::bad_alloc")
    assert says_out_of_memory("DefaultCPUAllocator: can't allocate memory: you tried")
    assert not says_out_of_memory("illegal memory access")
