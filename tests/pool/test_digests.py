"""Digests of parameters: what changes them and what does not."""

import ml_dtypes
import numpy as np
import pytest

from jaxsim.checkpoints import load_params, save_params
from jaxsim.pool.digests import differences, file_digests, params_digest

TREE = {
    "b": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)},
    "a": {"scale": np.ones(3, np.float32)},
}
KERNEL, SCALE = TREE["b"]["kernel"], TREE["a"]["scale"]


def test_a_digest_does_not_depend_on_order_or_layout():
    digest = params_digest(TREE)
    assert len(digest) == 64
    assert digest == params_digest({"a": TREE["a"], "b": TREE["b"]})
    column_major = {"kernel": np.asfortranarray(KERNEL)}
    assert digest == params_digest(TREE | {"b": column_major})
    big_endian = {"kernel": KERNEL.astype(">f4")}
    assert digest == params_digest(TREE | {"b": big_endian})


@pytest.mark.parametrize(
    "other",
    [
        {"b": {"kernel": KERNEL.reshape(3, 2)}},
        {"b": {"kernel": KERNEL.astype(np.float64)}},
        {"b": {"kernel": KERNEL.view(np.int32)}},
        {"b": {"kernel": KERNEL + np.float32(1e-6) * (KERNEL == 1)}},
        {"b": {"weight": KERNEL}},
        {"b": {"kernel": KERNEL, "bias": SCALE}},
        {"b": {}},
    ],
    ids=["shape", "dtype", "bytes", "value", "path", "more", "fewer"],
)
def test_any_difference_changes_the_digest(other):
    assert params_digest(TREE | other) != params_digest(TREE)


def test_moving_values_between_leaves_changes_the_digest():
    one = {"a": np.array([1.0, 2.0]), "b": np.array([3.0])}
    two = {"a": np.array([1.0]), "b": np.array([2.0, 3.0])}
    assert params_digest(one) != params_digest(two)


def test_bfloat16_parameters_have_digests():
    short = KERNEL.astype(ml_dtypes.bfloat16)
    assert params_digest({"a": short}) != params_digest({"a": KERNEL})
    assert params_digest({"a": short}) != params_digest({"a": short + 1})


def test_two_saves_of_a_tree_have_different_files_and_one_digest(tmp_path):
    files, digests = [], []
    for name in ("one", "two"):
        save_params(tmp_path / name, TREE)
        files.append(file_digests(tmp_path / name))
        digests.append(params_digest(load_params(tmp_path / name, TREE)))
    assert files[0] != files[1]
    assert digests == [params_digest(TREE)] * 2


def test_differences_name_every_field():
    lines = differences(
        {"recipe": {"steps": 2, "batch": 8}, "base": "x" * 64, "same": 1},
        {"recipe": {"steps": 3, "extra": 1, "batch": 8}, "same": 1},
    )
    assert lines == [
        f"base: expected {'x' * 12}..., found nothing",
        "recipe.extra: expected nothing, found 1",
        "recipe.steps: expected 2, found 3",
    ]
