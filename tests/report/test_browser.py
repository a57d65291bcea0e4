"""The page in a browser: it fits, it can be read, and it asks for nothing."""

import shutil

import pytest

from jaxsim.report.write import write_report

from .workdirs import add_chosen, add_diagnostics, add_search, add_validation, config_of

# Contrast of every text with what it stands on, as WCAG 2 computes it.
CONTRAST = """
() => {
  const canvas = document.createElement("canvas").getContext("2d",
    { willReadFrequently: true });
  const read = (color, under) => {
    canvas.globalAlpha = 1;
    canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) =>
      v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const body = getComputedStyle(document.body).backgroundColor;
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest("script")) continue;
    const stack = [];
    for (let e = element; e; e = e.parentElement) stack.unshift(e);
    let under = body;
    for (const e of stack) {
      const [r, g, b] = read(getComputedStyle(e).backgroundColor, under);
      under = `rgb(${r}, ${g}, ${b})`;
    }
    const style = getComputedStyle(element);
    const color = element.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(read(color, under)), light(read(under, under))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([ratio, texts.currentNode.data.trim()]);
  }
  return found;
}
"""


@pytest.fixture(scope="module")
def report(scored, tmp_path_factory):
    """The address of the page of a complete workdir."""
    workdir = shutil.copytree(scored, tmp_path_factory.mktemp("browser") / "work")
    add_diagnostics(workdir)
    add_validation(workdir, reference_runs=12, replicates=12, calibration_runs=6)
    add_chosen(workdir, add_search(workdir, trained=True))
    return write_report(config_of(workdir), workdir).as_uri()


@pytest.fixture
def opened(browser, report):
    """Opens the page; fails if anything goes wrong, or beyond the page."""
    faults, pages = [], []

    def opened(width=1300, scheme="light"):
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.split("#")[0] == report
                or request.url.startswith("data:")
                else faults.append(request.url)
            ),
        )
        page.goto(report)
        pages.append(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert not faults


def unfold(page):
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")


@pytest.mark.parametrize("width", [1300, 700])
def test_nothing_is_wider_than_the_page(opened, width):
    page = opened(width)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_first_screen_has_the_answer(opened):
    page = opened()
    for selector in ("h1", ".evidence", ".chip", "figure svg >> nth=1", ".next code"):
        box = page.locator(selector).first.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 900, selector
    charts = page.locator("header figure svg")
    assert charts.count() == 2 and all(
        box["width"] > 400 for box in (c.bounding_box() for c in charts.all())
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(opened, scheme):
    page = opened(scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    unfold(page)
    found = page.evaluate(CONTRAST)
    assert len(found) > 300
    assert [text for ratio, text in found if ratio < 4.5] == []


def test_the_command_can_be_copied_and_links_unfold(opened):
    page = opened()
    button = page.locator(".command button").first
    assert button.is_visible()
    page.evaluate("navigator.clipboard.writeText = async (t) => { window.copied = t }")
    button.focus()
    page.keyboard.press("Enter")
    command = page.locator(".command code").first.inner_text()
    assert page.evaluate("window.copied") == command
    assert command.startswith("jaxsim ")
    page.evaluate("location.hash = '#marginal'")
    page.wait_for_function("document.getElementById('marginal').open")


def test_paper_is_white_and_has_no_buttons(opened):
    page = opened(scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    for hidden in ("nav", "button", "details"):
        assert not page.locator(hidden).first.is_visible()
    assert page.locator("header figure svg").first.is_visible()
    assert page.pdf().startswith(b"%PDF")
