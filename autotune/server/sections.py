"""What a server's spec says, table by table; types and bounds are checked when it is read."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from autotune.measure.load.arrivals import MOST_REQUESTS, Lengths
from autotune.measure.load.slo import Slo

DEFAULT = "default"
"""Value of a setting that leaves it to the server."""

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Tokens = Annotated[int, Meta(ge=1, le=1 << 24)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of a spec."""


class Ready(Section, frozen=True):
    """`[ready]`: when the server can serve.

    Attributes:
        url: path that answers 2xx from then on.
        seconds: after which a server that is not ready counts as hung.
    """

    url: str = "/health"
    seconds: Seconds = 600.0


class Stop(Section, frozen=True):
    """`[stop]`: how the server is ended.

    Attributes:
        seconds: between SIGTERM and SIGKILL.
    """

    seconds: Seconds = 30.0


class Request(Section, frozen=True):
    """`[request]`: what is asked of the server.

    Attributes:
        url: path of the endpoint, `/v1/completions` or `/v1/chat/completions`.
        model: as the server calls it; empty to name none.
        body: more fields, e.g. `ignore_eos = true`.
        headers: of the request.
        vocabulary: where above 0, prompts are tokens' numbers below it rather than words.
        seconds: after which a request has failed.
    """

    url: str = "/v1/completions"
    model: str = ""
    body: dict[str, Any] = {}
    headers: dict[str, str] = {}
    vocabulary: Annotated[int, Meta(ge=0, le=1 << 24)] = 0
    seconds: Seconds = 120.0


class Load(Section, frozen=True):
    """`[load]`: the requests of one look at the server.

    Attributes:
        rate: requests per second; for `throughput` the rate that the search begins with.
        requests: how many.
        warm_up: the first so many do not count; a tenth by default.
        seconds: the longest that a load may take: at a low rate it has fewer requests.
        burstiness: of arrivals: 1 is a Poisson process, below it they come in bursts.
        prompt_tokens: fewest and most of a prompt.
        output_tokens: fewest and most of an answer.
        trace: CSV file with arrivals and lengths, in place of the above; a full path, or beside the spec.
        resolution: how near, relatively, the largest rate has to be known.
    """

    rate: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    requests: Annotated[int, Meta(ge=20, le=MOST_REQUESTS)] = 800
    warm_up: Annotated[int, Meta(ge=0, le=MOST_REQUESTS)] | None = None
    seconds: Seconds = 600.0
    burstiness: Annotated[float, Meta(gt=0)] = 1.0
    prompt_tokens: tuple[Tokens, Tokens] = (128, 128)
    output_tokens: tuple[Tokens, Tokens] = (64, 64)
    trace: str = ""
    resolution: Annotated[float, Meta(ge=0.005, le=1)] = 0.05

    @property
    def lengths(self) -> Lengths:
        """Of prompts and answers."""
        return Lengths(self.prompt_tokens, self.output_tokens)


class Check(Section, frozen=True):
    """`[check]`: how it is told that a server answers as the untuned one does.

    Attributes:
        prompts: sent one after the other, at temperature 0.
        tokens: of each answer.
        differs: share of the answers' text that may differ from the untuned server's before it counts as
            an error: other shapes of batches round differently, and one token changes all that follow.
    """

    prompts: Annotated[int, Meta(ge=1, le=64)] = 4
    tokens: Annotated[int, Meta(ge=1, le=1024)] = 16
    differs: Annotated[float, Meta(ge=0, le=1)] = 0.1


class Sections(Section, frozen=True):
    """A spec as it is written.

    Attributes:
        name: of the server and what it serves: a word.
        command: program and arguments; `{name}` stands for a variable, `{host}` or `{port}`.
        summary: a line for people.
        version: command whose output names the version of the server.
        host: that it listens on.
        port: that it listens on; 0 for one that is free.
        switches: how a boolean becomes a flag: `no-` writes `--no-flag` for false, `omit` leaves it out.
        variables: what the command, the environment and the request say of each other.
        environment: variables of the server's environment, beside those of autotune's own.
        arguments: what a setting adds to the command, where that is not `--setting value`.
        baseline: every setting as it is untuned; "default" leaves it out of the command.
        parameters: values of settings that change speed alone.
        qualifiers: values of settings that change numerics or memory too.
        constraints: expressions that settings must satisfy.
    """

    name: str
    command: Annotated[tuple[str, ...], Meta(min_length=1)]
    summary: str = ""
    version: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    switches: Literal["no-", "omit"] = "no-"
    variables: dict[str, str] = {}
    environment: dict[str, str] = {}
    ready: Ready = Ready()
    stop: Stop = Stop()
    request: Request = Request()
    load: Load = Load()
    slo: Slo = Slo()
    check: Check = Check()
    arguments: dict[str, tuple[str, ...]] = {}
    baseline: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    qualifiers: dict[str, Any] = {}
    constraints: dict[str, str] = {}

    def __post_init__(self) -> None:
        for name in ("rate", "burstiness"):
            if not math.isfinite(getattr(self.load, name)):
                raise ValueError(f"load.{name}: expected a number")
