"""Tensors of a checkpoint's files: names, shapes, and the parameters that they hold.

Import and export use the same views, so they cannot disagree.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from jaxsim.config import ModelConfig
from jaxsim.model.families import Family

Shapes = Mapping[str, tuple[int, ...]]  # of parameters, by 'layers/query/kernel'


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file, and the parameters that it holds.

    Attributes:
      name, shape: in the file.
      leaves: of each parameter the path, and the half of the MLP's input or None. A
        tensor without any is the identity, or a bias of zeros.
      layer: its number, or None.
      transposed: whether the file has its axes swapped.
      heads: how many heads lie one after the other, each with a part of every
        parameter; 0 if each parameter is in one piece.
    """

    name: str
    shape: tuple[int, ...]
    leaves: tuple[tuple[str, int | None], ...]
    layer: int | None
    transposed: bool
    heads: int

    def pieces(
        self, stored: np.ndarray, params: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs of views that hold the same numbers, of the tensor and of `params`.

        To import, copy the first of each pair to the second; to export, the other way.
        Both arrays must be contiguous; `params` are stacked, by path.
        """
        start = 0
        for index, (path, half) in enumerate(self.leaves):
            leaf = params[path] if self.layer is None else params[path][self.layer]
            leaf = leaf if half is None else leaf[..., half, :]
            if self.heads:
                by_head = leaf.reshape(*leaf.shape[:-1], self.heads, -1)
                parts = stored.reshape(
                    self.heads, len(self.leaves), -1, *stored.shape[1:]
                )
                yield parts[:, index], np.moveaxis(by_head, (-2, -1), (0, 1))
                continue
            view = stored.T if self.transposed else stored
            if len(self.leaves) > 1:
                view = view[..., start : (start := start + leaf.shape[-1])]
            yield view, leaf

    def fixed(self) -> np.ndarray:
        """The value of a tensor without parameters."""
        made = np.eye if len(self.shape) == 2 else np.zeros
        return made(self.shape[0], dtype=np.float32)


def tensors(
    family: Family, shapes: Shapes, model: ModelConfig, prefix: str
) -> list[Tensor]:
    """All tensors of a model whose parameters have these shapes, layer by layer."""
    modules = {prefix + module: ours for module, ours in family.modules.items()}
    modules[family.head.format(prefix)] = "head"
    found = []
    for layer in (None, *range(model.layers)):
        for module, ours in modules.items():
            if ("{}" in module) == (layer is None):
                continue
            for end, ends in (
                (".weight", ("/kernel", "/scale", "")),
                (".bias", ("/bias",)),
            ):
                leaves = [
                    (base + of_leaf, int(half) if half else None)
                    for base, _, half in (each.partition(":") for each in ours.split())
                    for of_leaf in ends
                    if base + of_leaf in shapes
                ]
                name, matrix = module.format(layer) + end, end == ".weight"
                if leaves:
                    found.append(_tensor(family, name, leaves, layer, shapes, model))
                elif (
                    ours == "layers/output"
                    and not model.output_projection
                    and (matrix or model.bias == "all")
                ):
                    shape = (model.dim, model.dim) if matrix else (model.dim,)
                    found.append(Tensor(name, shape, (), layer, False, 0))
    return found


def _tensor(
    family: Family,
    name: str,
    leaves: list[tuple[str, int | None]],
    layer: int | None,
    shapes: Shapes,
    model: ModelConfig,
) -> Tensor:
    """A tensor of at least one parameter."""
    parts = []
    for path, half in leaves:
        shape = shapes[path] if layer is None else shapes[path][1:]
        parts.append(shape if half is None else (*shape[:-2], shape[-1]))
    whole = (*parts[0][:-1], sum(shape[-1] for shape in parts))
    transposed = family.transposed and leaves[0][0].endswith("/kernel")
    heads = model.heads if family.by_head and len(leaves) > 1 else 0
    stored = whole[::-1] if transposed else whole
    return Tensor(name, stored, tuple(leaves), layer, transposed, heads)
