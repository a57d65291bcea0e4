"""Which mixtures are trained: held-out runs, the design, replicates."""

import dataclasses
import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from jaxsim.config import RecipeConfig, ValidateConfig
from jaxsim.corpus.store import Unit
from jaxsim.errors import UserError
from jaxsim.scoring.table import dirichlet
from jaxsim.train import member_run
from jaxsim.validation.runs import (
    best_mixtures,
    design,
    draw_held_out,
    held_out_runs,
    mixture_table,
    replicate_runs,
    run_of,
)
from jaxsim.validation.validate import NEAR_BEST

MEMBERS = ("a", "b", "c", "d")
RECIPE = RecipeConfig(steps=10)
CONFIG = ValidateConfig(
    held_out=12, calibration_runs=6, replicates=3, member_replicates=2
)
# Each of the three likes another member best.
BEST = {
    part: np.roll([[x, 0.8 - x, 0.1, 0.1] for x in (0.7, 0.65, 0.6, 0.55)], i, axis=1)
    for i, part in enumerate(NEAR_BEST)
}


def changed(**values) -> ValidateConfig:
    return dataclasses.replace(CONFIG, **values)


def drawn(config=CONFIG, members=MEMBERS):
    return draw_held_out(members, config, RECIPE, lambda: BEST)


def mixtures(runs):
    return mixture_table(MEMBERS, runs).w_MC


def test_held_out_runs_are_a_function_of_their_seed():
    first = drawn()
    assert first == drawn()
    other = drawn(changed(seed=1))
    # Few mixtures are among the best; the others are all different.
    same = {run.name for run in first[1]} & {run.name for run in other[1]}
    assert len(same) <= 4
    longer = drawn(changed(held_out=14))
    assert tuple(found[:12] for found in longer) == first


@pytest.mark.parametrize("concentration", [4.0, 0.01])
def test_the_best_are_found_when_a_draw_needs_them(concentration):
    """A draw that gives a single member moves on to the next part of the turn."""
    calls = []

    def best():
        calls.append(1)
        return BEST

    few = changed(concentration=concentration, held_out=3)
    found = draw_held_out(MEMBERS, few, RECIPE, best)
    assert len(calls) == (concentration < 1)
    longer = drawn(dataclasses.replace(few, held_out=4))
    assert tuple(part[:3] for part in longer) == found
    draw_held_out(MEMBERS, changed(budget="sum"), RECIPE, pytest.fail)


def test_the_sampling_distribution_of_held_out_runs():
    """Half from a Dirichlet, a quarter subsets, a quarter near the best, in thirds."""
    parts, runs = drawn(changed(held_out=24))
    # A mixture that was drawn before is skipped, and the next part has its turn.
    count = Counter(parts)
    assert 11 <= count["dirichlet"] <= 13 and 4 <= count["subset"] <= 7
    assert {*count} == {"dirichlet", "subset", *NEAR_BEST}
    assert {count[part] for part in NEAR_BEST} <= {1, 2, 3}
    for part, run in zip(parts, runs, strict=True):
        w_C = mixtures([run])[0]
        if part in NEAR_BEST:
            assert (np.abs(BEST[part] - w_C).max(axis=1) < 1e-12).any()
        elif part == "subset":
            assert len(set(run.mixture.values())) == 1
        else:
            assert len(set(run.mixture.values())) > 1


@pytest.mark.parametrize("concentration", [4.0, 0.05])
def test_held_out_runs_are_mixtures(concentration):
    """Never single members: at token multiplier 1 those are members again."""
    _, runs = drawn(changed(concentration=concentration))
    assert len({run.name for run in runs}) == 12
    for run in runs:
        assert len(run.mixture) >= 2
        assert min(run.mixture.values()) > 0
        assert sum(run.mixture.values()) == pytest.approx(1, abs=1e-12)
        assert run.steps == 10


