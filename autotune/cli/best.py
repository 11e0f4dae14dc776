"""`autotune best`: what get_best_config() answers, and why."""

from __future__ import annotations

import json as json_format
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import options
from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune import BestConfig

Qualifiers = Annotated[
    list[str] | None,
    typer.Option("--qualifier", "-q", metavar="NAME=VALUE", help="A value that the configuration must have."),
]


def best(
    workload: Annotated[str, typer.Argument(help="A workload.")],
    problem: options.Dimensions = None,
    objective: options.Objective = "latency",
    latency_limit: options.LatencyLimit = None,
    max_error: options.MaxError = None,
    qualifier: Qualifiers = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 or a digest.")] = None,
    generation: Annotated[int | None, typer.Option("--generation", help="A snapshot's number.")] = None,
    module: options.Modules = None,
    json: options.Json = False,
) -> None:
    """Look a configuration up, exactly as inference code does."""
    from autotune import get_best_config
    from autotune.cli import output

    options.import_modules(module)
    dimensions: dict[str, Any] = options.spelt_out(workload, dict(options.dimensions(problem)))
    found = get_best_config(
        workload,
        objective=options.objective(objective, latency_limit),
        max_error=max_error,
        qualifiers=_qualifiers(qualifier),
        device=device,
        generation=generation,
        **dimensions,
    )
    if json:
        output.print_json(_as_row(found))
    else:
        output.console.print(found.explain())


def _as_row(found: BestConfig) -> dict[str, object]:
    provenance = found.provenance()
    for name in ("problem", "tuned_for"):
        provenance[name] = provenance[name].dimensions
    return {"configuration": dict(found), **provenance}


def _qualifiers(words: list[str] | None) -> dict[str, object] | None:
    """The values in `-q compute_dtype=float32`; numbers and booleans as JSON writes them, else text."""
    if not words:
        return None
    given: dict[str, object] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UsageError(f"-q {word!r} is not NAME=VALUE; write e.g. -q compute_dtype=float32")
        try:
            given[name] = json_format.loads(text)
        except ValueError:
            given[name] = text
    return given
