"""jaxsim's side of `training.py`: the step of its trainer, its forward pass.

The compiled step is the trainer's own: a copy would go on being fast after the
real one became slow.
"""

import functools
import time

import jax
import numpy as np
from workload import Arrays, Workload, flatten, nest

from jaxsim.mesh import training_mesh
from jaxsim.model import LanguageModel, Params
from jaxsim.scoring.layout import execution_of, settled
from jaxsim.train import recipe_trainer


class JaxSide:
    def __init__(self, workload: Workload) -> None:
        config = workload.config
        self._model = LanguageModel(workload.model, workload.vocab)
        mesh = training_mesh(config.train.data_axis, config.train.model_axis)
        trainer = recipe_trainer(self._model, config, mesh)
        self._step = trainer.program()
        self._state = self._step.start(trainer.fresh_params(0), 1, 0)
        self._batches = [
            jax.device_put(batch_BL1[None], self._step.tokens.sharding)
            for batch_BL1 in workload.batches()
        ]
        execution = execution_of(settled(config.score, self._model, mesh))
        self._nll = jax.jit(
            functools.partial(self._model.token_nll, execution=execution)
        )

    def load(self, arrays: Arrays) -> None:
        self._state = self._step.start(nest(arrays), 1, 0)

    def parameters(self) -> Arrays:
        return flatten(jax.device_get(self._params()))

    def loss(self) -> float:
        nll_BL = self._nll(self._params(), self._batches[0][0])
        return float(np.asarray(nll_BL, np.float64).mean())

    def train(self, steps: int) -> float:
        begin, last = time.perf_counter(), None
        for step in range(steps):
            self._state, sums = self._step(self._state, self._batches[step % 4])
            # As the trainer does: a step's sums while the next is under way.
            if last is not None:
                jax.device_get(last)
            last = sums
        jax.block_until_ready((self._state, last))
        return time.perf_counter() - begin

    def score(self, steps: int) -> float:
        params = self._params()
        batches = [batch_GBL1[0] for batch_GBL1 in self._batches]
        begin = time.perf_counter()
        for step in range(steps):
            np.asarray(self._nll(params, batches[step % 4]))
        return time.perf_counter() - begin

    def _params(self) -> Params:
        return jax.tree.map(lambda leaf: leaf[0], self._state.params)
