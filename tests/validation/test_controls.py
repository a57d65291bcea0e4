"""Planted controls: pools for which the right answer is known in advance.

Everything is real, from texts to reference runs, on the smallest models that show
it. Members of two base models and a tenfold rate are in test_diagnostics.py.
"""

import dataclasses

import numpy as np
import pytest

from jaxsim.report.trust import diagnostics
from jaxsim.scoring.scores import bits_of
from jaxsim.search.search import search
from jaxsim.validation import validate as comparison
from jaxsim.validation.agreement import BELOW_NOISE, agreement, guessing
from jaxsim.validation.diagnostics import diagnose
from jaxsim.validation.measured import CALIBRATED, PREDICTED, measured, pool_losses
from jaxsim.validation.runs import (
    CALIBRATION_MIXTURES,
    CALIBRATION_RUNS,
    MIXTURES,
    REFERENCE_RUNS,
    REPLICATED_MIXTURES,
    REPLICATES,
    replicate_pairs,
)

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
def parts(tmp_path_factory):
    """Six random parts of one source."""
    return build_parts(tmp_path_factory.mktemp("parts"))


def build_parts(folder):
    whole = texts("source", 6 * WHOLE, "abcdefgh")
    parts = {f"shard {i}": whole[i::6] for i in range(6)}
    return control(folder, parts, {}, held_out=12, replicates=12, member_replicates=6)


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
        folder,
        parts,
        outside,
        held_out=16,
        calibration_runs=6,
        replicates=4,
        member_replicates=2,
    )


def searched(control, **settings):
    """Among singles, pairs and standard mixtures, with the runs' residuals."""
    scorer = control.scorer
    table = scorer.score("pairs", scorer.table("subsets:1-2"), "dev")
    config = dataclasses.replace(control.config.search, method="table", **settings)
    return search(scorer, config, table, control.validation.residual_of)


def tied(found):
    return {row["name"] for row in found.rows if row["tied"]}


def test_parts_of_one_source_are_below_the_noise_floor(parts):
    validation = parts.validation
    bound = [c < BELOW_NOISE for c in validation.ceilings.values()]
    assert len(bound) == 7 and np.mean(bound) > 0.5
    claimed = [t for claim in validation.claims for t in claim["targets"]]
    assert not any(validation.ceilings[t] < BELOW_NOISE for t in claimed)
    replicates, digests = replicate_pairs(parts.config, parts.scorer)
    found = diagnose(parts.scorer, 0, replicates, digests)
    assert found.below_noise
    # One that is trained again puts the noise, and so the verdict, out of date.
    assert found.basis.others == digests and len(digests) == len(replicates[0])
    assert any("nothing to rank" in line for _, line in diagnostics(found))


def test_replicates_of_all_members_show_the_noise_of_predictions(parts, sources):
    """They take the members' places, and their own losses are those of the table."""
    validation, scorer = parts.validation, parts.scorer
    assert set(validation.predictor_noise) == set(validation.targets)
    for target, rows in validation.predictor_noise.items():
        assert set(rows) == {*PREDICTED, CALIBRATED}
        for row in rows.values():
            assert row["noise"] > 0
            assert row["ceiling"] <= validation.ceilings[target]
    again = scorer.store.load(REPLICATED_MIXTURES, scorer.evaluation)
    alone = again.bits_per_byte("merge", "test")[-len(scorer.members) :]
    trained = scorer.load(REPLICATES)
    rows = [f"{name}.replicate1" for name in scorer.members]
    expected = trained.bits_per_byte("reference", "test")[
        [trained.table.names.index(row) for row in rows]
    ]
    np.testing.assert_allclose(alone, expected, rtol=1e-6)
    merges_MD = again.bits_per_byte("merge", "test")[: len(validation.mixtures)]
    off_MD = merges_MD - scorer.load(MIXTURES).bits_per_byte("merge", "test")
    noise_D = np.std(off_MD, axis=0, ddof=1) / np.sqrt(2)
    found = [validation.predictor_noise[n]["merge"] for n in scorer.evaluation.domains]
    np.testing.assert_allclose([row["noise"] for row in found], noise_D)
    assert sources.validation.predictor_noise == {}  # two of six were trained again


