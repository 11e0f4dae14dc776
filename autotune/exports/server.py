"""A server's winner as the server reads it: a YAML file for `--config`, and an environment file for systemd.

The keys of the YAML are the options by their long names, as vLLM, SGLang and others read them; settings in
capitals and the spec's own variables go to the environment file, and so does `AUTOTUNE_ARGUMENTS`, the flags
in one word, for a server that reads no YAML: `ExecStart=/opt/serve $AUTOTUNE_ARGUMENTS`.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from autotune.errors import UsageError
from autotune.exports.files import ExportedFile
from autotune.exports.vllm_serve import option_name, quoted, yaml_scalar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.exports.winners import Winners
    from autotune.server.spec import ServerSpec

ARGUMENTS = "AUTOTUNE_ARGUMENTS"


def server_files(winners: Winners, spec: ServerSpec) -> Iterator[ExportedFile]:
    """The files, `NAME.yaml` and `NAME.env`.

    Args:
        winners: of the spec's problem.
        spec: that says how settings become flags.

    Raises:
        UsageError: a setting cannot be written there.
    """
    from autotune.server.spec import flags_of

    decision = winners.decisions[0]
    best = decision.winner.choices[0]
    settings = flags_of(best.configuration)
    arguments = spec.flags(best.configuration)
    for word in arguments:
        # systemd splits an unbraced variable at white space, and knows no quotes inside it.
        if not word or any(c.isspace() for c in word) or word != shlex.quote(word):
            raise UsageError(
                f"the flag {word!r} cannot be written into {ARGUMENTS}; it holds special characters"
            )
    told: dict[str, Any] = {
        "decision": decision.id,
        "study": decision.study,
        "dimensions": decision.winner.dimensions,
        "objective": decision.winner.objective,
        "device": winners.device.digest,
        "stack": winners.stack.digest,
        "version": winners.stack.facts.get("version"),
        "is_baseline": best.is_baseline,
        "tuned": 1,
    }
    options = {name: value for name, value in settings.items() if not name.isupper()}
    lines = [f"{option_name(name)}: {yaml_scalar(name, value)}" for name, value in options.items()]
    yield ExportedFile(f"{spec.sections.name}.yaml", "".join(f"{line}\n" for line in lines) or "{}\n", told)
    variables = {
        **spec.sections.environment,
        **{name: value for name, value in settings.items() if name.isupper()},
        ARGUMENTS: " ".join(arguments),
    }
    lines = [f"{name}={quoted(name, value)}" for name, value in variables.items()]
    yield ExportedFile(f"{spec.sections.name}.env", "".join(f"{line}\n" for line in lines), told)
