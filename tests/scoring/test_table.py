"""Tables of mixtures: what is refused, and what each kind holds."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from jaxsim.errors import UserError
from jaxsim.scoring.scorer import table_name
from jaxsim.scoring.table import (
    Mixtures,
    base_row,
    concatenate,
    count_rows,
    dirichlet,
    macro,
    mixture_key,
    parse,
    proportional,
    read_csv,
    singles,
    subsets,
    uniform,
)

ABC = ("a", "b", "c")


def table(*rows, scales=None, names=None, members=ABC) -> Mixtures:
    names = names or tuple(f"row {m}" for m in range(len(rows)))
    scales = np.ones(len(rows)) if scales is None else np.array(scales)
    return Mixtures(members, names, ("given",) * len(rows), np.array(rows), scales)


GOOD = (0.2, 0.3, 0.5)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ((math.nan, 0.5, 0.5), r"'row 1': the weight of 'a' is not finite"),
        ((0.5, math.inf, 0.5), r"'row 1': the weight of 'b' is not finite"),
        ((0.7, 0.5, -0.2), r"'row 1': the weight of 'c' is negative \(-0\.2\)"),
        ((0.0, 0.0, 0.0), r"'row 1': all weights are zero"),
        ((0.47, 0.0, 0.5), r"'row 1': the weights sum to 0\.97, not to 1"),
        ((0.6, 0.0, 0.5), r"'row 1': the weights sum to 1\.1, not to 1"),
    ],
)
def test_a_bad_row_is_refused_by_name(bad, sentence):
    with pytest.raises(UserError, match=sentence):
        table(GOOD, bad, GOOD)


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_bad_scale_is_refused_by_name(scale):
    with pytest.raises(UserError, match=r"'row 1': scale .* is not finite"):
        table(GOOD, GOOD, scales=(1.0, scale))


def test_the_base_model_does_not_excuse_zero_weights():
    with pytest.raises(UserError, match="'row 0': all weights are zero"):
        table((0.0, 0.0, 0.0), scales=(0.0,))


def test_shape_and_names_are_checked():
    with pytest.raises(UserError, match=r"weights of shape \(1, 2\).*3 members"):
        table((0.5, 0.5))
    with pytest.raises(UserError, match="'x': the name is used twice"):
        table(GOOD, GOOD, names=("x", "x"))
    with pytest.raises(UserError, match="a row has no name"):
        table(GOOD, names=("",))
    with pytest.raises(UserError, match="a member is repeated"):
        table(GOOD, members=("a", "b", "a"))


def test_rounded_weights_are_accepted():
    third = round(1 / 3, 6)
    assert len(table((third, third, third))) == 1


def test_one_name_is_one_mixture():
    one, other = table(GOOD, names=("x",)), table(GOOD[::-1], names=("x",))
    assert concatenate(one, one).names == ("x",)
    with pytest.raises(UserError, match="'x': two different ones"):
        concatenate(one, other)
    scaled = dataclasses.replace(one, scale_M=np.array([0.5]))
    with pytest.raises(UserError, match="'x': two different ones"):
        concatenate(one, scaled)


def test_plain_rows():
    assert base_row(ABC).scale_M == [0.0]
    np.testing.assert_array_equal(singles(ABC).w_MC, np.eye(3))
    np.testing.assert_allclose(uniform(ABC).w_MC, [[1 / 3] * 3])
    np.testing.assert_allclose(proportional(ABC, [10, 30, 60]).w_MC, [[0.1, 0.3, 0.6]])
    grouped = macro(ABC, ["x", "x", "y"])
    assert grouped.names == ("macro", "group x")
    np.testing.assert_allclose(grouped.w_MC, [[0.25, 0.25, 0.5], [0.5, 0.5, 0]])
    assert not len(macro(ABC, ["x", "y", "z"]))  # that is uniform
    assert not len(macro(ABC, ["x", "x", "x"]))


@pytest.mark.parametrize(
    ("members", "largest", "rows"), [(1, 1, 1), (2, 2, 3), (12, 3, 298), (132, 2, 8778)]
)
def test_default_subsets_fit_the_pool(members, largest, rows):
    names = [f"m{c}" for c in range(members)]
    found = parse("subsets", names, 1.0, 0)
    assert found.same_as(subsets(names, 1, largest))
    assert len(found) == rows == count_rows("subsets", members)


def test_subsets():
    twelve = tuple(f"m{c}" for c in range(12))
    found = subsets(twelve, 1, 3)
    assert len(found) == 298
    assert len({tuple(w_C) for w_C in found.w_MC}) == 298
    for name, w_C in zip(found.names, found.w_MC, strict=True):
        parts = name.split(" + ")
        assert parts == [m for m, w in zip(twelve, w_C, strict=True) if w]
        assert set(w_C) <= {0.0, 1 / len(parts)}


def test_dirichlet_is_a_function_of_its_seed():
    one, same, other = (dirichlet(ABC, 50, 2.0, rng) for rng in (3, 3, 4))
    assert one.same_as(same)
    assert not one.same_as(other)
    np.testing.assert_allclose(one.w_MC.mean(0), 1 / 3, atol=0.1)
    np.testing.assert_allclose(one.w_MC.sum(1), 1)
    longer = dirichlet(ABC, 60, 2.0, 3)
    np.testing.assert_array_equal(longer.w_MC[:50], one.w_MC)


def write(tmp_path: Path, data: str | bytes) -> Path:
    path = tmp_path / "table.csv"
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_csv_round_trip(tmp_path):
    wanted = dirichlet(ABC, 20, 1.0, 0)
    lines = ["c,name,a,scale,b"] + [
        f"{w[2]!r},{name},{w[0]!r},1,{w[1]!r}"
        for name, w in zip(wanted.names, wanted.w_MC.tolist(), strict=True)
    ]
    found = read_csv(ABC, write(tmp_path, "\n".join(lines)))
    assert found.same_as(wanted)
    assert set(found.kinds) == {"given"}


def test_csv_as_spreadsheets_write_it(tmp_path):
    text = '\ufeffname,"a",scale\r\nhalf,1,0.5\r\n\r\n'
    found = read_csv(ABC, write(tmp_path, text))
    assert found.names == ("half",)
    np.testing.assert_array_equal(found.w_MC, [[1, 0, 0]])
    assert found.scale_M == [0.5]
    # Where a comma is the decimal point, a semicolon is between cells.
    members = ("a,1990-1999", "b")
    for text in (
        "name;a,1990-1999;b\nhalf;0.5;0.5\n",
        '"name"\t"a,1990-1999"\t"b"\nhalf\t0.5\t0.5\n',
        'name,"a,1990-1999",b\nhalf,0.5,0.5\n',
    ):
        found = read_csv(members, write(tmp_path, text))
        np.testing.assert_array_equal(found.w_MC, [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "table.csv: empty"),
        ("name,a,b\n", "table.csv: no rows"),
        ("a,b\n1,0\n", "there is no column 'name'"),
        ("name,a,d\nx,1,0\n", "column 'd' is not a member of this pool; .*a, b"),
        ("name,a,a\nx,1,0\n", "an empty or repeated column"),
        ("name,a,\nx,1,0\n", "an empty or repeated column"),
        ("name,a,b\nx,1\n", "line 2: 2 cells under 3 columns"),
        ("name,a,b\nx,1,0\ny,1,zero\n", "line 3, column b: 'zero' is not a"),
        ("name,a,b\nx,1,\n", "line 2, column b: '' is not a number"),
        ("name,a,b\nx,nan,1\n", "'x': the weight of 'a' is not finite"),
        ("name,a,b\nx,0.5,0.5\nx,1,0\n", "'x': the name is used twice"),
        ("name,a,b\n ,0.5,0.5\n", "a row has no name"),
        ("name,a,b\nx,0.5,0.47\n", "'x': the weights sum to 0.97"),
        ("name,a,b\nx,0,0\n", "'x': all weights are zero"),
        ("name,a,scale\nx,1,nan\n", "'x': scale nan is not finite"),
        (b"name,a\nx\xff,1\n", "not a CSV in UTF-8"),
        ("name,a\n" + "x" * 200_000 + ",1\n", "not a CSV in UTF-8"),
    ],
)
def test_a_bad_csv_is_refused(tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence):
        read_csv(ABC, write(tmp_path, text))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nowhere.csv", "nowhere.csv: no such file"),
        ("subsets:0-2", "sizes must lie between 1 and the number of members, 3"),
        ("subsets:4", "sizes must lie between 1"),
        ("subsets:4-5", r"config.score.mixtures\): sizes must lie between 1"),
        ("subsets:3-2", "sizes must lie between 1"),
        ("subsets:", "must be subsets, subsets:A-B, dirichlet:N or FILE.csv"),
        ("dirichlet:0", "asks for no rows"),
        ("dirichlet:99999999999", r"asks for 1e\+11 rows; the most are 1,000,000"),
        ("dirichlet:-1", "must be subsets"),
        ("table.txt", "must be subsets"),
    ],
)
def test_a_bad_specification_is_refused(spec, sentence):
    with pytest.raises(UserError, match=sentence):
        parse(spec, ABC, 1.0, 0)


def test_specifications(tmp_path):
    assert parse("subsets:2", ABC, 1.0, 0).same_as(subsets(ABC, 2, 2))
    assert parse("dirichlet:4", ABC, 2.0, 1).same_as(dirichlet(ABC, 4, 2.0, 1))
    path = write(tmp_path, "name,b\nonly b,1\n")
    assert parse(str(path), ABC, 1.0, 0).parts(0) == {"b": 1.0}


def test_no_csv_takes_the_place_of_another_table():
    """'references', 'reference runs' and the like are files of the commands."""
    for name in ("standard", "subsets-1-3", "tokens"):
        assert table_name(f"some/{name}.csv") != table_name(name)
    assert "/" not in table_name("../../x.csv")
    assert table_name("subsets:1-3") == "subsets-1-3"


def test_a_key_ignores_rounding_only():
    w_C = np.array([0.1 + 0.2, 0.7])
    assert mixture_key(w_C) == mixture_key(np.array([0.3, 0.7]))
    assert mixture_key(w_C) != mixture_key(np.array([0.3 + 1e-9, 0.7 - 1e-9]))


def test_standard_merges_are_found_by_kind():
    table = concatenate(
        singles(ABC),
        uniform(ABC),
        macro(ABC, ["x", "x", "y"]),
        proportional(ABC, [1, 2, 3]),
    )
    found = [table.names[m] for m in table.standard_merges()]
    assert found == ["uniform", "macro", "proportional"]