def test_among_parts_of_one_source_everything_ties(parts):
    assert tied(searched(parts)) >= {*parts.scorer.members, "uniform"}


def test_different_sources_are_above_the_noise_floor(sources):
    """Or the other test would only show that there is too little text."""
    assert min(sources.validation.ceilings.values()) > BELOW_NOISE
    replicates, _ = replicate_pairs(sources.config, sources.scorer)
    assert not diagnose(sources.scorer, 0, replicates).below_noise


def test_with_permuted_names_a_predictor_is_a_guess(sources):
    """The columns of the mixtures are permuted, the reference runs are not."""
    scorer, reference_runs = sources.scorer, sources.scorer.load(REFERENCE_RUNS)
    mixtures = scorer.load(MIXTURES)
    reference_MD = reference_runs.bits_per_byte("reference", "test")
    rows = scorer.evaluation.rows("test", 0)
    rng = np.random.default_rng(0)

    def right(order_C):
        """The mean over domains of the share of pairs in the right order."""
        table = dataclasses.replace(
            mixtures.table, w_MC=mixtures.table.w_MC[:, order_C]
        )
        losses = scorer.merge(table, rows)
        bits_MD = bits_of(scorer.evaluation, losses, "test")
        pairs = zip(bits_MD.T, reference_MD.T, strict=True)
        return np.mean([agreement(p, t, None)["pairs"] for p, t in pairs])

    count = len(scorer.members)
    guess = guessing(reference_MD[:, 0])["pairs"]
    assert right(np.arange(count)) > 0.85
    permuted = [right(rng.permutation(count)) for _ in range(8)]
    assert np.mean(permuted) == pytest.approx(guess, abs=0.1)


@pytest.fixture(scope="module")
def parts_of(sources):
    """Basis, held-out and calibration runs, as `validate` compares them."""
    scorer = sources.scorer
    return (
        pool_losses(scorer.corpus, scorer.standard(), True),
        measured(scorer.load(MIXTURES), scorer.load(REFERENCE_RUNS)),
        measured(scorer.load(CALIBRATION_MIXTURES), scorer.load(CALIBRATION_RUNS)),
    )


def shuffled(reference_runs, rng):
    """Runs with the scores of others, the same ones in both splits."""
    order_M = rng.permutation(len(reference_runs))
    splits = {
        split: bits | {"reference": bits["reference"][order_M]}
        for split, bits in (("dev", reference_runs.dev), ("test", reference_runs.test))
    }
    return dataclasses.replace(reference_runs, **splits)


def test_shuffled_reference_runs_support_no_claim(sources, parts_of, monkeypatch):
    # The baseline is slow to fit, and does not matter here.
    monkeypatch.setattr(
        comparison,
        "from_weights",
        lambda fit, basis, held_out, fitted: held_out.test["merge"],
    )
    basis, held_out, fitted = parts_of
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(8):
        found = comparison.compare(
            basis, shuffled(held_out, rng), shuffled(fitted, rng)
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
    # In the right order they do.
    low, _ = claims(sources.validation)["out-of-pool", "merge"]["gain_interval"]
    assert low > 0


def claims(validation):
    return {(c["kind"], c["predictor"]): c for c in validation.claims}


def test_a_partition_and_its_copy_tie(sources):
    """The copy is a replicate with another order: it differs by noise."""
    scorer, noise = sources.scorer, sources.validation.noise
    standard = scorer.standard()
    bits = dict(
        zip(standard.table.names, standard.bits_per_byte("merge", "test"), strict=True)
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
    """The warning names the partition that a run repeats too often."""
    tokens = 1.8 * sources.scorer.corpus.budget_tokens
    for name, count in (("cut", 1), ("beta", 0)):
        found = searched(sources, target={name: 1.0}, tokens=tokens, epochs=100.0)
        assert found.rows[0]["name"] == name
        assert len(found.warnings) == count
        assert all(f"repeats the text of {name} more" in w for w in found.warnings)
