"""The two screenshots of the documentation: `python -m tests.web.screenshots ADDRESS`, of a running site."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SHOTS = {"study": ("/study/3", 1180), "trade-offs": ("/winner/3?max_error=0.01", 1180)}


def main(site: str) -> None:
    """Take them, in the dark theme and the light one."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = running.chromium.launch(executable_path=shutil.which("chromium"), args=sandbox)
        for theme, (name, (path, height)) in zip(("dark", "light"), SHOTS.items(), strict=True):
            page = browser.new_page(color_scheme=theme, viewport={"width": 1200, "height": height})
            page.set_default_timeout(180_000)
            page.goto(site + path)
            page.wait_for_function(
                "() => [...document.querySelectorAll('.plot')].every(e => e.dataset.drawn)"
            )
            page.screenshot(path=IMAGES / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
