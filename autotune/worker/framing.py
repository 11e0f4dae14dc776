"""Frames: messages over a pipe, each preceded by its length (4 bytes, big-endian)."""

from __future__ import annotations

import os
import struct

from autotune.errors import InternalError

LARGEST_FRAME = 64 << 20
"""A thousand rounds are kilobytes: a longer frame means that something else wrote to the pipe."""
_HEADER = struct.Struct(">I")
_PIECE = 1 << 16


def write_frame(fd: int, payload: bytes) -> None:
    """Write one frame, waiting for the reader as long as it takes.

    Raises:
        InternalError: the payload is larger than a frame may be.
        BrokenPipeError: nobody reads any more.
    """
    if len(payload) > LARGEST_FRAME:
        raise InternalError(f"frame of {len(payload)} bytes; expected at most {LARGEST_FRAME}")
    data = memoryview(_HEADER.pack(len(payload)) + payload)
    while data:
        data = data[os.write(fd, data) :]


def read_frame(fd: int) -> bytes | None:
    """Read one frame, waiting for the writer as long as it takes; None at the end of the stream.

    Raises:
        InternalError: the stream holds no frames, or ends inside one.
    """
    frames = FrameBuffer()
    while (frame := frames.take()) is None:
        # No more than is missing, so that nothing of a following frame is taken from the pipe.
        data = os.read(fd, min(frames.missing, _PIECE))
        if not data:
            if frames.missing < _HEADER.size or frames.started:
                raise InternalError(f"stream ended {frames.missing} bytes short of a frame")
            return None
        frames.feed(data)
    return frame


class FrameBuffer:
    """Puts frames together from pieces as they arrive."""

    def __init__(self) -> None:
        self._data = bytearray()

    @property
    def started(self) -> bool:
        """Whether part of a frame has arrived."""
        return bool(self._data)

    @property
    def missing(self) -> int:
        """Bytes until the next thing, header or frame, is complete; 0 when a frame is."""
        if len(self._data) < _HEADER.size:
            return _HEADER.size - len(self._data)
        return max(0, _HEADER.size + self._length() - len(self._data))

    def feed(self, data: bytes) -> None:
        """Add what arrived."""
        self._data += data

    def take(self) -> bytes | None:
        """The next complete frame, None while it is incomplete.

        Raises:
            InternalError: the stream holds no frames.
        """
        if len(self._data) < _HEADER.size or self.missing:
            return None
        end = _HEADER.size + self._length()
        frame = bytes(self._data[_HEADER.size : end])
        del self._data[:end]
        return frame

    def _length(self) -> int:
        length: int = _HEADER.unpack_from(self._data)[0]
        if length > LARGEST_FRAME:
            raise InternalError(f"frame of {length} bytes; expected at most {LARGEST_FRAME}")
        return length
