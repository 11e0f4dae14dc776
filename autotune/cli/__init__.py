"""The command line. Each command imports what it needs when it runs; a mistake prints one line."""

from __future__ import annotations

import sys

from autotune.errors import AutotuneError, MissingExtraError, UsageError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 2 for the caller's mistake, 1 for ours.

    Args:
        arguments: the words after the program's name; those of this process by default.
    """
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except AutotuneError as error:
        print(f"autotune: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("autotune: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`head`, a pager) has seen enough; Python would complain again while flushing at exit.
        sys.stderr.close()
        return 0
    except Exception:
        fault = _blamed()
        if fault is None:
            raise
        print(f"autotune: {fault}", file=sys.stderr)
        return fault.exit_code


def _run(arguments: list[str]) -> int:
    try:
        import typer

        from autotune.cli.app import built
    except ModuleNotFoundError as error:
        raise _missing(error, "the autotune command") from None
    try:
        return built()(args=arguments or ["--help"], prog_name="autotune", standalone_mode=False) or 0
    except typer.TyperException as error:
        raise UsageError(" ".join(error.format_message().split())) from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    except ModuleNotFoundError as error:
        raise _missing(error, "this command") from None


def _blamed() -> AutotuneError | None:
    """What is wrong with the databases, if that is why a command failed; None if we are to blame."""
    try:
        from autotune import paths
        from autotune.store.plausibility import blamed

        return blamed(paths.state_dir())
    except (ImportError, OSError):
        return None


def _missing(error: ModuleNotFoundError, needed_by: str) -> Exception:
    if str(error.name).split(".")[0] == "autotune":
        return error
    return MissingExtraError(needed_by, "daemon", str(error.name))
