"""Copying the tables that a system ships into the folder that takes their place."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from autotune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


def copy_shipped(shipped: Path, to: Path, but: Collection[str]) -> int:
    """Copy the tables of a package's folder `configs`; returns how many.

    Args:
        shipped: the folder, with a `triton_<version>` for each version of Triton.
        to: the folder `configs` that is to take its place.
        but: paths below it that are written anew, and not to be replaced.

    Raises:
        UsageError: it is no such folder, or a file cannot be copied.
    """
    tables = sorted(shipped.glob("triton_*/*.json"))
    if not tables:
        raise UsageError(f"--shipped {str(shipped)!r}: holds no triton_*/*.json; expected SGLang's 'configs'")
    copied = 0
    for table in tables:
        path = table.relative_to(shipped)
        if str(path) in but or (to / path).exists():
            continue
        try:
            (to / path.parent).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(table, to / path)
        except OSError as error:
            raise UsageError(f"{to / path}: cannot be written: {error.strerror}") from None
        copied += 1
    return copied
