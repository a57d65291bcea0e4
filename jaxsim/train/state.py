"""What a training step carries on: arrays only, one checkpoint holds it all."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Marks:
    """Where a run changes: arguments of a step that knows no run's length.

    Both are int32 (): the steps done before the tail begins, and all of them.
    """

    tail_start: jax.Array
    steps: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a resumed run needs; the data order is a function.

    `tail_sum` is the float32 sum of the parameters after each step of the
    tail; a run without a tail average has None.
    """

    step: jax.Array  # int32 (), steps done
    params: Any
    optimizer: Any
    tail_sum: Any
