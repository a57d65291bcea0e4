"""Planted controls: pools on which the right answer is known beforehand.

Real parts from texts to truths, on the smallest models that show it. Members
of two seeds and a tenfold rate are in test_gauge.py.
"""

import dataclasses

import numpy as np
import pytest

from jaxsim.mixture.scores import bits_of
from jaxsim.report.trust import diagnostics
from jaxsim.search.search import search
from jaxsim.study import validate as comparison
from jaxsim.study.agreement import NOISE_BOUND, agreement, guessing
from jaxsim.study.diagnostics import gauge
from jaxsim.study.measured import CALIBRATED, basis_of, measured
from jaxsim.study.runs import FIT, FIT_RATIOS, RATIOS, TRUTHS, repeat_pairs

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


def test_shards_of_one_source_are_noise_bound(shards):
    validation = shards.validation
    bound = [c < NOISE_BOUND for c in validation.ceilings.values()]
    assert len(bound) == 7 and np.mean(bound) > 0.5
    claimed = [t for claim in validation.claims for t in claim["targets"]]
    assert not any(validation.ceilings[t] < NOISE_BOUND for t in claimed)
    repeats = repeat_pairs(shards.config, shards.scorer)
    found = gauge(shards.scorer, 0, repeats)
    assert found.noise_bound
    assert any("nothing to rank" in line for _, line in diagnostics(found))


def test_among_shards_of_one_source_everything_ties(shards):
    assert tied(searched(shards)) >= {*shards.scorer.members, "uniform"}


def test_of_different_sources_nothing_of_that_holds(sources):
    """Or noise would be found in whatever is measured with so little."""
    assert min(sources.validation.ceilings.values()) > NOISE_BOUND
    repeats = repeat_pairs(sources.config, sources.scorer)
    assert not gauge(sources.scorer, 0, repeats).noise_bound


def test_with_names_permuted_a_proxy_is_a_guess(sources):
    """Columns of the mixtures change places, the truths stay."""
    scorer, truths = sources.scorer, sources.scorer.load(TRUTHS)
    ratios = scorer.load(RATIOS)
    truth_MD = truths.bits_per_byte("truth", "report")
    rows = scorer.evaluation.rows("report", 0)
    rng = np.random.default_rng(0)

    def right(order_C):
        """The mean over domains of the share of pairs in the right order."""
        table = dataclasses.replace(
            ratios.table, w_MC=ratios.table.w_MC[:, order_C]
        )
        losses = scorer.proxies.merge("permuted", table, rows)
        bits_MD = bits_of(scorer.evaluation, losses, "report")
        pairs = zip(bits_MD.T, truth_MD.T, strict=True)
        return np.mean([agreement(p, t, None).pairs for p, t in pairs])

    count = len(scorer.members)
    guess = guessing(truth_MD[:, 0]).pairs
    assert right(np.arange(count)) > 0.85
    permuted = [right(rng.permutation(count)) for _ in range(8)]
    assert np.mean(permuted) == pytest.approx(guess, abs=0.1)


@pytest.fixture(scope="module")
def parts_of(sources):
    """Basis, judged and fitted truths, as `validate` compares them."""
    scorer = sources.scorer
    return (
        basis_of(scorer.corpus, scorer.references(), True),
        measured(scorer.load(RATIOS), scorer.load(TRUTHS)),
        measured(scorer.load(FIT_RATIOS), scorer.load(FIT)),
    )


def shuffled(truths, rng):
    """Truths that got the scores of others, the same ones in both halves."""
    order_M = rng.permutation(len(truths))
    halves = {
        half: bits | {"truth": bits["truth"][order_M]}
        for half, bits in (("select", truths.select), ("report", truths.report))
    }
    return dataclasses.replace(truths, **halves)


def test_shuffled_truths_support_no_claim(sources, parts_of, monkeypatch):
    # Ratios alone are slow to fit, and claim nothing here.
    monkeypatch.setattr(
        comparison,
        "from_weights",
        lambda fit, basis, judged, fitted: judged.report["merge"],
    )
    basis, judged, fitted = parts_of
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(3):
        found = comparison.compare(
            basis, shuffled(judged, rng), shuffled(fitted, rng)
        )
        by = claims(found)
        for kind in ("in-pool", "out-of-pool"):
            for predictor in ("merge", CALIBRATED):
                low, _ = by[kind, predictor]["gain_interval"]
                assert low <= 0
            gains.append(
                by[kind, CALIBRATED]["spearman"] - by[kind, "merge"]["spearman"]
            )
    assert np.mean(gains) < 0.05
    # As they are, they do.
    low, _ = claims(sources.validation)["out-of-pool", "merge"]["gain_interval"]
    assert low > 0


def claims(validation):
    return {(c["kind"], c["predictor"]): c for c in validation.claims}


def test_a_partition_that_is_there_twice_ties_with_itself(sources):
    """A twin is a repeat with another order: no further from it than noise."""
    scorer, noise = sources.scorer, sources.validation.noise
    references = scorer.references()
    bits = dict(
        zip(
            references.table.names,
            references.bits_per_byte("merge", "report"),
            strict=True,
        )
    )
    noise_D = np.array([noise[d] for d in scorer.evaluation.domains])
    # Three standard deviations of a difference of two runs.
    within_D = 3 * np.sqrt(2) * noise_D
    assert (np.abs(bits["alpha"] - bits[AGAIN]) < within_D).all()
    own = scorer.evaluation.domains.index("alpha")
    assert (np.abs(bits["alpha"] - bits["beta"]) > within_D)[own]
    ties = tied(searched(sources, target={"alpha": 1.0}))
    assert {"alpha", AGAIN} <= ties and "beta" not in ties


def test_a_partition_cut_to_a_sixteenth_is_warned_of(sources):
    """Of a run that repeats nothing but what was cut."""
    tokens = 1.8 * sources.scorer.corpus.budget_tokens
    for name, count in (("cut", 1), ("beta", 0)):
        found = searched(
            sources, target={name: 1.0}, tokens=tokens, epochs=100.0
        )
        assert found.rows[0]["name"] == name
        assert len(found.warnings) == count
        assert all(f"the source of {name} " in w for w in found.warnings)