def test_token_multiplier_and_sum_budget():
    assert {run.steps for run in drawn(changed(token_multiplier=2.5))[1]} == {25}
    parts, runs = drawn(changed(held_out=8, budget="sum"))
    assert set(parts) == {"subset"}
    for run in runs:
        assert set(run.mixture.values()) == {1 / len(run.mixture)}
        assert run.steps == 10 * len(run.mixture)


def test_runs_on_few_units():
    """With `largest`, held-out and calibration runs are of two or three units."""
    settings = changed(budget="sum", largest=3)
    assert {len(run.mixture) for run in drawn(settings)[1]} == {2, 3}
    assert held_out_runs(changed(held_out=100, budget="sum", largest=3), 12) == 100
    settings = changed(held_out=1000, budget="sum", largest=3)
    assert held_out_runs(settings, 12) == 66 + 220
    assert held_out_runs(settings, 2) == 1
    w_FC = design(20, 6, 3)
    assert {*np.count_nonzero(w_FC, axis=1)} == {2, 3}


def test_more_held_out_runs_than_there_are_mixtures(capsys):
    parts, runs = drawn(changed(budget="sum"), MEMBERS[:3])
    assert {tuple(run.mixture) for run in runs} == {
        (a, b) for a, b in itertools.combinations(MEMBERS[:3], 2)
    } | {tuple(MEMBERS[:3])}
    assert parts == ["subset"] * 4
    assert (
        "4 held-out runs instead of 12: a pool of 3 members" in capsys.readouterr()[0]
    )
    with pytest.raises(UserError, match="a pool of one member has no mixtures"):
        drawn(members=MEMBERS[:1])


def test_calibration_runs_are_no_held_out_runs():
    held_out_MC = mixtures(drawn()[1])
    w_FC = design(CONFIG.calibration_runs, 4, exclude_MC=held_out_MC)
    runs = [run_of(MEMBERS, w_C, CONFIG, RECIPE) for w_C in w_FC]
    assert len({run.name for run in runs}) == CONFIG.calibration_runs
    assert not {run.name for run in runs} & {run.name for run in drawn()[1]}
    # The design's first choice is refused if it is held out.
    first_C = design(1, 4)[0]
    assert not np.allclose(design(1, 4, exclude_MC=first_C[None])[0], first_C)
    for w_C in design(CONFIG.calibration_runs, 4, 4, exclude_MC=held_out_MC):
        run = run_of(MEMBERS, w_C, changed(budget="sum"), RECIPE)
        assert set(run.mixture.values()) == {1 / len(run.mixture)}
        assert run.steps == 10 * len(run.mixture)


def test_a_longer_design_begins_with_the_shorter_one():
    np.testing.assert_array_equal(design(8, 12)[:5], design(5, 12))


def left_over(design_MC, w_KC):
    """Mean posterior variance of a curvature at mixtures, after a design."""
    x_MC, x_KC = (w * (1 - w) for w in (design_MC, w_KC))
    c = w_KC.shape[1]
    precision_CC = np.linalg.inv(np.eye(c) + 1) + x_MC.T @ x_MC / 0.1**2
    return np.mean(np.sum(x_KC @ np.linalg.inv(precision_CC) * x_KC, axis=1))


def test_a_design_leaves_less_than_draws_from_the_sampling_distribution():
    generator = np.random.default_rng(5)
    w_KC = generator.dirichlet(np.full(12, 2.0), 500)
    random = [
        left_over(generator.dirichlet(np.full(12, 4.0), 8), w_KC) for _ in range(20)
    ]
    assert left_over(design(8, 12), w_KC) < 0.95 * min(random)


