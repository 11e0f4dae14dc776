"""One thing that was looked at."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        level: `ok`, `note` (works, with a drawback) or `fault` (does not work).
        remedy: what to do; empty when all is well.
    """

    subject: str
    level: str
    found: str
    remedy: str = ""
