"""What `vllm serve` is started with: a YAML file for its `--config`, and an environment file for systemd.

The parameters of the winner are vLLM's options by their own names, with underscores (`max_num_seqs`); those
in capitals (`VLLM_ATTENTION_BACKEND`) are variables of the environment.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from autotune.errors import UsageError
from autotune.exports.files import ExportedFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from autotune.exports.winners import Winners

YAML_FILE, ENVIRONMENT_FILE = "vllm.yaml", "vllm.env"


def vllm_serve_files(
    winners: Winners | None,
    *,
    moe_folder: Path | None = None,
    generation: int | None = None,
) -> Iterator[ExportedFile]:
    """The files.

    Args:
        winners: of a workload whose parameters are vLLM's options; None to write the environment alone.
        moe_folder: what `autotune export vllm-moe` wrote, for vLLM to look into.
        generation: of the snapshot that all ranks are to read, so that they choose alike.

    Raises:
        UsageError: there is more than one winner, or a value that neither file can hold.
    """
    settings: dict[str, Any] = {}
    told: dict[str, Any] = {}
    if winners is not None:
        if len(winners.decisions) > 1:
            raise UsageError("several problems have winners, and a server runs with one; choose with -p")
        best = winners.decisions[0].winner.choices[0]
        settings = {name: value for name, value in best.configuration.items() if name != "implementation"}
        told = {
            "decision": winners.decisions[0].id,
            "study": winners.decisions[0].study,
            "dimensions": winners.decisions[0].winner.dimensions,
            "objective": winners.decisions[0].winner.objective,
            "device": winners.device.digest,
            "stack": winners.stack.digest,
        }
    variables = {name: value for name, value in settings.items() if name.isupper()}
    options = {name: value for name, value in settings.items() if name not in variables}
    if moe_folder is not None:
        variables["VLLM_TUNED_CONFIG_FOLDER"] = str(moe_folder)
    if generation is not None:
        variables["AUTOTUNE_GENERATION"] = generation
    if options:
        lines = [f"{option_name(name)}: {yaml_scalar(name, value)}" for name, value in options.items()]
        yield ExportedFile(YAML_FILE, "\n".join(lines) + "\n", told)
    if variables:
        lines = [f"{name}={quoted(name, value)}" for name, value in variables.items()]
        yield ExportedFile(ENVIRONMENT_FILE, "\n".join(lines) + "\n", told)


def option_name(name: str) -> str:
    """A setting's name as an option's: with dashes.

    Raises:
        UsageError: it is none.
    """
    if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_-]*", name):
        raise UsageError(f"{name!r} is not the name of an option of vllm serve")
    return name.replace("_", "-")


def yaml_scalar(name: str, value: Any) -> str:
    """A scalar: JSON's are YAML's, and text stands in quotes, so that `off` is not false.

    Raises:
        UsageError: it is none, or no finite number.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name}={value!r} cannot be written as a number")
    if isinstance(value, bool | int | float | str):
        return json.dumps(value)
    raise UsageError(f"{name}={value!r} cannot be written; expected a number, a boolean or text")


def quoted(name: str, value: Any) -> str:
    """A value as systemd.exec(5) reads it in an environment file.

    Raises:
        UsageError: it cannot stand there.
    """
    text = str(value)
    if not isinstance(value, int | float | str) or any(ord(c) < 32 for c in text):
        raise UsageError(f"{name}={value!r} cannot be written in an environment file")
    if isinstance(value, bool):
        text = str(int(value))
    escaped = "".join(f"\\{c}" if c in '"\\`$' else c for c in text)
    return f'"{escaped}"' if re.search(r"[^A-Za-z0-9_./:,=+@-]", text) else text
