"""The site as a program asks it: who is answered, what a browser may do, and that nothing is changed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.cli import main
from autotune.store import open_history
from autotune.store.records import Verdict
from tests.store.factories import record_host, study_key, trial
from tests.web.histories import EVIL

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from autotune.web.app import FIGURES, PAGES, application

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "a-token-that-nobody-guesses"
HERE = "http://127.0.0.1:9720"
ADDRESSES = (
    "/",
    "/workload",
    "/workload?name=linear",
    "/trade-offs",
    "/winner/1",
    "/studies",
    "/study/1",
    "/study/8",
    "/study/1/trial/0",
    "/generations",
    "/generation/2",
)


def asking(state: Path, host: str = "127.0.0.1", **options: Any) -> TestClient:
    return TestClient(application(str(state), host, **options), base_url=HERE, follow_redirects=False)


@pytest.fixture(scope="module")
def client(state: Path) -> TestClient:
    return asking(state)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_page_is_answered_with_a_strict_policy(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert 200 == answer.status_code
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert ("'none'", "'self'", "'none'") == tuple(
        policy[name] for name in ("default-src", "script-src", "base-uri")
    )
    assert "nosniff" == answer.headers["x-content-type-options"]
    assert "no-store" == answer.headers["cache-control"]
    assert EVIL not in answer.text
    for attribute in (
        " onclick=",
        " onload=",
        " style=",
        "<style",
        'href="javascript:',
        "http://",
        "https://",
    ):
        assert attribute not in answer.text


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_table_is_there_as_csv_and_json(client: TestClient, address: str) -> None:
    page = client.get(address).text
    names = {part.split("&")[0].split('"')[0] for part in page.split("table=")[1:]}
    mark = "&" if "?" in address else "?"
    assert names
    for name in names:
        as_csv = client.get(f"{address}{mark}table={name}&format=csv")
        as_json = client.get(f"{address}{mark}table={name}&format=json")
        rows = list(csv.DictReader(io.StringIO(as_csv.text)))
        assert len(rows) == len(json.loads(as_json.text)) > 0
        assert f'filename="{name}.csv"' in as_csv.headers["content-disposition"]


@pytest.mark.parametrize("path", [*PAGES, *FIGURES])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_no_route_writes(client: TestClient, path: str, method: str) -> None:
    address = path.replace("{study:int}", "1").replace("{trial:int}", "0").replace("{winner:int}", "1")
    answer = client.request(method, address.replace("{generation:int}", "1").replace("{plot}", "slices"))
    assert (405, "GET, HEAD") == (answer.status_code, answer.headers["allow"])


def test_reading_leaves_the_history_as_it_is(client: TestClient, state: Path) -> None:
    def digest() -> str:
        return hashlib.sha256((state / "history.db").read_bytes()).hexdigest()

    before = digest()
    for address in ADDRESSES:
        client.get(address)
    assert before == digest()


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:9720", 200),
        ("localhost:9720", 200),
        ("LOCALHOST", 200),
        ("[::1]:9720", 200),
        ("evil.example", 421),
        ("evil.example:9720", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("10.0.0.7:9720", 421),
        ("", 421),
    ],
)
def test_another_sites_name_for_this_machine_is_refused(client: TestClient, host: str, code: int) -> None:
    assert code == client.get("/studies", headers={"host": host}).status_code


def test_a_further_name_is_answered_where_it_is_given(state: Path) -> None:
    named = asking(state, names=["node7"])
    assert 200 == named.get("/studies", headers={"host": "node7:9720"}).status_code
    assert 421 == named.get("/studies", headers={"host": "node8:9720"}).status_code


def test_a_token_is_asked_for_and_kept_out_of_the_address(state: Path) -> None:
    guarded = asking(state, "0.0.0.0", token=TOKEN)
    assert 401 == guarded.get("/studies").status_code
    assert 401 == guarded.get("/studies?token=wrong").status_code
    assert 401 == guarded.get("/static/style.css").status_code
    assert 401 == guarded.get("/studies", headers={"authorization": "Bearer wrong"}).status_code
    assert 200 == guarded.get("/studies", headers={"authorization": f"Bearer {TOKEN}"}).status_code
    opened = guarded.get(f"/studies?token={TOKEN}&sort=trials")
    assert (303, "/studies?sort=trials") == (opened.status_code, opened.headers["location"])
    cookie = opened.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert 200 == guarded.get("/studies").status_code


def test_a_token_is_not_sent_to_another_site(state: Path) -> None:
    guarded = asking(state, token=TOKEN)
    opened = guarded.get(f"//evil.example/?token={TOKEN}")
    assert opened.headers["location"].startswith("/")
    assert not opened.headers["location"].startswith("//")


@pytest.mark.parametrize(
    ("address", "code", "told"),
    [
        ("/nowhere", 404, "no page"),
        ("/study/999", 404, "unknown study"),
        ("/study/99999999999999999999999", 404, "unknown number"),
        ("/study/1/trial/999", 404, "unknown trial"),
        ("/winner/999", 404, "unknown decision"),
        ("/generation/999", 404, "unknown generation"),
        ("/study/1/plot/pie", 404, "unknown plot"),
        ("/studies?sort=size", 404, "unknown sort"),
        ("/studies?page=zero", 400, "not a whole number"),
        ("/studies?page=-1", 400, "not a whole number"),
        ("/studies?state=over", 404, "unknown state"),
        ("/studies?format=xml", 404, "unknown format"),
        ("/studies?format=csv&table=users", 404, "unknown table"),
        ("/winner/1?max_error=low", 400, "not a number"),
        ("/winner/1?max_error=nan", 400, "not a number"),
        ("/static/../app.py", 404, ""),
        ("/static/%2e%2e/app.py", 404, ""),
    ],
)
def test_a_wrong_address_is_told_in_one_sentence(
    client: TestClient, address: str, code: int, told: str
) -> None:
    answer = client.get(address)
    assert code == answer.status_code
    assert told in answer.text
    assert "Traceback" not in answer.text


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    missing = asking(tmp_path / "none").get("/")
    assert 503 == missing.status_code
    assert "there is no history yet" in missing.text
    (tmp_path / "history.db").write_bytes(b"no database" * 1000)
    assert 503 == asking(tmp_path).get("/").status_code


def test_every_figure_is_drawn(client: TestClient) -> None:
    studies = ("convergence", "parallel", "importance", "slices", "verdicts")
    for address in (
        "/plot/speedups",
        "/workload/plot/sizes?name=linear",
        "/winner/1/plot/front",
        "/study/1/trial/0/plot/samples",
        *(f"/study/1/plot/{name}?implementation=native" for name in studies),
    ):
        figure = client.get(address).json()
        assert figure["data"], address


NAMES = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=NAMES, value=NAMES, reason=NAMES)
def test_any_name_is_shown_and_none_breaks_a_page(fuzzed: Path, name: str, value: str, reason: str) -> None:
    with open_history(str(fuzzed)) as history:
        record_host(history)
        study = history.begin_study(study_key(workload=name, problem=value), {name: value})
        number = history.study(study).trials
        for add in range(2):
            told = {"implementation": value, name: f"{value}{add}"}
            history.add_trial(study, trial(number + add, configuration=told, reason=reason))
        history.add_trial(study, trial(number + 2, Verdict.WRONG, reason=reason))
        history.end_study(study, reason)
    client = asking(fuzzed)
    for path in ("/", "/studies", f"/study/{study}", f"/study/{study}/trial/{number}"):
        answer = client.get(path)
        assert 200 == answer.status_code
    assert 200 == client.get("/studies", params={"name": name}).status_code
    assert 200 == client.get(f"/study/{study}/plot/slices").status_code


PARAMETERS = (
    *("sort", "page", "name", "state", "format", "table", "verdict", "search", "device", "max_error"),
    "against",
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    path=st.sampled_from(ADDRESSES),
    name=st.sampled_from(
        [
            "sort",
            "page",
            "name",
            "state",
            "format",
            "table",
            "verdict",
            "search",
            "device",
            "max_error",
            "against",
        ]
    ),
    value=NAMES,
)
def test_no_parameter_makes_a_page_fail(client: TestClient, path: str, name: str, value: str) -> None:
    assert client.get(path.split("?")[0], params={name: value}).status_code in (200, 400, 404)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--port", "70000"), "65535"),
        (("--address", "192.0.2.1", "--port", "0"), "cannot listen"),
        (("--address", "nowhere.invalid"), "cannot listen"),
    ],
)
def test_an_address_that_cannot_be_used_is_told(capsys, words: tuple[str, ...], message: str) -> None:
    assert 2 == main(["web", *words])
    assert message in capsys.readouterr().err


def test_a_short_token_is_refused(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_WEB_TOKEN", "short")
    assert 2 == main(["web", "--port", "0"])
    assert "can be guessed" in capsys.readouterr().err
