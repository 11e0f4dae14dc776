"""The published snapshots that this process reads: which files they are, and whether newer ones have come."""

from __future__ import annotations

import os

from autotune import paths
from autotune.errors import AutotuneError, StateError
from autotune.lookup.warning import warn_once
from autotune.space.declared import revision

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autotune.lookup.published import Published

    Signature = tuple[int, ...]

MOST_PINNED = 8
NAME_LENGTH = 16
"""Hexadecimal digits of the name of a fleet's generation: the first of its content's SHA-256."""
PINNED: Signature = (0,)
"""In place of a pinned snapshot's signature: once open it is read for good, even if its file is removed."""
RETRY: Signature = (1,)
"""In place of the signature of a file that could not be read: it is tried again at every renewal."""


class Snapshots:
    """The snapshots that this process reads, each opened when it is first needed.

    Not thread-safe: the caller holds a lock.
    """

    def __init__(self) -> None:
        self._environment: tuple[object, ...] = ()
        self._published: dict[str, Published | None] = {}
        self._signatures: dict[str, Signature] = {}
        self._abandoned: list[object] = []
        self._named_by_file: dict[str, int | str] = {}

    def read(self, generation: int | str | None) -> Published | None:
        """The snapshot of a generation; None, with one warning for each cause, if it cannot be read.

        Args:
            generation: its number, or the name of one of the fleet's; None for the one that
                `AUTOTUNE_GENERATION` names, or else the newest.
        """
        try:
            generation = self._environments() if generation is None else generation
            path = snapshot_path(paths.state_dir(), generation)
            if path not in self._published:
                self._published[path] = self._try(path, pinned=generation is not None)
            return self._published[path]
        except Exception as error:  # whatever the state of the environment, the caller falls back
            _warn(error)
            return None

    def renew(self) -> bool:
        """Close what has changed on the disk; whether anything that was read may no longer hold."""
        changed = [
            path
            for path, signature in list(self._signatures.items())
            if signature is not PINNED and signature != _signature(path)
        ]
        for path in changed:
            self._close(path)
        before, self._environment = self._environment, _environment()
        return bool(changed) or before != self._environment

    def forget(self) -> None:
        """Close every snapshot."""
        for path in list(self._signatures):
            self._close(path)

    def abandon(self) -> None:
        """Open every snapshot anew when next needed, without closing it: the parent owns the connection."""
        self._abandoned.append(self._published)
        self._published = {}

    def _environments(self) -> int | str | None:
        """The generation that `AUTOTUNE_GENERATION` names, itself or through a file.

        What the file says when it is first read holds for the life of this process: a job that goes on with
        another generation on some of its ranks would hang.
        """
        text = os.environ.get("AUTOTUNE_GENERATION", "").strip()
        if not text:
            return None
        if not os.path.isabs(text):
            return named_generation(text, "AUTOTUNE_GENERATION")
        if text not in self._named_by_file:
            self._named_by_file[text] = _named_by(text)
        return self._named_by_file[text]

    def _try(self, path: str, pinned: bool) -> Published | None:
        from autotune.lookup.published import Published

        # Taken before opening: if the file is replaced in between, the next renewal sees a difference.
        signature = _signature(path)
        published = None
        try:
            published = Published(path)
            signature = PINNED if pinned else signature
        except Exception as error:
            signature = RETRY if os.path.exists(path) else signature
            _warn(error)
        # After a fork there may be one already, of the file that the remembered answers came from.
        self._signatures.setdefault(path, signature)
        if pinned:
            self._close_surplus()
        return published

    def _close_surplus(self) -> None:
        pinned = [path for path, signature in self._signatures.items() if signature is PINNED]
        for path in pinned[:-MOST_PINNED]:
            self._close(path)

    def _close(self, path: str) -> None:
        del self._signatures[path]
        published = self._published.pop(path, None)
        if published is not None:
            published.close()


def snapshot_path(state_dir: str, generation: int | str | None) -> str:
    """The file of a generation, or of the newest one.

    Args:
        state_dir: the state folder.
        generation: its number, the name of one of the fleet's, or the full path of a snapshot.
    """
    if generation is None:
        return os.path.join(state_dir, "best.db")
    if isinstance(generation, str):
        named = generation if os.path.isabs(generation) else os.path.join("generations", f"{generation}.db")
        return os.path.join(state_dir, named)
    return os.path.join(state_dir, "generations", f"best-{generation:08d}.db")


def named_generation(text: str, where: str) -> int | str:
    """The generation in a text: the number of a local one, or the name of one of the fleet's.

    Raises:
        StateError: it is neither.
    """
    if text.isascii() and text.isdigit():
        return int(text)
    prefix, _, name = text.partition("-")
    if prefix == "fleet" and len(name) == NAME_LENGTH and not name.strip("0123456789abcdef"):
        return text
    raise StateError(
        f"{where}={text[:80]!r} is not the number of a snapshot, nor a name such as fleet-0123456789abcdef"
    )


def _named_by(path: str) -> int | str:
    """The generation that a file names in its first line; the file itself where it is a snapshot."""
    try:
        with open(path, "rb") as file:
            head = file.read(128)
    except OSError as error:
        raise StateError(f"AUTOTUNE_GENERATION: {path}: cannot be read: {error.strerror}") from error
    if head.startswith(b"SQLite format 3\0"):
        return path
    return named_generation(head.decode("ascii", "replace").strip(), path)


def _environment() -> tuple[object, ...]:
    """What, beside the files, decides what an answer is."""
    try:
        state_dir = paths.state_dir()
    except OSError:  # a relative AUTOTUNE_STATE_DIR, and the working directory is gone
        state_dir = ""
    return state_dir, os.environ.get("AUTOTUNE_GENERATION"), revision()


def _signature(path: str) -> Signature:
    """What changes when a file is replaced, rewritten or made readable; an error number if there is none."""
    try:
        status = os.stat(path)
    except OSError as error:
        return (-(error.errno or 1),)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _warn(error: Exception) -> None:
    message = str(error) if isinstance(error, AutotuneError) else f"{type(error).__name__}: {error}"
    warn_once(message, f"{message}; answering with declared baselines")
