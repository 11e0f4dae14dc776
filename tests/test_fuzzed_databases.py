"""Databases that were changed in any way: every view tells in a line or on a page, and look-ups answer."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import warnings
from contextlib import closing, redirect_stderr, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import autotune
from autotune import client as looking_up
from autotune.cli import main
from autotune.store import open_history
from tests.store.factories import CPU, GPU, OTHER_STACK, STACK
from tests.web.histories import EVIL, live

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from autotune.web.app import application

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("history",),
    ("history", "linear"),
    ("history", "--sort", "best", "--json"),
    ("history", "--verdict", "wrong", "--csv"),
    ("show", "1"),
    ("show", "8", "--json"),
    ("show", "1/0"),
    ("show", "8/1"),
    ("explain", "linear", "-p", "m=16,n=7168,k=2048"),
    ("explain", "linear", "-p", "m=16,n=7168,k=2048", "--json"),
    ("report",),
    ("report", "--sort", "speedup", "--csv"),
    ("compare", "1", "2"),
    ("compare", f"device:{CPU}", f"device:{GPU}"),
    ("compare", f"stack:{STACK}", f"stack:{OTHER_STACK}"),
    ("compare", "generation:1", "generation:3"),
    ("diff",),
    ("diff", "1", "3", "--json"),
    ("rollback", "--list"),
    ("import", "list"),
    ("db", "check"),
    ("best", "linear", "-p", "m=16,n=7168,k=2048"),
    ("export", "bundle", "--to", "{file}", "--trials"),
    ("export", "optuna", "--to", "sqlite:///{file}", "--limit", "2"),
)
WRITING: tuple[tuple[str, ...], ...] = (
    ("rollback",),
    ("rollback", "1", "--reason", "why"),
    ("pin", "1", "--reason", "why"),
    ("unpin", "1"),
    ("import", "undo", "1"),
    ("db", "backup"),
    ("db", "restore"),
)
PAGES = (
    "/",
    "/workload",
    "/workload?name=linear",
    "/trade-offs",
    "/winner/1",
    "/winner/7",
    "/studies",
    "/studies?sort=best&verdict=wrong",
    "/study/1",
    "/study/8",
    "/study/1/trial/0",
    "/study/8/trial/1",
    "/generations",
    "/generation/2",
    "/plot/speedups",
    "/workload/plot/sizes?name=linear",
    "/winner/1/plot/front",
    "/study/1/trial/0/plot/samples",
    "/study/1/plot/convergence?implementation=native",
    "/study/1/plot/parallel?implementation=native",
    "/study/1/plot/importance?implementation=native",
    "/study/1/plot/slices?implementation=native",
    "/study/1/plot/verdicts",
    "/workload?format=csv",
    "/study/1?format=json",
)

TEXTS = st.one_of(
    st.sampled_from(
        [
            *(
                "",
                "0",
                "-1",
                "nan",
                "1e999",
                "null",
                "{}",
                "[]",
                '"x"',
                "true",
                "\0",
                "a\0b",
                "\x1b[31m",
                "\u202e",
            ),
            *(EVIL, "=cmd()", "a\nb", "../../etc/passwd", "x" * 5000, "[" * 500, '{"a":' * 200),
            *(
                '{"implementation": null}',
                '{"implementation": [1]}',
                '{"m": 1e400}',
                '{"m": "x"}',
                '{"m": -1}',
            ),
            *(
                f'{{"m": {10**400}}}',
                '{"m": {"m": 1}}',
                '{"\\ud800": "\\ud800"}',
                '{"implementation": "torch"}',
            ),
            *(
                '{"configurations": "many"}',
                '{"offers": [1]}',
                '{"offers": {"a": 1}}',
                '{"configurations": []}',
            ),
        ]
    ),
    st.text(max_size=40),
)
NUMBERS = st.one_of(
    st.sampled_from(
        [0, -1, 2**31, 2**53, 2**63 - 1, -(2**63), 0.0, -0.5, 1e-300, 1e300, float("inf"), -float("inf")]
    ),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
)
SPOILED = {
    "ended": "PRAGMA user_version = 0",
    "newer": "PRAGMA user_version = 99",
    "negative": "PRAGMA user_version = -5",
    "older": "PRAGMA user_version = 1",
    "foreign": "PRAGMA application_id = 7",
    "no winners": "DROP TABLE winner",
    "no choices": "DROP TABLE choice",
    "no devices": "DELETE FROM device",
    "no stacks": "DELETE FROM stack",
    "no studies": "DELETE FROM study",
    "no trials": "DELETE FROM trial",
    "no publication": "DELETE FROM publication",
    "no generations": "DELETE FROM generation",
    "no meta": "DELETE FROM meta",
    "another column": "ALTER TABLE choice RENAME COLUMN configuration TO settings",
    "no neighbourhoods": "DROP INDEX choice_neighbourhood",
    "a view in its place": "ALTER TABLE trial RENAME TO t2; CREATE VIEW trial AS SELECT 1 AS id",
    "twice the winners": "UPDATE winner SET state = 'current'",
    "no rank 0": "DELETE FROM choice WHERE rank = 0",
    "no detail": "UPDATE trial SET samples = x'00', sample_count = 7",
    "long samples": "UPDATE trial SET samples = zeroblob(100000)",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder in which something of everything happened, and what was imported into it."""
    folder = tmp_path_factory.mktemp("sound") / "state"
    live(folder)
    from autotune.exports import bundle
    from autotune.store.bundles import take

    with open_history(str(folder)) as history:
        data = bundle.write(bundle.collect(history, trials=True))
        take(history, *bundle.read(data, "x"))
    return folder


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """What is done to a database; offsets are shares of its size."""
    kind = draw(st.sampled_from(["bytes", "cut", "stretch", "value", "value", "value", "statement"]))
    share = st.floats(0, 1, exclude_max=True)
    match kind:
        case "bytes":
            spots = st.lists(st.tuples(share, st.integers(0, 255)), min_size=1, max_size=20)
            # A disk's faults may be anywhere; those in the first page say the most.
            return {"kind": kind, "spots": draw(spots), "first": draw(st.booleans())}
        case "cut":
            return {"kind": kind, "at": draw(share), "more": draw(st.binary(max_size=50))}
        case "stretch":
            fill = draw(st.sampled_from([b"\0", b"\xff", b"\xa5", b"\x0d\0"]))
            return {"kind": kind, "at": draw(share), "length": draw(st.integers(1, 9000)), "fill": fill}
        case "value":
            value = draw(st.one_of(TEXTS, NUMBERS, st.none(), st.binary(max_size=12)))
            return {
                "kind": kind,
                "column": draw(share),
                "value": value,
                "rows": draw(st.sampled_from([1, 2, 0])),
            }
    return {"kind": kind, "statement": draw(st.sampled_from(sorted(SPOILED)))}


