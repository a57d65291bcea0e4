"""Very large tables: what their file holds, what is refused, and what is merged."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet
import pytest

from jaxsim.errors import UserError
from jaxsim.report import show
from jaxsim.scoring import predicted, quadratic
from jaxsim.scoring.predicted import ENSEMBLE, MEAN, MERGE, predict
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import as_arrow, bits_per_byte
from jaxsim.scoring.table import concatenate, dirichlet, singles, uniform

from . import tiny

MOST = 5  # mixtures that are merged


@pytest.fixture
def large(workdir, config):
    """A scorer that predicts all but small tables; one domain counts documents.

    Of a workdir of its own, because journals do not know of that domain.
    """
    settings = dataclasses.replace(config.score, merges=MOST, windows=0)
    found = Scorer(workdir, settings)
    by_document = tuple(name == "outside" for name in found.evaluation.domains)
    found.evaluation = dataclasses.replace(found.evaluation, by_document=by_document)
    return found


@pytest.fixture
def fits(monkeypatch):
    """Members of this tiny pool are too far apart for the default limits."""
    monkeypatch.setattr(quadratic, "WORST_SHARE", 10.0)
    monkeypatch.setattr(quadratic, "LEAST_CONVEXITY", -1.0)


def read(scorer, name):
    """The rows of a table's file by mixture, predictor and domain."""
    path = scorer.store.folder / f"{name}.parquet"
    rows = pyarrow.parquet.read_table(path).to_pylist()
    return {(r["mixture"], r["predictor"], r["domain"]): r for r in rows}


def test_a_predicted_table_is_that_of_real_scores_where_the_form_is_exact(
    large, fits, monkeypatch
):
    """At members, and at the uniform merge; in every column."""
    monkeypatch.setattr(predicted, "_WEIGHTS", 8)  # two mixtures at a time
    members = large.members
    exact = concatenate(singles(members), uniform(members))
    table = concatenate(exact, dirichlet(members, 3, 1.0, seed=1))
    predict(large, "mine", table)
    found = read(large, "mine")
    names = large.evaluation.domains
    predictors = (MERGE, ENSEMBLE, MEAN, "members")
    assert set(found) == {
        (m, p, d) for m in table.names for p in predictors for d in names
    }
    real = large.score("exact", exact, "dev", large.config.windows)
    on = large.evaluation.rows("dev", large.config.windows)
    arrow = as_arrow(real.on(on))
    schema = pyarrow.parquet.read_schema(large.store.folder / "mine.parquet")
    assert schema.remove_metadata() == arrow.schema.remove_metadata()
    rows = [r for r in arrow.to_pylist() if r["split"] == "dev"]
    assert len(rows) == 3 * len(exact) * len(names)
    for expected in rows:
        form = {"merge": MERGE, "ensemble": ENSEMBLE, "members": "members"}
        predictor = form[expected["predictor"]]
        row = found[expected["mixture"], predictor, expected["domain"]]
        unknown = {"document_bits_per_byte"}
        if expected["domain"] == "outside":
            unknown = {"nll_sum", "pooled_bits_per_byte", "perplexity"}
        for key, value in expected.items():
            if key in unknown:
                assert np.isnan(row[key])
            elif isinstance(value, float):
                # Losses of windows are float32.
                assert row[key] == pytest.approx(value, rel=2e-5)
            elif key != "predictor":
                assert row[key] == value
    for mixture in table.names:
        for domain in names:
            merge, ensemble, mean = (
                found[mixture, p, domain]["bits_per_byte"] for p in predictors[:3]
            )
            assert mean == pytest.approx((merge + ensemble) / 2, rel=1e-12)


def test_it_says_how_far_it_is_from_real_merges(large, fits, capsys, verbose):
    """On random ones, and on those that it likes best, which are merged."""
    name = "dirichlet-40"
    found = predict(large, name, large.table("dirichlet:40"))
    rows = large.evaluation.rows("dev", large.config.windows)
    checks = large.checks()
    real_MR = large.merge(checks, rows).nll_MR
    e, d = large.evaluation, large.evaluation.domains.index("outside")
    bytes_D = e.sums(e.bytes_R[rows], rows)
    real_MD = bits_per_byte(e.sums(real_MR, rows), bytes_D)
    form_MD = bits_per_byte(large.quadratic(rows).sums(checks.w_MC), bytes_D)
    misfit = found.misfits[MERGE]["outside"]
    error = np.sqrt(np.mean((form_MD - real_MD)[:, d] ** 2))
    assert misfit.error == pytest.approx(error)
    assert misfit.spread == pytest.approx(real_MD[:, d].std())
    path = large.store.folder / f"{name}.parquet"
    facts = pyarrow.parquet.read_schema(path).metadata
    saved = json.loads(facts[b"jaxsim.misfits"])
    assert saved[MERGE]["outside"]["error"] == misfit.error

    likes = [
        (row["bits_per_byte"], mixture)
        for (mixture, predictor, domain), row in read(large, name).items()
        if (predictor, domain) == (MERGE, "outside")
    ]
    best = [mixture for _, mixture in sorted(likes)[: predicted.BEST]]
    assert found.best.table.names[: predicted.BEST] == tuple(best)
    assert large.load(f"best-of-{name}").table.names == found.best.table.names
    row = found.best.table.names.index(best[0])
    merged = found.best.bits_per_byte("merge", "dev")[row, d]
    assert abs(sorted(likes)[0][0] - merged) <= (
        found.best_misfits["outside"].error * np.sqrt(predicted.BEST)
    )

    show.show_predicted(found)
    out = capsys.readouterr().out
    line = next(x for x in out.splitlines() if x.split()[:1] == ["outside"])
    figures = [
        f"{x:.5f}"
        for x in (misfit.spread, misfit.error, found.best_misfits["outside"].error)
    ]
    assert [x for x in line.split() if x in figures] == figures
    assert f"{misfit.share:.1%}" in line.split()
    assert (
        f"best of {len(large.table('dirichlet:40'))} mixtures by the quadratic" in out
    )

    misfits = found.misfits[MERGE] | {"outside": dataclasses.replace(misfit, spread=0)}
    show.show_predicted(
        dataclasses.replace(found, misfits=found.misfits | {MERGE: misfits})
    )
    lines = capsys.readouterr().out.splitlines()
    line = next(x for x in lines if x.split()[:1] == ["outside"]).split()
    assert line[1] == "0.00000" and line[3] == line[5] == "-"


