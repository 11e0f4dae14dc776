"""The nightly care: what it forgets, and when it had better not."""

import time

from autotune.config import load_settings
from autotune.daemon.care import NightlyCare
from autotune.daemon.loop import Loop
from autotune.store import open_history
from autotune.store.history import note


def test_a_clock_that_was_set_forward_makes_nothing_old(tmp_path, monkeypatch) -> None:
    failures: list[str] = []
    with open_history(str(tmp_path)) as history:
        with history.writing() as connection:
            note(connection, "kept", "an event", {})
        care = NightlyCare(
            Loop(failures.append), lambda: history, load_settings, failures.append, failures.append
        )
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 20 * 365 * 86_400.0)
        care._shorten()
        assert history.rows("SELECT 1 FROM event WHERE kind = 'kept'")
        assert ["the clock was set forward by 175200 h"] == [failure[:37] for failure in failures]
        # After a restart the clock is believed.
        NightlyCare(
            Loop(failures.append), lambda: history, load_settings, failures.append, failures.append
        )._shorten()
        assert not history.rows("SELECT 1 FROM event WHERE kind = 'kept'")
