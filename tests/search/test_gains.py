"""What an answer gains on test text, and its closed form for other programs."""

import dataclasses

import numpy as np
import pytest

from jaxsim.config import SearchConfig
from jaxsim.errors import UserError
from jaxsim.records import dump
from jaxsim.search.answer import groups
from jaxsim.search.closed_form import ClosedForm, closed_form
from jaxsim.search.gains import gains
from jaxsim.search.problem import Form, Problem
from jaxsim.search.result import load_search, save_search
from jaxsim.search.search import search
from jaxsim.search.ties import Residual

CONFIG = SearchConfig(target={"outside": 1.0}, candidates=200, evaluations=60)


class Lower:
    """Training is below merges by 0.1 bits times (1 - squared weights)."""

    def shift(self, w_MC, bits_MD, rows):
        spread_M = 1 - np.sum(w_MC**2, axis=1)
        return np.broadcast_to(-0.1 * spread_M[:, None], bits_MD.shape)

    def slope(self, w_C, bits_DC, rows):
        return np.broadcast_to(0.2 * w_C, bits_DC.shape)

    def closed(self, merge, ensemble):
        return Form(
            merge.constant_D - 0.1,
            merge.linear_DC,
            merge.curve_DCC - 0.4 * np.eye(merge.linear_DC.shape[1]),
        )


@pytest.fixture(scope="module", params=[None, Lower()], ids=["merges", "corrected"])
def searched(request, scorer):
    problem = Problem(scorer, CONFIG, request.param)
    return problem, search(scorer, CONFIG, correction=request.param)


def test_gains_are_differences_of_what_is_predicted_on_test_text(searched, scorer):
    _, found = searched
    mine = found.predicted(found.best, "test")
    rows = {row["name"]: row for row in found.rows}
    for name in ("uniform", "proportional"):
        against = found.against[name]
        other = found.predicted(rows[name], "test")
        assert against["value"] == pytest.approx(other, rel=1e-12)
        assert against["gain"] == pytest.approx(1 - mine / other, abs=1e-12)
    standard = scorer.standard()
    bits_MD = standard.bits_per_byte("merge", "test")
    d = scorer.evaluation.domains.index("outside")
    assert found.against["base"]["value"] == pytest.approx(bits_MD[0, d])
    for name, source in found.sources.items():
        alone = bits_MD[standard.table.names.index(name), d]
        assert source["gain"] == pytest.approx(1 - alone / bits_MD[0, d], abs=1e-6)
        assert source["gain_low"] <= source["gain"] <= source["gain_high"]


def test_reference_runs_widen_the_intervals(searched):
    problem, _ = searched
    w_C, width = np.array([0.4, 0.3, 0.2, 0.1]), {}
    for deviation in (0.0, 0.5):
        against, alone = gains(problem, w_C, Residual(deviation, 12))
        width[deviation] = {n: row["high"] - row["low"] for n, row in against.items()}
        assert all(row["gain"] is not None for row in alone.values())
    for name, wide in width[0.5].items():
        assert wide > 3 * width[0.0][name]
    # The base model is known; two mixtures are not, and their errors add up.
    assert width[0.5]["proportional"] > 1.2 * width[0.5]["base"]


def test_a_single_member_that_is_not_shifted_was_trained_itself(searched):
    """What runs show of merges says nothing about it."""
    problem, _ = searched
    if problem.correction is None:  # without reference runs, nothing is known
        return
    wide, known = (
        gains(problem, w_C, Residual(0.5, 12))[0]["base"]
        for w_C in np.array([[0.9, 0.1, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    )
    assert known["high"] - known["low"] < (wide["high"] - wide["low"]) / 3


def test_an_answer_that_is_the_other_mixture_gains_nothing(searched, scorer):
    problem, _ = searched
    merges = scorer.merges()
    w_C = merges.w_MC[merges.names.index("proportional")]
    against, _ = gains(problem, w_C, Residual(0.5, 12))
    assert against["proportional"]["gain"] == 0
    assert against["proportional"]["low"] is None


def test_the_closed_form_is_exact_where_it_must_be(searched, scorer):
    """At members and at equal weights; and presets are what the search predicted."""
    problem, found = searched
    form = closed_form(problem, found)
    e = scorer.evaluation
    assert form.members == list(scorer.members) and form.domains == list(e.domains)
    presets = {p["name"]: np.array(p["bits"]) for p in form.presets}
    w_MC = form.preset_MC
    for m, name in enumerate(presets):
        if name == "uniform" or np.count_nonzero(w_MC[m]) == 1:
            expected = pytest.approx(presets[name], abs=3e-6)  # float32 losses
            assert form.bits(w_MC[m : m + 1])[0] == expected
    value = form.objective.value
    best = value(presets["best"][None])[0]
    assert best == pytest.approx(found.predicted(found.best, "test"), rel=1e-12)
    gain = form.gain(presets["best"][None])[0]
    assert gain == pytest.approx(found.against["proportional"]["gain"], abs=1e-12)
    assert form.checks == 20 and len(form.residual) == len(e.domains)


def test_the_next_percent_is_the_change_of_the_closed_form(searched):
    problem, found = searched
    form = closed_form(problem, found)
    w_C = np.full(len(form.members), 1 / len(form.members))
    small = 1e-5
    for c, gain in enumerate(form.next_percent(w_C)):
        moved_C = w_C + small * (np.eye(len(w_C))[c] - w_C)
        value_2 = form.objective.value(form.bits(np.array([w_C, moved_C])))
        slope = (value_2[1] - value_2[0]) / small
        assert gain == pytest.approx(-0.01 * slope, rel=1e-2, abs=1e-6)


def test_it_is_saved_with_its_search_and_goes_with_it(searched, tmp_path):
    problem, found = searched
    form = closed_form(problem, found)
    save_search(tmp_path, found, form)
    assert dump(ClosedForm.load(tmp_path)) == dump(form)
    assert load_search(tmp_path).shortlist[0]["name"] == found.best["name"]
    save_search(tmp_path, found)
    assert ClosedForm.load(tmp_path) is None
    broken = dataclasses.replace(form, residual=form.residual[:-1])
    with pytest.raises(UserError, match="residual"):
        save_search(tmp_path, found, broken)


def test_nearly_equal_mixtures_that_tie_are_one_group():
    w_MC = np.array(
        [[0.5, 0.5], [0.2, 0.8], [0.55, 0.45], [0.58, 0.42], [0.62, 0.38], [1.0, 0.0]]
    )
    assert groups(w_MC, np.array([0, 2, 4, 1, 3])) == {0: 0, 2: 0, 4: 1, 1: 2, 3: 0}
