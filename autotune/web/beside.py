"""The site as the daemon has it served: `python -m autotune.web.beside DAEMON ADDRESS`."""

from __future__ import annotations

import sys

from autotune import paths
from autotune.daemon.companion import die_with
from autotune.errors import AutotuneError, MissingExtraError


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM or the end of the daemon; returns the exit status.

    Args:
        arguments: the daemon's process id, and a loopback address and port such as `127.0.0.1:9720`.
    """
    daemon, (host, _, port) = int(arguments[0]), arguments[1].rpartition(":")
    if not die_with(daemon):
        return 1
    try:
        try:
            from autotune.web.server import serve
        except ModuleNotFoundError as error:
            raise MissingExtraError("[web] address", "web", str(error.name)) from None
        serve(paths.state_dir(), host.strip("[]"), int(port))
    except AutotuneError as error:
        print(f"autotune web: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
