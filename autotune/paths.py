"""Where files live: the declarative folders, and the folders of state, caches and sockets.

Only `os` is imported here: look-ups load this module.
"""

from __future__ import annotations

import os

PACKAGE_DIR = os.path.dirname(os.path.abspath(__file__))
SYSTEM_STATE_DIR = "/var/lib/autotune"
SYSTEM_RUNTIME_DIR = "/run/autotune"
OVERRIDE_DIR = "/etc/autotune"


def data_dir(name: str) -> str:
    """The folder `search_spaces`, `hardware`, `db` or `systemd`.

    A wheel carries them inside the package, a checkout has them beside it.
    """
    inside = os.path.join(PACKAGE_DIR, "_data", name)
    return inside if os.path.isdir(inside) else os.path.join(os.path.dirname(PACKAGE_DIR), name)


def data_file(folder: str, filename: str) -> str:
    """The file that holds for `folder/filename`: under `/etc/autotune` if there, else the shipped one."""
    override = os.path.join(OVERRIDE_DIR, folder, filename)
    return override if os.path.isfile(override) else os.path.join(data_dir(folder), filename)


def data_files(folder: str, suffix: str) -> dict[str, str]:
    """Files of `folder` that end in `suffix`, by name without it; an operator's file replaces ours."""
    found: dict[str, str] = {}
    for directory in (data_dir(folder), os.path.join(OVERRIDE_DIR, folder)):
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        for name in sorted(names):
            if name.endswith(suffix):
                found[name[: -len(suffix)]] = os.path.join(directory, name)
    return found


def state_dir() -> str:
    """The folder of `history.db` and `best.db`; look-ups and the tuner resolve it alike.

    `AUTOTUNE_STATE_DIR` if set, else `/var/lib/autotune` if it can be read, else the user's XDG state folder.
    """
    given = os.environ.get("AUTOTUNE_STATE_DIR")
    if given:
        return os.path.abspath(given)
    if os.path.isdir(SYSTEM_STATE_DIR) and os.access(SYSTEM_STATE_DIR, os.R_OK | os.X_OK):
        return SYSTEM_STATE_DIR
    return os.path.join(_xdg("XDG_STATE_HOME", ".local/state"), "autotune")


def cache_dir() -> str:
    """The folder of what can be measured or compiled again: ceilings, compiled kernels."""
    given = os.environ.get("AUTOTUNE_CACHE_DIR")
    return os.path.abspath(given) if given else os.path.join(_xdg("XDG_CACHE_HOME", ".cache"), "autotune")


def runtime_dir() -> str:
    """The folder of the daemon's sockets.

    `AUTOTUNE_RUNTIME_DIR` if set, else `/run/autotune` if it is there, else `autotune` in the user's XDG
    runtime folder, else `run` in the state folder. systemd's `RUNTIME_DIRECTORY` does not count: it is that
    of whichever service asks.
    """
    given = os.environ.get("AUTOTUNE_RUNTIME_DIR")
    if given:
        return os.path.abspath(given)
    if os.path.isdir(SYSTEM_RUNTIME_DIR) and os.access(SYSTEM_RUNTIME_DIR, os.X_OK):
        return SYSTEM_RUNTIME_DIR
    session = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(session):
        return os.path.join(session, "autotune")
    return os.path.join(state_dir(), "run")


def _xdg(variable: str, fallback: str) -> str:
    given = os.environ.get(variable, "")
    # The XDG base directory specification: a relative path is to be ignored.
    return given if os.path.isabs(given) else os.path.join(os.path.expanduser("~"), fallback)
