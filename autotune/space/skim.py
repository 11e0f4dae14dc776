"""The dimensions of a declaration, read without a TOML parser: importing `tomllib` costs a look-up 14 ms.

Only the plain form in which declarations are written is read; of anything else the answer is None, and the
caller parses the file properly. So this can be slower than it should be, but not wrong.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HEADER = "[dimensions."


def skim_dimensions(text: str) -> dict[str, dict[str, Any]] | None:
    """The `[dimensions.<name>]` tables of a TOML text, less summaries; None where a parser is needed."""
    if '"""' in text or "'''" in text:
        return None  # a line inside could look like a header
    tables: dict[str, dict[str, Any]] = {}
    table: dict[str, Any] | None = None
    try:
        for line in map(str.strip, text.split("\n")):
            if line.startswith("["):
                name = _dimension_name(line)
                table = tables.setdefault(name, {}) if name else None
            elif table is None:
                if line.lstrip("\"'").startswith("dimensions"):
                    return None  # `dimensions = {...}` or `dimensions.m.nearest = true`
            elif line and not line.startswith("#"):
                key, _, value = line.partition("=")
                if key.strip() != "summary":
                    table[_bare(key)] = _value(value)
    except ValueError:
        return None
    return tables or None


def _dimension_name(header: str) -> str:
    """The name in `[dimensions.name]`; empty for the header of another table, or a line of a list."""
    header = header.partition("#")[0].rstrip()
    if header.startswith(_HEADER) and header.endswith("]"):
        return _bare(header[len(_HEADER) : -1])
    if "dimensions" in header:
        raise ValueError(header)
    return ""


def _bare(key: str) -> str:
    key = key.strip()
    if not (key.isascii() and key.isidentifier()):
        raise ValueError(key)
    return key


def _value(text: str) -> bool | int | str | list[int | str]:
    """A boolean, whole number, plain text, or one line's list of the latter two, before a comment."""
    text = text.partition("#")[0].strip()
    if text in ("true", "false"):
        return text == "true"
    if text.startswith("[") and text.endswith("]"):
        return [_scalar(item) for item in text[1:-1].split(",") if item.strip()]
    return _scalar(text)


def _scalar(text: str) -> int | str:
    text = text.strip()
    if text.isascii() and text.isdigit():
        return int(text)
    inner = text[1:-1]
    if text != f'"{inner}"' or '"' in inner or "\\" in inner:
        raise ValueError(text)
    return inner
