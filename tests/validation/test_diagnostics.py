"""Diagnostics of a pool, before any reference run."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from scoring import tiny

from jaxsim.config import load_config
from jaxsim.errors import DamagedError
from jaxsim.report.show import show_diagnostics
from jaxsim.scoring import Scorer
from jaxsim.validation.diagnostics import (
    BARRIER,
    DO_NOT_TRUST,
    LARGE_DRIFT,
    RANKS_ONLY,
    SMALL_DRIFT,
    TRUST,
    UNIFORM,
    Diagnostics,
    barrier,
    diagnose,
    judge,
    resolution,
    text_errors,
    within_noise,
)

SOUND = {
    "other_base": [],
    "drift": 0.02,
    "line": {0.0: 3.0, 0.25: 2.97, 0.5: 2.945, 0.75: 2.925, 1.0: 2.91, 1.5: 2.9},
    "error": 0.001,
    "barriers": {"uniform": -0.003, "a + b": -0.002},
    "line_barriers": {"a": -0.002, "b": -0.001},
}
# The minimum is halfway, and the end is still below the base model.
OVERSHOT = {0.0: 3.0, 0.25: 2.96, 0.5: 2.95, 0.75: 2.96, 1.0: 2.99, 1.5: 3.1}


@pytest.fixture(scope="module")
def found(scorer):
    """On all windows, as the standard mixtures are scored."""
    return diagnose(scorer, windows=0)


def flat(params):
    leaves = [np.ravel(x) for x in jax.tree.leaves(params)]
    return np.concatenate(leaves).astype(np.float64)


def test_drift_and_cosines_are_those_of_the_trees(found, scorer):
    pool = scorer.pool
    _, base = pool.base()
    members = pool.manifests("member")
    moved_CN = np.array([flat(pool.load(m)) for m in members.values()])
    moved_CN -= flat(base)
    norm_C = np.linalg.norm(moved_CN, axis=1)
    drift_C = norm_C / np.linalg.norm(flat(base))
    assert found.members == list(members)
    for name, drift in zip(members, drift_C, strict=True):
        assert found.drift[name] == pytest.approx(drift, rel=1e-6)
    unit_CN = moved_CN / norm_C[:, None]
    np.testing.assert_allclose(found.cosines, unit_CN @ unit_CN.T, atol=1e-6)


def test_lines_end_at_the_scores_of_base_model_and_members(found, scorer):
    scores = scorer.standard()
    bits_MD = scores.bits_per_byte("merge", "dev")
    bits = dict(zip(scores.table.names, bits_MD, strict=True))
    inside_D = np.array(scorer.evaluation.in_pool)
    approximately = {"rel": 1e-5}
    for name in (UNIFORM, *scorer.members):
        line = found.lines[name]
        for at, row in ((0, "base"), (line["scale"].index(1.0), name)):
            assert line["macro"][at] == pytest.approx(bits[row].mean(), **approximately)
            assert line["macro in-pool"][at] == pytest.approx(
                bits[row][inside_D].mean(), **approximately
            )
            if name != UNIFORM:
                own = scorer.evaluation.domains.index(name)
                assert line["own"][at] == pytest.approx(bits[row][own], **approximately)
    mean = np.mean([bits[name].mean() for name in scorer.members])
    assert found.barriers[UNIFORM] == pytest.approx(
        bits[UNIFORM].mean() - mean, abs=1e-4
    )
    assert len(found.barriers) == 1 + len(scorer.members)


def test_a_sound_pool_is_not_refused(found):
    assert found.verdict != DO_NOT_TRUST
    assert max(found.barriers.values()) < 0
    assert not found.below_noise
    assert 0 < found.resolution["macro"] < found.resolution["outside"]


@pytest.fixture(scope="module")
def rebuilt(project, tmp_path_factory):
    """A pool of the same corpus, trained with other settings."""

    def build(*flags, base: bool = False):
        workdir = tmp_path_factory.mktemp("rebuilt") / "work"
        shutil.copytree(project, workdir)
        shutil.rmtree(workdir / "pool")
        if base:
            shutil.rmtree(workdir / "base")
        for command in ("base", "train"):
            config = project.parent / "tiny.py"
            assert tiny.run(command, workdir, config, *flags) == 0
        return workdir

    return build


def diagnostics_of(workdir, project):
    config = load_config(project / "config.json").score
    return diagnose(Scorer(workdir, config, override=True))


def test_a_tenfold_rate_is_not_trusted(project, rebuilt):
    config = load_config(project / "config.json")
    rate = 10 * config.recipe.learning_rate
    workdir = rebuilt(f"--config.recipe.learning_rate={rate}")
    found = diagnostics_of(workdir, project)
    assert found.verdict == DO_NOT_TRUST
    assert any("worse than the base model" in reason for reason in found.reasons)


def test_members_of_two_base_models_are_not_trusted(project, rebuilt, tmp_path):
    workdir = shutil.copytree(project, tmp_path / "work")
    other = rebuilt("--config.base.seed=1", base=True)
    solo = workdir / "pool" / "members" / "solo"
    shutil.rmtree(solo)
    shutil.copytree(other / "pool" / "members" / "solo", solo)
    found = diagnostics_of(workdir, project)
    assert found.verdict == DO_NOT_TRUST
    assert found.reasons[0].startswith("solo: trained from another base model")
    assert "solo" in found.notes[0]


def test_a_damaged_member_is_left_out(project, tmp_path):
    workdir = shutil.copytree(project, tmp_path / "work")
    tiny.flip(tiny.largest_file(workdir / "pool" / "members" / "solo"))
    found = diagnostics_of(workdir, project)
    assert found.members == [n for n in tiny.MEMBERS if n != "solo"]
    assert set(found.drift) == set(found.members)
    assert np.shape(found.cosines) == (3, 3)
    assert found.notes


def test_kept_as_strict_json(found, tmp_path):
    assert Diagnostics.load(tmp_path) is None
    found.save(tmp_path)
    path = tmp_path / "validation" / "diagnostics.json"
    json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN
    assert Diagnostics.load(tmp_path) == found
    for bad in (path.read_text()[:-30], "[]", "{}"):
        path.write_text(bad)
        with pytest.raises(
            DamagedError, match=r"diagnostics\.json: (unreadable|format)"
        ):
            Diagnostics.load(tmp_path)


def test_what_it_was_measured_on(found, scorer):
    assert found.basis == scorer.basis
    assert found.replicates == 0 and found.windows == 0


def test_the_verdict_comes_first(found, capsys, verbose):
    show_diagnostics(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"Diagnostics of the pool, before reference runs: {found.verdict}"
    )
    assert [line.strip() for line in lines[1:]][: len(found.reasons)] == (found.reasons)
    assert not any("nothing to rank" in line for line in lines)
    bound = dataclasses.replace(found, below_noise=True)
    show_diagnostics(bound)
    assert "nothing to rank" in capsys.readouterr().out


def test_barrier_is_the_highest_rise_above_the_chord():
    assert barrier([0, 0.5, 1], [3.0, 2.9, 2.0]) == pytest.approx(0.4)
    assert barrier([0, 0.5, 1], [3.0, 2.2, 2.0]) == pytest.approx(-0.3)
    # Unevenly spaced: the chord is 2.75 and 2.2 there.
    assert barrier([0, 0.25, 0.8, 1], [3, 2.7, 2.3, 2]) == pytest.approx(0.1)


CASES = {
    "sound": ({}, TRUST, "near the base model"),
    "other_base": ({"other_base": ["b"]}, DO_NOT_TRUST, "b: trained from another"),
    "barrier": (
        {"barriers": {"uniform": -0.1, "a + b": 1.1 * BARRIER}},
        DO_NOT_TRUST,
        "a + b is 0.6% worse",
    ),
    "no barrier": ({"barriers": {"a": 0.9 * BARRIER}}, TRUST, "near the base model"),
    "worse than the base model": (
        {"line": {0.0: 3.0, 0.5: 2.99, 1.0: 3.002}},
        DO_NOT_TRUST,
        "worse than the base model",
    ),
    "far and too far": (
        {"drift": 1.1 * LARGE_DRIFT, "line": OVERSHOT},
        DO_NOT_TRUST,
        "a point halfway",
    ),
    "far but straight": ({"drift": 1.1 * LARGE_DRIFT}, RANKS_ONLY, "33.0%"),
    "lost": ({"drift": 1.1}, DO_NOT_TRUST, "than the base model is from zero"),
    "too far": ({"line": OVERSHOT}, RANKS_ONLY, "bends"),
    "bend within the text's error": (
        {"line": OVERSHOT, "error": 0.2},
        TRUST,
        "near the base model",
    ),
    "drift": ({"drift": 1.1 * SMALL_DRIFT}, RANKS_ONLY, "drift is 3.3%"),
    "line barrier": (
        {"line_barriers": {"a": 1.1 * BARRIER}},
        RANKS_ONLY,
        "base model to a rises",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rules(case):
    changes, expected, sentence = CASES[case]
    verdict, reasons = judge(**SOUND | changes)
    assert verdict == expected
    assert len(reasons) == 1
    assert sentence in reasons[0]


def text(scorer, documents: int):
    """A domain of `documents` documents with four windows of 50 bytes each."""
    document_R = np.repeat(np.arange(documents), 4)
    return dataclasses.replace(
        scorer.evaluation,
        domain_R=np.zeros(len(document_R), int),
        document_R=document_R,
        bytes_R=np.full(len(document_R), 50),
        domains=("one",),
    )


@pytest.mark.parametrize("documents", [9, 3])
def test_text_errors_are_those_of_other_text(scorer, documents):
    """Over documents if there are enough, otherwise over windows."""
    evaluation = text(scorer, documents)
    rows = np.arange(4 * documents)
    rng = np.random.default_rng(0)
    nll_KR = rng.normal(0, 1, (4000, documents, 1)) * np.ones(4)
    nll_KR = nll_KR.reshape(4000, -1)
    bits_K = nll_KR.sum(axis=1) / (200 * documents * np.log(2))
    error_KD = text_errors(evaluation, rows, nll_KR)
    quotient = np.sqrt(np.mean(error_KD**2)) / bits_K.std()
    # The windows of a document are equal here, so they look like four times as many.
    expected = 1.0 if documents >= 5 else np.sqrt(2 / 11)
    assert quotient == pytest.approx(expected, rel=0.05)


def test_resolution_adds_the_noise_of_two_runs():
    error_KD = np.array([[0.03, np.nan, 0.04]])
    bits_D, both = np.array([2.0, 9.0, 2.0]), np.array([0.5, 0.0, 0.5])
    text_only = 196 * 0.025 / 2.0
    assert resolution(error_KD, bits_D, both, None) == pytest.approx(text_only)
    first_PD = np.full((3, 3), 2.0)
    replicates = first_PD, first_PD + 0.02 * np.array([[-1.0], [0.0], [1.0]])
    # Half the variance of the differences, for two runs: all of it.
    found = resolution(error_KD, bits_D, both, replicates)
    assert found == pytest.approx(196 * np.hypot(0.025, 0.02) / 2.0)
    assert resolution(error_KD, bits_D, np.array([0.0, 1.0, 0.0]), None) is None


def test_below_the_noise_floor_only_if_every_domain_is():
    error_CD = np.full((4, 2), 0.01)
    sign_C1 = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    assert within_noise(0.015 * sign_C1 * [1, 1], error_CD, None)
    assert not within_noise(0.015 * sign_C1 * [1, 2], error_CD, None)
    first_PD = np.full((3, 2), 2.0)
    # What differs between replicates is noise; what they share is not.
    apart_P1 = np.array([[-1.0], [0.0], [1.0]])
    noisy = first_PD, first_PD + apart_P1 * np.array([0.0, 0.04])
    assert within_noise(0.015 * sign_C1 * [1, 2], error_CD, noisy)
    unknown_CD = np.full((4, 2), np.nan)
    assert not within_noise(0.0 * sign_C1 * [1, 1], unknown_CD, None)
