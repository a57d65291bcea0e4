"""PyTorch's side of `scoring.py`: a batched loop, and the published way.

Batched, as a careful user would write it: all parameters are views of one flat
vector, a merge adds the weighted differences of the members that have a weight
into it, and windows are sorted by length, so that a batch is padded to its own
longest one only. The size of a batch is tuned.

Published, after the evaluation code of Na et al. (EMNLP 2024): for every
mixture load the checkpoints it needs, average them, load them into the model,
and go document by document, window by window. Files are plain arrays here,
which load faster than checkpoints do, and stay in the page cache.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from decoder_torch import Decoder, write
from scoring_work import ScoringWork
from torch import Tensor

from jaxsim.scoring.evaluation import scored_mask

BATCHES = (2, 4, 8, 16, 32, 64)


class TorchScoring:
    def __init__(self, work: ScoringWork) -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._work = work
        rows = work.language_model.vocab_rows
        self._model = Decoder(work.model, rows).eval()
        self._flat = _flatten(self._model)
        base, delta_C = work.parameters()
        self._base = self._as_flat(base)
        self._delta_CP = torch.stack(
            [
                self._as_flat({path: d[c] for path, d in delta_C.items()})
                for c in range(work.members)
            ]
        )
        self._folder = tempfile.TemporaryDirectory()
        for c, delta in enumerate(self._delta_CP):
            np.save(self._file(c), (self._base + delta).numpy())
        e = work.evaluation
        self._tokens = torch.from_numpy(e.tokens_RL1).long()
        self._scored = torch.from_numpy(scored_mask(e, np.arange(len(e))))
        self._length = torch.from_numpy(e.length_R).long()
        self._batch = BATCHES[0]

    @torch.inference_mode()
    def nll(self, count: int) -> np.ndarray:
        """[count, R] nats of every window under the first mixtures."""
        found = np.zeros((count, len(self._tokens)), np.float32)
        for w_C, nll_R in zip(self._mixtures(count), found, strict=True):
            self._merge(w_C)
            for rows, nll in self._batches():
                nll_R[rows.numpy()] = nll.numpy()
        return found

    @torch.inference_mode()
    def score(self, count: int) -> float:
        """Seconds for `count` mixtures on all windows, in batches."""
        begin = time.perf_counter()
        for w_C in self._mixtures(count):
            self._merge(w_C)
            for _, nll in self._batches():
                nll.numpy()
        return time.perf_counter() - begin

    def tune(self, count: int) -> tuple[int, dict[int, float]]:
        """Takes the fastest batch, and returns it with mixtures a second."""
        rates = {}
        for self._batch in BATCHES:
            if self._batch < 2 * len(self._tokens):
                self.score(1)
                rates[self._batch] = count / min(self.score(count) for _ in range(3))
        self._batch = max(rates, key=rates.__getitem__)
        return self._batch, rates

    @torch.inference_mode()
    def published(self, count: int) -> float:
        """Seconds for `count` mixtures on all windows, one by one."""
        begin = time.perf_counter()
        for w_C in self._mixtures(count):
            parts = np.flatnonzero(w_C)
            average = torch.from_numpy(np.load(self._file(parts[0])))
            for c in parts[1:]:
                average += torch.from_numpy(np.load(self._file(c)))
            self._flat.copy_(average / len(parts))
            for row in range(len(self._tokens)):
                float(self._nll(torch.tensor([row]))[0])
        return time.perf_counter() - begin

    def merges(self, count: int) -> float:
        """Seconds of the merges alone."""
        begin = time.perf_counter()
        for w_C in self._mixtures(count):
            self._merge(w_C)
        return time.perf_counter() - begin

    def _mixtures(self, count: int) -> Tensor:
        return torch.from_numpy(self._work.mixtures(count)).float()

    @torch.inference_mode()
    def _merge(self, w_C: Tensor) -> None:
        # Members without a weight need not be read.
        parts = w_C.nonzero()[:, 0]
        self._flat.copy_(self._base)
        for c in parts:
            self._flat.add_(self._delta_CP[c], alpha=float(w_C[c]))

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in self._length.argsort().split(self._batch):
            yield rows, self._nll(rows)

    def _nll(self, rows: Tensor) -> Tensor:
        longest = int(self._length[rows].max())
        nll = self._model(self._tokens[rows, : longest + 1])
        nll = nll.view(len(rows), longest)
        return (nll * self._scored[rows, :longest]).sum(1)

    def _as_flat(self, arrays: dict[str, np.ndarray]) -> Tensor:
        write(self._model, arrays)
        return self._flat.clone()

    def _file(self, c: int) -> Path:
        return Path(self._folder.name, f"member-{c}.npy")


def _flatten(model: Decoder) -> Tensor:
    """Makes all parameters views of one vector, and returns that."""
    leaves = list(model.parameters())
    flat = torch.cat([leaf.detach().flatten() for leaf in leaves])
    start = 0
    for leaf in leaves:
        leaf.data = flat[start : start + leaf.numel()].view(leaf.shape)
        start += leaf.numel()
    return flat
