"""One corpus and one compiled step for all tests of training."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest

from jaxsim.config import Config
from jaxsim.corpus import Corpus
from jaxsim.model import LanguageModel
from jaxsim.train import Run, Trained, Trainer, member_run, recipe_trainer

from . import tiny


@dataclasses.dataclass(frozen=True)
class Setting:
    """Shared and never changed; every training has its own folder."""

    config: Config
    corpus: Corpus
    model: LanguageModel
    start: Any
    trainer: Trainer

    @property
    def run(self) -> Run:
        return member_run("a", self.config.recipe)

    def train(
        self,
        folder: Path,
        run: Run | None = None,
        trainer: Trainer | None = None,
        **options: Any,
    ) -> Trained:
        """One run alone; raises what stopped it."""
        options.setdefault("start", self.start)
        (outcome,) = (trainer or self.trainer).train(
            [run or self.run],
            self.corpus,
            scratch=folder / "scratch",
            metrics=[folder / "metrics.jsonl"],
            **options,
        )
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture(scope="package")
def setting(tmp_path_factory, quick_to_compile) -> Setting:
    config, corpus = tiny.make_corpus(tmp_path_factory.mktemp("corpus"))
    model = tiny.model_of(config, corpus)
    trainer = recipe_trainer(model, config, tiny.mesh_of())
    return Setting(config, corpus, model, tiny.start_of(model), trainer)


@pytest.fixture(scope="package")
def trained(setting, tmp_path_factory) -> tuple[Trained, Path]:
    """The uninterrupted run on unit a, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return setting.train(folder), folder


@pytest.fixture(scope="package", autouse=True)
def quick_to_compile():
    # Bit-exactness holds for one way to compile: before the other fixtures.
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
