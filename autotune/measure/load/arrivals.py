"""When requests arrive, and how long they are: known before the first is sent, so that a slow server cannot
slow the load down with it (open loop)."""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from autotune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TRACE_COLUMNS = ("arrival", "prompt_tokens", "output_tokens")

MOST_TOKENS = 1 << 24
MOST_REQUESTS = 10_000_000


class Arrival(msgspec.Struct, frozen=True):
    """A request as planned.

    Attributes:
        number: from 0, in the order of arrival.
        seconds: after the load's start.
        prompt_tokens: to be read.
        output_tokens: to be written, at least one.
    """

    number: int
    seconds: float
    prompt_tokens: int
    output_tokens: int


class Lengths(msgspec.Struct, frozen=True):
    """Lengths of requests, each drawn uniformly between two bounds, both included.

    Attributes:
        prompt: fewest and most tokens of a prompt.
        output: fewest and most tokens of an answer.
    """

    prompt: tuple[int, int] = (128, 128)
    output: tuple[int, int] = (128, 128)

    def __post_init__(self) -> None:
        for name, (low, high) in (("prompt", self.prompt), ("output", self.output)):
            if not 1 <= low <= high <= MOST_TOKENS:
                raise ValueError(f"{name} tokens: expected 1 <= fewest <= most, found {low} and {high}")


def open_loop(
    rate: float, requests: int, lengths: Lengths, *, seed: int, burstiness: float = 1.0
) -> list[Arrival]:
    """Requests at a rate, in a Poisson process or a more or a less bursty one.

    The gaps are gamma distributed with shape `burstiness` and mean `1 / rate`: 1 is a Poisson process, below
    1 requests come in bursts, above 1 more evenly, and infinity is a steady beat. The coefficient of
    variation of a gap is `burstiness ** -0.5`. (The parametrisation of vLLM's and SGLang's load generators.)

    A seed gives the same pattern at every rate, stretched, and the same lengths in the same order: what
    differs between two rates is the rate.

    Args:
        rate: requests per second.
        requests: how many.
        lengths: of prompts and answers.
        seed: of gaps and lengths.
        burstiness: shape of the gaps' distribution.
    """
    gaps_seed, lengths_seed = np.random.SeedSequence(seed).spawn(2)
    gaps = np.ones(requests)
    if math.isfinite(burstiness):
        gaps = np.random.default_rng(gaps_seed).gamma(burstiness, 1 / burstiness, requests)
    moments = (np.cumsum(gaps) / rate).tolist()
    draw = np.random.default_rng(lengths_seed)
    prompts, outputs = (
        draw.integers(low, high, requests, endpoint=True).tolist()
        for low, high in (lengths.prompt, lengths.output)
    )
    return [
        Arrival(number, *planned)
        for number, planned in enumerate(zip(moments, prompts, outputs, strict=True))
    ]


def read_trace(path: Path) -> list[Arrival]:
    """The requests of a trace: CSV with the columns `arrival` (seconds), `prompt_tokens`, `output_tokens`.

    The first arrival is the load's start. Other columns are passed over.

    Raises:
        UsageError: the file cannot be read, or a line is wrong; the message names it.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in TRACE_COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UsageError(
                    f"{path}: column {missing[0]!r} is missing; a trace has {', '.join(TRACE_COLUMNS)}"
                )
            rows = [_row(row, f"{path}:{reader.line_num}") for row in reader]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: is not CSV text: {error}") from None
    if not rows:
        raise UsageError(f"{path}: holds no request")
    rows.sort(key=lambda row: row[0])
    start = rows[0][0]
    return [Arrival(i, moment - start, *lengths) for i, (moment, *lengths) in enumerate(rows)]


def at_rate(trace: Sequence[Arrival], rate: float) -> list[Arrival]:
    """A trace stretched or compressed so that its requests come at a mean rate.

    Args:
        trace: in the order of arrival.
        rate: requests per second.

    Raises:
        UsageError: all its requests come at once, so that it has no rate.
    """
    given = rate_of(trace)
    if not math.isfinite(given):
        raise UsageError("a trace whose requests all come at once has no rate that could be changed")
    return [msgspec.structs.replace(one, seconds=one.seconds * given / rate) for one in trace]


def rate_of(arrivals: Sequence[Arrival]) -> float:
    """Mean requests per second; infinite where all come at once."""
    lasting = arrivals[-1].seconds - arrivals[0].seconds
    return (len(arrivals) - 1) / lasting if lasting > 0 else math.inf


def _row(row: dict[str, str | None], where: str) -> tuple[float, int, int]:
    values = []
    for name in TRACE_COLUMNS:
        try:
            values.append(float(row[name] or ""))
        except ValueError:
            raise UsageError(f"{where}: {name}={row[name]!r} is not a number") from None
    moment, prompt, output = values
    for name, tokens in (("prompt_tokens", prompt), ("output_tokens", output)):
        if not (1 <= tokens <= MOST_TOKENS and tokens.is_integer()):
            raise UsageError(f"{where}: {name}={tokens:g} is not a whole number of at least 1")
    if not math.isfinite(moment):
        raise UsageError(f"{where}: arrival={moment} is not a number of seconds")
    return moment, int(prompt), int(output)
