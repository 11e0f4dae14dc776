"""A batching loop with prefill and decode, on a virtual clock: continuous batching as servers do it.

The clock is moved by what a step of the engine is said to take: by a model of one, or by the measured seconds
of a real callable. Between steps nothing passes, and arrivals come at their exact moments whatever the
machine does meanwhile. So a result is the engine's and the policy's alone, and a modelled one is the same
wherever it runs.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from autotune.measure.load.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autotune.measure.load.arrivals import Arrival


class Batch(NamedTuple):
    """What one step of the engine computes.

    Attributes:
        prefills: (tokens of the prompt to read now, tokens of it read before) of each sequence that is read.
        decodes: tokens in the cache of each sequence that gets one more.
    """

    prefills: tuple[tuple[int, int], ...]
    decodes: tuple[int, ...]

    @property
    def prefill_tokens(self) -> int:
        """Tokens read in this step."""
        return sum(tokens for tokens, _ in self.prefills)


class Engine(Protocol):
    """Runs a step of a batch, or knows what it would take."""

    def step(self, batch: Batch) -> float:
        """Seconds that the step took."""
        ...


class ModelledEngine(msgspec.Struct, frozen=True):
    """An engine whose step costs a sum of linear terms, in seconds.

    Attributes:
        step_seconds: of any step.
        prefill_seconds: of a token read.
        decode_seconds: of a sequence that gets a token.
        context_seconds: of a token in the cache of such a sequence.
    """

    step_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    context_seconds: float = 0.0

    def step(self, batch: Batch) -> float:
        """Seconds that the step takes."""
        return (
            self.step_seconds
            + self.prefill_seconds * batch.prefill_tokens
            + self.decode_seconds * len(batch.decodes)
            + (self.context_seconds * sum(batch.decodes) if self.context_seconds else 0.0)
        )


class MeasuredEngine:
    """An engine that runs a callable and reads the clock around it.

    Args:
        run: computes a batch; it returns when the result is there.
        clock: seconds.
    """

    def __init__(self, run: Callable[[Batch], object], clock: Callable[[], float] = time.perf_counter):
        self._run = run
        self._clock = clock

    def step(self, batch: Batch) -> float:
        """Run the batch; returns the seconds that it took."""
        began = self._clock()
        self._run(batch)
        return self._clock() - began


class BatchLimits(msgspec.Struct, frozen=True):
    """What a batch may hold.

    Attributes:
        max_num_seqs: sequences that are worked on at once.
        max_num_batched_tokens: tokens of a step, those read and those written together; a longer prompt is
            read in pieces.
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192

    def __post_init__(self) -> None:
        if self.max_num_seqs < 1:
            raise ValueError(f"max_num_seqs: expected at least 1, found {self.max_num_seqs}")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens: expected at least max_num_seqs={self.max_num_seqs}, "
                f"found {self.max_num_batched_tokens}"
            )


class _Sequence:
    """A request that the engine works on."""

    __slots__ = ("admitted", "read", "request", "times")

    def __init__(self, request: Arrival, admitted: float) -> None:
        self.request = request
        self.admitted = admitted
        self.read = 0
        self.times: list[float] = []

    def record(self) -> Record:
        """What became of it."""
        request = self.request
        return Record(
            request.number,
            request.seconds,
            request.seconds,
            self.admitted,
            tuple(self.times),
            len(self.times),
            request.prompt_tokens,
            self.times[-1],
        )


def serve(
    requests: Sequence[Arrival],
    engine: Engine,
    limits: BatchLimits,
    *,
    stop: Callable[[Record], bool] = lambda _: False,
) -> list[Record]:
    """Serve requests in the order of arrival; returns what became of them, in the order they were answered.

    Every step gives each sequence that was read one token, and reads prompts with the tokens that are left of
    its allowance: first those begun, then those that wait, as long as there is a place (first come, first
    served; what vLLM calls chunked prefill). The step that reads the last of a prompt writes the first token.

    Args:
        requests: in the order of arrival.
        engine: what the steps take.
        limits: of a batch.
        stop: told of every answered request; true ends the load there, and what is not answered is left out.
    """
    waiting, running, answered = deque(requests), list[_Sequence](), list[Record]()
    now = 0.0
    while waiting or running:
        if not running:
            now = max(now, waiting[0].seconds)
        chunks, decoding = _take(waiting, running, limits, now)
        batch = Batch(
            tuple((tokens, sequence.read) for sequence, tokens in chunks),
            tuple(sequence.request.prompt_tokens + len(sequence.times) for sequence in decoding),
        )
        now += engine.step(batch)
        for sequence, tokens in chunks:
            sequence.read += tokens
            if sequence.read == sequence.request.prompt_tokens:
                decoding.append(sequence)
        finished = False
        for sequence in decoding:
            sequence.times.append(now)
            if len(sequence.times) == sequence.request.output_tokens:
                finished = True
                answered.append(sequence.record())
                if stop(answered[-1]):
                    return answered
        if finished:
            running = [one for one in running if len(one.times) < one.request.output_tokens]
    return answered


def _take(
    waiting: deque[Arrival], running: list[_Sequence], limits: BatchLimits, now: float
) -> tuple[list[tuple[_Sequence, int]], list[_Sequence]]:
    """The pieces of prompts that the next step reads, and the sequences that it gives a token."""
    decoding = [one for one in running if one.read == one.request.prompt_tokens]
    left = limits.max_num_batched_tokens - len(decoding)
    chunks: list[tuple[_Sequence, int]] = []
    if len(decoding) < len(running):
        for one in running:
            tokens = min(one.request.prompt_tokens - one.read, left)
            if tokens:
                chunks.append((one, tokens))
                left -= tokens
    while waiting and waiting[0].seconds <= now and left and len(running) < limits.max_num_seqs:
        sequence = _Sequence(waiting.popleft(), now)
        running.append(sequence)
        tokens = min(sequence.request.prompt_tokens, left)
        chunks.append((sequence, tokens))
        left -= tokens
    return chunks, decoding
