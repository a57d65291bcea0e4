"""jaxsim's side of `training.py`: the step of its trainer, its forward pass.

The compiled step is the trainer's own: a copy would go on being fast after the
real one became slow.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from workload import Arrays, Workload, flatten, nest

from jaxsim.mesh import batch_sharding, replicated, training_mesh
from jaxsim.model import LanguageModel
from jaxsim.scoring.layout import execution_of, settled
from jaxsim.train import recipe_trainer
from jaxsim.train.step import Marks


class JaxSide:
    def __init__(self, workload: Workload) -> None:
        config = workload.config
        self._model = LanguageModel(workload.model, workload.vocab)
        mesh = training_mesh(config.train.data_axis, config.train.model_axis)
        self._step = recipe_trainer(self._model, config, mesh).program()
        self._state = self._step.start(self._step.fresh_params(0))
        self._batches = jax.device_put(workload.batches(), batch_sharding(mesh))
        self._marks = jax.device_put(
            Marks(jnp.int32(0), jnp.int32(0)), replicated(mesh)
        )
        execution = execution_of(settled(config.score, self._model, mesh))
        self._nll = jax.jit(
            functools.partial(self._model.token_nll, execution=execution)
        )

    def load(self, arrays: Arrays) -> None:
        self._state = self._step.start(nest(arrays))

    def parameters(self) -> Arrays:
        return flatten(jax.device_get(self._state.params))

    def loss(self) -> float:
        nll_BL = self._nll(self._state.params, self._batches[0])
        return float(np.asarray(nll_BL, np.float64).mean())

    def train(self, steps: int) -> float:
        begin, last = time.perf_counter(), None
        for step in range(steps):
            self._state, sums = self._step(
                self._state, self._batches[step % 4], self._marks
            )
            # As the trainer does: a step's sums while the next is under way.
            if last is not None:
                jax.device_get(last)
            last = sums
        jax.block_until_ready((self._state, last))
        return time.perf_counter() - begin

    def score(self, steps: int) -> float:
        begin = time.perf_counter()
        for step in range(steps):
            np.asarray(self._nll(self._state.params, self._batches[step % 4]))
        return time.perf_counter() - begin
