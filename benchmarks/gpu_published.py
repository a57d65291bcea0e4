"""The published way on the device of `gpu_scoring.py`.

With PyTorch and its GPU: load checkpoints, average, go document by document
(after the evaluation code of Na et al., EMNLP 2024). Without it, jaxsim's own
evaluator is called for one mixture and one document at a time: it reads no
files and compiles once, and is named as what it is.
"""

import dataclasses
import importlib.util
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from random_pool import mixtures, random_windows

from jaxsim.config import ScoreConfig
from jaxsim.model import LanguageModel
from jaxsim.scoring.evaluator import Evaluator
from jaxsim.scoring.stack import StackedPool

MIXTURES = 4
PARTS = 3  # checkpoints of an average


def published(
    model: LanguageModel, pool: StackedPool, config: ScoreConfig, windows: int
) -> dict[str, float]:
    """Mixtures a second, by the name of what was measured."""
    found = {
        "jaxsim's evaluator, one mixture and one document at a time": (
            _one_by_one(model, pool, config, windows)
        )
    }
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available() or jax.default_backend() == "cpu":
            device = "cuda" if torch.cuda.is_available() else "cpu"
            name = "PyTorch, checkpoints from disk, one document at a time"
            found[name] = _torch(model, windows, device)
    return found


def _one_by_one(
    model: LanguageModel, pool: StackedPool, config: ScoreConfig, windows: int
) -> float:
    evaluation = random_windows(windows, model.vocab_size, model.config)
    config = dataclasses.replace(config, chunk=1, rows=1)
    evaluator = Evaluator(model, pool, evaluation, config)
    table = mixtures(len(pool.names), MIXTURES)
    evaluator.score(table.take([0]), np.array([0]))
    begin = time.perf_counter()
    for m in range(MIXTURES):
        for row in range(windows):
            evaluator.score(table.take([m]), np.array([row]))
    return MIXTURES / (time.perf_counter() - begin)


def _torch(model: LanguageModel, windows: int, device: str) -> float:
    import torch
    from decoder_torch import Decoder

    decoder = Decoder(model.config, model.vocab_rows).eval()
    leaves = list(decoder.parameters())
    evaluation = random_windows(windows, model.vocab_size, model.config)
    tokens = torch.from_numpy(evaluation.tokens_RL1).long().to(device)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for leaf in leaves:
            leaf.normal_(0, 0.02)
        flat = torch.cat([leaf.flatten() for leaf in leaves]).numpy()
        files = [Path(folder, f"{c}.npy") for c in range(PARTS)]
        for file in files:
            np.save(file, flat)
        decoder.to(device, torch.bfloat16)

        def one() -> None:
            average = sum(torch.from_numpy(np.load(f)) for f in files) / PARTS
            start = 0
            for leaf in decoder.parameters():
                part = average[start : start + leaf.numel()]
                leaf.copy_(part.view(leaf.shape))
                start += leaf.numel()
            for row in range(windows):
                float(decoder(tokens[row : row + 1]).float().sum())

        one()
        begin = time.perf_counter()
        for _ in range(MIXTURES):
            one()
        return MIXTURES / (time.perf_counter() - begin)
