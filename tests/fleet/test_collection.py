"""What a sweep brings home: one bundle, files for other systems, and entries for the fleet."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from autotune.cli.sweep import _concluded, _exported
from autotune.errors import UsageError
from autotune.exports import bundle
from autotune.fingerprint import Device
from autotune.fingerprint.stack import stack_digest
from autotune.fleet.collection import merged, record, tell_fleet
from autotune.fleet.sweep_task import Result
from autotune.store import open_history
from tests.exports.conftest import DTYPES, MOE, STACK_FACTS, TUNED, Winners
from tests.fleet.test_sweep import ORDER
from tests.store.factories import gpu

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fleet.postgres import Database

GPU = gpu()
DEVICE = Device(GPU.kind, 0, GPU.name, GPU.family, GPU.facts, GPU.digest)


def result(folder: Path, tokens: int) -> Result:
    """What a task that tuned `fused_moe` sends."""
    state = folder / f"node{tokens}"
    state.mkdir()
    dimensions = {"tokens": tokens, **MOE, **DTYPES, "weight_format": "native"}
    stack = stack_digest("cuda", STACK_FACTS)
    Winners(state).add("fused_moe", dimensions, TUNED, stack=stack, trials=((TUNED, 2e5),))
    with open_history(str(state)) as history:
        return Result(
            f"node{tokens}", DEVICE, STACK_FACTS, bundle.write(bundle.collect(history, trials=True))
        )


@pytest.fixture
def results(tmp_path: Path) -> list[Result]:
    return [result(tmp_path, 16), result(tmp_path, 64), Result("node9", failure="the baseline failed")]


def test_the_tasks_bundles_become_one_that_is_sound(results) -> None:
    whole = merged(results)
    assert whole is not None
    read, _ = bundle.read(bundle.write(whole), "merged")
    assert [16, 64] == sorted(winner.dimensions["tokens"] for winner in read.winners)
    assert 2 == len(read.studies)
    assert 1 == len(read.devices)
    assert merged(results[2:]) is None


def test_what_a_task_sends_is_checked_like_any_bundle(results) -> None:
    with pytest.raises(UsageError, match="what node9 sent"):
        merged([Result("node9", DEVICE, STACK_FACTS, results[0].bundle[:-20])])


def test_vllms_folder_has_every_batch_size_in_one_file(results, tmp_path) -> None:
    order = replace(ORDER, device=GPU.digest)
    with open_history(str(tmp_path / "collected")) as history:
        record(history, results)
        files = _exported(history, [(order, one) for one in results], ("vllm-moe", tmp_path / "configs"))
    [table] = [path for path in files if path.name.startswith("E=384,N=256")]
    rows = json.loads(table.read_text())
    assert 16 == rows["16"]["BLOCK_SIZE_M"] == rows["64"]["BLOCK_SIZE_M"]


def test_an_export_that_cannot_be_written_is_told_after_all_else(
    results, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("AUTOTUNE_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").touch()
    order = replace(ORDER, device=GPU.digest)
    done = [(order, one) for one in results]
    assert 0 == _concluded(done, 3, False, ("vllm-moe", tmp_path / "right"), True)
    assert [*map(str, (tmp_path / "right").iterdir())] == json.loads(capsys.readouterr().out)["files"]
    (tmp_path / "configs").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        _concluded(done, 3, False, ("vllm-moe", tmp_path / "configs"), False)
    told = capsys.readouterr().out
    assert "kept as bundle" in told
    assert "2 of 3 problems decided" in told


@pytest.mark.fleet
def test_the_fleet_is_told_of_every_winner_once(results, tmp_path, database: Database) -> None:
    settings = database.settings()
    for turn in ("first", "second"):
        with open_history(str(tmp_path / turn)) as history:
            record(history, results)
            tell_fleet(history, results, settings)
    assert "2" == database.sql("SELECT count(DISTINCT problem) FROM fleet.entry WHERE kind = 'winner'")
