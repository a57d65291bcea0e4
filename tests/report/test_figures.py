"""Figures: real images, whatever the names and the sizes."""

import dataclasses
import io
import warnings

import matplotlib.image
import numpy as np
import pytest

from jaxsim.report import figures, scatter
from jaxsim.report.effort import NextPercent, next_percent
from jaxsim.report.references import References
from jaxsim.report.wording import short

from .workdirs import HOSTILE, found_of, gauge_of, validation_of


def references(members, domains, gain_CD):
    """Gains over a seed of 3 bits per byte."""
    bits_MD = np.concatenate([np.full((1, len(domains)), 3.0), 3.0 - gain_CD])
    return References(
        members=tuple(members),
        names=("seed", *members),
        kinds=("seed", *("member",) * len(members)),
        domains=tuple(domains),
        in_pool=(True,) * (len(domains) - 1) + (False,),
        bits={"report": bits_MD, "select": bits_MD},
        documents={},
        evaluation="",
        notes=(),
    )


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
        image = pixels(figures.heat_map(references(names, domains, gain_CD)))
    assert min(image.shape[:2]) > 400
    assert image.std() > 0.05


def test_blue_is_better_and_zero_is_white():
    def most(gain):
        gain_CD = np.full((2, 2), gain)
        image = pixels(figures.heat_map(references("ab", "cd", gain_CD)))
        middle = image[:, : image.shape[1] * 3 // 4].reshape(-1, 3)
        return (middle[:, 2] - middle[:, 0]).mean()

    assert most(0.5) > 0.05
    assert most(-0.5) < -0.05
    assert abs(most(0.0)) < 0.02


def test_the_next_percent_is_blue_where_bits_fall():
    def most(bits):
        percent = NextPercent(
            ("a", "b"), ("c", "d"), np.full((2, 2), bits), np.full(2, bits)
        )
        image = pixels(figures.next_percent(percent, {"c": True, "d": False}))
        middle = image[:, : image.shape[1] * 3 // 4].reshape(-1, 3)
        return (middle[:, 2] - middle[:, 0]).mean()

    assert most(-0.001) > 0.05
    assert most(0.001) < -0.05


def test_the_next_percent_draws_what_a_search_left():
    percent = next_percent(found_of())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(figures.next_percent(percent, {})).std() > 0.02


def test_bars_reach_as_far_as_a_tie_does():
    found = found_of()
    before = figures.mixtures(found)
    for row in found.rows:
        row["limit"] = found.ties["critical"] * row["error"]
    assert figures.mixtures(found) == before
    found.rows[-1]["limit"] *= 3
    assert figures.mixtures(found) != before


def test_scatter_and_mixtures(workdir):
    for truths, repeats in ((2, 0), (12, 3)):
        validation = validation_of(workdir, truths, repeats)
        assert pixels(scatter.scatter(validation)).std() > 0.02
    assert pixels(figures.mixtures(found_of())).std() > 0.02


def test_scatter_shows_macros_and_out_of_pool(workdir):
    validation = validation_of(workdir, 3)
    shown = scatter.scatter_targets(validation)
    assert shown[0] == "macro in-pool"
    assert set(shown[1:]) == {
        t
        for t, k in zip(validation.targets, validation.kinds, strict=True)
        if k == "out-of-pool"
    }
    inside = [i for i, k in enumerate(validation.kinds) if k == "in-pool"][:1]
    alone = dataclasses.replace(
        validation,
        targets=[validation.targets[i] for i in inside],
        kinds=["in-pool"],
    )
    assert scatter.scatter_targets(alone) == alone.targets


def test_scatter_shows_the_calibrated_merge_if_there_is_one(workdir):
    validation = validation_of(workdir, 3)
    shown = scatter.scatter_predictors(validation)
    assert shown == ("merge", "probability", "calibrated merge")
    points = {
        k: v for k, v in validation.points.items() if k != "calibrated merge"
    }
    before = dataclasses.replace(validation, points=points)
    assert scatter.scatter_predictors(before)[-1] == "members"
    assert pixels(scatter.scatter(before)).std() > 0.02


def test_bars_of_truths_are_the_noise_of_a_run(workdir):
    validation = validation_of(workdir, 12, repeats=3)
    target = scatter.scatter_targets(validation)[0]
    noise = validation.noise[target]
    assert scatter._repeat_noise(validation, target) == noise > 0
    # An earlier version left the ceiling alone, which is made of it.
    before = dataclasses.replace(validation, noise={})
    assert scatter._repeat_noise(before, target) == pytest.approx(noise)
    alone = dataclasses.replace(before, ceilings={})
    assert scatter._repeat_noise(alone, target) == 0


def test_the_ways_show_every_member():
    gauge = gauge_of()
    image = pixels(figures.ways(gauge))
    assert image.std() > 0.02
    gauge.lines.pop(gauge.members[0])
    assert not np.array_equal(pixels(figures.ways(gauge)), image)


def test_short_names_fit_and_keep_both_ends():
    assert short("plain") == "plain"
    text = short("a" * 50 + "\n" + "b" * 50, 20)
    assert len(text) == 20
    assert text.startswith("aaa") and text.endswith("bbb")
