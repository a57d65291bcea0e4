"""One finished workdir for all tests here; each gets a copy."""

import shutil

import pytest

from .workdirs import make_workdir


@pytest.fixture(scope="session")
def scored(tmp_path_factory):
    """Never written to."""
    return make_workdir(tmp_path_factory.mktemp("test"))


@pytest.fixture
def workdir(scored, tmp_path):
    return shutil.copytree(scored, tmp_path / "work")


@pytest.fixture(autouse=True)
def details(verbose):
    """Tables are what the tests here look at."""


@pytest.fixture(scope="module")
def browser():
    """Chromium, where there is one."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()
