"""Planted controls: pools on which the right answer is known beforehand.

Real parts from texts to truths, on the smallest models that show it. Members
of two seeds and a tenfold rate are in test_gauge.py.
"""

import dataclasses

import numpy as np
import pytest

from jaxsim.mixture.scores import bits_of
from jaxsim.search.search import search
from jaxsim.study.agreement import agreement, guessing
from jaxsim.study.compare import compare
from jaxsim.study.gauge import gauge, gauge_lines
from jaxsim.study.measured import basis_of, measured
from jaxsim.study.noise import NOISE_BOUND
from jaxsim.study.trained import (
    FIT,
    FIT_RATIOS,
    RATIOS,
    TRUTHS,
    repeat_pairs,
)
from jaxsim.study.validate import CALIBRATED

from .controls import control, texts

WHOLE = 320  # documents of a partition: about two budgets to train on
ALPHABETS = {
    "alpha": "abcd",
    "beta": "efgh",
    "gamma": "ijkl",
    "delta": "mnop",
    "cut": "qrst",
}
AGAIN = "alpha again"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Six random shards of one source."""
    return build_shards(tmp_path_factory.mktemp("shards"))


def build_shards(folder):
    whole = texts("source", 6 * WHOLE, "abcdefgh")
    parts = {f"shard {i}": whole[i::6] for i in range(6)}
    return control(folder, parts, {}, truths=12, repeats=12, member_repeats=6)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Five sources of different letters, one of them twice and one cut."""
    return build_sources(tmp_path_factory.mktemp("sources"))


def build_sources(folder):
    parts = {name: texts(name, WHOLE, a) for name, a in ALPHABETS.items()}
    # A copy would be dropped as a duplicate: the first word goes to the end.
    parts[AGAIN] = [
        " ".join([*rest, first])
        for first, *rest in (text.split() for text in parts["alpha"])
    ]
    parts["cut"] = parts["cut"][: WHOLE // 16]
    outside = {
        f"{a} and {b}": texts(f"{a} and {b}", 32, ALPHABETS[a], ALPHABETS[b])
        for a, b in (("alpha", "beta"), ("gamma", "delta"))
    }
    return control(
        folder, parts, outside, truths=16, fit=6, repeats=4, member_repeats=2
    )


def searched(control, **settings):
    """Among singles, pairs and plain mixtures, with what truths say."""
    scorer = control.scorer
    table = scorer.score("pairs", scorer.table("subsets:1-2"), "select")
    config = dataclasses.replace(
        control.config.search, method="table", **settings
    )
    return search(scorer, config, table, control.validation.residual_of)


def tied(found):
    return {row["name"] for row in found.rows if row["tied"]}
