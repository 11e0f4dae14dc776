"""Small files of the daemon's own in the state folder: read whole, replaced whole.

They are no tables of the history, so that leases and requests outlive a history that was damaged or restored,
and can be kept when the history cannot be opened at all.
"""

from __future__ import annotations

import os
from typing import TypeVar

import msgspec

from autotune.store.database import told
from autotune.store.statedir import sync_folder

T = TypeVar("T")


def read_state(path: str, kind: type[T], empty: T) -> tuple[T, str]:
    """The content of a file, `empty` if there is none, and what a person should know about it.

    One that is damaged is kept beside, and `empty` is returned.

    Raises:
        StateDirError: it is there and cannot be read.
    """
    with told(path):
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return empty, ""
        try:
            return msgspec.json.decode(data, type=kind), ""
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            aside = f"{path}.damaged"
            os.replace(path, aside)
            return empty, f"{path}: was damaged ({error}) and is begun anew; the old file is {aside}"


def write_state(path: str, content: object) -> None:
    """Replace a file's content: durable when this returns, and never half written.

    Raises:
        StateDirError: the disk is full or the folder cannot be written; the file is as it was.
    """
    fresh = f"{path}.new"
    with told(path):
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            data = memoryview(msgspec.json.encode(content))
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(fresh, path)
        sync_folder(os.path.dirname(path))
