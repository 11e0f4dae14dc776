"""The request socket: look-ups that found nothing exact, from any local user, each one a wish and no more.

A datagram costs its sender as much as us. It is bounded, decoded against a fixed form, and counted against
its user; what is beyond a user's rate is dropped unread. When many come at once, the socket is left alone
for a moment, so that senders, who never wait, find the kernel's short queue full rather than us busy.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from autotune.daemon.control_server import bound_socket
from autotune.errors import AutotuneError, UsageError
from autotune.lookup.request import LARGEST_REQUEST
from autotune.measure.energy import meter_for
from autotune.space.declared import check_objective, declared, shipped
from autotune.space.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.config import RequestSettings
    from autotune.daemon.loop import Loop

AT_ONCE = 64
"""Datagrams read before other things get their turn."""
MUTED_SECONDS = 0.05
"""How long the socket is left alone when it was still full after that: at most 1,280 datagrams a second are
read."""
MOST_USERS = 1024
"""Users whose rate is remembered; beyond, the longest silent one is forgotten."""
_CREDENTIALS = struct.Struct("iII")

_Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z_][A-Za-z0-9_.\-]*$")]
_Value = Annotated[int, Meta(ge=-(2**53), le=2**53)] | Annotated[str, Meta(max_length=64)]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a look-up sends; see `autotune.lookup.request`."""

    v: Literal[1]
    workload: _Name
    problem: Annotated[dict[_Name, _Value], Meta(max_length=32)]
    objective: Annotated[str, Meta(max_length=32)]
    match: Literal["fleet", "drifted", "nearest", "similar", "default"]
    max_error: Annotated[float, Meta(ge=0)] | None = None
    device: Annotated[str, Meta(max_length=64)] | None = None


class Wish(NamedTuple):
    """A request, as far as it can be understood without importing what registers its workload.

    Attributes:
        key: of the problem; empty if the workload is not one of ours, whose problems only the study knows.
        dimensions: in declared order with defaults filled in, if the workload is one of ours.
    """

    workload: str
    dimensions: dict[str, int | str]
    key: str
    objective: str
    max_error: float | None
    device: str | None
    match: str


_decoder = msgspec.json.Decoder(Request)


def understood(datagram: bytes) -> Wish:
    """The wish in a datagram.

    Raises:
        msgspec.DecodeError: it is none.
        AutotuneError: no such problem.
    """
    if len(datagram) > LARGEST_REQUEST:
        raise UsageError(f"a request of more than {LARGEST_REQUEST} bytes")
    request = _decoder.decode(datagram)
    check_objective(request.objective)
    if request.objective == "energy":
        meter_for("cpu")  # as far as can be told here: a device's own meter is asked when it is tuned
    dimensions, key = dict(request.problem), ""
    if request.workload in shipped():
        # As look-ups know it: parsing the whole search space for each datagram would take a millisecond.
        known = declared(request.workload).dimensions
        if known is None:
            raise UsageError(f"workload {request.workload!r} cannot be read")
        problem = Problem.of(request.workload, known, request.problem)
        dimensions, key = problem.dimensions, problem.key
    return Wish(
        request.workload,
        dimensions,
        key,
        request.objective,
        request.max_error,
        request.device,
        request.match,
    )


class Rates:
    """A bucket of tokens for each user: one for each datagram, refilled evenly.

    Args:
        settings: rate and size of the bucket.
        clock: seconds, monotonic.
    """

    def __init__(self, settings: RequestSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self._clock = clock
        self._buckets: dict[int, tuple[float, float]] = {}

    def take(self, user: int) -> bool:
        """Whether a user may send one more now."""
        now = self._clock()
        tokens, since = self._buckets.pop(user, (float(self.settings.burst), now))
        tokens = min(float(self.settings.burst), tokens + (now - since) * self.settings.per_second)
        allowed = tokens >= 1.0
        # Put back last: the first one is the longest silent.
        self._buckets[user] = (tokens - allowed, now)
        if len(self._buckets) > MOST_USERS:
            del self._buckets[next(iter(self._buckets))]
        return allowed


class RequestSocket:
    """Listens for requests.

    Args:
        path: of the socket.
        settings: rates.
        loop: which watches it.
        wished: called with each wish; says whether it is taken.
        counted: called for each datagram with what became of it, `accepted`, `refused`, `malformed` or
            `rate_limited`, and the kind of match.

    Raises:
        StateDirError: the socket cannot be made.
    """

    def __init__(
        self,
        path: str,
        settings: RequestSettings,
        loop: Loop,
        wished: Callable[[Wish], bool],
        counted: Callable[[str, str], None],
    ) -> None:
        self._path = path
        self._loop = loop
        self._wished = wished
        self._counted = counted
        self.rates = Rates(settings)
        self._socket = bound_socket(path, socket.SOCK_DGRAM, 0o666)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._listen()

    def close(self) -> None:
        """Listen no more."""
        self._loop.forget(self._socket.fileno())
        self._socket.close()
        with suppress(OSError):
            os.unlink(self._path)

    def _listen(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.watch(self._socket.fileno(), self._read)

    def _read(self) -> None:
        for _ in range(AT_ONCE):
            try:
                # Room for the credentials alone: descriptors that a sender attaches have none, and the kernel
                # closes them again.
                data, ancillary, _, _ = self._socket.recvmsg(
                    LARGEST_REQUEST + 1, socket.CMSG_LEN(_CREDENTIALS.size)
                )
            except BlockingIOError:
                return
            self._take(data, _user(ancillary))
        self._loop.forget(self._socket.fileno())
        self._loop.later(MUTED_SECONDS, self._listen)

    def _take(self, data: bytes, user: int | None) -> None:
        if user is None or not self.rates.take(user):
            self._counted("rate_limited", "")
            return
        try:
            wish = understood(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._counted("malformed", "")
        except AutotuneError:
            self._counted("refused", "")
        else:
            self._counted("accepted" if self._wished(wish) else "refused", wish.match)


def _user(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS and len(data) >= _CREDENTIALS.size:
            return int(_CREDENTIALS.unpack_from(data)[1])
    return None
