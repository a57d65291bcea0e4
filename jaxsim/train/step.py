"""The train step: a pure function of a state and a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxsim.model import Execution, LanguageModel
from jaxsim.model.loss import sum_and_count
from jaxsim.train.state import Marks, TrainState


def initial_state(
    params: Any, optimizer: optax.GradientTransformation, tail: bool
) -> TrainState:
    """A fresh optimizer around `params`: nothing of the seed's leaks in."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        optimizer=optimizer.init(params),
        tail_sum=jax.tree.map(jnp.zeros_like, params) if tail else None,
    )


def train_step(
    state: TrainState,
    tokens_BL1: jax.Array,
    marks: Marks,
    *,
    model: LanguageModel,
    optimizer: optax.GradientTransformation,
    execution: Execution,
    decay: float = 0.0,
    accumulate: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update on the mean loss of a global batch.

    Args:
      state: donated by the caller.
      tokens_BL1: rows of L+1 tokens.
      marks: of the run, in steps.
      model, optimizer, execution: of what, how.
      decay: last share of the steps over which updates fall to zero linearly.
      accumulate: pieces of the batch that are computed one after the other;
        it divides B. Only sums are added up, so it changes no more than
        rounding.

    Returns:
      The next state, and sums: `nll` and `tokens`, the gradient's global norm,
      and `finite_parameter` and `finite_gradient`, a flag for each leaf in
      tree order, of the parameters that the step began with.
    """

    rows, length = tokens_BL1.shape[0], tokens_BL1.shape[1] - 1

    def loss(
        params: Any, piece_BL1: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """A piece's share of the mean, so that gradients are added as well."""
        nll_BL = model.token_nll(params, piece_BL1, execution)
        nll, tokens = sum_and_count(nll_BL, jnp.ones_like(nll_BL))
        return nll / (rows * length), (nll, tokens)

    gradient = jax.grad(loss, has_aux=True)
    if accumulate == 1:
        gradients, (nll, tokens) = gradient(state.params, tokens_BL1)
    else:
        # Every device keeps its rows: each piece has some of all of them.
        piece_ABL1 = tokens_BL1.reshape(-1, accumulate, length + 1).swapaxes(
            0, 1
        )
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(gradient, state.params, piece_ABL1[0]),
        )
        (gradients, (nll, tokens)), _ = jax.lax.scan(
            lambda sums, piece_BL1: (
                jax.tree.map(jnp.add, sums, gradient(state.params, piece_BL1)),
                None,
            ),
            zeros,
            piece_ABL1,
        )
    updates, optimizer_state = optimizer.update(
        gradients, state.optimizer, state.params
    )
    if decay:
        # An update of AdamW is the rate times something, decay of weights
        # included, so this is a falling rate.
        left = (marks.steps - state.step) / jnp.maximum(
            jnp.round(decay * marks.steps), 1
        )
        factor = jnp.minimum(left, 1.0)
        updates = jax.tree.map(lambda u: factor * u, updates)
    params = optax.apply_updates(state.params, updates)
    tail_sum = state.tail_sum
    if tail_sum is not None:
        in_tail = (state.step >= marks.tail_start).astype(jnp.float32)
        tail_sum = jax.tree.map(lambda s, p: s + in_tail * p, tail_sum, params)
    next_state = TrainState(
        step=state.step + 1,
        params=params,
        optimizer=optimizer_state,
        tail_sum=tail_sum,
    )
    metrics = {
        "nll": nll,
        "tokens": tokens,
        "gradient_norm": optax.tree.norm(gradients),
        "finite_parameter": _finite_leaves(state.params),
        "finite_gradient": _finite_leaves(gradients),
    }
    return next_state, metrics


def _finite_leaves(tree: Any) -> jax.Array:
    return jnp.stack([jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(tree)])
