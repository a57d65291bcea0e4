"""What ranks a search's candidates, and what the quadratic says of the answer."""

import dataclasses

import numpy as np
import pytest
from scoring import tiny

from jaxsim.errors import UserError
from jaxsim.scoring import quadratic
from jaxsim.scoring.scorer import Scorer
from jaxsim.search.answer import _ranges
from jaxsim.search.objective import EXCESS
from jaxsim.search.problem import Problem
from jaxsim.search.search import _candidates, search
from jaxsim.search.surrogate import surrogate

from .test_search import Apart, descent, on_dev, weights_of


@pytest.fixture
def admitted(monkeypatch):
    """The tiny pool's quadratic is used, however poor it is."""
    monkeypatch.setattr(quadratic, "WORST_SHARE", np.inf)
    monkeypatch.setattr(quadratic, "LEAST_CONVEXITY", -np.inf)


def predicted(scorer, w_MC: np.ndarray, domain: str) -> np.ndarray:
    """Bits per byte by the quadratic, without code of the search."""
    e = scorer.evaluation
    rows = np.flatnonzero(e.split_R == 0)
    d = e.domains.index(domain)
    bytes_D = e.sums(e.bytes_R[rows], rows)
    return scorer.quadratic(rows).sums(w_MC)[:, d] / bytes_D[d] / np.log(2)


@pytest.mark.parametrize("domain", ["outside", "beta,1900-1909"])
@pytest.mark.parametrize("worst_share", [1e-6, 1e6])
def test_it_ranks_if_its_error_on_random_merges_is_small(
    scorer, monkeypatch, domain, worst_share
):
    monkeypatch.setattr(quadratic, "WORST_SHARE", worst_share)
    monkeypatch.setattr(quadratic, "LEAST_CONVEXITY", -np.inf)
    found = search(scorer, descent(target={domain: 1.0}))
    w_MC = scorer.checks().w_MC
    real_M = on_dev(scorer, w_MC, domain)
    error = np.sqrt(np.mean((predicted(scorer, w_MC, domain) - real_M) ** 2))
    random = found.ranking.random
    assert random.error == pytest.approx(error, rel=1e-3)
    assert random.spread == pytest.approx(real_M.std(), rel=1e-3)
    is_used = worst_share > 1
    assert found.ranking.surrogate == ("quadratic" if is_used else "ensemble")
    assert ("of their spread" in found.ranking.refusal) != is_used
    lowest = [row["quadratic"] is not None for row in found.rows]
    lowest += [row["low"] is not None for row in found.sources.values()]
    assert all(lowest) if is_used else not any(lowest)


def test_the_checks_are_paid_and_are_candidates(scorer):
    problem = Problem(scorer, descent())
    surrogate(problem)
    assert problem.loss.spent == 3 + len(scorer.checks())
    w_MC, _ = problem.loss.history
    for w_C in scorer.checks().w_MC:
        assert (np.abs(w_MC - w_C).max(axis=1) == 0).any()


def test_a_target_without_dev_text_is_refused(scorer, monkeypatch):
    e = scorer.evaluation
    is_out_R = e.domain_R == e.domains.index("outside")
    moved = dataclasses.replace(e, split_R=np.where(is_out_R, 1, e.split_R))
    monkeypatch.setattr(scorer, "evaluation", moved)
    with pytest.raises(UserError, match="'outside' has no dev window"):
        search(scorer, descent())


def test_a_budget_that_cannot_pay_for_the_checks_is_not_touched(scorer):
    problem = Problem(scorer, descent(evaluations=45))
    cheap = surrogate(problem)
    assert cheap.name == "ensemble" and cheap.misfit is None
    assert "costs 23 evaluations, more than 50% of" in cheap.refusal
    assert problem.loss.spent == 0
    w_MC = scorer.checks().w_MC
    e, rows = scorer.evaluation, problem.rows
    d = e.domains.index("outside")
    value_M = scorer.ensemble(rows).sums(w_MC)[:, d] / problem.bytes_D[d] / np.log(2)
    np.testing.assert_allclose(cheap.values(w_MC), value_M, rtol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"max_sources": 2}])
