"""Damaged entries are found before anything uses them."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import sealing

from jaxsim import records
from jaxsim.errors import DamagedError, UserError
from jaxsim.pool import open_pool
from jaxsim.pool.manifest import read_manifest
from jaxsim.pool.publish import save_attempt


def _attempt(entry: Path) -> Path:
    return entry / read_manifest(entry).attempt


def _largest(entry: Path) -> Path:
    files = [p for p in _attempt(entry).rglob("*") if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


def _edit(entry: Path, **changes) -> None:
    path = entry / "manifest.json"

    def change(data):
        for dotted, value in changes.items():
            *groups, key = dotted.split("__")
            node = data
            for group in groups:
                node = node[group]
            node[key] = value

    sealing.edit(path, change)


def flip_bit(entry: Path) -> None:
    data = bytearray(_largest(entry).read_bytes())
    data[len(data) // 2] ^= 1
    _largest(entry).write_bytes(data)


def truncate(entry: Path) -> None:
    file = _largest(entry)
    os.truncate(file, file.stat().st_size - 1)


def empty(entry: Path) -> None:
    os.truncate(_largest(entry), 0)


def remove_file(entry: Path) -> None:
    _largest(entry).unlink()


def remove_attempt(entry: Path) -> None:
    shutil.rmtree(_attempt(entry))


def add_file(entry: Path) -> None:
    (_attempt(entry) / "more").write_text("")


def link_file(entry: Path) -> None:
    file = _largest(entry)
    file.rename(entry / "elsewhere")
    file.symlink_to(entry / "elsewhere")


def link_attempt(entry: Path) -> None:
    attempt = _attempt(entry)
    attempt.rename(entry / "elsewhere")
    attempt.symlink_to(entry / "elsewhere")


def _replace_params(entry: Path, change: Callable[[dict], None]) -> None:
    """Changes the parameters, and the file digests with them."""
    manifest = read_manifest(entry)
    pool = open_pool(entry.parents[2])
    params = jax.tree.map(np.array, pool.load(manifest))
    change(params)
    attempt, files = save_attempt(entry, params)
    manifest = dataclasses.replace(manifest, attempt=attempt, files=files)
    (entry / "manifest.json").write_text(records.dump(manifest))


def nan_leaf(entry: Path) -> None:
    def change(params):
        params["layers"]["mlp_in"]["kernel"][0, 0, 0] = np.nan

    _replace_params(entry, change)


def other_values(entry: Path) -> None:
    def change(params):
        params["embedding"][0, 0] += 1e-3

    _replace_params(entry, change)


def other_shape_in_files(entry: Path) -> None:
    def change(params):
        params["embedding"] = params["embedding"][:-8]

    _replace_params(entry, change)


def edit(**changes) -> Callable[[Path], None]:
    return lambda entry: _edit(entry, **changes)


def file_named(name: str) -> Callable[[Path], None]:
    def damage(entry: Path) -> None:
        _edit(entry, **{f"files__{name}": ["0" * 64, 1]})

    return damage


def written(text: str) -> Callable[[Path], None]:
    return lambda entry: (entry / "manifest.json").write_text(text) and None


UNFIT = r"name, kind, mixture, steps and data seed do not fit each other"
DAMAGE = [
    (flip_bit, r"SHA-256 differs"),
    (truncate, r"bytes instead of"),
    (empty, r"has 0 bytes instead of"),
    (remove_file, r"file .* is missing"),
    (remove_attempt, r"is missing"),
    (add_file, r"file more is not in its manifest"),
    (link_file, r"is a symbolic link"),
    (link_attempt, r"attempt-.* is a symbolic link"),
    (nan_leaf, r"leaf layers/mlp_in/kernel holds a value that is not finite"),
    (other_values, r"do not have the digest"),
    (other_shape_in_files, r"cannot be restored"),
    (edit(base_digest="0" * 64), r"base_digest: expected .*, found 0000"),
    (edit(tokenizer_digest="0" * 64), r"tokenizer_digest: expected"),
    (edit(recipe__learning_rate=1.0), r"recipe.learning_rate: expected 0.003"),
    (edit(model__norm="layer"), r"model.norm: expected rms, found layer"),
    # F11: forgeries with a right seal, of which none was noticed.
    (edit(data_seed=1), UNFIT),
    (edit(steps=1), UNFIT),
    (edit(steps=1, recipe__steps=1, tokens=768), r"recipe.steps: expected 2, found 1"),
    (edit(kind="reference"), UNFIT),
    (edit(kind="replicate"), UNFIT),
    (edit(kind="base"), UNFIT),
    (edit(mixture={"a": 0.5, "b": 0.5}), UNFIT),
    (edit(mixture={"b": 1.0}), UNFIT),
    (edit(mixture={}), UNFIT),
    (edit(data_digests={}), r"data_digests: not those of the units"),
    (edit(data_digests__b="0" * 64), r"data_digests: not those of the units"),
    (edit(tokens=1), r"tokens: 1 are not those of 2 steps"),
    (edit(model__length="x"), r"its numbers\[2\]: must be int"),
    (edit(finite=False), r"finite: is false"),
    (edit(leaves__embedding=[[8, 16], "float32"]), r"leaf embedding is"),
    (edit(leaves__embedding=[[264, 16], "bfloat16"]), r"leaf embedding is"),
    (edit(leaves__more=[[1], "float32"]), r"leaf more is"),
    (edit(version=2), r"format version 2, and this version of jaxsim reads 8"),
    (edit(record="Group"), r"not a record of kind Manifest"),
    (edit(name="b"), r"it belongs to 'b'"),
    (edit(attempt="../b/attempt-000000000000"), r"is not a folder of this"),
    (edit(attempt="/tmp"), r"is not a folder of this"),
    (edit(attempt=7), r"attempt: must be str, is 7"),
    (edit(files=[]), r"files: must be a dictionary"),
    (edit(recipe=None), r"recipe: must be a dictionary, is None"),
    (edit(surprise=1), r"surprise: unknown key"),
    (file_named("../b/manifest.json"), r"points outside"),
    (file_named("/etc/passwd"), r"points outside"),
    (file_named("a\0b"), r"points outside"),
    (file_named("."), r"points outside"),
    (file_named("x" * 300), r"is missing"),
    (written(""), r"unreadable"),
    (written("[]"), r"not a JSON object"),
    (written('{"format": 1}'), r"format version None"),
    (written("\udcff".encode(errors="surrogateescape").decode("latin1")),
     r"unreadable"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "reason"), DAMAGE, ids=[reason for _, reason in DAMAGE]
)
def test_damage_is_named_and_refused(project, damage, reason):
    pool = project.pool
    damage(pool.entry("a"))
    with pytest.raises(DamagedError, match=reason) as caught:
        pool.load(pool.manifest("a"))
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert "member a" in message or "/a/manifest.json" in message
    # Other entries can still be used, and `verify` reports the same.
    problems = pool.problems()
    assert list(problems) == ["a"]
    assert pool.load(pool.manifest("b"))


def test_verify_lists_everything_that_is_wrong(project):
    pool = project.pool
    assert pool.problems() == {}
    flip_bit(pool.entry("a"))
    remove_file(pool.entry("b"))
    truncate(pool.base_entry)
    problems = pool.problems()
    assert list(problems) == ["base", "a", "b"]
    assert "SHA-256" in problems["a"] and "missing" in problems["b"]


def test_verify_names_every_damaged_file_of_an_entry(project):
    pool = project.pool
    names = sorted(pool.manifest("a").files)[:2]
    for name in names:
        (_attempt(pool.entry("a")) / name).unlink()
    assert all(name in pool.problems()["a"] for name in names)


def test_another_base_model_is_refused(project):
    shutil.rmtree(project.pool.base_entry)
    shutil.copytree(project.pool.entry("a"), project.pool.base_entry)
    _edit(project.pool.base_entry, name="base", kind="base")
    with pytest.raises(DamagedError, match="not the one that the pool"):
        project.pool.base()


def test_attempts_that_no_manifest_names_are_not_read(project):
    pool = project.pool
    partial = pool.entry("c") / "attempt-0123456789ab"
    shutil.copytree(_attempt(pool.entry("a")), partial)
    assert pool.names() == ["a", "b"] == sorted(pool.manifests())
    with pytest.raises(UserError, match="no entry 'c'"):
        pool.manifest("c")
    # A second attempt beside the admitted one changes nothing.
    shutil.copytree(partial, pool.entry("a") / partial.name)
    assert pool.problems() == {}
    assert pool.load(pool.manifest("a"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unreadable"),
        ("[]", "not a JSON object"),
        ('{"version": 9}', "version 9, and this version of jaxsim reads 8"),
        (None, "recipe: missing"),
    ],
)
def test_a_damaged_pool_file_is_refused(project, text, reason):
    path = project.workdir / "pool" / "pool.json"
    if text is None:  # without its recipe, recipes would not be compared
        data = json.loads(path.read_text())
        del data["recipe"]
        text = sealing.sealed(data)
    path.write_text(text)
    with pytest.raises(DamagedError, match=reason):
        open_pool(project.workdir)
