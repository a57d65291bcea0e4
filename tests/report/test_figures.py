"""Figures: real images, whatever the names and the sizes."""

import dataclasses
import io
import warnings

import matplotlib.image
import numpy as np
import pytest

from jaxsim.report import figures, tables
from jaxsim.report.table import short
from jaxsim.validation.measured import targets_of

from .workdirs import HOSTILE, diagnostics_of, found_of, validation_of


def heat_map(members, domains, gain_CD):
    """Gains over a base model of 3 bits per byte."""
    bits_MD = np.concatenate([np.full((1, len(domains)), 3.0), 3.0 - gain_CD])
    bits = {
        name: dict(zip(domains, bits_D, strict=True))
        for name, bits_D in zip(("base", *members), bits_MD, strict=True)
    }
    in_pool = [True] * (len(domains) - 1) + [False]
    return pixels(figures.heat_map(tables.gains(members, bits), in_pool, "gain"))


def pixels(png):
    return matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]


@pytest.mark.parametrize("size", [1, 3, 40])
def test_heat_map_of_any_size(size):
    names = [f"{HOSTILE[1]} {i}" for i in range(size)]
    domains = [*names, "日本語のとても長い名前" * 5]
    gain_CD = np.random.default_rng(0).normal(size=(size, size + 1))
    gain_CD[0, 0] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = heat_map(names, domains, gain_CD)
    assert min(image.shape[:2]) > 400
    assert image.std() > 0.05


def test_blue_is_better_and_zero_is_white():
    def most(gain):
        gain_CD = np.full((2, 2), gain)
        image = heat_map("ab", "cd", gain_CD)
        middle = image[:, : image.shape[1] * 3 // 4].reshape(-1, 3)
        return (middle[:, 2] - middle[:, 0]).mean()

    assert most(0.5) > 0.05
    assert most(-0.5) < -0.05
    assert abs(most(0.0)) < 0.02


def test_scatter_and_mixtures(workdir):
    for reference_runs, replicates in ((2, 0), (12, 3)):
        validation = validation_of(workdir, reference_runs, replicates)
        assert pixels(figures.scatter(validation)).std() > 0.02
    table = tables.mixtures(found_of())
    assert pixels(figures.mixtures(table, 0.9)).std() > 0.02


def test_scatter_shows_macros_and_out_of_pool(workdir):
    validation = validation_of(workdir, 3)
    shown = targets_of(validation).drawn
    assert shown[0] == "macro in-pool"
    assert set(shown[1:]) == {
        t
        for t, k in zip(validation.targets, validation.kinds, strict=True)
        if k == "out-of-pool"
    }
    inside = [i for i, k in enumerate(validation.kinds) if k == "in-pool"][:1]
    alone = dataclasses.replace(
        validation, targets=[validation.targets[i] for i in inside], kinds=["in-pool"]
    )
    assert targets_of(alone).drawn == tuple(alone.targets)


def test_scatter_shows_the_calibrated_merge_if_there_is_one(workdir):
    validation = validation_of(workdir, 3)
    shown = figures.scatter_predictors(validation)
    assert shown == ("merge", "ensemble", "calibrated merge")
    points = {k: v for k, v in validation.points.items() if k != "calibrated merge"}
    before = dataclasses.replace(validation, points=points)
    assert figures.scatter_predictors(before)[-1] == "members"
    assert pixels(figures.scatter(before)).std() > 0.02


def test_marginal_values_are_blue_where_bits_fall():
    def most(bits):
        found = dataclasses.replace(
            found_of(),
            marginal={
                "members": ["a", "b"],
                "domains": ["c", "d"],
                "bits_DC": [[bits] * 2] * 2,
                "objective_C": [bits] * 2,
            },
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            png = figures.heat_map(
                tables.marginal(found), [True, False], "gain", -1000.0, 2
            )
        image = pixels(png)
        middle = image[:, : image.shape[1] * 3 // 4].reshape(-1, 3)
        return (middle[:, 2] - middle[:, 0]).mean()

    assert most(-0.001) > 0.05
    assert most(0.001) < -0.05


def test_bars_reach_as_far_as_a_tie_does():
    found = found_of()
    before = figures.mixtures(tables.mixtures(found), 0.9)
    assert figures.mixtures(tables.mixtures(found), 0.9) == before
    found.rows[-1]["limit"] *= 3
    assert figures.mixtures(tables.mixtures(found), 0.9) != before


def test_bars_of_runs_are_the_noise_of_a_run(workdir):
    validation = validation_of(workdir, 12, replicates=3)
    before = figures.scatter(validation)
    alone = dataclasses.replace(validation, noise={})
    assert figures.scatter(alone) != before


def test_the_paths_show_every_member():
    diagnostics = diagnostics_of()
    image = pixels(figures.paths(diagnostics))
    assert image.std() > 0.02
    diagnostics.lines.pop(diagnostics.members[0])
    assert not np.array_equal(pixels(figures.paths(diagnostics)), image)


def test_short_names_fit_and_keep_both_ends():
    assert short("plain") == "plain"
    text = short("a" * 50 + "\n" + "b" * 50, 20)
    assert len(text) == 20
    assert text.startswith("aaa") and text.endswith("bbb")