def test_a_poor_quadratic_costs_no_quality(scorer, admitted, settings):
    """The answer is a real merge, as low as what the ensemble leads to."""
    found = search(scorer, descent(evaluations=120, **settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quadratic, "WORST_SHARE", -1.0)
        other = search(scorer, descent(evaluations=120, **settings))
    assert (found.ranking.surrogate, other.ranking.surrogate) == (
        "quadratic", "ensemble"
    )  # fmt: skip
    best_C = weights_of(scorer, found.best)
    assert found.best["dev"] == pytest.approx(
        on_dev(scorer, best_C[None], "outside")[0], rel=2e-5
    )
    assert found.best["dev"] <= other.best["dev"] * (1 + 1e-4)


@pytest.mark.parametrize("objective", ["mean", "worst"])
def test_its_curvature_and_its_minimum_are_those_of_its_values(
    scorer, admitted, objective
):
    """With limits and with a correction, which is calibration's."""
    domains = dict.fromkeys(scorer.evaluation.domains, 1.0)
    config = descent(target=domains, objective=objective, max_regression={"solo": -0.5})
    problem = Problem(scorer, config, Apart())
    cheap = surrogate(problem)
    generator = np.random.default_rng(0)
    for _ in range(5):
        at_C, to_C = generator.dirichlet(np.ones(4), 2)
        step_C = 0.01 * (to_C - at_C)
        value_3P = [cheap.slope(at_C + n * step_C).value_P for n in (-1, 0, 1)]
        bend_P = value_3P[0] - 2 * value_3P[1] + value_3P[2]
        expected_P = step_C @ cheap.hessian(at_C) @ step_C
        np.testing.assert_allclose(bend_P, expected_P, rtol=1e-4, atol=1e-9)
        slope_PC = cheap.slope(at_C).slope_PC
        np.testing.assert_allclose(
            slope_PC @ step_C, (value_3P[2] - value_3P[0]) / 2, atol=1e-9
        )
    w_C, _ = cheap.lowest(problem.feasible)
    sample_MC = problem.feasible.sample(3000, generator)
    lowest = cheap.values(w_C[None])[0]
    assert cheap.slope(w_C).value == pytest.approx(lowest)
    assert lowest <= cheap.values(sample_MC).min() + 1e-9


def test_the_residual_of_what_is_shown_is_that_of_its_rows(scorer, admitted):
    """Where it is exact by construction, it proves nothing."""
    found = search(scorer, descent(min_effect=0.5))  # everything ties
    rows = [r for r in found.rows if len(r["weights"]) > 1 and r["kind"] != "uniform"]
    off = [row["quadratic"] - row["dev"] for row in rows]
    assert found.ranking.shown.count == len(rows) > 3
    error = np.sqrt(np.mean(np.square(off)))
    assert found.ranking.shown.error == pytest.approx(error)
    for row in found.rows:
        if row not in rows:
            assert row["quadratic"] == pytest.approx(row["dev"], rel=1e-5)
        w_MC = weights_of(scorer, row)[None]
        assert row["quadratic"] == pytest.approx(predicted(scorer, w_MC, "outside")[0])


def test_the_ranges_of_a_search_hold_what_ties(scorer, admitted):
    found = search(scorer, descent(target={"beta,1900-1909": 1.0}, min_effect=0.01))
    tied = [row for row in found.rows if row["tied"]]
    assert found.range_limit == pytest.approx(tied[-1]["limit"])
    for name, source in found.sources.items():
        weights = [row["weights"].get(name, 0.0) for row in tied]
        assert source["low"] <= source["weight"] <= source["high"]
        assert source["weight"] == weights[0]
        # The quadratic is not the merge.
        assert min(weights) >= source["low"] - 0.05
        assert max(weights) <= source["high"] + 0.05


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_candidates_of_few_sources_hold_the_minimum_if_it_has_few(
    scorer, admitted, seed
):
    """A single sample rarely has the right sources."""
    target = {"beta,1900-1909": 1.0}
    free = surrogate(Problem(scorer, descent(target=target)))
    lowest_C, _ = free.lowest(free.problem.feasible)
    used = np.count_nonzero(lowest_C)
    assert used < len(scorer.members)
    limits = {"max_sources": used, "candidates": 1, "seed": seed}
    problem = Problem(scorer, descent(target=target, **limits))
    w_MC, _ = _candidates(problem, surrogate(problem))
    assert problem.feasible.contains(w_MC).all()
    assert free.values(w_MC).min() <= free.values(lowest_C[None])[0] + 1e-9


def test_ranges_keep_a_regression_limit_that_is_reached(scorer, admitted):
    """However much worse the objective may get."""
    u_C, d = np.full(4, 0.25), scorer.evaluation.domains.index("solo")
    # There, the quadratic is exact.
    bits = on_dev(scorer, u_C[None], "solo")[0]
    base = Problem(scorer, descent(target={"solo": 1.0})).objective.base_D[d]
    problem = Problem(scorer, descent(max_regression={"solo": bits / base - 1}))
    cheap = surrogate(problem)
    range_CE = _ranges(cheap, problem.derivatives(u_C)[:2], u_C, 10.0)
    sample_MC = problem.feasible.sample(20_000, np.random.default_rng(0))
    kept_MC = sample_MC[cheap.bits(sample_MC)[:, d] <= bits + EXCESS]
    assert range_CE[:, 0] == pytest.approx(kept_MC.min(axis=0), abs=0.05)
    assert range_CE[:, 1] == pytest.approx(kept_MC.max(axis=0), abs=0.05)


class Bent(Apart):
    """The opposite: runs lie above merges, by more than the quadratic is convex."""

    def shift(self, w_MC, bits_MD, rows):
        return -super().shift(w_MC, bits_MD, rows)

    def slope(self, w_C, bits_DC, rows):
        return -super().slope(w_C, bits_DC, rows)


@pytest.mark.parametrize(("correction", "known"), [(Apart(), True), (Bent(), False)])
def test_there_are_no_ranges_where_a_correction_makes_the_target_concave(
    scorer, monkeypatch, correction, known
):
    monkeypatch.setattr(quadratic, "WORST_SHARE", np.inf)
    monkeypatch.setattr(quadratic, "LEAST_CONVEXITY", -0.9)
    u_C = np.full(4, 0.25)
    problem = Problem(scorer, descent(), correction)
    here = problem.derivatives(u_C)[:2]
    range_CE = _ranges(surrogate(problem), here, u_C, 0.01)
    assert np.isfinite(range_CE).all() == known
    assert np.isnan(range_CE).any() != known


def test_a_damaged_member_does_not_change_the_curvature_of_the_others(
    workdir, config, admitted
):
    tiny.flip(tiny.largest_file(workdir / "pool/members/solo"))
    scorer = Scorer(workdir, config.score, override=True)
    d = scorer.evaluation.domains.index("beta,1900-1909")
    cheap = surrogate(Problem(scorer, descent(target={"beta,1900-1909": 1.0})))
    sound = np.flatnonzero(~cheap.quadratic.damaged_C)
    at_C, step_C, along_cc = np.zeros(4), np.zeros(4), np.eye(3) - 1 / 3
    at_C[sound] = 1 / 3
    # Where it bends up most, nothing is to be made convex.
    bend_cc = cheap.quadratic.hessian_DCC[d][np.ix_(sound, sound)]
    step_C[sound] = 0.02 * np.linalg.eigh(along_cc @ bend_cc @ along_cc)[1][:, -1]
    low, here, high = cheap.values(at_C + np.outer([-1, 0, 1], step_C))
    (hessian_CC,) = cheap.hessian(at_C)
    assert step_C @ hessian_CC @ step_C == pytest.approx(low - 2 * here + high)
