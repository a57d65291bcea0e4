"""Screenshots of a report for the docs: its first screen, light, dark and narrow.

    python benchmarks/screenshots.py --report=runs/quickstart/report/index.html

It needs playwright and a Chromium.
"""

import argparse
import shutil
from pathlib import Path

import playwright.sync_api

HERE = Path(__file__).parent
SCREENS = {"light": (1300, "light"), "dark": (1300, "dark"), "700": (700, "light")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with playwright.sync_api.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        for name, (width, scheme) in SCREENS.items():
            page = browser.new_page(
                viewport={"width": width, "height": 900}, color_scheme=scheme
            )
            page.goto(args.report.resolve().as_uri())
            end = page.locator(".next").bounding_box()
            height = max(900, round(end["y"] + end["height"] + 20)) if end else 900
            page.set_viewport_size({"width": width, "height": height})
            page.screenshot(path=args.out / f"report_{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
