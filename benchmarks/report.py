"""Size of the page of a report, and the time until a browser has drawn it: `python benchmarks/report.py REPORT.html`.

Needs playwright and Chromium. The time is from the request of the file to the end of the page's own script and the next
frame, the median of five visits at each width.
"""

import shutil
import statistics
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"


def visit(browser, path, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=true]", state="attached")
    milliseconds = page.evaluate(DRAWN)
    page.close()
    return milliseconds / 1000


def main(path):
    print(f"{path.stat().st_size / 1e6:.2f} MB")
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        for width in (390, 1280):
            times = [visit(browser, path, width) for _ in range(5)]
            print(f"{width} px: drawn after {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
