"""The mesh changes the speed of a run, not its result."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxsim import mesh as meshes
from jaxsim.errors import UserError
from jaxsim.pool.digests import leaves_by_path, params_digest
from jaxsim.train import recipe_trainer

from . import tiny

needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


@needs_eight
@pytest.mark.parametrize("shape", [(8, 1), (4, 2), (2, 4)])
def test_any_mesh_gives_the_same_result(setting, trained, tmp_path, shape):
    trainer = recipe_trainer(setting.model, setting.config, tiny.mesh_of(*shape))
    start = trainer.fresh_params(7)
    assert params_digest(start) == params_digest(setting.trainer.fresh_params(7)), (
        "initial parameters depend on the mesh"
    )

    result = setting.train(tmp_path, trainer=trainer)
    losses, params = [], []
    for run, folder in ((trained[0], trained[1]), (result, tmp_path)):
        rows = tiny.rows_of_metrics(folder / "metrics.jsonl")
        losses.append([row["loss"] for row in rows])
        params.append(run.params)
    # Partial sums are added in another order, in float32, at a loss of 5.
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-5)
    # Adam divides by small roots at first; a step moves by 3e-3.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5, rtol=0), *params
    )


@pytest.fixture(scope="module")
def of_sixteen(setting):
    """Sixteen rows a step, so that eight devices can have two pieces."""
    config = tiny.changed(setting.config, "recipe", batch=16, steps=3)
    return config, dataclasses.replace(setting.run, steps=3)


@pytest.fixture(scope="module")
def in_one_piece(setting, of_sixteen, tmp_path_factory):
    folder = tmp_path_factory.mktemp("piece")
    config, run = of_sixteen
    trainer = recipe_trainer(setting.model, config, tiny.mesh_of())
    result = setting.train(folder, run, trainer)
    return result, tiny.rows_of_metrics(folder / "metrics.jsonl")


@needs_eight
@pytest.mark.parametrize(
    ("shape", "pieces"), [((1, 1), 4), ((8, 1), 2), ((4, 2), 2), ((2, 4), 4)]
)
def test_gradient_accumulation_gives_the_same_result(
    setting, of_sixteen, in_one_piece, tmp_path, shape, pieces
):
    config, run = of_sixteen
    config = tiny.changed(config, "train", accumulate=pieces)
    trainer = recipe_trainer(setting.model, config, tiny.mesh_of(*shape))
    result = setting.train(tmp_path, run, trainer)
    rows = tiny.rows_of_metrics(tmp_path / "metrics.jsonl")
    for key in ("loss", "gradient_norm"):
        np.testing.assert_allclose(
            [row[key] for row in rows],
            [row[key] for row in in_one_piece[1]],
            rtol=1e-4 if key == "gradient_norm" else 2e-5,
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5, rtol=0),
        result.params,
        in_one_piece[0].params,
    )


@needs_eight
def test_large_leaves_and_their_optimizer_states_are_sharded(setting):
    trainer = recipe_trainer(setting.model, setting.config, tiny.mesh_of(4, 2))
    state = trainer.program().start(setting.start, 6, 3)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path)
        share = leaf.addressable_shards[0].data.size / leaf.size
        if leaf.ndim >= 3 and "norm" not in name:
            assert share == 1 / 8, f"{name} is not fully split: {share}"
    names = leaves_by_path(state.params)
    assert len(names) == 10, "the loop above looked at nothing"


def test_a_single_run_takes_all_devices():
    n = jax.device_count()
    one = {"run": 1, "data": n, "model": 1}
    assert dict(meshes.training_mesh(-1, 1).shape) == one
    assert dict(meshes.training_mesh(n, 1).shape) == one
    assert dict(meshes.training_mesh(1, n).shape) == {**one, "data": 1, "model": n}
    for axes in ((n + 1, 1), (-1, n + 1), (0, 1)):
        with pytest.raises(UserError, match="does not divide the number of devices"):
            meshes.training_mesh(*axes)


@needs_eight
@pytest.mark.parametrize(
    ("axes", "runs", "shape"),
    [
        ((-1, 1), 8, (8, 1, 1)),  # one on each device
        ((-1, 1), 16, (8, 1, 1)),
        ((-1, 1), 4, (4, 2, 1)),
        ((-1, 1), 10, (2, 4, 1)),
        ((-1, 2), 8, (4, 1, 2)),
        ((2, 1), 8, (4, 2, 1)),
        ((2, 2), 8, (2, 2, 2)),
    ],
)
def test_runs_take_as_many_devices_as_divide_them(axes, runs, shape):
    mesh = meshes.training_mesh(*axes, jax.devices()[:8], runs)
    assert tuple(mesh.shape.values()) == shape


@needs_eight
def test_a_width_that_does_not_divide_is_named():
    mesh = tiny.mesh_of(1, 8)
    shapes = {"embedding": jax.ShapeDtypeStruct((257, 16), np.float32)}
    axes = {"embedding": ("vocab", "embed")}
    with pytest.raises(UserError, match=r"embedding.*vocab of 257.*8 devices"):
        meshes.parameter_shardings(shapes, axes, mesh)


def test_axes_that_collide_on_the_mesh_are_an_error():
    shapes = {"x": jax.ShapeDtypeStruct((8, 8), np.float32)}
    with pytest.raises(ValueError, match="collide"):
        meshes.parameter_shardings(shapes, {"x": ("heads", "mlp")}, tiny.mesh_of())
