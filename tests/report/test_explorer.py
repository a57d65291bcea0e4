"""The explorer of mixtures, in a browser: it says what `ClosedForm` says."""

import base64
import csv
import dataclasses
import hashlib
import urllib.parse
from pathlib import Path

import jinja2
import numpy as np
import pytest

from jaxsim.records import Basis
from jaxsim.report import explorer as explorer_module
from jaxsim.report.explorer import explorer
from jaxsim.report.write import write_report
from jaxsim.scoring.table import read_csv
from jaxsim.search.closed_form import ClosedForm
from jaxsim.search.result import save_search

from .workdirs import add_search, config_of

MEMBERS = ["alpha", "<img src=x onerror=alert(1)>", '=1+2, "b"; c', "</script> & d"]
DOMAINS = ["near, here", "</script>", "far", "__proto__"]
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>explorer</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:;
style-src 'unsafe-inline'; script-src 'sha256-{{ hash }}'">
<style>{% include 'report.css' %}{% include 'explorer.css' %}</style></head>
<body>{% include 'explorer.html.j2' %}
<script>{{ script | safe }}</script></body></html>
"""
VALUES = """
async (hashes) => {
  const values = (selector) =>
    [...document.querySelectorAll(selector)].map((data) => Number(data.value));
  const found = [];
  for (const hash of hashes) {
    const changed = new Promise((done) => addEventListener("hashchange", done,
      { once: true }));
    location.hash = hash;
    await changed;
    const next = [...document.querySelectorAll(".bought li")].map((item) =>
      [item.querySelector("span").textContent, Number(item.querySelector("data").value)]
    );
    found.push({
      bits: [...document.querySelectorAll("[data-domain]")].map((row) =>
        [row.querySelector("th").textContent,
         Number(row.querySelector(".bits").value)]),
      gain: values(".outcome .gained")[0],
      next,
    });
  }
  return found;
}
"""


def form_of(kind="mean", refusal="", most=None) -> ClosedForm:
    """Random numbers, as of a pool whose merges are convex."""
    rng = np.random.default_rng(0)
    c, d = len(MEMBERS), len(DOMAINS)
    curve_DCC = rng.uniform(0, 0.2, (d, c, c))
    curve_DCC += curve_DCC.transpose(0, 2, 1)
    rows = {
        "best": {MEMBERS[0]: 2 / 3, MEMBERS[2]: 1 / 3},
        "proportional": dict.fromkeys(MEMBERS, 0.25),
        "found 3": {MEMBERS[0]: 0.6, MEMBERS[2]: 0.4},
        MEMBERS[3]: {MEMBERS[3]: 1.0},
    }
    return ClosedForm(
        members=MEMBERS,
        domains=DOMAINS,
        in_pool=[True, True, True, False],
        constant=rng.uniform(0, 0.1, d).tolist(),
        linear=rng.uniform(1, 2, (d, c)).tolist(),
        curve=curve_DCC.tolist(),
        base=rng.uniform(1.5, 2, d).tolist(),
        residual=rng.uniform(1e-4, 1e-3, d).tolist(),
        checks=20,
        target={
            "both": {DOMAINS[0]: 0.5, DOMAINS[3]: 0.5},
            DOMAINS[1]: {DOMAINS[1]: 1},
        },
        weights={"both": 0.75, DOMAINS[1]: 0.25},
        kind=kind,
        presets=[
            {"name": name, "weights": w, "bits": rng.uniform(1, 2, d).tolist()}
            for name, w in rows.items()
        ],
        reference="proportional",
        most=most or [None] * c,
        refusal=refusal,
        calibrated=True,
        basis=Basis(),
    )


@pytest.fixture
def visited(browser):
    """Opens a file; fails if the browser finds a fault."""
    faults, pages = [], []

    def visited(path, width=1300):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield visited
    for page in pages:
        page.close()
    assert not faults


@pytest.fixture
def opened(visited, tmp_path):
    """Opens the explorer of a closed form, alone."""

    def opened(form, width=1300):
        folder = Path(explorer_module.__file__).parent
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folder),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
        )
        shown = explorer(form, Path("my work"))
        script = (folder / "explorer.js").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        text = environment.from_string(PAGE).render(
            explorer=shown, script=script, hash=digest
        )
        path = tmp_path / "page.html"
        path.write_text(text, encoding="utf-8")
        return visited(path, width)

    return opened


def address(w_C) -> str:
    """As the page writes it."""
    parts = zip(MEMBERS, w_C, strict=True)
    return "#mixture&" + urllib.parse.urlencode([(n, f"{w:.8f}") for n, w in parts])


def number(page, name):
    return page.get_by_label(f"percent of {name}", exact=True)


def weights(page) -> np.ndarray:
    return np.array([float(number(page, name).input_value()) for name in MEMBERS])


def press(page, label):
    page.get_by_role("button", name=label, exact=True).click()


@pytest.mark.parametrize("kind", ["mean", "worst"])
def test_javascript_and_python_agree(opened, kind):
    form = form_of(kind)
    w_MC = np.round(np.random.default_rng(1).dirichlet(np.ones(len(MEMBERS)), 200), 8)
    found = opened(form).evaluate(VALUES, [address(w_C) for w_C in w_MC])
    w_MC /= w_MC.sum(axis=1, keepdims=True)
    bits_MD = form.bits(w_MC)
    reference = form.presets[1]["bits"]
    value = form.objective.value(np.array([reference]))[0]
    for row, w_C, bits_D, gain in zip(
        found, w_MC, bits_MD, form.gain(bits_MD), strict=True
    ):
        shown = dict(row["bits"])
        assert [shown[name] for name in DOMAINS] == pytest.approx(bits_D, abs=1e-9)
        assert row["gain"] == pytest.approx(gain, abs=1e-9)
        next_C = dict(row["next"])
        bought = [next_C[name] * value for name in MEMBERS]
        assert bought == pytest.approx(form.next_percent(w_C), abs=1e-9)
        assert list(next_C.values()) == sorted(next_C.values(), reverse=True)


def test_a_preset_shows_its_real_merge_also_from_its_address(opened):
    form = form_of()
    page = opened(form)
    for label, preset in (
        (f"{MEMBERS[3]} alone", 3),
        (f"60% {MEMBERS[0]}, 40% {MEMBERS[2]}", 2),
        ("the answer", 0),
    ):
        press(page, label)
        gain = form.gain(np.array([form.presets[preset]["bits"]]))[0]
        for _ in range(2):
            shown = page.locator(".outcome .gained")
            assert float(shown.get_attribute("value")) == pytest.approx(gain, abs=1e-12)
            text = f"{100 * gain:+.2f}%".replace("-", "\N{MINUS SIGN}")
            assert shown.inner_text() == text
            assert "(merged)" in page.locator(".outcome").inner_text()
            page.reload()
    number(page, MEMBERS[0]).fill("69")
    number(page, MEMBERS[0]).press("Enter")
    assert "closed form, off by about 0.000" in page.locator(".outcome").inner_text()


def test_an_address_without_a_mixture_of_these_sources_is_refused(opened):
    page = opened(form_of())
    for query in ("alpha=1&other=1", "alpha=-1", "alpha=x", ""):
        page.evaluate(VALUES, [f"#mixture&{query}"])
        assert page.get_by_role("alert").is_visible()
        assert "(merged)" in page.locator(".outcome").inner_text()
        page.evaluate(VALUES, ["#mixture&alpha=1"])
        assert not page.get_by_role("alert").is_visible()
        assert weights(page) == pytest.approx([100, 0, 0, 0])
        press(page, "the answer")


def test_a_locked_source_stays_and_the_others_give_way_in_proportion(opened):
    page = opened(form_of(), width=700)
    press(page, "proportional")
    number(page, MEMBERS[0]).fill("40")
    number(page, MEMBERS[0]).press("Enter")
    assert weights(page) == pytest.approx([40, 20, 20, 20])
    page.get_by_label(f"lock {MEMBERS[1]}", exact=True).press("Space")
    slider = page.get_by_label(f"share of {MEMBERS[2]}", exact=True)
    slider.press("Home")
    assert weights(page) == pytest.approx([80 * 2 / 3, 20, 0, 80 / 3], abs=0.01)
    slider.press("End")  # no more than what is not locked
    assert weights(page) == pytest.approx([0, 20, 80, 0])
    slider.press("Home")  # in the proportion that they had before
    assert weights(page) == pytest.approx([80 * 2 / 3, 20, 0, 80 / 3], abs=0.01)
    assert number(page, MEMBERS[1]).is_disabled()
    assert page.evaluate("document.documentElement.scrollWidth") == 700


def test_the_file_is_read_as_the_mixture_that_is_shown(opened, tmp_path):
    page = opened(form_of())
    w_C = np.array([0.123456, 0.2, 0.3, 0.376544])
    page.evaluate(VALUES, [address(w_C)])
    link = page.locator("[download]")
    text = urllib.parse.unquote(link.get_attribute("href").partition(",")[2])
    assert text == page.locator(".csv").text_content()
    path = tmp_path / link.get_attribute("download")
    path.write_text(text, encoding="utf-8")
    table = read_csv(MEMBERS, path)
    assert table.names == ("mine",)
    assert table.w_MC[0] == pytest.approx(w_C, abs=1e-9)
    with path.open(newline="") as file:  # no spreadsheet takes a name for a formula
        assert not any(cell.startswith("=") for cell in next(csv.reader(file)))
    commands = [line.text_content() for line in page.locator("pre:not(.csv)").all()]
    place = "--workdir=my work"
    assert commands == [
        f"jaxsim score '{place}' --mixtures=mixture.csv",
        f"jaxsim validate '{place}' --mixtures=mixture.csv",
        f"jaxsim export '{place}' --what=mixture.csv:mine --recipe=json --to=recipe",
    ]


def test_it_says_where_it_extrapolates_and_where_it_has_no_numbers(opened):
    page = opened(form_of(most=[0.5, None, None, None]))
    warning = page.locator(".extrapolated")
    assert warning.is_visible()
    assert f"{MEMBERS[0]} above 50.0%" in warning.inner_text()
    press(page, "proportional")
    assert warning.is_hidden()

    page = opened(form_of(refusal="it is not convex"))
    assert "it is not convex" in page.locator("#explorer").inner_text()
    assert "(merged)" in page.locator(".outcome").inner_text()
    number(page, MEMBERS[0]).fill("69")
    number(page, MEMBERS[0]).press("Enter")
    assert page.locator(".outcome .gained").inner_text() == "not known"
    assert page.locator(".bought").is_hidden()


def test_the_report_runs_it(visited, workdir):
    found, form = add_search(workdir), form_of()
    found = dataclasses.replace(found, named=dict(form.weights), objective=form.kind)
    found.rows[0]["weights"] = form.presets[0]["weights"]
    form = dataclasses.replace(form, basis=found.basis)
    save_search(workdir, found, form)
    page = visited(write_report(config_of(workdir), workdir))
    gain = form.gain(np.array([form.presets[0]["bits"]]))[0]
    shown = page.locator("#explorer .outcome .gained").get_attribute("value")
    assert float(shown) == pytest.approx(gain)
    page.locator(".csv + button").click()
    page.wait_for_function(
        "document.querySelector('.csv + button').textContent === 'Copied' ||"
        "getSelection().toString().startsWith('name,')"
    )
    press(page, "proportional")
    assert page.locator(".csv + button").inner_text() == "Copy"
