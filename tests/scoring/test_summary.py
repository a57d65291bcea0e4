"""The rows of a table that are shown: the best ones, by every predictor."""

import dataclasses

import numpy as np
import pytest

from jaxsim.report.summary import summarize
from jaxsim.scoring.table import concatenate, dirichlet, proportional, uniform


@pytest.fixture(scope="module")
def scores(scorer):
    table = concatenate(
        uniform(scorer.members),
        dirichlet(scorer.members, 8, 0.3, seed=0),
        proportional(scorer.members, [1, 2, 3, 4]),
    )
    return scorer.score("summary", table, "dev", windows=2)


def test_the_best_by_the_merge_and_the_plain_merges(scores):
    best = summarize(scores, "dev", most=5)
    e, names = scores.evaluation, scores.table.names
    outside = e.domains.index("outside")
    bits_M = scores.bits_per_byte("merge", "dev")[:, outside]
    shown = [names[m] for m in best.rows]
    order = [names[m] for m in np.argsort(bits_M)]
    assert shown[:3] == order[:3]
    assert set(shown) == {*order[:3], "uniform", "proportional"}
    everything = summarize(scores, "dev", most=30)
    assert [names[m] for m in everything.rows] == order


def test_all_predictors_see_the_windows_of_the_merge(scores, scorer):
    best = summarize(scores, "dev", most=30)
    assert best.targets == ("outside", "macro in-pool")
    assert best.windows == 2
    e = scores.evaluation
    inside = [d for d, is_in in enumerate(e.in_pool) if is_in]
    rows = e.rows("dev", 2)
    for predictor in ("merge", "ensemble", "members"):
        part = scores.predictors[predictor]
        at = np.searchsorted(part.rows, rows)
        bits_MD = np.stack(
            [
                part.nll_MR[:, at[e.domain_R[rows] == d]].sum(axis=1)
                / e.bytes_R[rows][e.domain_R[rows] == d].sum()
                / np.log(2)
                for d in range(len(e.domains))
            ],
            axis=1,
        )[best.rows]
        np.testing.assert_allclose(
            best.bits[predictor],
            np.stack(
                [
                    bits_MD[:, e.domains.index("outside")],
                    bits_MD[:, inside].mean(axis=1),
                ],
                axis=1,
            ),
            rtol=1e-5,
        )


def test_the_first_target_is_the_mean_of_several(scores):
    e = scores.evaluation
    first = [False, *e.in_pool[1:]]
    turned = dataclasses.replace(
        scores, evaluation=dataclasses.replace(e, in_pool=tuple(first))
    )
    best = summarize(turned, "dev", most=4)
    assert best.targets == (
        "macro out-of-pool", e.domains[0], "outside", "macro in-pool"
    )  # fmt: skip
    np.testing.assert_allclose(
        best.bits["merge"][:, 0], best.bits["merge"][:, 1:3].mean(axis=1)
    )
    assert (np.diff(best.bits["merge"][:2, 0]) >= 0).all()
