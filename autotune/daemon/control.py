"""The control socket's language, and its caller's side: what `autotune status`, `pause` and others use.

A stream socket whose messages are JSON objects, each preceded by its length. One question, one answer; that
to a question which asks to wait comes when the devices are free.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

import msgspec

from autotune import paths
from autotune.errors import InternalError, StateError, UsageError
from autotune.worker.framing import read_frame, write_frame

SOCKET_NAME = "control.sock"
LARGEST_QUESTION = 1 << 20
"""Bytes: a plan of a thousand problems is 200 KB."""


class _Question(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A question; its tag is the class's name."""


class Status(_Question, frozen=True):
    """How the daemon is; see `autotune.daemon.report`."""


class Requests(_Question, frozen=True):
    """What was requested, and what is worked on in which order."""


class Pause(_Question, frozen=True):
    """Take a lease.

    Attributes:
        device: a device's name, or `all`.
        seconds: after which it ends; None: not by itself.
        wait: whether to answer only once nothing of ours is on the device and its memory is free, or after
            `[gate] free_seconds`; the answer's `left` says by device what is still there then.
        held: whether the lease ends with the process that asks.
        reason: for people.
    """

    device: str = "all"
    seconds: float | None = None
    wait: bool = False
    held: bool = False
    reason: str = ""


class Resume(_Question, frozen=True):
    """End leases that no process holds, or the one that is named.

    Attributes:
        device: only those that name it.
        lease: this one, whoever holds it.
        reason: only those with this reason.
    """

    device: str | None = None
    lease: str | None = None
    reason: str | None = None


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A problem that an operator wants tuned."""

    workload: str
    dimensions: dict[str, int | str]


class Ask(_Question, frozen=True):
    """Tune problems before all else."""

    problems: list[Wanted]
    objective: str = "latency"
    max_error: float | None = None
    again: bool = False


class Rollback(_Question, frozen=True):
    """Publish an earlier generation again.

    Attributes:
        state_dir: the state folder that is meant; a daemon of another one refuses.
        generation: to go back to; None: the latest one before the present with other winners.
        reason: for people.
    """

    state_dir: str
    generation: int | None = None
    reason: str = ""


class Pin(_Question, frozen=True):
    """Keep a generation's file for good, or let it go again.

    Attributes:
        state_dir: the state folder that is meant; a daemon of another one refuses.
        generation: its number.
        reason: why it is kept; None to let it go.
    """

    state_dir: str
    generation: int
    reason: str | None = None


class TakeBundle(_Question, frozen=True):
    """Take the bundle whose content comes along, all of it or nothing.

    Attributes:
        state_dir: the state folder that is meant; a daemon of another one refuses.
        sha256: of what it holds, as it was shown to whoever asks.
    """

    state_dir: str
    sha256: str


class ForgetBundle(_Question, frozen=True):
    """Take an import back.

    Attributes:
        state_dir: the state folder that is meant; a daemon of another one refuses.
        bundle: its number.
    """

    state_dir: str
    bundle: int


class KeepImports(_Question, frozen=True):
    """Keep the imports of another system's file, a JSON list of which comes along.

    Attributes:
        state_dir: the state folder that is meant; a daemon of another one refuses.
    """

    state_dir: str


Intake = TakeBundle | ForgetBundle | KeepImports
Question = Status | Requests | Pause | Resume | Ask | Rollback | Pin | Intake


class Answer(msgspec.Struct, frozen=True):
    """What the daemon answers.

    Attributes:
        content: what was asked for.
        refusal: why it was not done, one line; empty if it was.
    """

    content: Any = None
    refusal: str = ""


class NoDaemonError(StateError):
    """No daemon listens."""


def socket_path() -> str:
    """Where the daemon listens."""
    return os.path.join(paths.runtime_dir(), SOCKET_NAME)


def ask(question: Question, patience_seconds: float | None = None, content: bytes | None = None) -> Any:
    """What the daemon answers.

    Args:
        question: to ask.
        patience_seconds: after which it is given up; None to wait as long as it takes.
        content: that comes along, as an open file: the daemon reads no path of others.

    Raises:
        NoDaemonError: none listens.
        StateError: this user may not ask it, or it went away.
        UsageError: it refused.
    """
    path = socket_path()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        if patience_seconds is not None:
            # The frames are read from the descriptor, which Python's own timeout does not reach.
            wait = struct.pack("ll", int(patience_seconds), int(patience_seconds % 1 * 1e6))
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                connection.setsockopt(socket.SOL_SOCKET, option, wait)
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NoDaemonError(f"{path}: no daemon listens; start one with 'autotune daemon'") from None
        except OSError as error:
            raise StateError(
                f"{path}: {error.strerror}; expected a member of the group in [daemon] group, or root"
            ) from None
        try:
            _say(connection, msgspec.json.encode(question), content)
            frame = read_frame(connection.fileno())
        except (OSError, InternalError):
            frame = None
    if frame is None:
        raise StateError(f"{path}: the daemon went away without an answer; see its log")
    answer = msgspec.json.decode(frame, type=Answer)
    if answer.refusal:
        raise UsageError(answer.refusal)
    return answer.content


def _say(connection: socket.socket, question: bytes, content: bytes | None) -> None:
    if content is None:
        write_frame(connection.fileno(), question)
        return
    with open(os.memfd_create("autotune"), "wb+") as file:
        file.write(content)
        file.seek(0)
        frame = struct.pack(">I", len(question)) + question
        sent = socket.send_fds(connection, [frame], [file.fileno()])
        connection.sendall(frame[sent:])