def change(path: Path, what: dict[str, Any]) -> None:
    """Do something to a database, as a disk or somebody with another tool would."""
    content = bytearray(path.read_bytes())
    path.unlink()  # a generation may share its inode
    path.write_bytes(content)
    match what["kind"]:
        case "bytes":
            size = 4096 if what["first"] else len(content)
            for share, byte in what["spots"]:
                content[int(share * size)] = byte
        case "cut":
            content = content[: int(what["at"] * len(content))] + what["more"]
        case "stretch":
            start = int(what["at"] * len(content))
            length = min(what["length"], len(content) - start)
            content[start : start + length] = (what["fill"] * length)[:length]
        case _:
            with closing(sqlite3.connect(path, isolation_level=None)) as connection:
                execute(connection, what)
            return
    path.write_bytes(content)


def execute(connection: sqlite3.Connection, what: dict[str, Any]) -> None:
    """Change a value or more, whatever the schema's checks say, as far as its types let that be."""
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    with suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
        if what["kind"] == "statement":
            connection.executescript(SPOILED[what["statement"]])
            return
        columns = connection.execute(
            "SELECT m.name, p.name, p.type FROM sqlite_schema m JOIN pragma_table_info(m.name) p "
            "WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' ORDER BY 1, 2"
        ).fetchall()
        table, column, type_ = columns[int(what["column"] * len(columns))]
        value = what["value"]
        # As text, bytes may be no UTF-8.
        marks = "CAST(? AS TEXT)" if isinstance(value, bytes) and type_ == "TEXT" else "?"
        one = f"WHERE rowid % {what['rows']} = 0" if what["rows"] and table not in ("choice", "meta") else ""
        connection.execute(f"UPDATE OR IGNORE {table} SET {column} = {marks} {one}", (value,))


