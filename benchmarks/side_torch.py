"""PyTorch's side of `training.py`: a plain training loop of the same model."""

import os
import time

import torch
from decoder_torch import Decoder, adamw, read, write
from torch import nn
from workload import Arrays, Workload

from jaxsim.model import LanguageModel


class TorchSide:
    def __init__(self, workload: Workload) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        config = workload.config
        rows = LanguageModel(workload.model, workload.vocab).vocab_rows
        self._recipe = config.recipe
        self._model = Decoder(workload.model, rows)
        self._optimizer = adamw(self._model, self._recipe)
        self._batches = [torch.from_numpy(batch).long() for batch in workload.batches()]

    def load(self, arrays: Arrays) -> None:
        write(self._model, arrays)
        self._optimizer = adamw(self._model, self._recipe)

    def parameters(self) -> Arrays:
        return read(self._model)

    def loss(self) -> float:
        with torch.inference_mode():
            return float(self._model(self._batches[0]).double().mean())

    def train(self, steps: int) -> float:
        begin = time.perf_counter()
        for step in range(steps):
            loss = self._model(self._batches[step % 4]).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(self._model.parameters(), self._recipe.clip)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            loss.item()
        return time.perf_counter() - begin

    def score(self, steps: int) -> float:
        begin = time.perf_counter()
        with torch.inference_mode():
            for step in range(steps):
                self._model(self._batches[step % 4]).numpy()
        return time.perf_counter() - begin
