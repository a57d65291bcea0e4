"""What the two sides of `training.py` are both given: model, batches, names.

Imports neither JAX nor PyTorch, which would start their thread pools.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxsim.config import Config, ModelConfig
from jaxsim.model.presets import preset

Arrays = dict[str, np.ndarray]  # parameters by path: 'layers/query/kernel'


@dataclasses.dataclass(frozen=True)
class Workload:
    preset: str
    vocab: int
    batch: int  # rows

    @property
    def model(self) -> ModelConfig:
        return preset(self.preset)

    @property
    def config(self) -> Config:
        """The recipe of members at this batch size; both sides have a constant rate."""
        config = Config(model=self.model)
        recipe = dataclasses.replace(config.recipe, batch=self.batch, warmup=0)
        return dataclasses.replace(config, recipe=recipe)

    @property
    def tokens(self) -> int:
        """Tokens that a step trains on."""
        return self.batch * self.model.length

    def batches(self) -> list[np.ndarray]:
        """Batches of random rows [B, L+1], to be used in turns."""
        rng = np.random.default_rng(0)
        shape = (4, self.batch, self.model.length + 1)
        return list(rng.integers(0, self.vocab, shape, dtype=np.int32))


def flatten(tree: Any, prefix: str = "") -> Arrays:
    """A nested dict of arrays as one dict of paths."""
    if not isinstance(tree, dict):
        return {prefix: np.asarray(tree)}
    return {
        path: leaf
        for key, node in tree.items()
        for path, leaf in flatten(node, f"{prefix}/{key}".lstrip("/")).items()
    }


def nest(arrays: Arrays) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in arrays.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree
