"""The daemon's hold on the history: what was proven is published, if not at once then later."""

from __future__ import annotations

import os

import pytest

from autotune.daemon import archive as archives
from autotune.daemon.archive import Archive
from autotune.daemon.loop import Loop
from autotune.daemon.metrics import Metrics
from autotune.errors import DatabaseError, StateError
from tests.store.factories import promote
from tests.store.test_snapshot import published


class Held:
    """An archive in a loop, and what it told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.loop = Loop(lambda error: self.told.append(repr(error)))
        self.archive = Archive(
            self.loop, Metrics(), self.told.append, lambda: self.told.append("lost"), self.renewed
        )

    def renewed(self) -> None:
        self.told.append("renewed")
        self.loop.stop()

    def run(self, seconds: float = 60.0) -> None:
        self.loop.later(seconds, self.loop.stop)
        self.loop.run()


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def held(state, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(state))
    made = Held()
    yield made
    made.archive.close()
    made.loop.close()


def test_a_winner_that_its_study_did_not_publish_is_published(held, state) -> None:
    promote(held.archive.require())
    assert not (state / "best.db").exists()
    held.archive.catch_up()
    assert published(state / "best.db")
    held.run()
    assert ["renewed"] == held.told


def test_it_is_published_once_the_folder_can_be_written_again(held, state, monkeypatch) -> None:
    monkeypatch.setattr(archives, "RETRY_SECONDS", 0.01)
    promote(held.archive.require())
    folder, aside = state / "generations", state / "aside"
    os.rename(folder, aside)
    held.archive.catch_up()
    (told,) = held.told
    assert "generations" in told
    held.loop.later(0.05, lambda: os.rename(aside, folder))
    held.run()
    assert published(state / "best.db")
    assert {told, "renewed"} == set(held.told)
    assert "renewed" == held.told[-1]


def test_a_damaged_history_is_opened_anew_at_once_but_not_over_and_over(held) -> None:
    promote(held.archive.require())
    held.archive.unwritten(DatabaseError("damaged"))
    assert held.archive.history is None
    with pytest.raises(StateError, match="cannot be opened just now"):
        held.archive.require()
    held.run()
    assert ["damaged", "lost", "renewed"] == held.told
    assert held.archive.require().rows("SELECT 1 FROM trial LIMIT 1")
    held.archive.unwritten(DatabaseError("damaged again"))
    held.run(0.1)
    assert held.archive.history is None
    assert ["damaged again", "lost"] == held.told[3:]
