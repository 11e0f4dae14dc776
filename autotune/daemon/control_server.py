"""The control socket, as the daemon serves it."""

from __future__ import annotations

import grp
import os
import socket
import stat
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from autotune.daemon.control import LARGEST_QUESTION, Answer, Question
from autotune.errors import AutotuneError, InternalError, StateDirError, UsageError
from autotune.worker.framing import FrameBuffer

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.daemon.loop import Loop

MOST_CONNECTIONS = 64
IDLE_SECONDS = 30.0
"""A connection that asks nothing is closed after this."""
MOST_FILES = 1
"""That may come with one question; the kernel closes more."""
_CREDENTIALS = struct.Struct("iII")
"""struct ucred: process, user and group."""
_SO_PEERGROUPS = 59


class Peer(NamedTuple):
    """Who is at the other end of a connection, as the kernel says."""

    pid: int
    user: int
    groups: frozenset[int]


class ControlServer:
    """Listens on the control socket, and hands questions on.

    Args:
        path: of the socket.
        group: whose members may ask; if there is no such group, that of this process.
        loop: which watches it.
        handle: answers a question by calling `Connection.answer`, now or later.

    Raises:
        StateDirError: the socket cannot be made.
    """

    def __init__(
        self, path: str, group: str, loop: Loop, handle: Callable[[Question, Connection], None]
    ) -> None:
        self._path = path
        self._loop = loop
        self._handle = handle
        self._connections: set[Connection] = set()
        self.group = _group(group)
        self._socket = bound_socket(path, socket.SOCK_STREAM, 0o660, self.group)
        self._socket.listen(MOST_CONNECTIONS)
        loop.watch(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """Listen no more; questions that wait are not answered."""
        for connection in list(self._connections):
            connection.close()
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        with suppress(OSError):
            os.unlink(self._path)

    def let_in(self, group: str) -> None:
        """Change whose members may ask."""
        self.group = _group(group)
        with suppress(OSError):
            os.chown(self._path, -1, self.group)

    def _accept(self) -> None:
        with suppress(BlockingIOError, ConnectionError):
            accepted, _ = self._socket.accept()
            peer = _peer(accepted)
            if len(self._connections) >= MOST_CONNECTIONS or not self._may_ask(peer):
                accepted.close()
                return
            self._connections.add(
                Connection(accepted, peer, self._loop, self._handle, self._connections.discard)
            )

    def _may_ask(self, peer: Peer) -> bool:
        return peer.user in (0, os.geteuid()) or self.group in peer.groups


class Connection:
    """One caller.

    Attributes:
        peer: who it is.
        closed: whether it is gone.
    """

    def __init__(
        self,
        accepted: socket.socket,
        peer: Peer,
        loop: Loop,
        handle: Callable[[Question, Connection], None],
        ended: Callable[[Connection], None],
    ) -> None:
        self.peer = peer
        self.closed = False
        self._socket = accepted
        self._loop = loop
        self._handle = handle
        self._ended = ended
        self._frames = FrameBuffer()
        self._outgoing = bytearray()
        self._asked = False
        self._file = -1
        accepted.setblocking(False)
        loop.watch(accepted.fileno(), self._ready)
        self._impatience = loop.later(IDLE_SECONDS, self._expire)

    def answer(self, content: Any) -> None:
        """Answer its question, and hang up once that is sent."""
        self.send(Answer(content))

    def refuse(self, reason: str) -> None:
        """Say why not, and hang up."""
        self.send(Answer(refusal=reason))

    def take_file(self, largest: int) -> int:
        """The descriptor of the file that came with the question; the caller closes it.

        Args:
            largest: most bytes that it may have.

        Raises:
            UsageError: none came, or one that is too large or no file.
        """
        if self._file < 0:
            raise UsageError("the question came without the file that it is about")
        facts = os.fstat(self._file)
        # From a pipe or a terminal nobody knows when something comes.
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > largest:
            raise UsageError(f"what came with the question is no file of at most {largest >> 20} MiB")
        taken, self._file = self._file, -1
        return taken

    def close(self) -> None:
        """Hang up."""
        if not self.closed:
            self.closed = True
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            self._impatience.cancel()
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._ended(self)

    def _expire(self) -> None:
        if not self._asked or self._outgoing:
            self.close()

    def _ready(self) -> None:
        if self._outgoing:
            self._flush()
        if self.closed:
            return
        try:
            data = self._receive()
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        elif not self._asked:
            self._take(data)

    def _receive(self) -> bytes:
        """What arrived; of the files that came along the first is kept."""
        data, files, _, _ = socket.recv_fds(self._socket, 1 << 16, MOST_FILES, socket.MSG_CMSG_CLOEXEC)
        for file in files:
            if self._file < 0:
                self._file = file
            else:
                os.close(file)
        return data

    def _take(self, data: bytes) -> None:
        try:
            self._frames.feed(data)
            if self._frames.missing > LARGEST_QUESTION:
                raise InternalError("a question of more than a mebibyte")
            frame = self._frames.take()
            if frame is None:
                return
            self._asked = True
            question = msgspec.json.decode(frame, type=Question)
        except (InternalError, msgspec.DecodeError, UnicodeDecodeError) as error:
            self.refuse(f"the daemon does not understand the question: {error}; is it of another version?")
            return
        try:
            self._handle(question, self)
        except AutotuneError as error:
            self.refuse(str(error))

    def send(self, answer: Answer) -> None:
        """Answer or refuse, and hang up once that is sent."""
        if self.closed:
            return
        payload = msgspec.json.encode(answer)
        self._outgoing += struct.pack(">I", len(payload)) + payload
        self._flush()

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._outgoing[:sent]
        if not self._outgoing:
            self.close()
        else:
            self._loop.watch(self._socket.fileno(), self._ready, writable=True)


def bound_socket(path: str, kind: int, mode: int, group: int = -1) -> socket.socket:
    """A socket at a path, in place of one that a killed daemon left: this process holds the history's lock.

    Raises:
        StateDirError: it cannot be made there.
    """
    made = socket.socket(socket.AF_UNIX, kind)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with suppress(FileNotFoundError):
            os.unlink(path)
        before = os.umask(0o777 & ~mode)  # it is never open to more, not even for a moment
        try:
            made.bind(path)
        finally:
            os.umask(before)
        if group >= 0 and group != os.getegid():
            with suppress(PermissionError):  # then its members cannot ask, and the owner can
                os.chown(path, -1, group)
    except OSError as error:
        made.close()
        remedy = "set AUTOTUNE_RUNTIME_DIR to a folder that you may write"
        raise StateDirError(f"{path}: cannot listen there: {error.strerror or error}; {remedy}") from None
    made.setblocking(False)
    return made


def _peer(accepted: socket.socket) -> Peer:
    data = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, user, group = _CREDENTIALS.unpack(data)
    groups: tuple[int, ...] = ()
    with suppress(OSError, struct.error):
        more = accepted.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4096)
        groups = struct.unpack(f"{len(more) // 4}I", more)
    return Peer(pid, user, frozenset({group, *groups}))


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return os.getegid()
