"""Whatever is on the disk, a look-up answers with the declared baseline and one warning."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import warnings
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import autotune
from autotune import client, paths
from autotune.lookup import published, target
from autotune.lookup.published import FORMAT

DEFAULT = {"implementation": "torch", "compute_dtype": "bfloat16", "threads": 4}


def sql(path, statement):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(statement)


def truncated_to(share):
    def truncate(node):
        os.truncate(node.best_db, int(node.best_db.stat().st_size * share))

    return truncate


def garbled(node):
    content = bytearray(node.best_db.read_bytes())
    content[100:] = os.urandom(len(content) - 100)
    node.best_db.write_bytes(content)


def replaced_by_folder(node):
    node.best_db.unlink()
    node.best_db.mkdir()


def replaced_by_pipe(node):
    node.best_db.unlink()
    os.mkfifo(node.best_db)


def replaced_by_loop(node):
    node.best_db.unlink()
    node.best_db.symlink_to(node.best_db)


DAMAGE = {
    "missing": lambda node: node.best_db.unlink(),
    "state folder missing": lambda node: shutil.rmtree(node.state),
    "empty": truncated_to(0),
    "torn in the header": truncated_to(0.001),
    "torn in the middle": truncated_to(0.5),
    "garbled": garbled,
    "text": lambda node: node.best_db.write_text("not a database\n" * 1000),
    "a folder": replaced_by_folder,
    "a pipe": replaced_by_pipe,
    "a loop of links": replaced_by_loop,
    "another program's": lambda node: sql(node.best_db, "PRAGMA application_id = 7"),
    "a newer version's": lambda node: sql(node.best_db, f"PRAGMA user_version = {FORMAT + 1}"),
    "no version's": lambda node: sql(node.best_db, "PRAGMA user_version = 0"),
    "without its table": lambda node: sql(node.best_db, "DROP TABLE choice"),
    "with another table": lambda node: sql(node.best_db, "DROP TABLE choice; CREATE TABLE choice(workload)"),
    "without a generation": lambda node: sql(node.best_db, "DELETE FROM meta"),
    "with a blob for a generation": lambda node: sql(
        node.best_db, "DROP TABLE meta; CREATE TABLE meta(key, value)"
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_snapshot_yields_the_baseline_and_one_warning(node, damage):
    node.publish(node.choice(), devices=((node.cpu, "cpu", "", "x86", "{}", None),))
    damage(node)
    with pytest.warns(autotune.AutotuneWarning) as caught:
        answers = [autotune.get_best_config("toy", m=m, n=64) for m in (16, 17, 16)]
    assert [(best, best.match) for best in answers] == [(DEFAULT, "default")] * 3
    assert len(caught) == 1
    assert str(node.state) in str(caught[0].message)
    assert "\n" not in str(caught[0].message)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_snapshot_is_left_behind_once_a_good_one_is_published(node, damage, monkeypatch):
    monkeypatch.setattr(client, "NOTICE_SECONDS", 0.0)
    node.publish(node.choice())
    damage(node)
    with pytest.warns(autotune.AutotuneWarning):
        assert autotune.get_best_config("toy", m=16, n=64).match == "default"
    if node.best_db.is_dir():
        node.best_db.rmdir()
    node.publish(node.choice(), generation=2)
    assert autotune.get_best_config("toy", m=16, n=64).match == "exact"


def test_a_snapshot_that_goes_bad_while_it_is_open_yields_the_baseline(node):
    node.publish(*(node.choice(m=m) for m in range(1, 200)))
    assert autotune.get_best_config("toy", m=16, n=64).match == "exact"
    os.truncate(node.best_db, 8192)
    with pytest.warns(autotune.AutotuneWarning, match="cannot be read") as caught:
        matches = {autotune.get_best_config("toy", m=m, n=64).match for m in range(100, 200)}
    assert "default" in matches
    assert len(caught) == 1


def test_a_snapshot_that_another_process_has_locked_is_read_all_the_same(node):
    node.publish(node.choice())
    with closing(sqlite3.connect(node.best_db, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert autotune.get_best_config("toy", m=16, n=64).match == "exact"


def test_a_snapshot_on_a_read_only_mount_is_read_without_a_trace(node):
    node.publish(node.choice())
    before = sorted(os.listdir(node.state))
    node.best_db.chmod(0o444)
    node.state.chmod(0o555)
    try:
        assert autotune.get_best_config("toy", m=16, n=64).match == "exact"
        assert sorted(os.listdir(node.state)) == before
    finally:
        node.state.chmod(0o755)


def test_a_hot_journal_beside_a_snapshot_is_ignored(node):
    node.publish(node.choice())
    for suffix in ("-journal", "-wal", "-shm"):
        node.best_db.with_name(f"best.db{suffix}").write_bytes(os.urandom(4096))
    assert autotune.get_best_config("toy", m=16, n=64).match == "exact"


@pytest.mark.parametrize(
    "name", ["spaces and ümläut", "100%", "a?b=c", "#hash", "back\\slash", "quo'te\"", "new\nline"]
)
def test_odd_characters_in_the_path_are_no_obstacle(node, name, tmp_path, monkeypatch):
    other = type(node)(tmp_path / name)
    other.publish(other.choice())
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(other.state))
    assert autotune.get_best_config("toy", m=16, n=64).match == "exact"


def test_a_path_that_is_no_unicode_is_no_obstacle(node, tmp_path, monkeypatch):
    other = type(node)(tmp_path / os.fsdecode(b"\xff\xfe"))
    node.publish(node.choice())
    node.state.rename(other.state)
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(other.state))
    assert autotune.get_best_config("toy", m=16, n=64).match == "exact"


@contextmanager
def unprivileged():
    """For a while this process is nobody, should it be root, who may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("closed", ["best.db", "."])