def test_near_the_best_are_the_best_of_their_draws(scorer, config):
    """On the dev text of the search's target, by each predictor and by the mean."""
    settings = changed(candidates=200)
    config = dataclasses.replace(config, validate=settings)
    best = best_mixtures(scorer, config)
    draws = dirichlet(scorer.members, 200, 1.0, seed=0)
    draws = dataclasses.replace(draws, w_MC=np.round(draws.w_MC, 6))
    scores = scorer.score("draws", draws, "dev", config.score.windows)
    outside = scorer.evaluation.domains.index("outside")
    merge_M, ensemble_M = (
        scores.bits_per_byte(p, "dev")[:, outside] for p in ("merge", "ensemble")
    )
    values = {"merge": merge_M, "ensemble": ensemble_M}
    values["mean"] = (merge_M + ensemble_M) / 2
    for part, predictor in NEAR_BEST.items():
        assert best[part].shape == (2, len(scorer.members))
        # A closed form is not exact, and least for a model that is hardly trained.
        for w_C in best[part]:
            (row,) = np.flatnonzero(np.abs(draws.w_MC - w_C).max(axis=1) < 1e-5)
            assert np.argsort(values[predictor]).tolist().index(row) < 40


def test_replicates_of_held_out_runs_come_first():
    reference_runs = drawn()[1]
    members = [member_run(name, RECIPE) for name in MEMBERS]
    replicates = replicate_runs(reference_runs, members, CONFIG)
    chosen = [*reference_runs[:3], *members[:2]]
    for run, again in zip(chosen, replicates, strict=True):
        assert again.name == f"{run.name}.replicate1"
        assert (again.kind, again.data_seed) == ("replicate", run.data_seed + 1)
        assert (again.mixture, again.steps) == (run.mixture, run.steps)


def test_the_table_of_runs():
    runs = drawn()[1]
    table = mixture_table(MEMBERS, runs)
    assert table.names == tuple(run.name for run in runs)
    for m, run in enumerate(runs):
        assert table.parts(m) == run.mixture


def test_runs_are_predicted_at_the_shares_of_their_rows():
    """Whole rows: what the schedule of a run holds, and not what was asked for."""
    names = (*MEMBERS, "base")
    units = {name: Unit(name, name, "", name, 40, 320, 1, 320) for name in names}
    corpus = SimpleNamespace(unit=units.__getitem__)
    recipe = RecipeConfig(steps=5, batch=8, replay=0.25)
    runs = draw_held_out(MEMBERS, CONFIG, recipe, lambda: BEST)[1]
    table = mixture_table(MEMBERS, runs, recipe)
    for m, run in enumerate(runs):
        rows = run.schedule(corpus, recipe)
        taken = Counter(np.array(rows.units)[rows.unit_R].tolist())
        assert taken.pop("base") == 10
        assert table.parts(m) == {name: n / 30 for name, n in taken.items()}
    assert np.abs(table.w_MC - mixtures(runs)).max() > 0.005


UNITS = 12
NOISE = 0.1
COVARIANCE_CC = np.eye(UNITS) + 1  # of coefficients that share a mean


def curved(w_KC: np.ndarray) -> np.ndarray:
    return w_KC * (1 - w_KC)


