"""From scores of ratios and of truths to the tables of agreement."""

import dataclasses
import json

import numpy as np
import pytest

from jaxsim.errors import DamagedError
from jaxsim.mixture.table import dirichlet
from jaxsim.search.ties import Residual
from jaxsim.study.validate import (
    IN_POOL,
    OUT_OF_POOL,
    compare,
    load_validation,
    mean_agreement,
    save_validation,
)


@pytest.fixture(scope="module")
def proxies(scorer):
    table = dirichlet(scorer.members, 12, 1.0, rng=0)
    return scorer.score("ratios", table, "report")


@pytest.fixture(scope="module")
def truth_MD(proxies):
    """Truths that are the merge, but for a shift and a little noise."""
    noise = np.random.default_rng(0).normal(0, 0.01, (12, 5))
    return proxies.bits_per_byte("merge", "report") - 0.5 + noise


@pytest.fixture(scope="module")
def validation(scorer, proxies, truth_MD):
    repeats = truth_MD[:4], truth_MD[:4] + 0.001
    return compare(
        scorer.corpus, proxies, truth_MD, truth_MD, repeats, given=False
    )


def test_targets_and_kinds(validation, scorer):
    kinds = dict(zip(validation.targets, validation.kinds, strict=True))
    assert kinds == dict.fromkeys(scorer.members, "in-pool") | {
        "outside": "out-of-pool",
        IN_POOL: "macro",
    }
    assert OUT_OF_POOL not in kinds  # of a single domain it is that domain


def test_points_are_bits_per_byte(validation, proxies, truth_MD, scorer):
    e = scorer.evaluation
    for predictor in ("merge", "probability", "members"):
        bits_MD = proxies.bits_per_byte(predictor, "report")
        points = validation.points[predictor]
        for d, domain in enumerate(e.domains):
            np.testing.assert_allclose(points[domain], bits_MD[:, d])
        np.testing.assert_allclose(
            points[IN_POOL], bits_MD[:, np.array(e.in_pool)].mean(1)
        )
    np.testing.assert_allclose(
        validation.points["truth"]["solo"], truth_MD[:, e.domains.index("solo")]
    )


def test_agreement_of_every_target(validation):
    for target, table in validation.agreement.items():
        assert table["merge"]["spearman"] > 0.9
        assert table["merge"]["interval"] is not None
        assert table["random"]["pairs"] == 0.5
        own = {"membership", "own weight"} & set(table)
        inside = target not in ("outside", IN_POOL)
        assert own == ({"membership", "own weight"} if inside else set())
        assert np.isfinite(table["merge"]["pairs_mixed"]) == inside
    assert mean_agreement(validation, "in-pool", "merge", "spearman") > 0.9
    assert np.isnan(
        mean_agreement(validation, "out-of-pool", "own weight", "spearman")
    )


def test_ceilings_come_from_repeats(validation, scorer, proxies, truth_MD):
    assert validation.repeats == 4
    assert min(validation.ceilings.values()) > 0.99
    without = compare(scorer.corpus, proxies, truth_MD, None, None, given=True)
    assert without.ceilings == {} and without.repeats == 0
    assert "best single weight" not in without.agreement["outside"]


def test_domains_without_truths_are_no_targets(scorer, proxies, truth_MD):
    some_MD = np.full_like(truth_MD, np.nan)
    column = scorer.evaluation.domains.index("outside")
    some_MD[:, column] = truth_MD[:, column]
    found = compare(scorer.corpus, proxies, some_MD, None, None, given=True)
    assert found.targets == ["outside"]


def test_residual_is_the_scatter_and_not_the_shift(validation):
    found = validation.residual({"outside": 1.0})
    truth, merge = (
        np.array(validation.points[name]["outside"])
        for name in ("truth", "merge")
    )
    expected = np.std(truth - merge, ddof=1)
    offset = pytest.approx(np.mean(truth - merge))
    assert found == Residual(pytest.approx(expected), 12, offset)
    assert 0.003 < found.deviation < 0.03
    both = validation.residual({"outside": 3.0, "solo": 1.0})
    difference = [
        0.75 * validation.points[name]["outside"][0]
        + 0.25 * validation.points[name]["solo"][0]
        for name in ("truth", "merge")
    ]
    assert both.truths == 12 and both.deviation != found.deviation
    assert abs(difference[0] - difference[1] + 0.5) < 0.05
    assert validation.residual({"outside": 1.0, "later": 1.0}) is None
    few = dataclasses.replace(validation, truths=validation.truths[:2])
    assert few.residual({"outside": 1.0}) is None


def test_what_it_was_computed_from(validation, scorer, proxies):
    assert validation.evaluation == scorer.evaluation.digest
    assert validation.digests == scorer.proxies.stack.pins
    assert validation.is_of(proxies)
    digests = dict(proxies.digests) | {"small": "x"}
    assert not validation.is_of(dataclasses.replace(proxies, digests=digests))
    text = dataclasses.replace(scorer.evaluation, digest="x")
    assert not validation.is_of(dataclasses.replace(proxies, evaluation=text))


def test_kept_as_strict_json(validation, tmp_path):
    assert load_validation(tmp_path) is None
    save_validation(tmp_path, validation)
    path = tmp_path / "study" / "validation.json"
    json.loads(path.read_text(), parse_constant=pytest.fail)  # no NaN
    found = load_validation(tmp_path)
    assert found.points == validation.points
    assert found.digests == validation.digests
    random = found.agreement["outside"]["random"]
    assert np.isnan(random["slope"]) and random["interval"] is None
    assert (
        found.agreement["solo"]["merge"]["spearman"]
        == (validation.agreement["solo"]["merge"]["spearman"])
    )
    for bad in (path.read_text()[:-30], "[]", "{}"):
        path.write_text(bad)
        with pytest.raises(DamagedError, match=r"validation.json: unreadable"):
            load_validation(tmp_path)
