"""What is wrong with a server's spec that types and bounds do not say: one line each."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

from autotune.server.sections import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from autotune.server.sections import Sections

PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]{0,63}")
_GIVEN = ("host", "port", "value")


def complaints(sections: Sections) -> Iterator[str]:
    """What is wrong, the most basic first."""
    if not _WORD.fullmatch(sections.name):
        yield f"name: expected a word such as 'vllm-llama', found {sections.name!r}"
    yield from _about_variables(sections)
    yield from _about_command(sections)
    yield from _about_request(sections)
    yield from _about_settings(sections, {**sections.parameters, **sections.qualifiers})


def _about_variables(sections: Sections) -> Iterator[str]:
    for name, value in sections.variables.items():
        if not _NAME.fullmatch(name) or name in _GIVEN:
            yield f"variables.{name}: is no name that a variable can have"
        if not value:
            yield f"variables.{name}: is empty; give --set {name}=VALUE, or write it"
    known = {*sections.variables, "host", "port"}
    texts = {
        "command": sections.command,
        "request.model": (sections.request.model,),
        **{f"environment.{name}": (value,) for name, value in sections.environment.items()},
    }
    for place, words in texts.items():
        named = {name for word in words for name in PLACEHOLDER.findall(word)}
        for unknown in sorted(named - known):
            yield f"{place}: {{{unknown}}} is no variable; known are {', '.join(sorted(known))}"


def _about_command(sections: Sections) -> Iterator[str]:
    told = [*sections.command, *sections.environment.values()]
    if not sections.port and not any("{port}" in word for word in told):
        yield "command: has no {port}; say where the server listens with port = NUMBER"
    for key, command in (("command", sections.command), ("version", sections.version)):
        program = PLACEHOLDER.sub(lambda m: sections.variables.get(m[1], m[0]), command[0]) if command else ""
        if program and shutil.which(program) is None:
            yield f"{key}: {program!r} is no program that can be found; install it, or give its path"


def _about_request(sections: Sections) -> Iterator[str]:
    for place, path in (("ready.url", sections.ready.url), ("request.url", sections.request.url)):
        if not path.startswith("/"):
            yield f"{place}: expected a path such as '/health', found {path!r}"
    if not sections.request.url.rstrip("/").endswith("/completions"):
        yield f"request.url: expected a path that ends in /completions, found {sections.request.url!r}"
    for bounds in ("prompt_tokens", "output_tokens"):
        low, high = getattr(sections.load, bounds)
        if low > high:
            yield f"load.{bounds}: expected [fewest, most], found [{low}, {high}]"


def _about_settings(sections: Sections, settings: Mapping[str, Any]) -> Iterator[str]:
    if not settings:
        yield "has neither [parameters] nor [qualifiers]: there is nothing to tune"
    for name in settings:
        if not _NAME.fullmatch(name):
            yield f"parameters.{name}: expected letters, digits and _, as in max_num_seqs"
    for name in sections.arguments:
        if name not in settings:
            yield f"arguments.{name}: is no setting; known are {', '.join(settings) or 'none'}"
    for constraint, text in sections.constraints.items():
        for name, values in settings.items():
            kinds = {isinstance(value, str) for value in values} if isinstance(values, list) else {False}
            if len(kinds) > 1 and re.search(rf"\b{name}\b", text):
                yield (
                    f"constraints.{constraint}: {name} is a number or {DEFAULT!r}, which cannot be compared; "
                    "give it numbers alone, or leave the constraint out"
                )
