"""What the daemon's log looks like to journald, to a person and to a program."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

import pytest

from autotune.daemon import logs
from autotune.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGGER = logging.getLogger("autotune.daemon")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Logging as it was, for the tests after these."""
    root, ours = logging.getLogger(), logging.getLogger("autotune")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def logged(form: str, *, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(form, level, stream)
    return stream


def test_journald_gets_the_priority_of_each_level() -> None:
    stream = logged("journal", level="debug")
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(LOGGER, level)("a message")
    assert stream.getvalue() == "<7>a message\n<6>a message\n<4>a message\n<3>a message\n<2>a message\n"


def test_what_a_message_is_about_stands_behind_it() -> None:
    stream = logged("journal")
    LOGGER.info("promoted %s", "linear", extra={"device": "cuda:0", "study": 7})
    assert stream.getvalue() == "<6>promoted linear device=cuda:0 study=7\n"


def test_what_a_message_quotes_cannot_begin_a_line_of_its_own() -> None:
    stream = logged("journal")
    LOGGER.warning("a request said %s", "x\n<2>the machine is on fire")
    assert stream.getvalue() == "<4>a request said x <2>the machine is on fire\n"


def test_every_line_of_a_traceback_has_the_priority() -> None:
    stream = logged("journal")
    try:
        raise ValueError("no\nway")
    except ValueError:
        LOGGER.exception("failed")
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["<3>failed", "<3>Traceback (most recent call last):"]
    assert lines[-2:] == ["<3>ValueError: no", "<3>way"]
    assert all(line.startswith("<3>") for line in lines)


def test_text_begins_with_the_time_and_the_level() -> None:
    stream = logged("text")
    LOGGER.warning("device busy", extra={"device": "cpu"})
    assert re.fullmatch(
        r"\d{4}(-\d\d){2} \d\d(:\d\d){2} warning: device busy device=cpu\n", stream.getvalue()
    )


def test_json_is_one_object_a_line() -> None:
    stream = logged("json")
    LOGGER.info("two\nlines", extra={"device": "cpu", "seconds": 1.5, "odd": {1}})
    try:
        raise ValueError("x")
    except ValueError:
        LOGGER.exception("failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    time = first.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", time)
    assert first == {
        "level": "info",
        "logger": "autotune.daemon",
        "message": "two\nlines",
        "device": "cpu",
        "seconds": 1.5,
        "odd": "{1}",
    }
    assert second["traceback"].endswith("ValueError: x")


def test_libraries_are_heard_from_warnings_on() -> None:
    stream = logged("journal", level="debug")
    library = logging.getLogger("apscheduler.scheduler")
    library.info("running a job")
    library.warning("missed a job")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("an old way", stacklevel=1)
    assert stream.getvalue().splitlines()[0] == "<4>missed a job"
    assert "an old way" in stream.getvalue()


def test_configuring_again_replaces_what_was_before() -> None:
    before, after = logged("text"), logged("journal", level="error")
    LOGGER.warning("hidden")
    LOGGER.error("shown")
    assert (before.getvalue(), after.getvalue()) == ("", "<3>shown\n")


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown log format 'jsonl'; did you mean json"):
        logs.configure("jsonl")


@pytest.mark.parametrize("connected", [True, False])
def test_the_journal_form_is_chosen_when_systemd_reads_standard_error(connected: bool) -> None:
    reading, writing = os.pipe()
    status = os.fstat(writing)
    stream = f"{status.st_dev}:{status.st_ino}" if connected else "1:1"
    code = (
        "import logging; from autotune.daemon import logs; logs.configure()\n"
        "logging.getLogger('autotune').info('hello')"
    )
    command = [sys.executable, "-c", code]
    subprocess.run(command, stderr=writing, env={**os.environ, "JOURNAL_STREAM": stream}, check=True)
    os.close(writing)
    with open(reading) as pipe:
        assert pipe.read().startswith("<6>hello") is connected
