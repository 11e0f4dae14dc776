"""The password of the fleet's database: from a file or a systemd credential, and never in what is printed."""

from __future__ import annotations

import os
import stat

from autotune.errors import ConfigError

CREDENTIAL = "fleet-password"
"""Name of the systemd credential: `LoadCredential=fleet-password:/etc/autotune/fleet-password`."""
LONGEST = 4096


class Secret:
    """A text that shows itself to nobody who does not ask for it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __reduce__(self) -> str:
        raise TypeError("a secret is not written anywhere")


def read_password(password_file: str) -> Secret | None:
    """The password; None where neither a file nor a credential holds one.

    Args:
        password_file: full path of the file; empty for systemd's credential.

    Raises:
        ConfigError: it cannot be read, is empty, or others may read it.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    credential = os.path.join(folder, CREDENTIAL) if folder else ""
    if not password_file and not os.path.exists(credential):
        return None
    path = password_file or credential
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(LONGEST + 1)
    except OSError as error:
        raise ConfigError(f"fleet.password_file: {path}: cannot be read: {error.strerror}") from None
    # systemd guards the folder of its credentials, whatever the mode of the files in it.
    if password_file and (stat.S_IMODE(mode) & 0o077 or not stat.S_ISREG(mode)):
        raise ConfigError(f"fleet.password_file: {path}: others may read it; chmod 600 {path}")
    text = _decoded(content)
    if not text:
        raise ConfigError(f"fleet.password_file: {path}: expected one line with the password")
    return Secret(text)


def _decoded(content: bytes) -> str:
    """The only line; empty if there are none or several, or it is no text."""
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        return ""
    return lines[0] if len(lines) == 1 and len(content) <= LONGEST and "\0" not in lines[0] else ""