def test_without_permission_the_baseline_answers_until_permission_is_given(node, monkeypatch, closed):
    monkeypatch.setattr(client, "NOTICE_SECONDS", 0.0)
    node.publish(node.choice())
    for n in (64, 65):  # nobody may be unable to import what a look-up needs
        autotune.get_best_config("toy", m=16, n=n)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        other = type(node)(Path(folder) / "state")
        other.publish(other.choice())
        monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(other.state))
        (other.state / closed).chmod(0)
        with unprivileged(), pytest.warns(autotune.AutotuneWarning, match=r"best\.db: cannot be read"):
            best = autotune.get_best_config("toy", m=16, n=64)
        assert best.match == "default"
        (other.state / closed).chmod(0o755)
        with unprivileged():
            assert autotune.get_best_config("toy", m=16, n=64).match == "exact"


@pytest.mark.parametrize("pin", ["2", "abc", "-1", "1.5", "9" * 400])
def test_a_pinned_generation_that_is_not_there_yields_the_baseline(node, monkeypatch, pin):
    node.publish(node.choice(), generation=1)
    monkeypatch.setenv("AUTOTUNE_GENERATION", pin)
    with pytest.warns(autotune.AutotuneWarning) as caught:
        best = autotune.get_best_config("toy", m=16, n=64)
    assert (best, best.match, best.generation) == (DEFAULT, "default", None)
    assert len(caught) == 1


def test_without_home_or_working_directory_the_baseline_answers(node, monkeypatch, tmp_path):
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("AUTOTUNE_STATE_DIR")
    monkeypatch.setattr(paths, "SYSTEM_STATE_DIR", str(tmp_path / "absent"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "absent"))
    with pytest.warns(autotune.AutotuneWarning):
        assert autotune.get_best_config("toy", m=16, n=64) == DEFAULT
    gone = str(tmp_path / "gone")
    program = f"""if True:
        import os, sys
        os.mkdir({gone!r}); os.chdir({gone!r}); os.rmdir({gone!r})
        import autotune
        from autotune.space.problem import Dimension
        autotune.declare("toy", [Dimension("m")], {{"implementation": "torch"}})
        assert autotune.get_best_config("toy", m=1) == {{"implementation": "torch"}}
    """
    environment = {
        "AUTOTUNE_STATE_DIR": "relative",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.path.dirname(paths.PACKAGE_DIR),
    }
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "answering with declared baselines" in result.stderr


def test_where_warnings_are_errors_the_line_goes_to_stderr(node, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert autotune.get_best_config("toy", m=16, n=64) == DEFAULT
    said = capsys.readouterr().err
    assert said.startswith("autotune: ")
    assert said.count("\n") == 1


def test_a_probe_that_fails_yields_the_baseline(node, monkeypatch):
    node.publish(node.choice())

    def broken() -> str:
        raise PermissionError("/proc/cpuinfo")

    monkeypatch.setattr(target, "_cpu_digest", broken)
    monkeypatch.setattr(target, "_cpu_facts", broken)
    with pytest.warns(autotune.AutotuneWarning) as caught:
        best = autotune.get_best_config("toy", m=16, n=64)
    assert (best.match, best) == ("default", {"implementation": "torch", "compute_dtype": "bfloat16"})
    assert any("threads" in str(warning.message) for warning in caught)


def test_no_query_reads_more_than_the_choices_of_one_neighbourhood(node):
    """Whatever else was tuned, so that a look-up takes the same time beside ten winners and ten thousand."""
    node.publish(node.choice())
    with closing(sqlite3.connect(node.best_db)) as connection:
        for sql, parameters in (
            (f"SELECT * FROM choice {published._TUNED}", 4),
            (f"SELECT * FROM choice {published._NEIGHBOURS}", 5),
            (f"SELECT * FROM choice {published._RELATIVES}", 6),
            (published._OBJECTIVES, 2),
        ):
            plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", [""] * parameters).fetchall()
            (searched,) = [step for *_, step in plan if step.startswith("SEARCH choice")]
            assert "problem=?" in searched or "neighbourhood=?" in searched
