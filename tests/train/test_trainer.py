"""The result of a run: golden losses, averages, starts, and what stops it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsim.errors import Preempted, UserError
from jaxsim.model import Execution
from jaxsim.pool.digests import params_digest
from jaxsim.train import NonFiniteError, Run, base_trainer, recipe_trainer
from jaxsim.train.runs import batch_of
from jaxsim.train.step import adamw, constant_rate

from . import tiny

# Losses and gradient norms (nats a token) of the first three steps.
GOLDEN = {
    "base": [[5.556674, 1.084633], [5.550075, 1.058195], [5.409085, 1.597882]],
    "recipe": [[5.563368, 1.359208], [5.457624, 1.714473], [5.357231, 1.501714]],
}


@pytest.fixture(scope="module")
def by_hand(setting):
    return steps_by_hand(setting)


def steps_by_hand(setting, factors=(1.0,) * 6):
    """Parameters after each step, from an independent training loop."""
    recipe, corpus = setting.config.recipe, setting.corpus
    optimizer = adamw(recipe, constant_rate(recipe, recipe.steps))
    rows = setting.run.schedule(corpus, recipe)
    execution = Execution(unroll=False)

    @jax.jit
    def step(params, state, tokens_BL1, factor):
        gradient = jax.grad(
            lambda p: jnp.mean(setting.model.token_nll(p, tokens_BL1, execution))
        )(params)
        updates, state = optimizer.update(gradient, state, params)
        updates = jax.tree.map(lambda u: factor * u, updates)
        return optax.apply_updates(params, updates), state

    params, state = setting.start, optimizer.init(setting.start)
    after = []
    for n in range(recipe.steps):
        here = slice(n * recipe.batch, (n + 1) * recipe.batch)
        tokens_BL1 = batch_of(corpus, rows, here)
        params, state = step(params, state, tokens_BL1, factors[n])
        after.append(jax.tree.map(np.asarray, params))
    return after


def _assert_close(got, want):
    # The same sums compiled in two programs, in float32; Adam divides by
    # small roots in its first steps. A step moves parameters by 3e-3.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=0), got, want
    )


def test_result_is_the_mean_of_the_last_half_of_the_steps(trained, by_hand, setting):
    assert setting.config.recipe.tail == 0.5 and len(by_hand) == 6
    mean = jax.tree.map(lambda *a: np.mean(a, axis=0), *by_hand[3:])
    _assert_close(trained[0].params, mean)
    with pytest.raises(AssertionError):
        _assert_close(trained[0].params, by_hand[-1])


def test_without_a_tail_the_result_is_the_last_step(setting, by_hand, tmp_path):
    config = tiny.changed(setting.config, "recipe", tail=0.0)
    trainer = recipe_trainer(setting.model, config, tiny.mesh_of())
    _assert_close(setting.train(tmp_path, trainer=trainer).params, by_hand[-1])


def test_the_rate_rises_in_the_first_steps_and_falls_in_the_last(setting, tmp_path):
    config = tiny.changed(setting.config, "recipe", tail=0.0, warmup=2, decay=0.5)
    trainer = recipe_trainer(setting.model, config, tiny.mesh_of())
    expected = steps_by_hand(setting, (1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3))
    found = setting.train(tmp_path, trainer=trainer)
    _assert_close(found.params, expected[-1])
    with pytest.raises(AssertionError):
        _assert_close(found.params, steps_by_hand(setting)[-1])


def test_the_same_run_again_gives_the_same_digest(setting, trained, tmp_path):
    before = params_digest(setting.start)
    again = setting.train(tmp_path)
    assert params_digest(again.params) == params_digest(trained[0].params)
    assert params_digest(setting.start) == before, "the start was changed"


def test_data_seed_and_unit_change_the_result(setting, trained, tmp_path):
    other = dataclasses.replace(setting.run, data_seed=1)
    unit = dataclasses.replace(setting.run, mixture={"b": 1.0})
    digests = {params_digest(trained[0].params)}
    for run in (other, unit):
        result = setting.train(tmp_path / str(len(digests)), run)
        digests.add(params_digest(result.params))
    assert len(digests) == 3


def test_a_start_on_the_device_is_copied(setting, trained, tmp_path):
    start = jax.device_put(setting.start, tiny.mesh_of().devices.item())
    result = setting.train(tmp_path, start=start)
    assert params_digest(result.params) == params_digest(trained[0].params)
    assert params_digest(start) == params_digest(setting.start)


def test_golden_metrics(setting, trained, tmp_path):
    trainer = base_trainer(setting.model, setting.config, tiny.mesh_of())
    run = Run("base", "base", {"base": 1.0}, setting.config.base.steps)
    setting.train(tmp_path, run, trainer, start=trainer.fresh_params(0))
    for name, folder in (("base", tmp_path), ("recipe", trained[1])):
        rows = tiny.rows_of_metrics(folder / "metrics.jsonl")
        got = [(row["loss"], row["gradient_norm"]) for row in rows[:3]]
        np.testing.assert_allclose(
            got,
            GOLDEN[name],
            rtol=1e-4,  # versions of XLA add in other orders
            err_msg=f"{name}: training has changed. If that was intended, set "
            f"GOLDEN[{name!r}] to {np.round(got, 6).tolist()}, and say in "
            "CHANGELOG.md that old and new pools cannot be compared",
        )
    base = tiny.rows_of_metrics(tmp_path / "metrics.jsonl")
    assert base[-1]["loss"] < base[0]["loss"] - 0.1, "the loss did not fall"


def test_tokens_flops_and_seconds_of_a_run(setting, trained):
    result = trained[0]
    tokens = 6 * 8 * 32
    assert result.tokens == tokens == setting.corpus.budget_tokens
    # A backward pass costs two forward passes.
    assert result.flops == 3 * setting.model.forward_flops(tokens)
    rows = tiny.rows_of_metrics(trained[1] / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] == result.final_loss
    for row in rows:
        rate = row["flops_per_second"] / row["tokens_per_second"]
        assert rate == pytest.approx(result.flops / tokens)
        assert 0 <= row["input_seconds"] <= row["seconds"]


@pytest.mark.parametrize(("leaf", "value"), [("mlp_out", np.inf), ("value", np.nan)])
def test_what_is_not_finite_stops_and_names_step_unit_and_leaf(
    setting, tmp_path, leaf, value
):
    start = jax.tree.map(np.copy, setting.start)
    start["layers"][leaf]["kernel"][1, 2, 3] = value
    with pytest.raises(NonFiniteError) as caught:
        setting.train(tmp_path, start=start)
    message = str(caught.value)
    assert "member a" in message and "step 1," in message
    assert "on rows of a;" in message
    assert f"leaf layers/{leaf}/kernel has a parameter" in message


def test_parameters_that_diverge_are_named_at_that_step(setting, tmp_path):
    with pytest.raises(Preempted):
        setting.train(tmp_path, stop=tiny.stop_after(2))
    tiny.poison(tmp_path / "scratch", setting.trainer.program())
    with pytest.raises(NonFiniteError, match=r"step 3, .*leaf final_norm/sc"):
        setting.train(tmp_path)
    rows = tiny.rows_of_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[-1]["loss"] is None and "step 3, " in rows[-1]["error"]


def test_a_batch_that_does_not_divide_is_refused_by_key(setting):
    mesh = tiny.mesh_of(min(jax.device_count(), 8))
    if mesh.size == 1:
        pytest.skip("one device divides everything")
    for group, make in (("base", base_trainer), ("recipe", recipe_trainer)):
        config = tiny.changed(setting.config, group, batch=9)
        with pytest.raises(UserError, match=f"config.{group}.batch=9"):
            make(setting.model, config, mesh)


def test_pieces_that_do_not_divide_the_batch_are_refused_by_key(setting):
    config = tiny.changed(setting.config, "train", accumulate=3)
    with pytest.raises(UserError, match=r"batch=8 .*train.accumulate=3 pieces"):
        recipe_trainer(setting.model, config, tiny.mesh_of())
