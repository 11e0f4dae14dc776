"""A process's end of its socket to the daemon that started it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from autotune.errors import InternalError
from autotune.worker.framing import read_frame, write_frame

if TYPE_CHECKING:
    from collections.abc import Callable

Told = TypeVar("Told")
Heard = TypeVar("Heard")


class DaemonGone(Exception):  # noqa: N818 - it ends the process and is nobody's error
    """The daemon has hung up."""


class Channel(Generic[Told, Heard]):
    """Messages to the daemon and from it, a frame each.

    Args:
        descriptor: of the socket.
        encode: makes a frame of a message to the daemon.
        decode: makes a message from the daemon of a frame.
    """

    def __init__(
        self, descriptor: int, encode: Callable[[Told], bytes], decode: Callable[[bytes], Heard]
    ) -> None:
        self.descriptor = descriptor
        self._encode = encode
        self._decode = decode

    def tell(self, message: Told) -> None:
        """Send a message.

        Raises:
            DaemonGone: nobody takes it.
        """
        try:
            write_frame(self.descriptor, self._encode(message))
        except OSError as error:
            raise DaemonGone from error

    def hear(self) -> Heard:
        """Wait for the daemon's next message.

        Raises:
            DaemonGone: there will be none.
        """
        try:
            frame = read_frame(self.descriptor)
        except (OSError, InternalError) as error:
            raise DaemonGone from error
        if frame is None:
            raise DaemonGone
        return self._decode(frame)
