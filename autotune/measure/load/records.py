"""What became of each request, and what its times are called."""

from __future__ import annotations

from itertools import pairwise

import msgspec

DEFINITIONS = {
    "ttft": "first token minus scheduled arrival; time in any queue counts, as does a late sender",
    "tpot": "(last token - first token) / (output tokens - 1): the first token is excluded",
    "itl": "gaps between moments at which tokens came; tokens of one read share one moment",
    "e2e": "last token minus scheduled arrival",
    "queueing": "taken up by the engine minus scheduled arrival; a server over HTTP does not tell",
    "goodput": "requests that met every objective, per second of the time that requests_per_s counts",
    "requests_per_s": "answered requests over the time from first counted arrival to last counted answer",
}
"""Stored with every result: the field's tools disagree on all of them."""


class Record(msgspec.Struct, frozen=True):
    """What became of a request; moments in seconds after the load's start.

    Attributes:
        number: from 0, in the order of arrival.
        arrival: when it was scheduled to come.
        sent: when it was sent.
        admitted: when the engine took it up; None where that is not known.
        token_times: when tokens came, one moment for those that came together; empty if none did.
        output_tokens: how many came.
        prompt_tokens: how many were read.
        ended: when nothing more was to come.
        failure: why it was not answered; empty if it was.
        text: the answer, where it was kept.
        counted_by: who counted the output tokens: the `engine`, the server's `usage`, or the `events` that
            brought text.
    """

    number: int
    arrival: float
    sent: float
    admitted: float | None
    token_times: tuple[float, ...]
    output_tokens: int
    prompt_tokens: int
    ended: float
    failure: str = ""
    text: str = ""
    counted_by: str = "engine"

    @property
    def answered(self) -> bool:
        """Whether at least one token came, and nothing went wrong."""
        return not self.failure and bool(self.token_times)

    @property
    def queueing(self) -> float | None:
        """Seconds until the engine took it up."""
        return None if self.admitted is None else self.admitted - self.arrival

    @property
    def ttft(self) -> float:
        """Time to first token, seconds."""
        return self.token_times[0] - self.arrival

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first, seconds; None where there is but one."""
        if self.output_tokens < 2:
            return None
        return (self.token_times[-1] - self.token_times[0]) / (self.output_tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """Inter-token latencies, seconds."""
        return [later - earlier for earlier, later in pairwise(self.token_times)]

    @property
    def e2e(self) -> float:
        """From scheduled arrival to last token, seconds."""
        return self.token_times[-1] - self.arrival
