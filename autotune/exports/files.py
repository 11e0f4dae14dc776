"""Writing exported files: whole or not at all, what is not ours left alone, provenance beside the folder.

Other systems hand every key of their files to a kernel, and some read every name in their folders, so where a
row comes from is told outside: the provenance of `FOLDER/a/b.json` is `FOLDER.provenance/a/b.json`.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import autotune
from autotune.errors import UsageError
from autotune.store.statedir import sync_file, sync_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ExportedFile(NamedTuple):
    """A file to write.

    Attributes:
        path: in the folder.
        content: its text.
        provenance: where what it says comes from.
    """

    path: str
    content: str
    provenance: Mapping[str, Any]


def write_files(folder: Path, files: Sequence[ExportedFile], *, force: bool = False) -> list[Path]:
    """Write files below a folder, each with its provenance outside; returns their paths.

    Args:
        folder: made if need be.
        files: what to write; none is written if one of them may not be.
        force: replace files that no export wrote.

    Raises:
        UsageError: a file is there that no export wrote, or a folder cannot be written.
    """
    for file in files:
        path = folder / file.path
        if path.exists() and not _provenance(folder, file.path).exists() and not force:
            raise UsageError(f"{path}: was not written by an export; move it away, or give --force")
    written = []
    for file in files:
        facts = {
            "file": file.path,
            "autotune": autotune.__version__,
            "written_at": round(time.time(), 3),
            **file.provenance,
        }
        # The provenance first: a file without one would count as somebody else's.
        replace_content(_provenance(folder, file.path), f"{json.dumps(facts, indent=1)}\n".encode())
        replace_content(folder / file.path, file.content.encode())
        written.append(folder / file.path)
    return written


def replace_content(path: Path, content: bytes) -> None:
    """Put a file in place of what is there, in one step that survives a power cut.

    Raises:
        UsageError: it cannot be written.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(content)
        sync_file(str(fresh))
        fresh.replace(path)
        sync_folder(str(path.parent))
    except OSError as error:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from None


def _provenance(folder: Path, path: str) -> Path:
    folder = Path(os.path.abspath(folder))
    return folder.with_name(f"{folder.name}.provenance") / f"{path}.json"
