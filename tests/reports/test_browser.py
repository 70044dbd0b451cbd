"""The page of a report in a real browser: what a reader clicks, at two widths, light and dark, without a network."""

from __future__ import annotations

import shutil

import pytest
from reported import MARKUP

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install 'fluxcube[test]'"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no browser: apt-get install chromium", allow_module_level=True)

_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tools:
        opened = tools.chromium.launch(executable_path=CHROMIUM, args=_OPTIONS)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, report_folder):
    """Open the report; at the end, fail if the page wrote an error or requested an address."""
    faults, contexts = [], []

    def make(width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url) if not _is_local(request.url) else None)
        page.goto((report_folder / "report.html").as_uri())
        page.wait_for_selector("html[data-ready=true]", state="attached")
        return page

    yield make
    for context in contexts:
        context.close()
    assert faults == []


def _is_local(url: str) -> bool:
    return url.startswith(("file:", "data:"))


def test_a_clicked_tower_shows_its_series(open_page):
    page = open_page()
    assert page.locator("#chart").count() == 0
    page.locator('#map-svg .dot[data-site="XX-S02"]').click()
    assert page.locator("#series h3").inner_text() == "XX-S02, NEE"
    assert page.locator("#chart canvas").count() == 1
    assert page.locator("#chart canvas").evaluate(
        "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v)"
    )
    page.locator("[data-flux=GPP_NT]").click()
    assert page.locator("#series h3").inner_text() == "XX-S02, GPP_NT"


def test_a_tower_of_a_table_shows_its_series_and_markup_is_text(open_page):
    page = open_page()
    button = page.locator("#tab-sites-nee button.tower", has_text="<b>XX</b>")
    button.click()
    assert page.locator("#series h3").inner_text() == f"{MARKUP}, NEE"
    assert page.locator("#tab-sites-nee tr.chosen").count() == 1
    assert page.locator("#series b").count() == 0


def test_towers_are_reached_by_the_keyboard(open_page):
    page = open_page()
    page.locator('#map-svg .dot[tabindex="0"]').focus()
    first = page.evaluate("document.activeElement.dataset.site")
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.dataset.site")
    page.keyboard.press("Enter")
    assert first != second
    assert page.locator("#series h3").inner_text() == f"{second}, NEE"
    assert page.evaluate("document.activeElement.dataset.site") == second


def test_a_heading_sorts_a_table(open_page):
    page = open_page()
    table = page.locator("#tab-sites-nee table")
    heading = table.locator("th", has_text="NSE worse")
    at = heading.evaluate("th => th.cellIndex")
    orders = []
    for expected in ("descending", "ascending"):
        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == expected
        cells = table.locator(f"tbody tr td:nth-child({at + 1})")
        orders.append([float(text.replace("−", "-")) for text in cells.all_inner_texts()])
    assert orders[0] == sorted(orders[0], reverse=True) and orders[1] == sorted(orders[0])
    table.locator("th button", has_text="tower").click()
    names = table.locator("tbody tr td:first-child").all_inner_texts()
    assert names[0] == MARKUP and names[1:] == sorted(names[1:])


def test_a_field_filters_a_table(open_page):
    page = open_page()
    rows = page.locator("#tab-rows tbody tr")
    total = rows.count()
    page.locator("#tab-rows input.filter").fill("GPP worse")
    assert 0 < rows.locator("visible=true").count() < total
    page.locator("#tab-rows input.filter").fill("nothing like it")
    assert rows.locator("visible=true").count() == 0
    page.locator("#tab-rows input.filter").fill("")
    assert rows.locator("visible=true").count() == total


def test_only_the_chosen_flux_is_shown(open_page):
    page = open_page()
    assert page.locator("#tab-scores-nee").is_visible() and not page.locator("#tab-scores-gpp-nt").is_visible()
    page.locator("[data-flux=GPP_NT]").click()
    assert page.locator("#tab-scores-gpp-nt").is_visible() and not page.locator("#tab-scores-nee").is_visible()
    assert page.locator("[data-flux=GPP_NT]").get_attribute("aria-pressed") == "true"


def test_the_map_shows_scores_and_differences(open_page):
    page = open_page()
    fill = "document.querySelector('#map-svg .dot[data-site=XX-S02]').style.fill"
    first = page.evaluate(fill)
    assert first.startswith("rgb")
    page.select_option("#map-model", "worse")
    page.select_option("#map-against", index=1)
    assert page.evaluate(fill) != first
    assert "worse minus good" in page.locator("#map-title").inner_text()
    width = "document.getElementById('map-svg').getAttribute('viewBox')"
    whole = page.evaluate(width)
    page.locator("#map-in").click()
    assert page.evaluate(width) != whole
    page.locator("#map-all").click()
    assert page.evaluate(width) == whole


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_is_legible(open_page, width, scheme):
    page = open_page(width, scheme)
    page.select_option("#map-tower", "XX-S02")
    sizes = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert sizes[0] <= sizes[1]
    text, ground = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert contrast(text, ground) > 10
    page.locator("#theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    assert page.locator("#chart canvas").count() == 1


def contrast(*colours: str) -> float:
    """Return the contrast of two colours (WCAG 2.1)."""
    values = []
    for colour in colours:
        channels = [int(v) / 255 for v in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        values.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(values) + 0.05) / (min(values) + 0.05)


def test_the_page_prints_on_white_with_all_of_a_long_table(open_page):
    page = open_page(800, "dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not page.locator("nav").is_visible() and not page.locator("#tab-rows input.filter").is_visible()
    region = page.locator("#tab-rows .scroll")
    assert region.evaluate("e => e.scrollHeight <= e.clientHeight + 1")


def test_figures_fit_a_phone_and_the_table_of_scores_fits_a_desktop(open_page):
    wider = "found => found.filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1).length"
    phone = open_page(390)
    assert phone.locator(".picture svg").count() > 5
    assert phone.locator(".picture").evaluate_all(wider) == 0
    assert phone.locator(".picture svg").evaluate_all(
        "found => found.every(e => e.getBoundingClientRect().right <= innerWidth)"
    )
    assert phone.locator("#tab-scores-nee .scroll").evaluate_all(wider) == 1  # it scrolls within its box
    assert open_page(1400).locator("#tab-scores-nee .scroll").evaluate_all(wider) == 0
