"""Writing the history from the command line: here, or by the daemon that holds it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from autotune.errors import HistoryLockedError, StateDirError

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.daemon.control import Question
    from autotune.store import History

T = TypeVar("T")


def here_or_by_daemon(
    write: Callable[[History], T], question: Callable[[str], Question], content: bytes | None = None
) -> T | Any:
    """Write the history, or have the daemon do so; returns what `write` does, or what the daemon answers.

    Args:
        write: called with the history, where this process may be its writer.
        question: makes what the daemon is asked of the state folder that is meant.
        content: that goes to the daemon with the question.

    Raises:
        StateError: another process is the writer, and is no daemon, or this user may not write or ask.
        UsageError: what is wanted cannot be done.
    """
    from autotune.store import open_history

    try:
        with open_history() as history:
            return write(history)
    # The folder is written by the daemon's user alone, and members of its group may ask.
    except (HistoryLockedError, StateDirError) as error:
        return by_daemon(question, error, content)


def by_daemon(
    question: Callable[[str], Question],
    refused: StateDirError | HistoryLockedError,
    content: bytes | None = None,
) -> Any:
    """What the daemon answers that holds the history.

    Args:
        question: makes what it is asked of the state folder that is meant.
        refused: why it cannot be done here; raised where no daemon listens.
        content: that goes along.
    """
    from autotune import paths
    from autotune.daemon.control import NoDaemonError, ask

    try:
        return ask(question(os.path.abspath(paths.state_dir())), content=content)
    except NoDaemonError:
        raise refused from None
