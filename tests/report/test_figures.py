"""Figures: real images, whatever the names and the sizes."""

import dataclasses
import io
import re
import warnings
import xml.etree.ElementTree
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from jaxsim.report import figures, tables
from jaxsim.report.table import short
from jaxsim.validation.measured import targets_of

from .workdirs import (
    HOSTILE,
    MEMBERS,
    closed_of,
    diagnostics_of,
    found_of,
    validation_of,
)


def heat_map(members, domains, gain_CD):
    """Gains over a base model of 3 bits per byte."""
    bits_MD = np.concatenate([np.full((1, len(domains)), 3.0), 3.0 - gain_CD])
    bits = {
        name: dict(zip(domains, bits_D, strict=True))
        for name, bits_D in zip(("base", *members), bits_MD, strict=True)
    }
    in_pool = [True] * (len(domains) - 1) + [False]
    table = tables.gains(members, bits)
    size = figures.heat_map_size(table, len(domains))
    return pixels(draw(figures.heat_map, table, in_pool, "gain", size=size))


def draw(paint, *what, size=(6, 4)):
    return figures.draw(lambda axes: paint(axes, *what), *size)


def pixels(drawn):
    return matplotlib.image.imread(io.BytesIO(drawn.png), format="png")[..., :3]


def texts(drawn):
    """What an SVG says; it is well-formed, whatever the names."""
    root = xml.etree.ElementTree.fromstring(drawn.svg)
    return [found.text for found in root.iter() if found.tag.endswith("}text")]


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
    assert pixels(draw(figures.ties, table, 0.9)).std() > 0.02


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
            table = tables.marginal(found)
            drawn = draw(figures.heat_map, table, [True, False], "gain", 1000.0, 2)
        image = pixels(drawn)
        middle = image[:, : image.shape[1] * 3 // 4].reshape(-1, 3)
        return (middle[:, 2] - middle[:, 0]).mean()

    assert most(-0.001) > 0.05
    assert most(0.001) < -0.05


def test_bars_reach_as_far_as_a_tie_does():
    found = found_of()
    before = draw(figures.ties, tables.mixtures(found), 0.9)
    assert draw(figures.ties, tables.mixtures(found), 0.9) == before
    found.rows[-1]["limit"] *= 3
    assert draw(figures.ties, tables.mixtures(found), 0.9) != before


def test_bars_of_runs_are_the_noise_of_a_run(workdir):
    validation = validation_of(workdir, 12, replicates=3)
    before = figures.scatter(validation)
    alone = dataclasses.replace(validation, noise={})
    assert figures.scatter(alone) != before


def test_the_paths_show_every_member():
    diagnostics = diagnostics_of()
    image = pixels(draw(figures.paths, diagnostics))
    assert image.std() > 0.02
    diagnostics.lines.pop(diagnostics.members[0])
    assert not np.array_equal(pixels(draw(figures.paths, diagnostics)), image)


def test_the_bars_name_every_source_and_its_share():
    found, closed = found_of(), closed_of()
    found.sources[MEMBERS[1]] |= {"gain": -0.034, "gain_low": None, "gain_high": None}
    table = tables.sources(found, closed)
    shown = texts(draw(figures.shares, table))
    assert {short(name) for name in MEMBERS} < set(shown)
    assert shown.count("50%") == 2  # the third has no share
    assert {"the answer", "proportional to tokens", "uniform (33%)"} < set(shown)
    shown = texts(draw(figures.effects, table))
    loss = "\N{MINUS SIGN}3.4"
    assert [t for t in shown if t in ("+2.0", loss)] == ["+2.0", "+2.0", loss]
    names = [t for t in shown if t in map(short, MEMBERS)]
    assert names[-1] == short(MEMBERS[1])  # it hurts most


def test_an_effect_that_may_be_chance_has_no_color():
    found = found_of()
    colored = draw(figures.effects, tables.sources(found)).svg
    for row in found.sources.values():
        row["gain_low"] = -0.01
    grey = draw(figures.effects, tables.sources(found)).svg
    assert "var(--blue)" in colored and "var(--blue)" not in grey


def test_the_answer_is_marked_trained_or_not():
    runs = np.array([2.0, 2.1]), np.array([2.05, 2.1])
    shown = texts(draw(figures.predicted, *runs, 0.01, 1.9))
    assert "the answer," in shown and "not trained" in shown
    shown = texts(draw(figures.predicted, *runs, 0.01, 1.9, [1.95, 1.96]))
    assert "the answer" in shown and "not trained" not in shown


def test_the_tradeoff_names_the_answer_and_what_it_is_compared_with():
    table = tables.tradeoff(closed_of())
    shown = texts(draw(figures.tradeoff, table))
    assert {"the answer", "proportional"} < set(shown)


def test_curves_of_one_point_are_points():
    drawn = draw(figures.curves, [("base model", [1, 2], [3.0, 2.0]),
                                  ("members", [2], [1.5])])  # fmt: skip
    assert {"base model", "members"} < set(texts(drawn))
    assert "<use" in drawn.svg.rpartition("var(--blue)")[0]


def test_an_svg_takes_the_colors_of_the_page():
    drawn = draw(figures.paths, diagnostics_of())
    assert not re.findall(": #[0-9a-f]{6}", drawn.svg)
    assert "font-family" not in drawn.svg
    found = set(re.findall(r"var\(--([a-z]+)\)", drawn.svg))
    css = Path(figures.__file__).with_name("report.css").read_text()
    assert found and all(f"--{name}:" in css for name in found)


def test_short_names_fit_and_keep_both_ends():
    assert short("plain") == "plain"
    text = short("a" * 50 + "\n" + "b" * 50, 20)
    assert len(text) == 20
    assert text.startswith("aaa") and text.endswith("bbb")
