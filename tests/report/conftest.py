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
