"""A user's own runs, and files that are refused."""

import re

import numpy as np
import pytest

from jaxsim.errors import UserError
from jaxsim.validation.external import read_external_runs

MEMBERS = ("arxiv", "pile_cc", "github")
DOMAINS = ("arxiv", "mail", "pile-cc")

OWN = "name,arxiv,github\nx,0.5,0.5\ny,1,0\n"
OWN_METRICS = "name,mail\ny,1.5\nx,1.25\nunused,9\n"

# Files of other tools; docs/own_runs.md converts them.
REGMIX = "index,train_the_pile_arxiv,train_the_pile_github\n1,0.5,0.5\n"
OLMIX = ",run,name,index,hub:github,hub:arxiv\n0,19g,swarm-0000,0,0.7,0.3\n"


@pytest.fixture
def read(tmp_path):
    def given(mixtures, metrics, members=MEMBERS, domains=DOMAINS):
        paths = tmp_path / "mixtures.csv", tmp_path / "metrics.csv"
        for path, text in zip(paths, (mixtures, metrics), strict=True):
            data = text if isinstance(text, bytes) else text.encode()
            path.write_bytes(data)
        return read_external_runs(*paths, members, domains)

    return given


def test_jaxsims_own_layout(read, capsys):
    given = read(OWN, OWN_METRICS)
    assert given.unit == "bits per byte"
    assert given.table.names == ("x", "y")
    np.testing.assert_array_equal(given.table.w_MC, [[0.5, 0, 0.5], [1, 0, 0]])
    nan = np.nan
    np.testing.assert_array_equal(
        given.reference_MD, [[nan, 1.25, nan], [nan, 1.5, nan]]
    )
    assert not capsys.readouterr().out


def test_own_layout_where_a_member_is_called_run(read):
    given = read("name,run\nx,1\n", "name,mail\nx,2\n", members=("run",))
    assert given.unit == "bits per byte"
    assert given.table.parts(0) == {"run": 1.0}


def test_another_unit_is_named(read):
    """Levels mean nothing then."""
    metrics = "name,unit,mail\nx,{0},1.5\ny,{0},1.25\n"
    for unit, known in (
        ("bits per byte", "bits per byte"),
        ("nats per token", "unknown"),
    ):
        given = read(OWN, metrics.format(unit) + "unused,other,9\n")
        assert given.unit == known
        assert given.reference_MD[:, 1].tolist() == [1.5, 1.25]


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ("name,elsewhere\nx,1\ny,1\n", "'elsewhere' is not a domain; .*mail"),
        ("name,Mail\nx,1\ny,1\n", "'Mail' is not a domain"),
        ("name,mail\nx,1\n", "no row for 'y' of .*mixtures.csv"),
        ("name,mail\nx,1\ny,nan\n", "row 'y', column mail: nan is not"),
        ("name,mail\nx,1\ny,one\n", "line 3, column mail: 'one' is not"),
        ("name,mail\nx,1\ny,1\nx,2\n", "the name 'x' is used twice"),
        ("name\nx\ny\n", "no column is a domain; domains are arxiv"),
        (",name,mail\n0,x,1\n1,y,1\n", "the first column has no name"),
        ("index,mail\n1,2\n", "there is no column 'name'; both files need"),
        ("", "empty"),
        (b"\xff\xfe", "not a CSV in UTF-8"),
        ("name,mail,mail\nx,2,2\n", "an empty or repeated column"),
        ("name,mail\nx,2\ny,\n", "line 3, column mail: '' is not a number"),
        ("name,mail\nx,inf\ny,1\n", "row 'x', column mail: inf is not"),
        ("name,mail\n", "no row for 'x' of .*mixtures.csv; add it"),
    ],
)
def test_own_metrics_are_strict(read, metrics, sentence):
    with pytest.raises(UserError, match=rf"metrics\.csv.*{sentence}"):
        read(OWN, metrics)


@pytest.mark.parametrize(
    ("mixtures", "sentence"),
    [
        ("name,arxiv,github\nx,0.5,0.47\n", r"'x': the weights sum to 0\.97"),
        ("name,arxiv,github\nx,0.5,0.499\n", r"'x': the weights sum to 0\.999"),
        ("name,t_arxiv\nx,1\n", "'t_arxiv' is not a member"),
        ("name,index,arxiv\nx,1,1\n", "'index' is not a member"),
        ("name,arxiv\nx,nan\n", "'x': the weight of 'arxiv' is not finite"),
        ("name,arxiv,github\nx,2,-1\n", "'x': .* 'github' is negative"),
        ("name,arxiv\nx,1\nx,1\n", "'x': the name is used twice"),
        (REGMIX, "there is no column 'name'; .* other tools' files"),
        (OLMIX, "the first column has no name; .* index=False"),
        ("", "empty"),
        ("\n\n", "empty"),
        (b"\x00\xff\xfe\x89PNG\r\n\x1a\n", "not a CSV in UTF-8"),
        (b"\x00\x01\x02\x03", "there is no column 'name'"),
        ("name,arxiv\n" + "1" * 200_000 + ",1\n", "not a CSV in UTF-8"),
        ("name,arxiv,arxiv\nx,1,0\n", "an empty or repeated column"),
        ("name,arxiv\n", "no rows"),
        ("name\nx\n", "'x': all weights are zero"),
        ("name,arxiv\nx,1\n,1\n", "a row has no name"),
        ("name,arxiv\nx,1\ny,1,0\n", "line 3: 3 cells under 2 columns"),
        ("name,arxiv\nx,\n", "line 2, column arxiv: '' is not a number"),
        ("name,arxiv,github\nx,0,0\n", "'x': all weights are zero"),
    ],
)
def test_own_mixtures_are_strict(read, mixtures, sentence):
    with pytest.raises(UserError, match=rf"mixtures\.csv.*{sentence}"):
        read(mixtures, "name,mail\nx,1\n")


def test_damaged_files_are_read_or_refused(read):
    """Bytes are changed at random: the result is sound, or an error."""
    rng = np.random.default_rng(0)
    alphabet = b',\n\r"-.09aeinfx_\x00\xff '
    refused = 0
    for _ in range(600):
        texts = [bytearray(t.encode()) for t in (OWN, OWN_METRICS)]
        for text in texts:
            for _ in range(rng.integers(0, 4)):
                at = rng.integers(len(text))
                byte = alphabet[rng.integers(len(alphabet))]
                text[at : at + rng.integers(0, 3)] = bytes([byte])
        try:
            given = read(*map(bytes, texts))
        except UserError as error:
            assert re.search(r"(mixtures|metrics)\.csv", str(error))
            refused += 1
        else:
            assert (given.table.w_MC >= 0).all()
            np.testing.assert_allclose(given.table.w_MC.sum(1), 1)
            assert not np.isinf(given.reference_MD).any()
            # A domain has a column, or has none.
            nan_MD = np.isnan(given.reference_MD)
            assert (nan_MD == nan_MD[0]).all()
    assert 100 < refused < 590


def test_a_run_has_no_scale(tmp_path):
    mixtures, metrics = tmp_path / "r.csv", tmp_path / "m.csv"
    mixtures.write_text("name,web,code,scale\nx,0.5,0.5,1.5\n")
    metrics.write_text("name,mail\nx,1.25\n")
    with pytest.raises(UserError, match=r"r.csv: row 'x' has scale 1.5"):
        read_external_runs(mixtures, metrics, ("web", "code"), ("mail",))
