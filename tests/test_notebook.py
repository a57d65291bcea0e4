"""What a notebook shows of a workdir with real files and invented numbers.

The commands behind it run for real in test_commands.py.
"""

import dataclasses
import shutil
import sys

import matplotlib
import numpy as np
import pytest
from report import workdirs

import jaxsim
from jaxsim import notebook
from jaxsim.search.closed_form import ClosedForm

MEMBERS, OUTSIDE = workdirs.MEMBERS, workdirs.OUTSIDE
HALVES = {MEMBERS[0]: 0.5, MEMBERS[1]: 0.5}
UNEVEN = {MEMBERS[0]: 0.25, MEMBERS[2]: 0.75}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    matplotlib.use("agg")
    workdir = workdirs.make_workdir(tmp_path_factory.mktemp("notebook"))
    workdirs.add_diagnostics(workdir)
    workdirs.add_validation(workdir, reference_runs=12, replicates=12)
    workdirs.add_chosen(workdir, workdirs.add_search(workdir, trained=True))
    form_of(workdir).save(workdir)
    return workdir


@pytest.fixture
def work(path) -> notebook.Workdir:
    return jaxsim.open(path)


def form_of(workdir) -> ClosedForm:
    """Random numbers; the answer of the search is among the presets."""
    rng = np.random.default_rng(0)
    found, domains = jaxsim.open(workdir).found, [*MEMBERS, OUTSIDE]
    c, d = len(MEMBERS), len(domains)
    thirds = dict.fromkeys(MEMBERS, 1 / c)
    presets = {found.best["name"]: found.best["weights"], "proportional": thirds}
    return ClosedForm(
        members=list(MEMBERS),
        domains=domains,
        in_pool=[True] * c + [False],
        constant=[0.0] * d,
        linear=rng.uniform(1, 2, (d, c)).tolist(),
        curve=np.zeros((d, c, c)).tolist(),
        base=[2.0] * d,
        residual=[0.01] * d,
        checks=20,
        target={OUTSIDE: {OUTSIDE: 1.0}},
        weights={OUTSIDE: 1.0},
        kind="mean",
        presets=[
            {"name": name, "weights": w, "bits": rng.uniform(1, 2, d).tolist()}
            for name, w in presets.items()
        ],
        reference="proportional",
        most=[None] * c,
        refusal="",
        calibrated=False,
        basis=found.basis,
    )


def test_completion_offers_what_there_is():
    assert sorted(dir(jaxsim)) == sorted(jaxsim.__all__)
    assert all(getattr(jaxsim, name) for name in jaxsim.__all__)


def test_every_result_fits_a_cell(work):
    many = work.predict({f"mixture {i}": HALVES for i in range(9)})
    results = [
        work, work.headline, work.members, work.found, work.agreement, work.trained,
        work.predict(HALVES), many,
    ]  # fmt: skip
    for result in results:
        lines = repr(result).splitlines()
        assert len(lines) <= 10, repr(result)
        for line in lines:  # a command can be pasted
            assert len(line) <= 100 or line.startswith("  jaxsim "), line
    assert "... and 30 more rows; see `to_pandas()`" in repr(many)
    assert work.headline.answer.split()[0] in repr(work)


def test_the_answer_is_predicted_as_the_search_merged_it(work):
    form = ClosedForm.load(work.path)
    same, other = work.predict(work.found), work.predict({"mine": UNEVEN})
    assert same.merged_M.all() and not other.merged_M.any()
    assert work.predict(dict.fromkeys(MEMBERS, 0.333333)).merged_M.all()  # a preset
    assert same.bits_MD.tolist() == [form.presets[0]["bits"]]
    assert same.gain_M.tolist() == form.gain(same.bits_MD).tolist()
    w_MC = [[UNEVEN.get(name, 0.0) for name in MEMBERS]]
    np.testing.assert_array_equal(other.bits_MD, form.bits(w_MC))
    gains = other.to_pandas().set_index("domain").gain
    assert next(iter(gains.index)) == OUTSIDE  # the target is first
    np.testing.assert_allclose(gains[OUTSIDE], other.gain_M[0])


def test_a_closed_form_that_does_not_stand_for_merges_is_refused(work, monkeypatch):
    form = dataclasses.replace(ClosedForm.load(work.path), refusal="it is bent")
    monkeypatch.setattr(ClosedForm, "load", lambda workdir: form)
    assert work.predict(work.found).merged_M.all()
    with pytest.raises(jaxsim.UserError, match=r"'mine'.*it is bent.*with `score`"):
        work.predict({"mine": UNEVEN})


def test_a_closed_form_of_another_pool_is_refused(path, tmp_path):
    work = jaxsim.open(shutil.copytree(path, tmp_path / "work"))
    shutil.rmtree(work.path / "pool" / "members" / "alpha")
    with pytest.raises(jaxsim.UserError, match="of another pool: member 'alpha'"):
        work.predict(HALVES)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nobody": 1.0}, "no member 'nobody'; there are"),
        ({"mine": {"nobody": 1.0}}, "mixture 'mine': no member 'nobody'"),
        ({MEMBERS[0]: 0.5}, r"the weights sum to 0\.5, not to 1"),
        ({}, "must be weights by member"),
        ([0.5, 0.5], "must be weights by member"),
        ("missing.csv", "no such file"),
    ],
)
def test_what_is_no_mixture_is_named(work, given, message):
    with pytest.raises(jaxsim.UserError, match=message):
        work.predict(given)


def test_tables_have_all_rows_and_weights_as_columns(work):
    weights = [f"weight:{name}" for name in MEMBERS]
    found = work.found.to_pandas()
    assert len(found) == len(work.found.rows)
    for row, w_C in zip(work.found.rows, found[weights].to_numpy(), strict=True):
        assert [row["weights"].get(name, 0.0) for name in MEMBERS] == list(w_C)
    agreement = work.agreement
    points = agreement.to_pandas()
    points = points[points.target == OUTSIDE]
    assert list(points.reference) == agreement.reference_runs
    assert list(points["merge"]) == agreement.points["merge"][OUTSIDE]
    assert set(work.trained.to_pandas().mixture) >= set(work.trained.labels)
    assert list(work.members.to_pandas().member) == list(MEMBERS)


def test_without_pandas_a_message_says_how_to_get_it(work, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(jaxsim.UserError, match="pip install"):
        work.members.to_pandas()


def test_plots_draw_on_the_given_axes_or_new_ones(work):
    from matplotlib import pyplot

    found, members, agreement = work.found, work.members, work.agreement
    for plot in (found.plot, found.plot_sources, members.plot, agreement.plot):
        axes = pyplot.figure().add_subplot()
        assert plot(ax=axes) is axes and axes.has_data()
    assert agreement.plot().get_title().startswith(OUTSIDE)
    with pytest.raises(jaxsim.UserError, match="no target 'nowhere'"):
        agreement.plot("nowhere")
    pyplot.close("all")


def test_a_folder_that_is_no_workdir_is_refused(tmp_path):
    with pytest.raises(jaxsim.UserError, match=r"jaxsim\.run\(config, workdir\)"):
        jaxsim.open(tmp_path)
