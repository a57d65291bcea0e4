"""Truths that a user brings: three layouts, and files that are none."""

import re

import numpy as np
import pytest

from jaxsim.errors import UserError
from jaxsim.study.given import read_truths

MEMBERS = ("arxiv", "pile_cc", "github")
DOMAINS = ("arxiv", "mail", "pile-cc")

OWN = "name,arxiv,github\nx,0.5,0.5\ny,1,0\n"
OWN_METRICS = "name,mail\ny,1.5\nx,1.25\nunused,9\n"

REGMIX = """\
index,train_the_pile_arxiv,train_the_pile_Pile_CC,train_the_pile_github
1,0.5,0.25,0.25
2,0.333,0.333,0.333
3,0.0,0.999,0.0
"""
REGMIX_METRICS = """\
index,metric/the_pile_arxiv_val_loss,metric/the_pile_pile_cc_val_loss
3,4.5,5.5
1,4.25,5.25
2,4.0,5.0
"""

# As pandas writes them, row numbers and all; one label is no number.
OLMIX = """\
,run,name,index,hub:github,hub:arxiv,hub:pile_cc
0,19g3guks,swarm-0000,0,0.7000000000000001,0.3,0.0
1,d4nbvsr7,swarm-0001,1,0.2,0.0,0.8
"""
OLMIX_METRICS = """\
,run,name,index,mail,piqa:rc::olmes
0,d4nbvsr7,swarm-0001,0,1.5,
1,19g3guks,swarm-0000,1,1.25,broken
2,zzz,swarm-0002,2,,
"""


@pytest.fixture
def read(tmp_path):
    def given(ratios, metrics, members=MEMBERS, domains=DOMAINS):
        paths = tmp_path / "ratios.csv", tmp_path / "metrics.csv"
        for path, text in zip(paths, (ratios, metrics), strict=True):
            data = text if isinstance(text, bytes) else text.encode()
            path.write_bytes(data)
        return read_truths(*paths, members, domains)

    return given


def test_jaxsims_own_layout(read, capsys):
    given = read(OWN, OWN_METRICS)
    assert given.unit == "bits per byte"
    assert given.table.names == ("x", "y")
    np.testing.assert_array_equal(given.table.w_MC, [[0.5, 0, 0.5], [1, 0, 0]])
    nan = np.nan
    np.testing.assert_array_equal(
        given.truth_MD, [[nan, 1.25, nan], [nan, 1.5, nan]]
    )
    assert not capsys.readouterr().out


def test_own_layout_where_a_member_is_called_run(read):
    given = read("name,run\nx,1\n", "name,mail\nx,2\n", members=("run",))
    assert given.unit == "bits per byte"
    assert given.table.parts(0) == {"run": 1.0}


def test_regmix(read, capsys):
    """Rows pair by index, and shares of three decimals are mended."""
    given = read(REGMIX, REGMIX_METRICS)
    assert given.unit == "unknown"
    assert given.table.names == ("1", "2", "3")
    np.testing.assert_allclose(
        given.table.w_MC, [[0.5, 0.25, 0.25], [1 / 3] * 3, [0, 1, 0]]
    )
    assert given.table.w_MC[2, 1] == 1  # a single member, exactly
    nan = np.nan
    np.testing.assert_array_equal(
        given.truth_MD, [[4.25, nan, 5.25], [4, nan, 5], [4.5, nan, 5.5]]
    )
    out = capsys.readouterr().out
    assert "3 runs in RegMix's layout" in out
    assert "the weights of 2 runs sum to 1 only within rounding (0.999" in out
    assert "ignored" not in out


def test_row_numbers_pair_as_integers_and_as_decimals(read):
    """A table of pandas with gaps writes its row numbers as decimals."""
    ratios = "index,arxiv,github\n1,0.5,0.5\n2,1,0\n"
    given = read(ratios, "index,mail\n2.0,3\n1.0,2\n")
    assert given.table.names == ("1", "2")
    column = np.isfinite(given.truth_MD).all(axis=0)
    assert given.truth_MD[:, column].T.tolist() == [[2, 3]]


