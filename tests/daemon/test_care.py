"""The nightly care: what it forgets, and when it had better not."""

import time
from contextlib import closing

from autotune.config import load_settings
from autotune.daemon.care import NightlyCare
from autotune.daemon.loop import Loop
from autotune.store import open_history
from autotune.store.history import note


def test_a_clock_that_was_set_forward_makes_nothing_old(tmp_path, monkeypatch) -> None:
    failures: list[str] = []
    with closing(Loop(failures.append)) as loop, open_history(str(tmp_path)) as history:

        def started() -> NightlyCare:
            return NightlyCare(loop, lambda: history, load_settings, failures.append, failures.append)

        with history.writing() as connection:
            note(connection, "kept", "an event", {})
        care, now = started(), time.time
        monkeypatch.setattr(time, "time", lambda: now() + 20 * 365 * 86_400.0)
        care._shorten()
        assert history.rows("SELECT 1 FROM event WHERE kind = 'kept'")
        assert ["the clock was set forward by 175200 h"] == [failure[:37] for failure in failures]
        # After a restart the clock is believed.
        started()._shorten()
        assert not history.rows("SELECT 1 FROM event WHERE kind = 'kept'")
