"""The process that does an import for the daemon; see `intake`.

`python -m autotune.daemon.intake_process DAEMON QUESTION`, a process id and JSON; what the question is about
is its standard input, and it prints its answer. It dies with the daemon, whose lock on the history it shares.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import msgspec

from autotune.daemon.companion import die_with
from autotune.daemon.control import Answer, ForgetBundle, Intake, KeepImports, TakeBundle
from autotune.daemon.intake import DAMAGED, UNWRITTEN
from autotune.errors import AutotuneError, DatabaseError, StateError, UsageError
from autotune.store.database import connect, require, told
from autotune.store.reading import HistoryReader
from autotune.store.statedir import StateDir

NICENESS = 10
"""Added to that of the daemon: whatever else runs goes first."""


def main(arguments: list[str]) -> int:
    """Do one import; returns the exit status.

    Args:
        arguments: the daemon's process id, and the question.
    """
    if not die_with(int(arguments[0])):
        return 1
    os.nice(NICENESS)
    question = msgspec.json.decode(arguments[1], type=Intake)
    status = 0
    try:
        answer = Answer(_done(question))
    except AutotuneError as error:
        answer = Answer(refusal=str(error))
        status = DAMAGED if isinstance(error, DatabaseError) else error.exit_code
        status = UNWRITTEN if isinstance(error, StateError) and status != DAMAGED else status
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return status


def _done(question: Intake) -> dict[str, Any]:
    from autotune.store import bundles

    state = StateDir(question.state_dir)
    match question:
        case TakeBundle():
            from autotune.exports import bundle

            content, digest = bundle.read(sys.stdin.buffer.read(bundle.LARGEST_FILE + 1), "the bundle")
            if digest != question.sha256:
                raise UsageError("the bundle is not the one that was shown; import it again")
            with _writing(state) as history:
                return {"bundle": bundles.take(history, content, digest)}
        case ForgetBundle(bundle=number):
            with _writing(state) as history:
                bundles.forget(history, number)
            return {"bundle": number}
        case KeepImports():
            return {"imports": _keep(state, sys.stdin.buffer.read())}


def _writing(state: StateDir) -> HistoryReader:
    """The history, to be written beside the daemon: each transaction waits for one of the daemon's."""
    with told(state.history):
        connection = connect(state.history, "rw")
        try:
            require(connection, state.history, "history")
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
    return HistoryReader(connection, state)


def _keep(state: StateDir, data: bytes) -> list[str]:
    from autotune.search.imported import Import, keep

    try:
        imports = msgspec.json.decode(data, type=list[Import])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"the daemon does not understand what came: {error}; is it of another version?"
        ) from None
    with told(state.path):
        return [keep(state.path, one) for one in imports]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
