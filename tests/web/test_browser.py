"""Every page in a real browser, in both themes: nothing fails, nothing leaves, nothing of a name is run.

Screenshots are kept in `build/screenshots`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests.web.histories import EVIL

if TYPE_CHECKING:
    from collections.abc import Iterator

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_MS = 120_000
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium"),
    # Its event loop leaves sockets to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

PAGES = {
    "overview": "/",
    "winners": "/workload",
    "workload": "/workload?name=linear",
    "trade-offs": "/trade-offs",
    "winner": "/winner/3?max_error=0.01",
    "studies": "/studies",
    "study": "/study/3",
    "study-running": "/study/9",
    "study-hostile": "/study/8",
    "trial": "/study/3/trial/3",
    "generations": "/generations",
    "generation": "/generation/3",
    "generation-against": "/generation/4?against=3",
    "not-found": "/study/999",
    "workload-hostile": f"/workload?name={quote(EVIL)}",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        opened = running.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield opened
        opened.close()


class Visit:
    """A page that is open, and what went wrong on it.

    Attributes:
        faults: errors that the browser told, requests elsewhere, dialogs that opened.
    """

    def __init__(self, browser: Any, site: str, theme: str, width: int = 1280) -> None:
        self.context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": 900})
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.site = site
        self.faults: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("request", self._request)
        self.page.on("dialog", lambda _: self.faults.append("a dialog"))

    def open(self, path: str) -> None:
        self.page.goto(self.site + path)
        drawn = "() => [...document.querySelectorAll('.plot')].every(one => one.dataset.drawn)"
        self.page.wait_for_function(drawn, timeout=PATIENCE_MS)

    def _console(self, message: Any) -> None:
        missing = "404 (Not Found)" in message.text and "/study/999" in self.page.url
        if message.type in ("error", "warning") and not missing:
            self.faults.append(f"{message.type}: {message.text}")

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.site + "/", "data:", "blob:")):
            self.faults.append(f"asked {request.url}")


@pytest.fixture(params=["light", "dark"])
def visit(request: pytest.FixtureRequest, browser: Any, site: str) -> Iterator[Visit]:
    opened = Visit(browser, site, request.param)
    opened.theme = request.param  # type: ignore[attr-defined]
    yield opened
    opened.context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_drawn_without_a_fault(visit: Any, name: str) -> None:
    visit.open(PAGES[name])
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    visit.page.screenshot(path=SCREENSHOTS / f"{name}-{visit.theme}.png", full_page=True)
    assert [] == visit.faults
    assert [] == visit.page.evaluate("[...document.querySelectorAll('[data-drawn=failed]')].map(e => e.id)")
    assert "autotune" in visit.page.title()
    assert visit.page.title() not in ("stolen", "1")
    widths = visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]


def test_a_page_fits_a_narrow_screen(browser: Any, site: str) -> None:
    opened = Visit(browser, site, "light", width=390)
    for name in ("overview", "study", "winner", "study-hostile"):
        opened.open(PAGES[name])
        opened.page.screenshot(path=SCREENSHOTS / f"{name}-narrow.png", full_page=True)
        widths = opened.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert widths[0] <= widths[1], name
    assert [] == opened.faults
    opened.context.close()


def test_hostile_names_are_shown_letter_by_letter(browser: Any, site: str) -> None:
    opened = Visit(browser, site, "light")
    opened.open(PAGES["study-hostile"])
    assert EVIL in opened.page.inner_text("h1")
    assert 0 == opened.page.evaluate("document.querySelectorAll('img, main script').length")
    assert [] == opened.page.evaluate(
        "[...document.querySelectorAll('a')].filter(a => a.protocol != 'http:')"
    )
    opened.context.close()


def test_the_keyboard_reaches_the_content_the_menu_and_the_tables(browser: Any, site: str) -> None:
    opened = Visit(browser, site, "light")
    opened.open(PAGES["studies"])
    opened.page.keyboard.press("Tab")
    assert "Skip to content" == opened.page.evaluate("document.activeElement.textContent")
    opened.page.keyboard.press("Enter")
    assert "content" == opened.page.evaluate("document.activeElement.id")
    reached = set()
    for _ in range(40):
        opened.page.keyboard.press("Tab")
        reached.add(
            opened.page.evaluate("document.activeElement.className || document.activeElement.tagName")
        )
    assert {"A", "INPUT", "BUTTON", "scroll"} <= reached
    opened.context.close()


def test_a_screen_reader_is_told_what_everything_is(browser: Any, site: str) -> None:
    opened = Visit(browser, site, "light")
    for path in PAGES.values():
        opened.open(path)
        lacking = opened.page.evaluate("""() => {
            const named = (e) => e.getAttribute('aria-label') || e.getAttribute('aria-labelledby')
                || e.textContent.trim() || e.closest('label');
            const inside = (id) => document.getElementById(id);
            return [
                ...[...document.querySelectorAll('a, button, input, figure, nav')].filter(e =>
                    !e.closest('.plot') && !(e.type === 'hidden') && !named(e)),
                ...[...document.querySelectorAll('th')].filter(e => !e.getAttribute('scope')),
                ...[...document.querySelectorAll('[aria-labelledby]')].filter(e =>
                    !inside(e.getAttribute('aria-labelledby'))),
            ].map(e => e.outerHTML.slice(0, 200));
        }""")
        assert [] == lacking
        assert 1 == opened.page.evaluate("document.querySelectorAll('h1').length")
        assert "en" == opened.page.evaluate("document.documentElement.lang")
    opened.context.close()


def test_the_theme_can_be_chosen_and_is_kept(browser: Any, site: str) -> None:
    opened = Visit(browser, site, "light")
    opened.open("/study/3")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = opened.page.evaluate(ground)
    opened.page.click("#theme")
    opened.page.click("#theme")
    dark = opened.page.evaluate(ground)
    assert light != dark
    opened.open("/studies")
    assert dark == opened.page.evaluate(ground)
    assert [] == opened.faults
    opened.context.close()


def test_a_running_study_is_read_again_by_itself(browser: Any, site: str, state: Path) -> None:
    import sqlite3
    from contextlib import closing

    opened = Visit(browser, site, "light")
    opened.open("/study/9")
    assert "40 trials so far" in opened.page.inner_text("#live")
    with closing(sqlite3.connect(state / "history.db")) as connection, connection:
        last = "(SELECT max(id) FROM trial WHERE study = 9)"
        row = connection.execute(f"SELECT * FROM trial WHERE id = {last}").fetchone()
        names = [column[1] for column in connection.execute("PRAGMA table_info(trial)")]
        values = {**dict(zip(names, row, strict=True)), "id": None, "number": 40}
        marks = ", ".join("?" * len(values))
        connection.execute(f"INSERT INTO trial VALUES ({marks})", tuple(values.values()))
    opened.page.wait_for_function(
        "() => document.getElementById('live').innerText.includes('41 trials so far')", timeout=PATIENCE_MS
    )
    assert [] == opened.faults
    opened.context.close()


def test_a_click_on_a_point_leads_to_its_trial(browser: Any, site: str) -> None:
    opened = Visit(browser, site, "light")
    opened.open("/winner/3")
    opened.page.evaluate(
        "document.querySelector('.plot').emit('plotly_click', {points: [{customdata: '/study/3/trial/3'}]})"
    )
    opened.page.wait_for_url("**/study/3/trial/3")
    opened.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_report_is_one_file_that_needs_nothing_else(
    browser: Any, state: Path, tmp_path: Path, theme: str
) -> None:
    """Its plots are drawn; nothing is asked of any network, refused by its policy, or run of a name."""
    report, said = tmp_path / "report.html", []
    environment = {**os.environ, "AUTOTUNE_STATE_DIR": str(state)}
    command = [sys.executable, "-m", "autotune", "report", "--html", str(report), "--limit", "9"]
    subprocess.run(command, env=environment, check=True, cwd=Path(__file__).parents[2])
    page = browser.new_page(color_scheme=theme)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"file://{report}")
    page.wait_for_function("() => [...document.querySelectorAll('.plot')].every(e => e.dataset.drawn)")
    assert [] == said
    assert 4 <= page.locator(".plot .main-svg").count()
    assert "What tuning gained · autotune" == page.title()
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"report-{theme}.png", full_page=True)
    page.close()
