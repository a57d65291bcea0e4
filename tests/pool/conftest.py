"""A base model and two members, trained once; each test gets a copy."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from train import tiny

from jaxsim.config import Config
from jaxsim.corpus import Corpus, open_corpus
from jaxsim.pool import Pool, create_pool, open_pool
from jaxsim.pool.bucket import Objects
from jaxsim.pool.build import PoolBuilder, train_missing
from jaxsim.train import Run, Trainer, member_run, recipe_trainer

from .in_memory import empty_store
from .joined import train_alone
from .launched import Command, digests


def pytest_addoption(parser):
    parser.addoption(
        "--kills",
        type=int,
        default=2,
        help="how often test_kill.py and test_distributed_faults.py kill a run "
        "(give it with tests/pool)",
    )
    parser.addoption(
        "--starts",
        type=int,
        default=3,
        help="how often test_launchers.py starts two (give it with tests/pool)",
    )
    parser.addoption(
        "--rounds",
        type=int,
        default=1,
        help="how often it kills one of two (give it with tests/pool)",
    )


@pytest.fixture(autouse=True)
def details(verbose):
    """Tests look at what was resumed, and at each step."""


@dataclasses.dataclass(frozen=True)
class Project:
    """A workdir with a published base model, and the trainer of its members."""

    config: Config
    workdir: Path
    trainer: Trainer

    @property
    def corpus(self) -> Corpus:
        return open_corpus(self.workdir)

    @property
    def pool(self) -> Pool:
        return open_pool(self.workdir)

    def create(self) -> Pool:
        return create_pool(self.workdir, self.config, self.corpus)

    def train(self, *units: str) -> None:
        runs = [member_run(unit, self.config.recipe) for unit in units]
        train_missing(runs, self.create(), self.corpus, self.trainer)

    def copy(self, workdir: Path) -> "Project":
        shutil.copytree(self.workdir, workdir, symlinks=True)
        return dataclasses.replace(self, workdir=workdir)


@pytest.fixture(scope="package")
def built(tmp_path_factory, quick_to_compile) -> Project:
    """The original; tests do not write to it."""
    folder = tmp_path_factory.mktemp("built")
    config, corpus = tiny.make_corpus(folder)
    config = tiny.changed(config, "recipe", steps=2, batch=24)
    config = tiny.changed(config, "base", batch=24)
    model = tiny.model_of(config, corpus)
    trainer = recipe_trainer(model, config, tiny.mesh_of())
    project = Project(config, folder / "work", trainer)
    # The base model's quality does not matter here: the same program trains it.
    PoolBuilder(
        corpus,
        trainer,
        lambda: tiny.start_of(model),
        project.workdir,
        recipe=dataclasses.asdict(config.base),
    ).train([Run("base", "base", {"base": 1.0}, 1)])
    project.train("a", "b")
    return project


@pytest.fixture(scope="package")
def command(root, tmp_path_factory) -> Command:
    """Starts real launchers."""
    return Command(root, tmp_path_factory.mktemp("launched"))


@pytest.fixture(scope="package")
def undisturbed(command) -> tuple[dict[str, str], list[str]]:
    """Digests of base model and members, and the output of their training."""
    workdir = command.folder / "undisturbed"
    said = command.finish(workdir)
    return digests(open_pool(workdir)), said


@pytest.fixture(scope="package")
def by_two_devices(command) -> tuple[Path, dict[str, str]]:
    """A pool trained by one process with two devices, and its digests.

    Tests do not write to the folder.
    """
    workdir = command.folder / "two-devices"
    train_alone(command, workdir)
    return workdir, digests(open_pool(workdir))


@pytest.fixture
def want(by_two_devices) -> dict[str, str]:
    """The digests that two processes must reproduce."""
    return by_two_devices[1]


@pytest.fixture(scope="package")
def with_base(by_two_devices) -> Callable[[Path], Path]:
    """Makes a workdir with a base model and no members."""

    def make(workdir: Path) -> Path:
        shutil.copytree(by_two_devices[0], workdir, dirs_exist_ok=True)
        shutil.rmtree(workdir / "pool" / "members")
        for name in "abc":
            (workdir / "metrics" / f"{name}.jsonl").unlink()
        return workdir

    return make


@pytest.fixture
def workdir(with_base, tmp_path) -> Path:
    return with_base(tmp_path / "work")


@pytest.fixture
def project(built, tmp_path) -> Project:
    return built.copy(tmp_path / "work")


@pytest.fixture
def in_memory() -> Objects:
    """An empty object store in memory."""
    return empty_store()


@pytest.fixture(scope="package", autouse=True)
def quick_to_compile():
    # Before the other fixtures: results are bit-exact only for one way to compile.
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
