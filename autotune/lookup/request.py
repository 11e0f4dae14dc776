"""Telling the daemon what a look-up did not find: one datagram, without waiting and without ever failing."""

from __future__ import annotations

import os
import stat

from autotune import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autotune.lookup.question import Question

SOCKET_NAME = "requests.sock"
MOST_REQUESTS = 4096
"""Requests that one process sends at most: one with ever new problems cannot flood the daemon."""
LARGEST_REQUEST = 8192
"""Bytes of a datagram at most; a problem with its dimensions takes about 200."""
LARGEST_FLOAT = 1.7976931348623157e308
"""In place of infinity, which JSON does not have."""

_sent: set[tuple[Any, ...]] = set()


def socket_path() -> str:
    """Where the daemon listens: `AUTOTUNE_REQUEST_SOCKET` if set, else in the folder of its sockets."""
    return os.environ.get("AUTOTUNE_REQUEST_SOCKET") or os.path.join(paths.runtime_dir(), SOCKET_NAME)


def send_request(question: Question, device: str | None, match: str) -> bool:
    """Ask the daemon to tune a problem, once per process; whether a datagram left.

    Args:
        question: what was looked up.
        device: digest of the device, or as the caller named it; None for the daemon's default device.
        match: how the look-up ended.
    """
    request = (question.problem, question.objective, question.max_error, device)
    if request in _sent or len(_sent) >= MOST_REQUESTS:
        return False
    try:
        path = socket_path()
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        _sent.add(request)
        return _send(path, _message(question, device, match))
    except Exception:  # no folder, a full queue, no right to write, no socket module: the caller never learns
        return False


def _message(question: Question, device: str | None, match: str) -> bytes:
    import json

    fields = {
        "v": 1,
        "workload": question.problem.workload,
        "problem": question.problem.dimensions,
        "objective": question.objective,
        "max_error": None if question.max_error is None else min(question.max_error, LARGEST_FLOAT),
        "device": device,
        "match": match,
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def _send(path: str, message: bytes) -> bool:
    if len(message) > LARGEST_REQUEST:
        return False
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        return sender.sendto(message, path) == len(message)
