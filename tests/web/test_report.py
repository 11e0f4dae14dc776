"""A report as one page: what it says, that it holds all it needs, and what its policy allows."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING

import pytest

from autotune.cli import main
from autotune.errors import UsageError
from autotune.web.report_figures import rates, read_rates
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
    crossed = {symbol for trace in rates(found).data for symbol in trace.marker.symbol}
    assert {"circle", "x"} == crossed


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
