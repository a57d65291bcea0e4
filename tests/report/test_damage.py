"""Records that somebody changed and sealed again: refused, by name, never a traceback.

`benchmarks/damage.py` tries every field; here is one of each kind.
"""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import sealing

from jaxsim import commands
from jaxsim.config import Config
from jaxsim.corpus import open_corpus
from jaxsim.errors import DamagedError
from jaxsim.pool.digests import sha256_of_file
from jaxsim.report.data import ReportData
from jaxsim.scoring.evaluation import gather
from jaxsim.scoring.store import ScoreStore

from .workdirs import (
    MEMBERS,
    OUTSIDE,
    add_chosen,
    add_diagnostics,
    add_search,
    add_validation,
)


@pytest.fixture(scope="module")
def finished(scored, tmp_path_factory):
    workdir = shutil.copytree(scored, tmp_path_factory.mktemp("finished") / "work")
    add_validation(workdir, 4)
    add_diagnostics(workdir)
    add_chosen(workdir, add_search(workdir))
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "work")


CHANGES = {
    "corpus/corpus.json": [
        ("no domain", lambda r: r["domains"].clear()),
        ("no counts", lambda r: r["summary"].pop("documents")),
        ("counts of no kind", lambda r: r["summary"]["quarantine"].update(x=1)),
    ],
    "search/result.json": [
        ("weights of 2", lambda r: r["rows"][0]["weights"].update(dict.fromkeys(
            r["rows"][0]["weights"], 1.0))),
        ("a limit of no kind", lambda r: r["binding"][0].update(kind="wish")),
        ("a domain without losses", lambda r: r["domains"].update(x={})),
        ("a member without values", lambda r: r["marginal"]["bits_DC"][0].pop()),
        ("no values", lambda r: r["marginal"].pop("objective_C")),
        ("another objective", lambda r: r.update(objective="best")),
        ("no error of the quadratic", lambda r: r["ranking"].update(random=None)),
        ("no spread", lambda r: r["ranking"]["random"].update(spread=0.0)),
        ("no reason", lambda r: r["ranking"].update(surrogate="ensemble")),
        ("half a range", lambda r: r["sources"][MEMBERS[0]].update(high=None)),
        ("ranges without a limit", lambda r: r.update(range_limit=None)),
        ("a target of nothing", lambda r: r["target"].update({OUTSIDE: 0.0})),
    ],
    "validation/validation.json": [
        ("a lost run", lambda r: r["points"]["reference"][OUTSIDE].pop()),
        ("no runs", lambda r: r["points"].pop("reference")),
        ("a lost target", lambda r: r["agreement"].pop(OUTSIDE)),
        ("half an interval", lambda r: r["agreement"][OUTSIDE]["merge"].update(
            interval=[0.5])),
        ("a number beyond NumPy's", lambda r: r.update(replicates=10**30)),
        ("no correlation", lambda r: r["agreement"][OUTSIDE]["merge"].pop("spearman")),
        ("a lost kind", lambda r: r["kinds"].pop()),
        ("a lost mixture", lambda r: r["mixtures"].pop()),
        ("a lost coefficient", lambda r: r["calibration"]["coefficients"][0].pop()),
        ("a lost error", lambda r: r["calibration"]["off"].pop()),
        ("no number of runs", lambda r: r.update(
            learning=[{"reference runs": None, "error": 1.0}])),
        ("no base", lambda r: r["base"].pop("test")),
        ("another kind of runs", lambda r: r.update(within={"x": r["agreement"]})),
        ("a kind without a target", lambda r: r.update(within={"dirichlet": {}})),
        ("noise of no merge", lambda r: r.update(predictor_noise={OUTSIDE: {}})),
        ("a claim about nothing", lambda r: r["claims"][0].pop("targets")),
    ],
    "validation/chosen.json": [
        ("a lost label", lambda r: r["labels"].pop()),
        ("a lost run", lambda r: r["points"]["merge"][OUTSIDE].pop()),
    ],
    "scores/standard.json": [("no predictor", lambda r: r["predictors"].clear())],
    "validation/diagnostics.json": [
        ("another verdict", lambda r: r.update(verdict="perhaps")),
        ("a lost cosine", lambda r: r["cosines"][0].pop()),
        ("a lost point", lambda r: r["lines"]["uniform"]["macro"].pop()),
        ("a lost line", lambda r: r["lines"].pop("uniform")),
        ("a lost drift", lambda r: r["drift"].pop(MEMBERS[0])),
    ],
}  # fmt: skip
CASES = [(path, *case) for path, cases in CHANGES.items() for case in cases]


@pytest.mark.parametrize(
    ("path", "change"),
    [pytest.param(path, change, id=f"{path}, {name}") for path, name, change in CASES],
)
def test_parts_that_do_not_fit_are_refused(workdir, path, change):
    sealing.edit(workdir / path, change)
    with pytest.raises(DamagedError, match=path):
        ReportData(workdir)


def forge(workdir, name, content):
    """Replaces a file of the standard table, with a seal that fits."""
    path = workdir / "scores" / name
    content(path)
    digest = sha256_of_file(path)

    def change(record):
        if name.endswith(".parquet"):
            record["parquet"] = digest
        else:
            record["predictors"]["merge"]["sha256"] = digest

    sealing.edit(workdir / "scores" / "standard.json", change)


def huge(path):
    """The header of an array of four pebibytes."""
    head = {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**30)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, head)


def with_nan(path):
    nll_MR = np.load(path)
    nll_MR[0, 0] = np.nan
    np.save(path, nll_MR)


ARRAYS = [
    huge,
    with_nan,
    lambda path: np.save(path, np.load(path)[:, 1:]),
    lambda path: np.save(path, np.load(path).astype(np.float64)),
    lambda path: path.write_bytes(b"no array"),
]


@pytest.mark.parametrize("content", ARRAYS)
def test_another_array_of_losses_is_refused(workdir, content):
    forge(workdir, "standard.merge.npy", content)
    evaluation = gather(open_corpus(workdir))
    with pytest.raises(DamagedError, match=r"standard\.json"):
        ScoreStore(workdir).load("standard", evaluation)


def column(name, convert):
    """Replaces a column of a Parquet file."""

    def content(path):
        table = pa.parquet.read_table(path)
        values = pa.array([convert(v) for v in table[name].to_pylist()])
        at = table.column_names.index(name)
        pa.parquet.write_table(table.set_column(at, name, values), path)

    return content


TABLES = [
    column("bits_per_byte", lambda v: None),
    column("bits_per_byte", str),
    column("bits_per_byte", lambda v: float("nan")),
    column("domain", lambda v: None),
    column("mixture", lambda v: "x"),
    column("split", lambda v: "dev"),
]


@pytest.mark.parametrize("content", TABLES)
def test_another_table_of_sums_is_refused(workdir, content):
    forge(workdir, "standard.parquet", content)
    with pytest.raises(DamagedError, match=r"standard\.parquet"):
        ReportData(workdir)


@pytest.mark.parametrize("command", [commands.score, commands.validate])
def test_an_edited_best_mixture_is_refused(workdir, command):
    """Or the mixture that is trained is not the one that the report names."""
    best = workdir / "search" / "best.csv"
    name = json.loads((workdir / "search" / "result.json").read_text())["rows"][0]
    best.write_text(best.read_text().replace(name["name"], "another"))
    given = best if command is commands.validate else str(best)
    with pytest.raises(DamagedError, match=r"best\.csv: not as .*result.json has it"):
        command(Config(), workdir, mixtures=given)