def test_olmix(read, capsys):
    """What is no domain may hold anything, and a failed run no metrics."""
    given = read(OLMIX, OLMIX_METRICS)
    assert given.unit == "unknown"
    assert given.table.names == ("19g3guks", "d4nbvsr7")
    np.testing.assert_allclose(given.table.w_MC, [[0.3, 0, 0.7], [0, 0.8, 0.2]])
    np.testing.assert_array_equal(given.truth_MD[:, 1], [1.25, 1.5])
    assert np.isnan(given.truth_MD[:, [0, 2]]).all()
    out = capsys.readouterr().out
    assert "2 runs in Olmix's layout" in out
    assert "no domains of this corpus, ignored: piqa:rc::olmes" in out
    assert re.search(r"metrics.csv: not in .*ratios.csv, and ignored: zzz", out)
    assert "rounding" not in out


def test_olmix_by_run_id_alone(read):
    given = read(
        "run_id,arxiv,github\nr,0.5,0.5\n", "run_id,arxiv_bpb,mail_bpb\nr,1,2\n"
    )
    assert given.table.names == ("r",)
    np.testing.assert_array_equal(given.truth_MD[0, :2], [1, 2])


def test_a_long_list_is_cut(read, capsys):
    tasks = [f"task{i}" for i in range(9)]
    read(
        "index,arxiv\n1,1\n",
        f"index,mail,{','.join(tasks)}\n1,2{',0' * 9}\n",
    )
    assert "ignored: task0, task1, task2, task3, task4, task5 and 3 more" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("header", "first", "second"),
    [
        ("train_a,train_b", "a", "b"),
        ("a_share,b_share", "a", "b"),
        ("train/x_a_w,train/x_b_w", "a", "b"),
        ("train/x_a_w,train/x_b_w", "x-a", "X b"),  # without some of it
        ("train_the_a,train_the_b", "the_a", "b"),
        ("A,b", "a", "B"),
        ("a,A", "a", "A"),  # as spelt comes first
        ("train_a,a", "train_a", "a"),
        ("train_a,train_a_b", "a", "a_b"),
        ("the_cc_x,the_cc_y", "cc_x", "cc_y"),
    ],
)
@pytest.mark.parametrize("swap", [False, True])
def test_names_match_without_what_all_columns_share(
    read, header, first, second, swap
):
    members = (second, first) if swap else (first, second)
    ratios = f"index,{header}\n1,0.75,0.25\n"
    given = read(ratios, "index,mail\n1,2\n", members)
    assert given.table.parts(0) == {first: 0.75, second: 0.25}


@pytest.mark.parametrize(
    ("header", "members"),
    [("a,A", ("a", "b")), ("the_a,the_b", ("the_a", "a"))],
)
def test_a_name_spelt_as_a_column_is_that_one(read, header, members):
    given = read(f"index,{header}\n1,1,0\n", "index,mail\n1,2\n", members)
    assert given.table.parts(0) == {members[0]: 1.0}


@pytest.mark.parametrize(
    ("header", "members", "sentence"),
    [
        ("t_A,t_a", ("a",), "member 'a' may be column 't_A' or 't_a'; rename"),
        (
            "t_the_a,t_the_b",
            ("a", "the_a", "b"),
            "column 't_the_a' may be the member 'a' or 'the_a'; rename",
        ),
        (
            "t_one,t_two",
            ("a", "b"),
            "no column is a member; columns are t_one, t_two; .* are a, b",
        ),
    ],
)
def test_ambiguous_names_are_refused(read, header, members, sentence):
    with pytest.raises(UserError, match=rf"ratios\.csv: .*{sentence}"):
        read(f"index,{header}\n1,1,0\n", "index,mail\n1,2\n", members)


