"""Names of a package that bring their module along when they are first used (PEP 562).

Look-ups import `autotune`, `autotune.fingerprint` and `autotune.space`: what they do not use costs nothing.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def attributes(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package.

    Args:
        package: its name.
        homes: name to the module below the package that defines it.
    """

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = f"{package}.{homes[name]}"
        __import__(module)  # lighter than importlib.import_module, which bare interpreters have not loaded
        value = getattr(sys.modules[module], name)
        setattr(sys.modules[package], name, value)
        return value

    return get
