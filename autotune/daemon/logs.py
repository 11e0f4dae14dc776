"""The daemon's log on standard error: for journald, for a person, or for a program.

What a message is about is given beside it, `logger.info("tuning", extra={"device": "cuda:0"})`, and printed
behind it as `device=cuda:0`, or as a key of the JSON object.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from autotune.errors import UnknownNameError

PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.DEBUG, 7),
)
"""From which level on a message has which syslog priority: sd-daemon(3)."""

_OWN_ATTRIBUTES = {*vars(logging.makeLogRecord({})), "message", "asctime"}
"""Attributes that every record has; the others were given as `extra`."""


def configure(form: str = "", level: str = "info", stream: TextIO | None = None) -> None:
    """Send all log messages to standard error.

    Args:
        form: `journal` (each line begins with its priority, such as `<6>`), `text` (with the time) or `json`
            (an object a line); by default `journal` if systemd reads standard error, else `text`.
        level: of our own messages, the least severe that is shown; libraries are heard from warnings on.
        stream: in place of standard error.

    Raises:
        UnknownNameError: there is no such form.
    """
    target = sys.stderr if stream is None else stream
    chosen = form or ("journal" if _is_read_by_journald(target) else "text")
    if chosen not in _FORMATTERS:
        raise UnknownNameError("log format", chosen, _FORMATTERS)
    handler = logging.StreamHandler(target)
    handler.setFormatter(_FORMATTERS[chosen]())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("autotune").setLevel(level.upper())
    logging.captureWarnings(True)


class TextFormatter(logging.Formatter):
    """`2026-11-25 03:30:00 warning: message device=cuda:0`, in local time."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text, with a traceback below it if it has one."""
        moment = datetime.fromtimestamp(record.created).strftime("%Y-%m-%d %H:%M:%S")
        return "\n".join([f"{moment} {record.levelname.lower()}: {_told(record)}", *_traceback(self, record)])


class JournalFormatter(logging.Formatter):
    """`<4>message device=cuda:0`: journald takes the priority off and indexes it; it has the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text in which every line, those of a traceback too, has the priority."""
        priority = next((number for least, number in PRIORITIES if record.levelno >= least), 7)
        return "\n".join(f"<{priority}>{line}" for line in [_told(record), *_traceback(self, record)])


class JsonFormatter(logging.Formatter):
    """`{"time": ..., "level": "warning", "logger": ..., "message": ..., "device": "cuda:0"}`, in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        traceback = "\n".join(_traceback(self, record))
        if traceback:
            fields["traceback"] = traceback
        return json.dumps(fields, default=str, ensure_ascii=False)


_FORMATTERS = {"journal": JournalFormatter, "text": TextFormatter, "json": JsonFormatter}


def _is_read_by_journald(stream: TextIO) -> bool:
    """Whether `JOURNAL_STREAM`, the device and inode of what systemd connected us to, is this stream."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _told(record: logging.LogRecord) -> str:
    """Message and extra fields in one line: whatever a message quotes cannot begin another."""
    fields = [f"{name}={value}" for name, value in _extra(record).items()]
    return " ".join(" ".join([record.getMessage(), *fields]).split())


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _OWN_ATTRIBUTES}


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    if record.exc_info and record.exc_info[0] is not None:
        return formatter.formatException(record.exc_info).splitlines()
    return []
