"""The nightly process, run as the daemon runs it: beside a writer."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from autotune.daemon.upkeep import DAMAGED
from autotune.store import backup as backups
from autotune.store import open_history
from autotune.store.backup import check
from autotune.store.snapshot import publish
from tests.store.conftest import history, state  # noqa: F401
from tests.store.damage import break_a_page
from tests.store.factories import ROOT, promote

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.store import History


def upkeep(state: Path, settings: str = "") -> tuple[int, str]:  # noqa: F811
    """Exit status and what was printed."""
    config = state / "config.toml"
    config.write_text(settings)
    done = subprocess.run(
        [sys.executable, "-m", "autotune.daemon.upkeep"],
        cwd=ROOT,
        env={**os.environ, "AUTOTUNE_STATE_DIR": str(state), "AUTOTUNE_CONFIG": str(config)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_backup_is_made_beside_the_writer(history: History, state: Path) -> None:  # noqa: F811
    study = promote(history)
    publish(history, "why")
    status, told = upkeep(state)
    (backup,) = (state / "backups").iterdir()
    assert (status, told) == (0, f"the history is whole, and backed up as {backup}\n")
    assert check(str(backup)).faults == ()
    history.record_event("still", "writing")
    assert len(history.trials(study)) == 3


def test_as_many_backups_are_kept_as_the_settings_say(history: History, state: Path) -> None:  # noqa: F811
    promote(history)
    for _ in range(3):
        assert upkeep(state, "[retention]\nbackups = 2")[0] == 0
    assert len(list((state / "backups").iterdir())) == 2


def test_an_empty_history_is_not_backed_up(history: History, state: Path) -> None:  # noqa: F811
    assert upkeep(state) == (0, "the history is whole, and has nothing to back up yet\n")
    assert list((state / "backups").iterdir()) == []


@pytest.mark.parametrize("name", ["history.db", "best.db"])
def test_damage_is_told_and_earlier_backups_are_kept(name: str, state: Path) -> None:  # noqa: F811
    with open_history(str(state)) as opened:
        promote(opened)
        publish(opened, "why")
        kept = backups.backup(opened)
    break_a_page(state / name)
    status, told = upkeep(state)
    assert status == DAMAGED
    assert told.startswith(f"{state / name}: is damaged (")
    assert [str(path) for path in (state / "backups").iterdir()] == [kept]


def test_a_backup_that_would_fill_the_disk_is_not_begun(
    history: History,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    promote(history)
    monkeypatch.setattr(backups, "LEAST_LEFT_BYTES", 2**60)
    with pytest.raises(backups.StateDirError, match=r"and a backup wants .* MiB; free some space"):
        backups.backup(history)
    assert backups.backups(history.state) == []
