"""Digests of facts: short, stable names under which equal machines share results."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from hashlib import sha256
else:
    # As the standard library's `random` does: `hashlib` would load OpenSSL, 3 ms of the first look-up.
    try:
        from _sha2 import sha256
    except ImportError:
        try:
            from _sha256 import sha256  # before Python 3.12
        except ImportError:
            from hashlib import sha256

DIGEST_LENGTH = 16


def digest(facts: Mapping[str, object]) -> str:
    """16 hexadecimal digits over `key=value` lines in sorted order; the same in every process.

    Args:
        facts: values are text, numbers, booleans, None, or flat lists of these.
    """
    lines = (f"{name}={_text(facts[name])}" for name in sorted(facts))
    return sha256("\n".join(lines).encode()).hexdigest()[:DIGEST_LENGTH]


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
