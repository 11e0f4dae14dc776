"""Open-loop load over HTTP: an OpenAI-compatible endpoint that streams, and when each of its tokens came.

Every request is sent at its own moment, whether others were answered or not. A moment is read when the bytes
have arrived at this process; the events of one read share it.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from autotune.errors import MissingExtraError
from autotune.measure.load.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import aiohttp

    from autotune.measure.load.arrivals import Arrival

NOUNS = (
    "time year people way day man thing woman life child world school state family student group country "
    "problem hand part place case week company system program question work number night point home water "
    "room mother area money story fact month lot right study book eye job word business issue side kind head "
    "house service friend father power hour game line end member law car city community name"
)
"""Frequent English nouns: most tokenizers have a token for each."""

_WORDS = tuple(NOUNS.split())

WATCH_SECONDS = 0.2
CHAT = "/chat/completions"
LONGEST_REASON = 160


class Endpoint(msgspec.Struct, frozen=True):
    """Where requests go, and what they say beside their prompt.

    Attributes:
        url: full URL of `.../v1/completions` or `.../v1/chat/completions`.
        model: as the server calls it; empty to name none.
        body: more fields of the request.
        headers: of the request, e.g. an authorization.
        vocabulary: where above 0, prompts are that many tokens' numbers; else as many words as tokens.
        timeout_seconds: after which a request has failed.
    """

    url: str
    model: str = ""
    body: dict[str, Any] = {}
    headers: dict[str, str] = {}
    vocabulary: int = 0
    timeout_seconds: float = 120.0

    def request(self, prompt_tokens: int, output_tokens: int, seed: Sequence[int]) -> dict[str, Any]:
        """The body of a request.

        Args:
            prompt_tokens: length of its prompt, which is drawn at random.
            output_tokens: most tokens of the answer.
            seed: of the prompt.
        """
        draw = np.random.default_rng(seed)
        prompt: Any
        if self.vocabulary:
            # Without either end of the vocabulary, where special tokens are.
            low, high = self.vocabulary // 10, self.vocabulary - self.vocabulary // 10
            prompt = draw.integers(low, high, prompt_tokens).tolist()
        else:
            prompt = " ".join(_WORDS[i] for i in draw.integers(0, len(_WORDS), prompt_tokens))
        chat = self.url.rstrip("/").endswith(CHAT)
        asked = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        named = {"model": self.model} if self.model else {}
        return {**named, **asked, "max_tokens": output_tokens, "stream": True, **self.body}


class Answer:
    """A streamed answer, as its bytes arrive."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.texts: list[str] = []
        self.usage: Mapping[str, Any] = {}
        self.failure = ""
        self.done = False
        self._rest = b""

    def feed(self, data: bytes, moment: float) -> None:
        """Take up bytes that arrived at a moment, seconds after the load's start."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        texts = [text for line in lines if (text := self._text(line.rstrip(b"\r")))]
        if texts:
            self.times.append(moment)
            self.texts += texts

    @property
    def counted_by(self) -> str:
        """`usage` where the server told how many tokens it wrote, else `events`."""
        counted = self.usage.get("completion_tokens")
        return "usage" if isinstance(counted, int) and counted > 0 else "events"

    @property
    def output_tokens(self) -> int:
        """As the server counted them, else the events that brought text."""
        return int(self.usage["completion_tokens"]) if self.counted_by == "usage" else len(self.texts)

    def _text(self, line: bytes) -> str:
        """What a line of the stream adds to the answer."""
        field, _, value = line.partition(b":")
        if field != b"data":
            if line and field not in (b"", b"event", b"id", b"retry"):
                self.failure = self.failure or f"answered what is no event stream: {_shown(line)}"
            return ""
        value = value.strip()
        if value == b"[DONE]":
            self.done = True
            return ""
        try:
            event = json.loads(value)
            if "error" in event:
                raise ValueError
            self.usage = event.get("usage") or self.usage
            choices = event.get("choices") or ()
            if not choices:
                return ""
            if choices[0].get("finish_reason"):
                self.done = True
            part = choices[0].get("delta") or choices[0]
            text = part.get("text") or part.get("content") or part.get("reasoning_content") or ""
        except (ValueError, TypeError, AttributeError, LookupError):
            self.failure = self.failure or f"answered an event that is no completion: {_shown(value)}"
            return ""
        return text if isinstance(text, str) else ""

    def why_bad(self) -> str:
        """Why this is no answer; empty where it is one."""
        if self.failure:
            return self.failure
        if self._rest.strip():
            return f"the stream ended within a line: {_shown(self._rest)}"
        if not self.texts:
            return "no token came"
        return "" if self.done else "the stream ended before the answer did"


def load_over_http(
    endpoint: Endpoint,
    arrivals: Sequence[Arrival],
    *,
    seed: int,
    stop: Callable[[Record], bool] = lambda _: False,
    watch: Callable[[], bool] = lambda: True,
    keep_text: bool = False,
) -> list[Record]:
    """Send requests, each at its moment; returns what became of them, in the order they ended.

    Args:
        endpoint: where to.
        arrivals: when, and how long.
        seed: of the prompts.
        stop: told of every request that has ended; true ends the load, and leaves out what is under way.
        watch: called several times a second; false ends the load in the same way.
        keep_text: whether records hold the answers.

    Raises:
        MissingExtraError: the HTTP library is not installed.
    """
    try:
        import aiohttp  # noqa: F401 - so that its absence is told as what it is
    except ModuleNotFoundError:
        raise MissingExtraError("loading a server", "server", "aiohttp") from None
    return asyncio.run(_Load(endpoint, seed, stop, keep_text).run(arrivals, watch))


class _Load:
    """One load under way."""

    def __init__(
        self, endpoint: Endpoint, seed: int, stop: Callable[[Record], bool], keep_text: bool
    ) -> None:
        self._endpoint = endpoint
        self._seed = seed
        self._stop = stop
        self._keep_text = keep_text
        self._records: list[Record] = []
        self._start = 0.0
        self._ended = asyncio.Event()

    async def run(self, arrivals: Sequence[Arrival], watch: Callable[[], bool]) -> list[Record]:
        """Send all, until the last is answered or something ends the load."""
        import aiohttp

        # Bodies are made beforehand: sending must keep to its moments.
        bodies = [
            json.dumps(
                self._endpoint.request(a.prompt_tokens, a.output_tokens, (self._seed, a.number))
            ).encode()
            for a in arrivals
        ]
        timeout = aiohttp.ClientTimeout(total=self._endpoint.timeout_seconds)
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"Content-Type": "application/json", **self._endpoint.headers}
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, headers=headers) as session:
            self._start = time.perf_counter()
            sending = asyncio.create_task(self._send_all(session, arrivals, bodies))
            watching = asyncio.create_task(self._watch(watch))
            ended = asyncio.create_task(self._ended.wait())
            await asyncio.wait({sending, watching, ended}, return_when=asyncio.FIRST_COMPLETED)
            for task in (sending, watching, ended):
                task.cancel()
            results = await asyncio.gather(sending, watching, ended, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result
        return self._records

    async def _send_all(
        self, session: aiohttp.ClientSession, arrivals: Sequence[Arrival], bodies: Sequence[bytes]
    ) -> None:
        async with asyncio.TaskGroup() as group:
            for arrival, body in zip(arrivals, bodies, strict=True):
                delay = arrival.seconds - self._now()
                if delay > 0:
                    await asyncio.sleep(delay)
                group.create_task(self._send(session, arrival, body))

    async def _watch(self, watch: Callable[[], bool]) -> None:
        while watch():
            await asyncio.sleep(WATCH_SECONDS)

    async def _send(self, session: aiohttp.ClientSession, arrival: Arrival, body: bytes) -> None:
        answer, sent = Answer(), self._now()
        failure = await self._exchange(session, body, answer) or answer.why_bad()
        usage = answer.usage.get("prompt_tokens")
        record = Record(
            arrival.number,
            arrival.seconds,
            sent,
            None,
            tuple(answer.times),
            answer.output_tokens,
            usage if isinstance(usage, int) else arrival.prompt_tokens,
            self._now(),
            failure,
            "".join(answer.texts) if self._keep_text else "",
            answer.counted_by,
        )
        self._records.append(record)
        if self._stop(record):
            self._ended.set()

    async def _exchange(self, session: aiohttp.ClientSession, body: bytes, answer: Answer) -> str:
        """Send a request and take up its answer; returns why that failed, empty where it did not."""
        import aiohttp

        try:
            async with session.post(self._endpoint.url, data=body) as response:
                if response.status != 200:
                    text = ""
                    with suppress(UnicodeDecodeError):
                        text = (await response.content.read(LONGEST_REASON)).decode()
                    return (
                        f"HTTP {response.status}: {_shown(text.encode())}"
                        if text
                        else f"HTTP {response.status}"
                    )
                async for data in response.content.iter_any():
                    answer.feed(data, self._now())
        except TimeoutError:
            return f"no answer within {self._endpoint.timeout_seconds:g} s"
        except (aiohttp.ClientError, OSError) as error:
            return f"{type(error).__name__}: {_shown(str(error).encode())}"
        return ""

    def _now(self) -> float:
        return time.perf_counter() - self._start


def _shown(data: bytes) -> str:
    """The beginning of something that is not what it should be, on one line."""
    text = data[:LONGEST_REASON].decode(errors="replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "nothing"