def run(words: tuple[str, ...], folder: Path) -> None:
    """Run a command: it ends in order, and tells what is wrong in one line."""
    out, told = io.StringIO(), io.StringIO()
    file = folder / "exported"
    file.unlink(missing_ok=True)
    with redirect_stdout(out), redirect_stderr(told):
        status = main([word.format(file=file) for word in words])
    assert status in (0, 1, 2)
    if status and words[:2] != ("db", "check"):
        assert 2 == status, told.getvalue()
        assert 1 == told.getvalue().count("\n"), told.getvalue()


def ask(client: TestClient, address: str) -> None:
    """Ask for a page: it is answered, and says nothing that a browser would run."""
    answer = client.get(address)
    assert answer.status_code in (200, 400, 404, 503)
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    if "html" in answer.headers["content-type"]:
        assert "<script>document" not in answer.text
        assert "<img src=x" not in answer.text


def look_up() -> None:
    """Look up, exactly and not: something comes back."""
    looking_up.refresh()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for m, max_error in ((16, None), (17, None), (64, 0.1)):
            found = autotune.get_best_config("linear", m=m, n=7168, k=2048, max_error=max_error, device=CPU)
            assert found["implementation"]
            assert found.explain()


def survives(sound: Path, folder: Path, data: st.DataObject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change a database, then look at it in a few of the ways that there are."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(folder))
    monkeypatch.setenv("AUTOTUNE_RUNTIME_DIR", str(folder / "run"))
    monkeypatch.setenv("AUTOTUNE_CONFIG", os.devnull)
    files = data.draw(
        st.sampled_from([["history.db"], ["history.db"], ["best.db"], ["history.db", "best.db"]])
    )
    for name in files:
        change(folder / name, data.draw(changes()))
    for words in data.draw(st.lists(st.sampled_from(COMMANDS), min_size=1, max_size=3)):
        run(words, folder)
    if "best.db" in files:
        look_up()
    client = TestClient(application(str(folder), "127.0.0.1"), base_url="http://127.0.0.1:9720")
    for address in data.draw(st.lists(st.sampled_from(PAGES), min_size=1, max_size=3)):
        ask(client, address)
    if data.draw(st.integers(0, 3)) == 0:
        run(data.draw(st.sampled_from(WRITING)), folder)
        look_up()


FEW = settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))


@FEW
@given(data=st.data())
def test_a_database_that_was_changed_is_told_and_never_a_traceback(
    sound, tmp_path, monkeypatch, data
) -> None:
    survives(sound, tmp_path / "state", data, monkeypatch)


@pytest.mark.slow
@MANY
@given(data=st.data())
def test_thousands_of_databases_that_were_changed(sound, tmp_path, monkeypatch, data) -> None:
    survives(sound, tmp_path / "state", data, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SPOILED))
def test_a_schema_that_is_not_ours_is_told(sound, tmp_path, monkeypatch, name) -> None:
    folder = tmp_path / "state"
    shutil.copytree(sound, folder)
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(folder))
    monkeypatch.setenv("AUTOTUNE_RUNTIME_DIR", str(folder / "run"))
    monkeypatch.setenv("AUTOTUNE_CONFIG", os.devnull)
    for database in ("history.db", "best.db"):
        change(folder / database, {"kind": "statement", "statement": name})
    look_up()
    client = TestClient(application(str(folder), "127.0.0.1"), base_url="http://127.0.0.1:9720")
    for words, address in zip(COMMANDS, PAGES, strict=False):
        run(words, folder)
        ask(client, address)
