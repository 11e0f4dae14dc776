"""A server's spec: one TOML file that says how to start it, what may be tuned, and the load it must carry.

    name = "vllm"
    command = ["vllm", "serve", "{model}", "--host", "{host}", "--port", "{port}"]
    [variables]
    model = "meta-llama/Llama-3.1-8B-Instruct"
    [slo]
    ttft_ms = 500
    [baseline]                          # what it does untuned
    max_num_seqs = "default"            # not a flag at all
    [parameters]
    max_num_seqs = ["default", 64, 128] # --max-num-seqs 64

Shipped ones lie in `search_spaces/servers/`; `docs/serving.md` explains every key.
"""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from autotune import paths
from autotune.config.checks import check_names, told
from autotune.errors import SpaceError, UnknownNameError, UsageError
from autotune.measure.load.arrivals import Lengths, at_rate, open_loop, read_trace
from autotune.measure.load.figures import WARM_UP_SHARE, warm_up_of
from autotune.measure.load.http_client import Endpoint
from autotune.measure.load.tails import fewest_to_keep
from autotune.server.complaints import PLACEHOLDER, complaints
from autotune.server.dimensions import DIMENSIONS, WORKLOAD
from autotune.server.sections import DEFAULT, Sections
from autotune.space.declaration import Implementation, SpaceDeclaration
from autotune.worker.environment import environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.measure.load.arrivals import Arrival
    from autotune.space.problem import Problem
    from autotune.store.records import Configuration

FOLDER = os.path.join("search_spaces", "servers")
_IDENTITY = ("command", "host", "switches", "variables", "environment", "request", "load", "slo", "check")
"""What makes it another problem when it changes; the values that are tried belong to the search space."""


@dataclass(frozen=True)
class ServerSpec:
    """A spec that was read and checked.

    Attributes:
        sections: what it says, variables filled in by name.
        path: the file, for messages.
        trace: its requests, where a trace is given.
    """

    sections: Sections
    path: str
    trace: tuple[Arrival, ...] = ()

    @cached_property
    def digest(self) -> str:
        """12 hexadecimal digits over what makes it this problem."""
        content = {name: msgspec.to_builtins(getattr(self.sections, name)) for name in _IDENTITY}
        content["trace"] = msgspec.to_builtins(self.trace)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @cached_property
    def declaration(self) -> SpaceDeclaration:
        """What may be tried.

        Raises:
            SpaceError: the baseline is none of the values, or an expression is wrong.
        """
        settings = self.sections
        made = Implementation(
            settings.summary,
            qualifiers=settings.qualifiers,
            parameters=settings.parameters,
            constraints=settings.constraints,
        )
        return SpaceDeclaration(
            WORKLOAD,
            {dimension.name: dimension for dimension in DIMENSIONS},
            {settings.name: made},
            {"implementation": settings.name, **settings.baseline},
            settings.summary,
            self.path,
        )

    @property
    def problem(self) -> Problem:
        """The problem that its winners are stored under."""
        return self.declaration.problem({"spec": self.sections.name, "digest": self.digest})

    def command(self, configuration: Configuration, port: int) -> list[str]:
        """The command that starts the server with a configuration."""
        return [self._filled(word, port) for word in self.sections.command] + self.flags(configuration)

    def flags(self, configuration: Configuration) -> list[str]:
        """What the settings of a configuration add to the command; those in capitals are no flags."""
        settings = flags_of(configuration).items()
        return [
            word for name, value in settings if not name.isupper() for word in self._arguments(name, value)
        ]

    @property
    def version_command(self) -> list[str]:
        """The command whose output names the server's version; empty for none."""
        return [self._filled(word, 0) for word in self.sections.version]

    def environment(self, configuration: Configuration, port: int) -> dict[str, str]:
        """Its environment: autotune's own, what the spec adds, and settings in capitals."""
        ours = environment()
        ours |= {name: self._filled(value, port) for name, value in self.sections.environment.items()}
        for name, value in flags_of(configuration).items():
            if name.isupper():
                ours[name] = str(int(value)) if isinstance(value, bool) else str(value)
        return ours

    def url(self, path: str, port: int) -> str:
        """The full URL of a path of the server."""
        return f"http://{self.sections.host}:{port}{path}"

    def endpoint(self, port: int) -> Endpoint:
        """Where requests go, and what they say."""
        request = self.sections.request
        return Endpoint(
            self.url(request.url, port),
            self._filled(request.model, port),
            request.body,
            request.headers,
            request.vocabulary,
            request.seconds,
        )

    def arrivals(self, rate: float, seed: int) -> Sequence[Arrival]:
        """The requests of one load: as many as it may have in its time.

        Args:
            rate: per second.
            seed: of their pattern.
        """
        load = self.sections.load
        most = max(int(load.seconds * rate), 1)
        if self.trace:
            return at_rate(self.trace, rate)[:most]
        return open_loop(rate, min(load.requests, most), load.lengths, seed=seed, burstiness=load.burstiness)

    @property
    def counted(self) -> int:
        """Requests of a load of full length that count."""
        requests = len(self.trace) or self.sections.load.requests
        return requests - warm_up_of(requests, self.sections.load.warm_up)

    @property
    def least_rate(self) -> float:
        """The lowest rate at which a load has, in its time, the requests that its objectives need."""
        load = self.sections.load
        needed = fewest_to_keep(self.sections.slo.percentile)
        warm_up = load.warm_up if load.warm_up is not None else WARM_UP_SHARE / (1 - WARM_UP_SHARE) * needed
        return (needed + warm_up + 1) / load.seconds

    def check_arrivals(self) -> list[Arrival]:
        """The prompts by which answers are compared."""
        check = self.sections.check
        lengths = Lengths((32, 32), (check.tokens, check.tokens))
        return open_loop(1.0, check.prompts, lengths, seed=0)

    def _arguments(self, name: str, value: Any) -> list[str]:
        """What a setting adds to the command."""
        given = self.sections.arguments.get(name)
        if given is not None:
            return [] if value is False else [word.replace("{value}", str(value)) for word in given]
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            if value:
                return [flag]
            return ["--no-" + flag.removeprefix("--")] if self.sections.switches == "no-" else []
        return [flag, str(value)]

    def _filled(self, text: str, port: int) -> str:
        known = {**self.sections.variables, "host": self.sections.host, "port": str(port)}
        return PLACEHOLDER.sub(lambda found: known.get(found[1], found[0]), text)


