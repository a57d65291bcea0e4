"""SIGKILL before a command's changes of files, one after the other.

`python benchmarks/kills.py` does it to every change of every command.
"""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxsim.checkpoints import StatePath
from jaxsim.config import (
    Config,
    CorpusConfig,
    ModelConfig,
    RecipeConfig,
    SourceConfig,
    SplitConfig,
    TokenizerConfig,
)
from jaxsim.corpus import open_corpus, prepare
from jaxsim.errors import DamagedError, UserError
from jaxsim.pool.group import Group, delete_group, recorded
from jaxsim.records import Basis
from jaxsim.scoring.evaluation import EvaluationSet, gather
from jaxsim.scoring.scores import PredictorScores, Scores
from jaxsim.scoring.store import ScoreStore
from jaxsim.scoring.table import Mixtures
from jaxsim.search.result import SearchResult, load_search, save_search
from jaxsim.train import Run

# Of Python, with the position of the path that changes in their arguments.
CHANGES = {"open": 0, "os.mkdir": 0, "os.remove": 0, "os.rename": 1, "os.rmdir": 0}
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["pytest", "jaxsim.corpus", "jaxsim.scoring.store", "jaxsim.search.result"]
)


def die_at(number: int, folder: Path, action: Callable, *arguments: Any) -> None:
    """Calls `action`, and kills this process before its change `number` of files."""
    left = number

    def look(event: str, given: tuple[Any, ...]) -> None:
        nonlocal left
        if (at := CHANGES.get(event)) is None:
            return
        if event == "open" and not given[2] & (os.O_WRONLY | os.O_RDWR):
            return
        path = str(given[at])
        if event in ("os.remove", "os.rmdir") and given[1] != -1:  # `shutil.rmtree`
            path = f"{os.readlink(f'/proc/self/fd/{given[1]}')}/{path}"
        if path.startswith(str(folder)):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    action(*arguments)


def killed(folder: Path, action: Callable, *arguments: Any) -> Iterator[int]:
    """Kills `action` before its first, second, ... change below `folder`."""
    for number in itertools.count(1):
        process = PROCESSES.Process(
            target=die_at, args=(number, folder, action, *arguments), daemon=True
        )
        process.start()
        process.join(60)
        if process.exitcode == 0:
            assert number > 1
            return
        assert process.exitcode == -signal.SIGKILL
        yield number


def found(name: str, **weights: float) -> SearchResult:
    row = {
        "name": name, "kind": "subset", "weights": weights, "scale": 1.0,
        "dev": 2.0, "test": None, "shift": 0.0, "test_shift": None, "quadratic": None,
        "ensemble": None, "members": None,
        "difference": 0.0, "error": 0.0, "limit": 0.0, "tied": True, "group": 0,
    }  # fmt: skip
    ties = {"heading": "", "resampled": "", "level": 0.9, "min_effect": 0, "count": 1}
    return SearchResult({"a": 1.0}, {"a": 1.0}, "", 1, 1, 1, ties, [row])


def test_a_killed_search_leaves_no_best_mixture_of_another(tmp_path):
    old, new = found("old", a=1.0), found("new", b=1.0)
    best = tmp_path / "search" / "best.csv"
    answers = set()
    save_search(tmp_path, old)
    for _ in killed(tmp_path, save_search, tmp_path, new):
        name = load_search(tmp_path).best["name"]
        assert not best.exists() or best.read_text().splitlines()[1][:3] == name
        answers.add((name, best.exists()))
        save_search(tmp_path, old)
    assert answers == {("old", True), ("old", False), ("new", False), ("new", True)}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Config:
    path = tmp_path_factory.mktemp("text") / "a.jsonl"
    lines = [json.dumps({"id": f"{i}", "text": f"text {i} " * 9}) for i in range(40)]
    path.write_text("\n".join(lines))
    return Config(
        corpus=CorpusConfig(
            partitions={"a": SourceConfig("records", str(path))},
            tokenizer=TokenizerConfig("bytes"),
            split=SplitConfig(salt="t", dev=0.2, test=0.2),
        ),
        model=ModelConfig(length=32),
        recipe=RecipeConfig(steps=1, batch=2),
    )


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    prepare(config, workdir)
    return workdir


def test_a_killed_prepare_leaves_no_part_of_a_corpus(config, undisturbed, tmp_path):
    found, want = tmp_path / "corpus", undisturbed / "corpus"
    record = (want / "corpus.json").read_text()
    for _ in killed(tmp_path, prepare, config, tmp_path):
        # Once it is complete, only the results of passes are left to delete.
        if (found / "corpus.json").exists():
            assert (found / "corpus.json").read_text() == record
        else:
            with pytest.raises(UserError, match="run `jaxsim prepare`"):
                open_corpus(tmp_path)
    assert (found / "corpus.json").read_text() == record
    folders = {p.name for p in found.iterdir() if p.is_dir()}
    assert folders == {p.name for p in want.iterdir() if p.is_dir()}


def test_a_killed_delete_of_a_group_leaves_nothing(tmp_path):
    states, copy = StatePath(tmp_path / "states"), tmp_path / "copy"
    group = Group((Run("a", "member", {"a": 1.0}, 1, 0),), 2)
    group.record(states / ".group-1")
    (states / ".group-1" / "states").mkdir()
    (states / ".group-1" / "states" / "1").touch()
    shutil.copytree(states, copy)
    for _ in killed(tmp_path, delete_group, states / ".group-1"):
        left = {str(path.relative_to(states)) for path, _ in recorded(states)}
        assert left == {path.name for path in states.iterdir()}
        shutil.copytree(copy, states, dirs_exist_ok=True)


def scores(evaluation: EvaluationSet, nats: float) -> Scores:
    table = Mixtures(("a",), ("a",), ("single",), np.ones((1, 1)), np.ones(1))
    rows = np.arange(len(evaluation.count_R))
    nll_MR = np.full((1, len(rows)), nats, np.float32)
    predictors = {"merge": PredictorScores(rows, nll_MR)}
    return Scores("mine", table, evaluation, predictors, (), Basis(evaluation.digest))


def test_a_killed_score_mixes_no_two_tables(undisturbed, tmp_path):
    evaluation, store = gather(open_corpus(undisturbed)), ScoreStore(tmp_path)
    old, new = scores(evaluation, 1.0), scores(evaluation, 2.0)

    def read() -> tuple[float, float]:
        nll_MR = store.load("mine", evaluation).predictors["merge"].nll_MR
        sums = store.arrow("mine")["nll_sum"].to_numpy()
        return float(nll_MR.mean()), float(sums.sum())

    seen = set()
    store.save(old)
    for _ in killed(tmp_path, store.save, new):
        try:
            seen.add(read())
        except DamagedError:
            seen.add(None)
        store.save(old)
    rows = len(evaluation.count_R)
    assert seen == {(1.0, rows), None, (2.0, 2 * rows)}
