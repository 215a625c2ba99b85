"""Take the README's screenshots.

python docs/images/take.py results/SWEEP/report.html
python docs/images/take.py http://127.0.0.1:7860/    # where `kn-sweeps dashboard` shows a sweep
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

SHOTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("light", "comparison", {"viewport": {"width": 1280, "height": 1240}, "color_scheme": "light"}),
    ("dark", "heat-maps", {"viewport": {"width": 1280, "height": 1180}, "color_scheme": "dark"}),
    ("phone", "case", {"viewport": {"width": 360, "height": 740}, "color_scheme": "light"}),
)
"""What a picture is called, which part is at its top, and in what window."""


def dashboard(address: str) -> None:
    """Write dashboard.png beside this file."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.goto(address)
        page.locator("canvas, svg.marks").nth(3).wait_for()
        page.wait_for_timeout(1000)
        page.screenshot(path=Path(__file__).with_name("dashboard.png"))
        chromium.close()


def main(report: Path) -> None:
    """Write report-light.png, report-dark.png and report-phone.png beside this file."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name, part, window in SHOTS:
            page = chromium.new_context(**window).new_page()
            page.goto(report.absolute().as_uri())
            page.locator("#examples").scroll_into_view_if_needed()
            page.locator(".method").first.wait_for()
            # The first fact, which shows more than the first pair of forms.
            groups = page.locator("#example-source option").all_inner_texts()
            fact = next((text for text in groups if text.startswith("pararel")), "all")
            page.locator("#example-source").select_option(label=fact)
            top = "document.getElementById(part).scrollIntoView({behavior: 'instant'})"
            page.evaluate(f"part => {top}", part)
            if part == "heat-maps":
                box = page.locator("#heat rect.located").first.bounding_box()
                page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            page.wait_for_timeout(300)
            page.screenshot(path=Path(__file__).with_name(f"report-{name}.png"))
        chromium.close()


if __name__ == "__main__":
    if sys.argv[1].startswith("http"):
        dashboard(sys.argv[1])
    else:
        main(Path(sys.argv[1]))