def flags_of(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration that the server is told."""
    return {
        name: value for name, value in configuration.items() if name != "implementation" and value != DEFAULT
    }


def shipped_specs() -> dict[str, str]:
    """Specs by name: ours, and the operator's under `/etc/autotune`."""
    return paths.data_files(FOLDER, ".toml")


def load_spec(name: str, variables: Mapping[str, str] | None = None) -> ServerSpec:
    """Read a spec.

    Args:
        name: of a shipped one, or a path that ends in `.toml`.
        variables: in place of those that it has.

    Raises:
        UsageError: it cannot be read, or something in it is wrong; the message names file and key.
        SpaceError: what may be tried is wrong.
    """
    path = name
    if not name.endswith(".toml"):
        known = shipped_specs()
        if name not in known:
            raise UnknownNameError("server spec", name, known, "give one of these or a FILE.toml")
        path = known[name]
    sections = _read(path)
    for given in variables or {}:
        if given not in sections.variables:
            raise UnknownNameError("variable", given, sections.variables, path)
    sections = replace(sections, variables={**sections.variables, **(variables or {})})
    for complaint in complaints(sections):
        raise UsageError(f"{path}: {complaint}")
    trace: tuple[Arrival, ...] = ()
    if sections.load.trace:
        trace = tuple(read_trace(Path(path).parent / sections.load.trace))
    spec = ServerSpec(sections, path, trace)
    _check_space(spec)
    return spec


def _read(path: str) -> Sections:
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not TOML: {error}") from None
    check_names(table, Sections, path, "")
    try:
        return msgspec.convert(table, Sections)
    except msgspec.ValidationError as error:
        complaint, _, place = str(error).partition(" - at `$")
        key = place.strip("`.")
        if complaint.startswith("Object missing required field"):
            raise UsageError(f"{path}: {complaint.split('`')[1]!r} is missing") from None
        if complaint.startswith("Expected") and "[...]" not in key:
            raise UsageError(f"{path}: {told(error, table, Sections)}") from None
        # A value of a table of the reader's own names, or what a section says of itself.
        plain = complaint.replace("`", "")
        raise UsageError(f"{path}: {f'{key}: ' if key else ''}{plain}") from None


def _check_space(spec: ServerSpec) -> None:
    """Refuse what makes no search space, with the places as the spec has them."""
    try:
        spec.declaration.problem({"spec": spec.sections.name, "digest": spec.digest})
    except SpaceError as error:
        message = str(error).replace(f"implementations.{spec.sections.name}.", "")
        raise SpaceError(message) from None
