"""A report as one page: what it says, that it holds all it needs, and what its policy allows."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING

import msgspec
import pytest

from autotune.cli import main
from autotune.errors import UsageError
from autotune.measure.load.arrivals import Lengths
from autotune.measure.load.batching import BatchLimits, ModelledEngine
from autotune.measure.load.capacity import engine_load, largest_rate, poisson
from autotune.measure.load.slo import Slo
from autotune.space.problem import Problem
from autotune.store import open_history
from autotune.store.records import Measurement
from autotune.web.report_figures import Line, rates, read_rates
from tests.store.factories import choice, record_host, study_key, trial, winner
from tests.web.histories import EVIL

if TYPE_CHECKING:
    from pathlib import Path

TIMES = {"ttft_p50": 0.05, "ttft_p99": 0.2, "e2e_p50": 1.0, "e2e_p99": None}


@pytest.fixture(scope="module")
def page(state: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    loaded = folder / "load.json"
    loaded.write_text(json.dumps({"by_rate": [{"rate": 4, "saturated": False, **TIMES}]}))
    out = folder / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTUNE_STATE_DIR", str(state))
        assert 0 == main(["report", "--html", str(out), "--rates", str(loaded)])
    return out.read_text()


def test_the_policy_allows_this_script_and_nothing_else(page: str) -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    script = page[page.rindex("<script>") + len("<script>") : page.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in policy
    assert policy.startswith("default-src &#39;none&#39;")
    assert "</script" not in script


def test_nothing_is_loaded_from_elsewhere(page: str) -> None:
    """Before the script there is neither a source nor a link."""
    markup = re.sub(r"<script>.*", "", page, flags=re.DOTALL)
    assert not re.findall(r'\b(?:src|href)="', markup)
    assert "url(" not in markup


def test_every_plot_has_its_figure_in_the_page(page: str) -> None:
    """Latency against batch and against rate, and of each problem its distribution and its front."""
    wanted = re.findall(r'data-figure="([^"]+)"', page)
    held = {name: json.loads(text) for name, text in re.findall(FIGURE, page, flags=re.DOTALL)}
    assert wanted == list(held)
    assert {"f-sizes-0", "f-rates"} <= held.keys()
    names = {
        trace["name"] for name, figure in held.items() if "distribution" in name for trace in figure["data"]
    }
    assert {"the winner", "the baseline's median"} <= names


FIGURE = r'<script type="application/json" id="([^"]+)">(.*?)</script>'


def test_names_are_shown_letter_by_letter(page: str) -> None:
    assert EVIL not in page
    assert "<img src=x" not in page


def test_rates_are_read_wherever_a_load_put_them(tmp_path: Path) -> None:
    """As points, or as loads with their spreads; in order of the rate."""
    spread = {"count": 9, "p50": 0.1, "p99": 0.3}
    load = {"offered_rate": 9.0, "ttft": spread, "e2e": {"p50": 2.0}, "growth": {"saturated": True}}
    file = tmp_path / "load.json"
    file.write_text(json.dumps([load, {"x": {"by_rate": [{"rate": 2, "saturated": False, **TIMES}]}}]))
    found = read_rates(str(file))
    assert [(2.0, False), (9.0, True)] == [(point["rate"], point["saturated"]) for point in found]
    assert (0.3, 2.0, None) == tuple(found[1][name] for name in ("ttft_p99", "e2e_p50", "e2e_p99"))
    crossed = {symbol for trace in rates([Line("", found)]).data for symbol in trace.marker.symbol}
    assert {"circle", "x"} == crossed


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a server that was tuned: its loads are of a modelled engine."""
    state = tmp_path_factory.mktemp("served")
    with open_history(str(state)) as history:
        record_host(history)
        fields = {"spec": "toy", "digest": "d" * 16}
        solved = Problem("server", fields)
        key = study_key(workload="server", problem=solved.key, objective="throughput")
        study = history.begin_study(key, solved.dimensions)
        for number, places in enumerate((8, 64)):
            settings = {"implementation": "serve", "max_num_seqs": places}
            measured = loaded(places)
            history.add_trial(study, trial(number, configuration=settings, measurement=measured))
        best = choice(0, 1e7, settings, measurement=measured)
        told = {"workload": "server", "problem": solved.key, "dimensions": fields, "objective": "throughput"}
        history.promote(study, winner(neighbourhood=solved.key, choices=(best,), **told))
        history.end_study(study, "trials")
    out = state / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOTUNE_STATE_DIR", str(state))
        assert 0 == main(["report", "--html", str(out)])
    return out.read_text()


def loaded(places: int) -> Measurement:
    """A measurement as the bench makes one, of a modelled engine with so many places in its batch."""
    engine = ModelledEngine(0.005, 2e-5, 1e-4)
    slo = Slo(ttft_ms=500.0, percentile=90.0)
    arrivals = poisson(200, Lengths((32, 32), (16, 16)), 0)
    found = largest_rate(engine_load(engine, BatchLimits(places, 2048), arrivals, slo), 20.0)
    assert found.figures is not None
    points = tuple(rung.point for rung in found.rungs)
    load = msgspec.to_builtins(msgspec.structs.replace(found.figures, by_rate=points), str_keys=True)
    return Measurement((round(1e9 / found.rate),), "sample_cap", "monotonic", "hot", load=load)


def test_stored_loads_of_a_server_are_drawn_against_the_rate(served: str) -> None:
    """Of the winner and of what it was chosen from, with no file given; so few requests tell no p99."""
    held = {name: json.loads(text) for name, text in re.findall(FIGURE, served, flags=re.DOTALL)}
    (drawn,) = (figure for name, figure in held.items() if name.startswith("f-rates-"))
    names = {trace["name"] for trace in drawn["data"]}
    both = ("the winner", "with max_num_seqs=8")
    assert {f"{one}: {token} token, p50" for one in both for token in ("first", "last")} == names
    assert {"circle", "x"} == {symbol for trace in drawn["data"] for symbol in trace["marker"]["symbol"]}
    for trace in drawn["data"]:
        assert sorted(trace["x"]) == trace["x"]
        assert len(trace["x"]) > 2


def test_the_distribution_of_a_load_is_that_of_its_requests(served: str) -> None:
    """And not that of its few samples, which are whole starts of the server."""
    held = {name: json.loads(text) for name, text in re.findall(FIGURE, served, flags=re.DOTALL)}
    (drawn,) = (figure for name, figure in held.items() if "distribution" in name)
    best, other = drawn["data"]
    assert ("the winner", "with max_num_seqs=8") == (best["name"], other["name"])
    assert [0.5, 0.9] == best["y"]
    assert sorted(best["x"]) == best["x"]
    assert "last token" in drawn["layout"]["xaxis"]["title"]["text"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not what a load prints"),
        ("[]", "holds no rates"),
        ('[{"rate": "a", "ttft_p50": 1}]', "is not what"),
    ],
)
def test_what_is_no_load_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "load.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        read_rates(str(file))


def test_a_report_of_nothing_is_refused(state: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(state))
    assert 2 == main(["report", "attention", "--html", str(tmp_path / "x.html")])
    assert "nothing is decided that fits" in capsys.readouterr().err
    assert 2 == main(["report", "--html", str(tmp_path / "absent" / "x.html")])
    assert "cannot be written" in capsys.readouterr().err
