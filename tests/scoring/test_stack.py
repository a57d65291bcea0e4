"""Loading a pool: nothing is scored with a damaged or foreign member."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sealing

from jaxsim.config import ScoreConfig
from jaxsim.corpus import open_corpus
from jaxsim.errors import DamagedError, UserError
from jaxsim.mesh import scoring_mesh
from jaxsim.pool import open_pool
from jaxsim.scoring.program import deltas_of
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.stack import StackedPool, load_stack, stacked
from jaxsim.scoring.table import base_row, singles

from . import drawn, tiny

SOLO = "pool/members/solo"


def edit_manifest(workdir: Path, **fields) -> None:
    path = workdir / SOLO / "manifest.json"
    sealing.edit(path, lambda data: data.update(fields))


def stack_of(workdir: Path, override: bool = False):
    pool, corpus = open_pool(workdir), open_corpus(workdir)
    return load_stack(pool, tiny.MEMBERS, corpus, ScoreConfig(), override)


def test_columns_are_member_minus_base_model(project):
    stack, pool = stack_of(project), open_pool(project)
    assert not stack.damaged and not stack.notes
    _, base = pool.base()
    for c, name in enumerate(tiny.MEMBERS):
        manifest = pool.manifest(name)
        assert stack.digests[c] == manifest.params_digest
        jax.tree.map(
            lambda d_C, m, s, c=c: np.testing.assert_array_equal(d_C[:, c], m - s),
            stack.delta_C,
            pool.load(manifest),
            base,
        )


def test_entries_are_taken_one_at_a_time():
    """Or loading a pool would need more than twice its memory."""
    base, *members = drawn.trees()
    held = jax.tree.map(np.empty_like, base)

    def entries():
        for member in members:
            jax.tree.map(np.copyto, held, member)  # over the one before
            yield held

    delta_C = stacked(base, entries(), len(members))
    for c, member in enumerate(members):
        jax.tree.map(
            lambda d_C, m, s, c=c: np.testing.assert_array_equal(d_C[:, c], m - s),
            delta_C,
            member,
            base,
        )


@pytest.mark.parametrize("deltas", ["float32", "bfloat16"])
def test_a_cpu_takes_the_arrays_over(deltas):
    """A copy would double the memory of a pool."""
    base, *members = drawn.trees()
    delta_C = stacked(base, members, len(members), deltas)
    stack = StackedPool(drawn.MEMBERS, drawn.MEMBERS, "", base, delta_C)
    held = stack.on(scoring_mesh(), drawn.MODEL)
    assert deltas_of(held.delta_C) == deltas
    arrays = jax.tree.leaves(delta_C)
    leaves = jax.tree.leaves(held.delta_C)
    for array, leaf in zip(arrays, leaves, strict=True):
        for shard in leaf.addressable_shards:
            assert shard.data.unsafe_buffer_pointer() == array.ctypes.data


def test_bfloat16_differences_are_rounded_to_the_nearest(project):
    pool, corpus = open_pool(project), open_corpus(project)
    full, split = (
        load_stack(pool, tiny.MEMBERS, corpus, ScoreConfig(deltas=deltas)).delta_C
        for deltas in ("float32", "bfloat16")
    )
    jax.tree.map(
        lambda f, h: np.testing.assert_allclose(
            np.asarray(h).view(jnp.bfloat16).astype(np.float32), f, rtol=2.0**-8
        ),
        full,
        split,
    )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"base_digest": "0" * 64}, "base_digest: expected .*, found 000000"),
        ({"tokenizer_digest": "0" * 64}, "tokenizer_digest: expected"),
        ({"data_digests": {"solo": "0" * 64}}, "unit solo of the corpus is not"),
    ],
)
def test_a_foreign_member_is_refused(workdir, fields, sentence):
    edit_manifest(workdir, **fields)
    advice = f"delete {workdir / SOLO} and run `jaxsim run`.*; --override admits it"
    with pytest.raises(DamagedError, match=f"member solo .*{sentence}.*{advice}"):
        stack_of(workdir)
    stack = stack_of(workdir, override=True)
    assert len(stack.notes) == 1 and "member solo" in stack.notes[0]
    assert not stack.damaged
    solo = stack.names.index("solo")
    assert np.any(jax.tree.leaves(stack.delta_C)[0][solo])


def test_a_damaged_member_is_a_zero_column_under_override(workdir, config):
    tiny.flip(tiny.largest_file(workdir / SOLO))
    advice = f"delete {workdir / SOLO} and run `jaxsim run`.*--override leaves it out"
    with pytest.raises(DamagedError, match=f"solo: file .* was altered.*{advice}"):
        stack_of(workdir)
    scorer = Scorer(workdir, config.score, override=True)
    stack = scorer.stack
    solo = stack.names.index("solo")
    for delta_C in jax.tree.leaves(stack.delta_C):
        assert not np.any(delta_C[:, solo])
        assert np.any(np.delete(np.asarray(delta_C), solo, axis=1))
    assert stack.damaged == {"solo"}
    with pytest.raises(DamagedError, match="'solo' uses 'solo', which is dam"):
        scorer.score("mine", singles(scorer.members), windows=1)
    scores = scorer.score("mine", base_row(scorer.members), windows=1)
    assert np.isfinite(scores.predictors["merge"].nll_MR).all()
    assert scores.notes == stack.notes != ()
    assert scorer.load("mine").notes == stack.notes


def test_under_override_only_sound_rows_are_left(workdir, config, tmp_path):
    tiny.flip(tiny.largest_file(workdir / SOLO))
    scorer = Scorer(workdir, config.score, override=True)
    sound = set(tiny.MEMBERS) - {"solo"}
    standard = scorer.standard()
    assert set(standard.table.names) == {"base", *sound, "group alpha"}
    table = scorer.table("subsets:1-2")
    assert len(table) == 3 + 3 + 1
    for row in range(len(table)):
        assert table.parts(row).keys() <= sound
    # What a user asks for by name is refused by name.
    csv = tmp_path / "mine.csv"
    csv.write_text("name,solo\nonly solo,1\n")
    with pytest.raises(DamagedError, match="'only solo' uses 'solo'"):
        scorer.score("mine", scorer.table(str(csv)), windows=1)
    tiny.flip(tiny.largest_file(workdir / "pool/members/alpha,1900-1909"))
    scorer = Scorer(workdir, config.score, override=True)
    with pytest.raises(DamagedError, match="every mixture uses a damaged"):
        scorer.table("subsets:4")


def test_an_override_leaves_nothing_for_a_repaired_pool(workdir, config):
    """The damaged member's digest is that of the sound one."""
    expected = Scorer(workdir, config.score).standard()
    scores = workdir / "scores"
    for path in scores.iterdir():
        path.unlink()
    path = tiny.largest_file(workdir / SOLO)
    sound = path.read_bytes()
    tiny.flip(path)
    Scorer(workdir, config.score, override=True).standard()
    path.write_bytes(sound)
    found = Scorer(workdir, config.score).standard()
    assert found.table.same_as(expected.table)
    assert not found.notes
    for name, predictor in expected.predictors.items():
        np.testing.assert_array_equal(found.predictors[name].nll_MR, predictor.nll_MR)


def test_another_model_of_the_same_shapes_is_refused(workdir):
    model = json.loads((workdir / SOLO / "manifest.json").read_text())["model"]
    edit_manifest(workdir, model=model | {"heads": 1})
    with pytest.raises(DamagedError, match=r"model.heads: expected 2, found 1"):
        stack_of(workdir)


def test_a_missing_member_and_an_empty_pool(project):
    pool, corpus = open_pool(project), open_corpus(project)
    with pytest.raises(UserError, match=r"no entry 'nobody'.*`jaxsim train`"):
        load_stack(pool, ["nobody"], corpus, ScoreConfig())
    with pytest.raises(UserError, match="the pool is empty"):
        load_stack(pool, [], corpus, ScoreConfig())


def test_a_changed_base_model_is_refused(workdir):
    path = workdir / "pool" / "pool.json"
    sealing.edit(path, lambda data: data.update(base_digest="0" * 64))
    with pytest.raises(DamagedError, match="the base model is not the one"):
        stack_of(workdir)