def targets(generator, count=2000) -> np.ndarray:
    """Mixtures to predict."""
    concentrations = (1.0, 4.0)
    return np.concatenate(
        [
            generator.dirichlet(np.full(UNITS, alpha), count // 2)
            for alpha in concentrations
        ]
    )


def estimator(design_MC: np.ndarray) -> np.ndarray:
    """[C, M] maps differences to coefficients: their mean given the runs."""
    x_MC = curved(design_MC)
    among_MM = x_MC @ COVARIANCE_CC @ x_MC.T + NOISE**2 * np.eye(len(x_MC))
    return COVARIANCE_CC @ x_MC.T @ np.linalg.inv(among_MM)


def left_over_of(design_MC: np.ndarray, w_KC: np.ndarray) -> float:
    """Mean variance of the difference at mixtures, after a design."""
    x_MC, x_KC = curved(design_MC), curved(w_KC)
    after_CC = COVARIANCE_CC - estimator(design_MC) @ x_MC @ COVARIANCE_CC
    return float(np.mean(np.sum(x_KC @ after_CC * x_KC, axis=1)))


def randoms(count: int, generator, draws: int = 20) -> list[np.ndarray]:
    """Designs drawn from the sampling distribution of held-out runs."""
    return [generator.dirichlet(np.full(UNITS, 4.0), count) for _ in range(draws)]


def test_mixtures_of_several_members():
    w_MC = design(10, UNITS)
    assert w_MC.shape == (10, UNITS)
    assert (w_MC >= 0).all()
    np.testing.assert_allclose(w_MC.sum(axis=1), 1, atol=1e-12)
    assert (np.count_nonzero(w_MC, axis=1) > 1).all()


@pytest.mark.parametrize("largest", [0, UNITS])
def test_the_first_of_a_longer_design_are_the_shorter_one(largest):
    longer_MC = design(9, UNITS, largest)
    np.testing.assert_array_equal(longer_MC[:4], design(4, UNITS, largest))


def test_mixtures_are_apart():
    """By a tenth of the tokens or more."""
    w_MC = design(24, 3)
    for m, w_C in enumerate(w_MC):
        apart_M = np.abs(np.delete(w_MC, m, axis=0) - w_C).sum(axis=1) / 2
        assert apart_M.min() >= 0.1


def test_no_excluded_mixture():
    excluded_MC = design(4, UNITS)
    found_MC = design(6, UNITS, exclude_MC=excluded_MC)
    assert len(found_MC) == 6
    for w_C in found_MC:  # and none that is nearly the same: it shares the noise
        assert np.abs(excluded_MC - w_C).sum(axis=1).min() / 2 >= 0.05


def test_an_excluded_mixture_may_be_rounded():
    """To the six decimals of a table: 0.166665 and five times 0.166667."""
    sixth_C = np.full(6, 1 / 6)
    assert (np.abs(design(60, 6, 6) - sixth_C).max(axis=1) < 1e-9).any()
    rounded_C = np.round(sixth_C, 6)
    rounded_C[0] += 1 - rounded_C.sum()
    found_MC = design(60, 6, 6, exclude_MC=rounded_C[None])
    assert (np.abs(found_MC - sixth_C).max(axis=1) > 1e-3).all()


def test_only_subsets():
    """Equal weights; and all eleven of four members, once each."""
    for w_C in design(8, UNITS, UNITS):
        weights = w_C[w_C > 0]
        np.testing.assert_allclose(weights, 1 / len(weights))
    assert len(design(100, 4, 4)) == 2**4 - 4 - 1
    weights_MC = design(8, UNITS)
    assert not np.allclose(weights_MC[weights_MC > 0], 1 / UNITS)


def test_a_function_of_its_seed():
    np.testing.assert_array_equal(design(5, UNITS), design(5, UNITS))
    assert not np.array_equal(design(5, UNITS), design(5, UNITS, seed=1))


@pytest.mark.parametrize("count, most", [(4, 1.0), (8, 0.9), (16, 0.6)])
def test_it_leaves_less_than_random_designs(count, most):
    """Than their mean; from eight mixtures on, than any of twenty."""
    generator = np.random.default_rng(count)
    w_KC = targets(generator)
    left_D = [left_over_of(w_MC, w_KC) for w_MC in randoms(count, generator)]
    left = left_over_of(design(count, UNITS), w_KC)
    assert left < most * np.mean(left_D)
    assert count < 8 or left < 0.95 * min(left_D)


def test_a_calibration_is_better_with_it():
    """Run minus merge is as the design assumes, with other numbers."""
    generator = np.random.default_rng(1)
    w_KC = targets(generator)
    designs = [design(8, UNITS), *randoms(8, generator, 10)]
    error_D = np.zeros(len(designs))
    for _ in range(200):
        a_C = generator.normal(1.0, 0.7, UNITS)
        for d, w_MC in enumerate(designs):
            difference_M = curved(w_MC) @ a_C
            difference_M += NOISE * generator.standard_normal(len(w_MC))
            off_C = estimator(w_MC) @ difference_M - a_C
            error_D[d] += np.mean((curved(w_KC) @ off_C) ** 2)
    assert error_D[0] < 0.95 * error_D[1:].min()
