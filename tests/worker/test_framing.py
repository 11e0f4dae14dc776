"""Frames survive pipes that deliver them in pieces; what is no frame is refused."""

from __future__ import annotations

import os
import struct
import threading

import pytest

from autotune.errors import InternalError
from autotune.worker.framing import LARGEST_FRAME, FrameBuffer, read_frame, write_frame


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


@pytest.mark.parametrize("size", [0, 1, 5_000_000])
def test_a_frame_arrives_whole_even_if_larger_than_the_pipe(pipe, size):
    payload = os.urandom(size)
    writer = threading.Thread(target=write_frame, args=(pipe[1], payload))
    writer.start()
    assert read_frame(pipe[0]) == payload
    writer.join()


def test_frames_that_arrive_together_are_told_apart(pipe):
    for payload in (b"one", b"", b"three"):
        write_frame(pipe[1], payload)
    assert [read_frame(pipe[0]) for _ in range(3)] == [b"one", b"", b"three"]


def test_the_end_of_the_stream_is_none_between_frames_and_an_error_inside_one(pipe):
    os.write(pipe[1], struct.pack(">I", 10) + b"half")
    os.close(pipe[1])
    with pytest.raises(InternalError, match="6 bytes short"):
        read_frame(pipe[0])
    assert read_frame(pipe[0]) is None


def test_a_buffer_puts_frames_together_byte_by_byte():
    frames = FrameBuffer()
    taken = []
    for byte in struct.pack(">I", 3) + b"abc" + struct.pack(">I", 1) + b"d":
        frames.feed(bytes([byte]))
        if (frame := frames.take()) is not None:
            taken.append(frame)
    assert taken == [b"abc", b"d"]


def test_text_in_place_of_a_frame_is_refused():
    frames = FrameBuffer()
    frames.feed(b"Traceback (most recent call last)")
    with pytest.raises(InternalError, match="frame of 1416782179 bytes"):
        frames.take()


def test_an_oversized_frame_is_not_even_written(pipe):
    with pytest.raises(InternalError, match="expected at most"):
        write_frame(pipe[1], bytes(LARGEST_FRAME + 1))
