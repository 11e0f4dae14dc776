"""Breaking databases the way disks do."""

from __future__ import annotations

from pathlib import Path

PAGE = 4096


def break_a_page(path: str | Path) -> None:
    """Overwrite a page of every table and index but the first, as a bad sector would."""
    content = bytearray(Path(path).read_bytes())
    for page in range(1, len(content) // PAGE):
        content[page * PAGE : page * PAGE + 64] = b"\xa5" * 64
    Path(path).write_bytes(content)
