"""One tiny pool for all tests; those that damage it get a copy."""

import shutil
from pathlib import Path

import pytest

from jaxsim.config import Config, load_config
from jaxsim.scoring import Scorer

from . import tiny


@pytest.fixture(scope="package", autouse=True)
def quick_compilation(tmp_path_factory):
    with tiny.quick_compilation(tmp_path_factory.getbasetemp() / "compiled"):
        yield


@pytest.fixture(scope="package")
def project(quick_compilation, tmp_path_factory) -> Path:
    """A workdir with members and no scores: only to be read."""
    return tiny.project(tmp_path_factory.getbasetemp() / "tiny")


@pytest.fixture(scope="package")
def config(project: Path) -> Config:
    return load_config(project / "config.json")


@pytest.fixture
def workdir(project: Path, tmp_path: Path) -> Path:
    """A copy to write to."""
    return Path(shutil.copytree(project, tmp_path / "work"))


@pytest.fixture(scope="package")
def scorer(project: Path, config: Config, tmp_path_factory) -> Scorer:
    """Of a copy: scores are written below it."""
    copy = tmp_path_factory.mktemp("scored") / "work"
    shutil.copytree(project, copy)
    return Scorer(copy, config.score)
