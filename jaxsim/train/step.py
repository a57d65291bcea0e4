"""The train step: a pure function of a state and a batch, and its optimizer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxsim.config import BaseConfig, RecipeConfig
from jaxsim.model import MATRICES, Execution, LanguageModel
from jaxsim.model.loss import sum_and_count


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a resumed run needs; the data order is a function of the step.

    Attributes:
      step: int32 (), finished steps.
      steps: int32 (), steps of the whole run. It is data, so that runs of any length
        share a program.
      tail_start: int32 (), steps before the tail average begins.
      tail_sum: the float32 sum of the parameters after each step of the tail; None
        for a run without a tail average.
    """

    step: jax.Array
    steps: jax.Array
    tail_start: jax.Array
    params: Any
    optimizer: Any
    tail_sum: Any


def constant_rate(recipe: RecipeConfig, steps: jax.Array | int) -> optax.Schedule:
    """The learning rate of a run of the recipe, which merging needs constant.

    Of a warm-up of W steps, step n from 1 has n / (W + 1) of the rate. Over the last
    `recipe.decay` of `steps` the rate falls linearly to zero.
    """
    peak, warmup = recipe.learning_rate, recipe.warmup
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    if not recipe.decay:
        return rise
    # It takes the share that is over: optax has to know a length before it traces.
    fall = optax.linear_schedule(peak, 0.0, 1)

    def rate(step: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        falling = recipe.falling(steps)
        joined = optax.join_schedules(
            [rise, lambda step: fall(step / jnp.maximum(falling, 1))], [steps - falling]
        )
        return joined(step)

    return rate


def warmup_cosine(base: BaseConfig) -> optax.Schedule:
    """The learning rate of a base model trained from scratch."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=base.learning_rate,
        warmup_steps=base.warmup,
        decay_steps=base.steps,
        end_value=base.learning_rate * base.final_rate,
    )


def adamw(recipe: RecipeConfig, rate: optax.Schedule) -> optax.GradientTransformation:
    """AdamW after clipping by global norm; weight decay as the recipe says."""
    return optax.chain(
        optax.clip_by_global_norm(recipe.clip),
        optax.adamw(
            rate,
            b1=recipe.beta1,
            b2=recipe.beta2,
            weight_decay=recipe.weight_decay,
            mask=None if recipe.weight_decay_all else _is_matrix,
        ),
    )


def _is_matrix(params: Any) -> Any:
    # By name, because a stacked bias has two dimensions too.
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[-1].key in MATRICES, params
    )


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """One update of a run on the mean loss of a global batch: a pure function.

    Attributes:
      model, execution: what is trained, and how it is computed.
      optimizer: of a run of so many steps.
      tail: whether the run has a tail average.
      accumulate: pieces of the batch that are computed in sequence; it divides B.
        Only sums are accumulated, so results differ only by rounding.
    """

    model: LanguageModel
    execution: Execution
    optimizer: Callable[[jax.Array], optax.GradientTransformation]
    tail: bool
    accumulate: int = 1

    def initial(
        self, params: Any, steps: jax.Array, tail_start: jax.Array
    ) -> TrainState:
        """The state of a new run: its optimizer keeps nothing of the base model's."""
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            steps=steps,
            tail_start=tail_start,
            params=params,
            optimizer=self.optimizer(steps).init(params),
            tail_sum=jax.tree.map(jnp.zeros_like, params) if self.tail else None,
        )

    def __call__(
        self, state: TrainState, tokens_BL1: jax.Array
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Trains on rows of L+1 tokens.

        Returns:
          The next state, and a dict: `nll` (nats, summed), `tokens`, `gradient_norm`
          (global), and `finite_parameter` and `finite_gradient`, one flag for each
          leaf in tree order. Parameters are those before the update.
        """
        gradients, (nll, tokens) = self._gradients(state.params, tokens_BL1)
        updates, optimizer_state = self.optimizer(state.steps).update(
            gradients, state.optimizer, state.params
        )
        params = optax.apply_updates(state.params, updates)
        tail_sum = state.tail_sum
        if self.tail:
            in_tail = (state.step >= state.tail_start).astype(jnp.float32)
            tail_sum = jax.tree.map(lambda s, p: s + in_tail * p, tail_sum, params)
        next_state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            optimizer=optimizer_state,
            tail_sum=tail_sum,
        )
        return next_state, {
            "nll": nll,
            "tokens": tokens,
            "gradient_norm": optax.tree.norm(gradients),
            "finite_parameter": _finite_leaves(state.params),
            "finite_gradient": _finite_leaves(gradients),
        }

    def _gradients(
        self, params: Any, tokens_BL1: jax.Array
    ) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        """The gradient of the mean loss, and the sum of the loss and its count."""
        rows, length = tokens_BL1.shape[0], tokens_BL1.shape[1] - 1

        def loss(
            params: Any, piece_BL1: jax.Array
        ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            """A piece's part of the mean, so that gradients of pieces add up."""
            nll_BL = self.model.token_nll(params, piece_BL1, self.execution)
            nll, tokens = sum_and_count(nll_BL, jnp.ones_like(nll_BL))
            return nll / (rows * length), (nll, tokens)

        gradient = jax.grad(loss, has_aux=True)
        if self.accumulate == 1:
            return gradient(params, tokens_BL1)
        # Strided: each piece has rows of every device, so no row moves.
        piece_ABL1 = tokens_BL1.reshape(-1, self.accumulate, length + 1).swapaxes(0, 1)
        zeros = jax.tree.map(
            jnp.zeros_like, jax.eval_shape(gradient, params, piece_ABL1[0])
        )
        return jax.lax.scan(
            lambda sums, piece_BL1: (
                jax.tree.map(jnp.add, sums, gradient(params, piece_BL1)),
                None,
            ),
            zeros,
            piece_ABL1,
        )[0]


def _finite_leaves(tree: Any) -> jax.Array:
    return jnp.stack([jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(tree)])
