"""Hugging Face config.json files, read strictly: a wrong value is one line that names its place."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from autotune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

# A config.json is kilobytes; one with a label list, a megabyte. More is some other file.
LARGEST_FILE = 16 * 2**20

# Far above any model there is (the largest vocabularies are near 2**18), far below a slip of the keyboard.
MOST = {
    "layers": 10_000,
    "heads": 65_536,
    "head_dim": 65_536,
    "experts": 65_536,
    "hidden": 1 << 20,
    "intermediate": 1 << 22,
    "vocab": 1 << 24,
    "positions": 1 << 31,
}

# Where multimodal checkpoints nest the language model's numbers, from the outside in.
NESTED = ("thinker_config", "language_config", "llm_config", "text_config")


def read_config(path: str) -> Fields:
    """The fields that tell of the language model, wherever the file nests them.

    Raises:
        ModelError: the file cannot be read, or is no JSON object.
    """
    fields = Fields(read_json(path), path)
    for key in NESTED:
        if isinstance(fields.table.get(key), dict):
            fields = fields.nested(key)
    return fields


class Fields:
    """The fields of a config.json, or of the part of it that tells of the language model.

    Args:
        table: the object.
        path: the file.
        prefix: where in the file the object stands: empty, or `text_config.`.
        outer: the fields of the object that holds it.
    """

    def __init__(
        self, table: Mapping[str, Any], path: str, prefix: str = "", outer: Fields | None = None
    ) -> None:
        self.table = table
        self.path = path
        self._prefix = prefix
        self._outer = outer

    def nested(self, key: str) -> Fields:
        """The fields of the object `key`."""
        return Fields(self.table[key], self.path, f"{self._prefix}{key}.", self)

    def holder(self, name: str) -> Fields:
        """Where `name` stands: here, or in an enclosing object, as multimodal checkpoints have it."""
        if self.table.get(name) is None and self._outer is not None:
            return self._outer.holder(name)
        return self

    def value(self, name: str) -> Any:
        """The field as it is, None when absent."""
        return self.table.get(name)

    def place(self, name: str) -> str:
        """The file and place of a field, for messages."""
        return f"{self.path}: {self._prefix}{name}"

    def optional(self, kind: str, *names: str, least: int = 1) -> int | None:
        """The whole number under the first of `names` that has a value, None when none has.

        Args:
            kind: key of `MOST`, its upper bound.
            names: what different architectures call it.
            least: its lower bound.

        Raises:
            ModelError: it is no whole number, or out of range.
        """
        for name in names:
            value = self.table.get(name)
            if value is None:
                continue
            if type(value) is not int:
                raise ModelError(f"{self.place(name)}: expected a whole number, found {shown(value)}")
            if not least <= value <= MOST[kind]:
                raise ModelError(
                    f"{self.place(name)}: {shown(value)} is out of range; expected {least} to {MOST[kind]}"
                )
            return value
        return None

    def number(self, kind: str, *names: str) -> int:
        """As `optional`, but one of `names` must be there; the first is the one that messages name.

        Raises:
            ModelError: none is there, or it is no whole number, or out of range.
        """
        value = self.optional(kind, *names)
        if value is None:
            raise ModelError(
                f"{self.place(names[0])} is missing, and a plan needs it; "
                "add it, or give the config.json that belongs to the checkpoint"
            )
        return value

    def names(self, name: str) -> list[str] | None:
        """The list of texts under `name`, None when absent.

        Raises:
            ModelError: it is no list of texts.
        """
        value = self.table.get(name)
        if value is not None and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            raise ModelError(f"{self.place(name)}: expected a list of names, found {shown(value)}")
        return value

    def text(self, name: str, default: str) -> str:
        """The text under `name`.

        Raises:
            ModelError: it is no text.
        """
        value = self.table.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise ModelError(f"{self.place(name)}: expected a text, found {shown(value)}")
        return value


def shown(value: Any) -> str:
    """A value in a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_json(path: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: the file cannot be read, or holds something else.
    """
    if not os.path.isfile(path):
        what = "is no regular file" if os.path.lexists(path) else "no such file"
        raise ModelError(f"{path}: {what}; give the config.json of a checkpoint, or its folder")
    try:
        if os.path.getsize(path) > LARGEST_FILE:
            raise ModelError(f"{path}: {os.path.getsize(path)} bytes is too large for a config.json")
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ModelError(f"{path}: is not JSON: not UTF-8 text") from None
    if not text.strip():
        raise ModelError(f"{path}: is empty; expected a Hugging Face config.json")
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: is not JSON: {error}") from None
    if not isinstance(table, dict):
        raise ModelError(f"{path}: expected a JSON object, as a Hugging Face config.json is")
    return table
