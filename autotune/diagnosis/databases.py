"""The databases: whether they are whole."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from autotune import paths
from autotune.diagnosis.finding import Finding
from autotune.errors import AutotuneError

if TYPE_CHECKING:
    from collections.abc import Iterator

REMEDIES = {
    "history.db": "autotune db restore",
    "best.db": "autotune rollback, or tune: it is written anew",
}


def database_findings() -> Iterator[Finding]:
    """The history and the snapshot, read from end to end."""
    from autotune.store.backup import check

    for name, remedy in REMEDIES.items():
        path = os.path.join(paths.state_dir(), name)
        if not os.path.exists(path):
            yield Finding(name, "note", "not there yet", "'autotune tune' makes it")
            continue
        try:
            faults = check(path).faults
        except AutotuneError as error:
            yield Finding(name, "fault", str(error), remedy)
            continue
        yield Finding(name, "fault", "; ".join(faults), remedy) if faults else Finding(name, "ok", "whole")