def test_a_domain_that_it_does_not_fit_is_left_out_and_named(
    scorer, workdir, project, capsys, verbose
):
    config = project.parent / "tiny.py"
    more = ("--mixtures=dirichlet:40", f"--config.score.merges={MOST}")
    assert tiny.run("score", scorer.workdir, config, *more) == 0
    out = capsys.readouterr().out
    merged = {d for _, p, d in read(scorer, "dirichlet-40") if p == MERGE}
    left = set(scorer.evaluation.domains) - merged
    assert merged and "outside" in left
    line = next(x for x in out.splitlines() if x.startswith(f"LEFT OUT: {MERGE}"))
    for domain in left:
        assert f"{domain} (on 20 random merges it is off by" in line
    members = {d for _, p, d in read(scorer, "dirichlet-40") if p == "members"}
    assert members == set(scorer.evaluation.domains)
    # Nothing is the best on a domain that the form does not fit.
    assert "best of" not in out


def test_it_refuses_what_it_cannot_predict(large, monkeypatch, tmp_path):
    csv = tmp_path / "mine.csv"
    csv.write_text("name,solo,scale\n" + "".join(f"m{i},1,1\n" for i in range(MOST)))
    assert not large.is_predicted(large.table(str(csv)))
    csv.write_text(f"{csv.read_text()}half,1,0.5\n")
    table = large.table(str(csv))
    assert large.is_predicted(table)
    with pytest.raises(UserError, match=r"'half': its scale .*score\.merges=5 m"):
        predict(large, "mine", table)
    monkeypatch.setattr(quadratic, "WORST_SHARE", 0.0)
    with pytest.raises(UserError, match=r"not fit .*solo: on 20 .*score\.merges=5 m"):
        predict(large, "none", large.table("dirichlet:40"))
    assert not (large.store.folder / "none.parquet").exists()


def test_it_refuses_a_pool_of_one_member(workdir, config):
    for name in ("alpha,1900-1909", "alpha,1910-1919", "solo"):
        tiny.flip(tiny.largest_file(workdir / "pool/members" / name))
    settings = dataclasses.replace(config.score, merges=MOST)
    scorer = Scorer(workdir, settings, override=True)
    with pytest.raises(UserError, match="one member has nothing to mix with"):
        predict(scorer, "mine", scorer.checks())


def test_no_best_of_an_earlier_table_is_left_by_a_kill(large):
    def killed(file):
        raise KeyboardInterrupt

    for name in ("mine", "best-of-mine", "best-of-mine-too"):
        large.score(name, uniform(large.members), "dev", windows=1)
    with pytest.raises(KeyboardInterrupt):
        large.store.save_predicted("mine", killed)
    assert {p.stem for p in large.store.folder.glob("*mine*.json")} == {
        "best-of-mine-too"
    }


def test_a_predicted_table_takes_the_place_of_a_scored_one(large, fits):
    """And no search takes it for one."""
    table = large.table("dirichlet:6")
    large.score("dirichlet-6", table, "dev", windows=1)
    assert "dirichlet-6" in large.store.names()
    predict(large, "dirichlet-6", table)
    assert [p.name for p in large.store.folder.glob("dirichlet-6*")] == [
        "dirichlet-6.parquet"
    ]
    with pytest.raises(
        UserError, match=r"'dirichlet-6' has more .*raise config\.score"
    ):
        large.scored("dirichlet:6")


def test_members_that_are_damaged_are_in_no_mixture(workdir, config, fits, monkeypatch):
    """Nor do their columns, which are zero, make the form less convex than it is."""
    monkeypatch.setattr(quadratic, "LEAST_CONVEXITY", -0.1)
    tiny.flip(tiny.largest_file(workdir / "pool/members/solo"))
    settings = dataclasses.replace(config.score, merges=MOST)
    scorer = Scorer(workdir, settings, override=True)
    table = scorer.table("subsets:1-2")
    predict(scorer, "subsets-1-2", table)
    found = read(scorer, "subsets-1-2")
    assert {m for m, _, _ in found} == set(table.names)
    assert not any("solo" in mixture for mixture, _, _ in found)
    assert all(np.isfinite(row["bits_per_byte"]) for row in found.values())
    # -0.04 among the sound members, and -0.26 with the damaged one.
    assert "beta,1900-1909" in {d for _, p, d in found if p == MERGE}


def test_no_search_of_a_predicted_table_begins_with_training(project, capsys):
    more = ("--config.score.mixtures=dirichlet:6", f"--config.score.merges={MOST}")
    for options in ((), ("--dry-run",)):
        arguments = ("--config.search.method=table", *more, *options)
        assert tiny.run("prepare", project, project.parent / "tiny.py", *arguments) == 2
        assert "'dirichlet-6' has more than" in capsys.readouterr().err
