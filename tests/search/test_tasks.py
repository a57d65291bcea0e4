"""Records of a task from prepare to report: windows, averages, groups of domains."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from scoring import tiny

from jaxsim import records
from jaxsim.config import load_config
from jaxsim.corpus import open_corpus
from jaxsim.errors import UserError
from jaxsim.scoring import Scorer
from jaxsim.search.objective import objective
from jaxsim.search.result import load_search

PARTS = ("task/easy", "task/hard")


@pytest.fixture(scope="module")
def workdir(project: Path, tmp_path_factory) -> Path:
    """The tiny pool with a task of two subjects, through every command."""
    workdir = tmp_path_factory.mktemp("task") / "work"
    shutil.copytree(project, workdir)
    config = f"{project.parent / 'tiny.py'}:task"
    limits = "--config.search.max_regression={'task': 0.0, 'task/hard': 0.5}"
    for command, *rest in (
        ("prepare",),
        ("score", "--documents"),
        ("search", limits, "--config.search.target={'task': 2.0, 'solo': 1.0}"),
        ("report",),
    ):
        assert tiny.run(command, workdir, config, *rest) == 0
    return workdir


@pytest.fixture(scope="module")
def scorer(workdir: Path) -> Scorer:
    return Scorer(workdir, load_config(workdir / "config.json").score)


def lines_of(workdir: Path) -> dict[str, dict]:
    """The records of the task as they were written, by id."""
    path = workdir.parent / "x"
    config = load_config(workdir / "config.json")
    path = Path(config.corpus.domains["task"].path)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return {record["id"]: record for record in found}


def test_windows_hold_prompt_and_completion(workdir):
    corpus, known = open_corpus(workdir), lines_of(workdir)
    begin, seen = corpus.tokenizer.begin_of_text, 0
    for name in PARTS:
        domain = corpus.domains[name]
        assert (domain.group, domain.in_pool, domain.by_document) == (
            "task",
            False,
            True,
        )
        for split in ("dev", "test"):
            w, truncated = corpus.evaluation(name, split), 0
            for r, document in enumerate(w.documents):
                record = known[document]
                row, first = w.tokens_RL1[r], w.first_R[r]
                scored = row[1:][first : first + w.count_R[r]]
                assert corpus.tokenizer.decode(scored) == record["answer"]
                assert w.bytes_R[r] == len(record["answer"])
                whole = record["question"]["text"] + record["answer"]
                kept = corpus.tokenizer.decode(row[: w.length_R[r] + 1])
                assert kept == whole[-len(kept) :]
                truncated += row[0] != begin
                seen += 1
            counts = domain.tasks[split]
            assert counts == {
                "truncated": truncated, "separate": 0, "too_long": 0, "empty": 0
            }  # fmt: skip
            assert truncated
    assert seen == len(known)


def test_a_domain_is_the_mean_over_its_records(workdir, scorer):
    """From the losses by document, whatever path they took to the table."""
    scores = scorer.load("subsets-1-2")
    path = workdir / "scores" / "subsets-1-2.documents.parquet"
    table = pyarrow.parquet.read_table(path)
    facts = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    assert facts["jaxsim.version"] == str(records.VERSION)
    assert json.loads(facts["jaxsim.basis"]) == records.plain(scores.basis)
    by_place: dict[tuple[str, str], list[dict]] = {}
    ids = set()
    for row in table.to_pylist():
        assert (row["predictor"], row["split"]) == ("merge", "dev")
        by_place.setdefault((row["mixture"], row["domain"]), []).append(row)
        ids.add((row["mixture"], row["domain"], row["id"]))
    assert len(ids) == len(table)
    assert len(by_place) == len(scores.table) * len(scores.evaluation.domains)
    bits_MD = scores.bits_per_byte("merge", "dev")
    for m, name in enumerate(scores.table.names):
        for d, domain in enumerate(scores.evaluation.domains):
            rows = by_place[name, domain]
            nats, size = (np.array([r[k] for r in rows]) for k in ("nats", "bytes"))
            mean = nats.sum() / size.sum()
            if domain in PARTS:
                assert len(set(size.tolist())) > 1
                mean = (nats / size).mean()
            assert bits_MD[m, d] == pytest.approx(mean / np.log(2), rel=1e-12)


def test_a_group_is_a_target_and_has_limits(workdir, scorer):
    found, e = load_search(workdir), scorer.evaluation
    assert found.named == {"task": 2.0, "solo": 1.0}
    assert found.target == {"solo": 1.0, "task/easy": 1.0, "task/hard": 1.0}
    best = found.best
    w_C = np.array([best["weights"].get(name, 0.0) for name in scorer.members])
    windows = load_config(workdir / "config.json").search.windows
    rows = e.rows("dev", windows)
    nll_R = scorer.jacobian(w_C, 1.0, rows).nll_R
    bits_D = e.sums(nll_R, rows) / e.sums(e.bytes_R[rows], rows) / np.log(2)
    bits = dict(zip(e.domains, bits_D, strict=True))
    task = (bits["task/easy"] + bits["task/hard"]) / 2
    assert best["dev"] == pytest.approx((2 * task + bits["solo"]) / 3, rel=1e-6)
    mean = found.means["task"]
    assert mean["best"] == pytest.approx(task, rel=1e-6)
    assert mean["limit"] == mean["base"]
    assert set(found.domains) == {"solo", *PARTS}
    assert found.domains["task/hard"]["limit"] == pytest.approx(
        1.5 * found.domains["task/hard"]["base"]
    )
    assert found.within_limits == (mean["best"] <= mean["limit"] + 1e-4)


def test_the_slope_of_the_objective_is_that_of_its_value(scorer):
    """The path that a descent takes: of means over documents, groups and limits."""
    from jaxsim.search.problem import Problem

    config = load_config(scorer.workdir / "config.json").search
    config = dataclasses.replace(
        config,
        target={"task": 1.0, "outside": 1.0},
        objective="worst",
        max_regression={"macro out-of-pool": -0.9},
    )
    problem = Problem(scorer, config)
    c = len(scorer.members)
    w_C = np.full(c, 1 / c)
    bits_D, bits_DC, _ = problem.derivatives(w_C)
    slope = problem.objective.pieces(bits_D, bits_DC)
    top = int(np.argmax(slope.value_P))
    toward_CC = np.eye(c) - w_C
    h = 2e-3
    ends = [problem._values(w_C + s * h * toward_CC) for s in (1, -1)]
    rise_C = (ends[0] - ends[1]) / (2 * h)
    assert slope.value == pytest.approx(problem._values(w_C[None])[0], rel=1e-6)
    np.testing.assert_allclose(
        toward_CC @ slope.slope_PC[top], rise_C, rtol=0, atol=2e-3 * abs(rise_C).max()
    )


def test_the_default_target_counts_a_task_once(scorer):
    config = dataclasses.replace(
        load_config(scorer.workdir / "config.json").search, target={}
    )
    goal, e = objective(config, scorer.evaluation), scorer.evaluation
    weights = dict(zip(e.domains, goal.weights_D.tolist(), strict=True))
    assert weights["outside"] == 0.5
    assert [weights[name] for name in PARTS] == [0.25, 0.25]
    with pytest.raises(UserError, match=r"'tusk' is not a domain .*task/easy.* task"):
        objective(dataclasses.replace(config, target={"tusk": 1.0}), e)


def test_the_report_names_the_group(workdir):
    page = (workdir / "report" / "index.html").read_text()
    assert "task" in page and "task/easy" in page