def test_sources_without_a_member(read):
    """Allowed as long as no run used them, and the other way round."""
    ratios = "index,p_arxiv,p_books\n1,1,0\n2,1,{}\n"
    metrics = "index,mail\n1,2\n2,3\n"
    given = read(ratios.format(0), metrics)
    np.testing.assert_array_equal(given.table.w_MC, [[1, 0, 0], [1, 0, 0]])
    with pytest.raises(
        UserError,
        match=r"ratios\.csv, line 3, column p_books: a weight of 0\.001 for "
        r"no member of this pool \(arxiv, pile_cc, github\); rename",
    ):
        read(ratios.format(0.001), metrics)


@pytest.mark.parametrize("total", [0.989, 1.011])
def test_more_than_rounding_is_refused(read, total):
    with pytest.raises(
        UserError,
        match=rf"ratios\.csv, line 3: the weights of members sum to {total}, "
        r"not to 1 \(without a column, so zero: pile_cc, github\); correct",
    ):
        read(f"index,arxiv\n1,1\n2,{total}\n", "index,mail\n1,2\n2,2\n")


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ("name,elsewhere\nx,1\ny,1\n", "'elsewhere' is not a domain; .*mail"),
        ("name,Mail\nx,1\ny,1\n", "'Mail' is not a domain"),
        ("name,mail\nx,1\n", "no row for 'y' of .*ratios.csv"),
        ("name,mail\nx,1\ny,nan\n", "row 'y', column mail: nan is not"),
        ("name,mail\nx,1\ny,one\n", "line 3, column mail: 'one' is not"),
        ("name,mail\nx,1\ny,1\nx,2\n", "the name 'x' is used twice"),
        ("name\nx\ny\n", "no column is a domain; domains are arxiv"),
        (",name,mail\n0,x,1\n1,y,1\n", "an empty or repeated column"),
        (REGMIX_METRICS, "there is no column 'name'"),
    ],
)
def test_own_metrics_are_strict(read, metrics, sentence):
    with pytest.raises(UserError, match=rf"metrics\.csv.*{sentence}"):
        read(OWN, metrics)


@pytest.mark.parametrize(
    ("ratios", "sentence"),
    [
        ("name,arxiv,github\nx,0.5,0.47\n", r"'x': the weights sum to 0\.97"),
        ("name,arxiv,github\nx,0.5,0.499\n", r"'x': the weights sum to 0\.999"),
        ("name,t_arxiv\nx,1\n", "'t_arxiv' is not a member"),
        ("name,index,arxiv\nx,1,1\n", "'index' is not a member"),
        ("name,arxiv\nx,nan\n", "'x': the weight of 'arxiv' is not finite"),
        ("name,arxiv,github\nx,2,-1\n", "'x': .* 'github' is negative"),
        ("name,arxiv\nx,1\nx,1\n", "'x': the name is used twice"),
    ],
)
def test_own_ratios_are_strict(read, ratios, sentence):
    with pytest.raises(UserError, match=rf"ratios\.csv.*{sentence}"):
        read(ratios, "name,mail\nx,1\n")


RATIOS = "index,arxiv,github\n1,0.5,0.5\n2,1,0\n"
METRICS = "index,mail\n1,2\n2,3\n"


@pytest.mark.parametrize(
    ("ratios", "sentence"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        (b"\x00\xff\xfe\x89PNG\r\n\x1a\n", "not a CSV in UTF-8"),
        (b"\x00\x01\x02\x03", "no column names the runs; add `name`"),
        ("index,arxiv\n" + "1" * 200_000 + ",1\n", "not a CSV in UTF-8"),
        ("arxiv,github\n0.5,0.5\n", "no column names the runs; add `name`"),
        ("index,arxiv,arxiv\n1,1,0\n", "an empty or repeated column"),
        ("index,arxiv,\n1,1,0\n", "an empty or repeated column"),
        ("index,arxiv\n", "no rows"),
        ("index\n1\n", "no column is a member"),
        ("index,arxiv\n1,1\n2,1,0\n", "line 3: 3 cells under 2 columns"),
        ("index,arxiv\n1,1\n1,1\n", "line 3, column index: '1' is .* line 2"),
        ("index,arxiv\n1,1\n,1\n", "line 3, column index: empty; rows of both"),
        ("index,arxiv\n1,\n", "line 2, column arxiv: '' is not a finite"),
        ("index,arxiv\n1,x\n", "line 2, column arxiv: 'x' is not a finite"),
        ("index,arxiv\n1,NaN\n", "line 2, column arxiv: 'NaN' is not a finite"),
        ("index,arxiv\n1,-inf\n", "line 2, column arxiv: '-inf' is not a fin"),
        ("index,arxiv\n1,1e999\n", "line 2, column arxiv: '1e999' is not a f"),
        ("index,arxiv,github\n1,2,-1\n", "line 2, column github: .* negative"),
        ("index,arxiv,github\n1,0,0\n", "line 2: .* sum to 0, not to 1"),
        ("index,arxiv,Unnamed: 0,z\n1,1,7,nan\n", "line 2, column z: 'nan'"),
    ],
)
def test_hostile_ratios(read, ratios, sentence):
    with pytest.raises(UserError, match=rf"ratios\.csv.*{sentence}"):
        read(ratios, METRICS)


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ("", "empty"),
        (b"\xff\xfe", "not a CSV in UTF-8"),
        ("run,mail\n1,2\n2,3\n", "there is no column 'index', by which"),
        ("index,mail,mail\n1,2,2\n", "an empty or repeated column"),
        ("index,mail\n1,2\n", "no row for '2' of .*ratios.csv; add it"),
        ("index,mail\n1,2\n2,3\n2,3\n", "line 4, column index: '2' is used"),
        ("index,mail\n1,2\n2,\n", "line 3, column mail: '' is not a finite"),
        ("index,mail\n1,inf\n2,1\n", "line 2, column mail: 'inf' is not"),
        ("index,m\n1,2\n2,3\n", "no column is a domain; columns are m; dom"),
        ("index,Mail,MAIL\n1,2,2\n2,3,3\n", "'mail' may be column 'Mail' or"),
        ("index,mail\n", "no rows"),
    ],
)
def test_hostile_metrics(read, metrics, sentence):
    with pytest.raises(UserError, match=rf"metrics\.csv.*{sentence}"):
        read(RATIOS, metrics)


def test_damaged_files_are_read_or_refused(read):
    """Bytes changed at random: an answer that is sound, or an error."""
    rng = np.random.default_rng(0)
    layouts = [(OWN, OWN_METRICS), (REGMIX, REGMIX_METRICS)]
    layouts.append((OLMIX, OLMIX_METRICS))
    alphabet = b',\n\r"-.09aeinfx_\x00\xff '
    refused = 0
    for trial in range(600):
        texts = [bytearray(t.encode()) for t in layouts[trial % 3]]
        for text in texts:
            for _ in range(rng.integers(0, 4)):
                at = rng.integers(len(text))
                byte = alphabet[rng.integers(len(alphabet))]
                text[at : at + rng.integers(0, 3)] = bytes([byte])
        try:
            given = read(*map(bytes, texts))
        except UserError as error:
            assert re.search(r"(ratios|metrics)\.csv", str(error))
            refused += 1
        else:
            assert (given.table.w_MC >= 0).all()
            np.testing.assert_allclose(given.table.w_MC.sum(1), 1)
            assert not np.isinf(given.truth_MD).any()
            # A domain has a column or none.
            nan_MD = np.isnan(given.truth_MD)
            assert (nan_MD == nan_MD[0]).all()
    assert 100 < refused < 590


def test_a_run_has_no_scale(tmp_path):
    ratios, metrics = tmp_path / "r.csv", tmp_path / "m.csv"
    ratios.write_text("name,web,code,scale\nx,0.5,0.5,1.5\n")
    metrics.write_text("name,mail\nx,1.25\n")
    with pytest.raises(UserError, match=r"r.csv: row 'x' has scale 1.5"):
        read_truths(ratios, metrics, ("web", "code"), ("mail",))
