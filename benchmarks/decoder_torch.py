"""The project's decoder in plain PyTorch, for comparison in benchmarks.

Written as a PyTorch user would: one fused projection for query, key and value,
`scaled_dot_product_attention`, one cross-entropy over the whole batch, fused
AdamW. `write` copies the JAX model's parameters here, so that both compute the
same, and `read` gives them back. It has the options that the presets use.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from workload import Arrays

from jaxsim.config import ModelConfig, RecipeConfig

OTHERS = (
    "head_dim", "norm_place", "activation", "gated", "parallel", "clip_qkv",
    "positions",
)  # fmt: skip


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        c = self.config = config
        self.size = c.dim // c.heads
        kv_dim = c.kv_heads * self.size
        self.widths = (c.dim, kv_dim, kv_dim)
        self.attention_norm = _norm(c, c.dim)
        self.mlp_norm = _norm(c, c.dim)
        self.qkv = nn.Linear(c.dim, sum(self.widths), bias=c.bias == "all")
        self.mlp_in = nn.Linear(c.dim, 2 * c.mlp_dim, bias=c.bias == "all")
        self.mlp_out = nn.Linear(c.mlp_dim, c.dim, bias=c.bias == "all")
        if c.qk_norm == "width":
            self.query_norm = _norm(c, c.dim)
            self.key_norm = _norm(c, kv_dim)
        if c.output_projection:
            self.output = nn.Linear(c.dim, c.dim, bias=c.bias == "all")

    def forward(self, x_BLD: Tensor, cos_LK: Tensor, sin_LK: Tensor) -> Tensor:
        x_BLD = x_BLD + self._attention(self.attention_norm(x_BLD), cos_LK, sin_LK)
        return x_BLD + self._mlp(self.mlp_norm(x_BLD))

    def _attention(self, x_BLD: Tensor, cos_LK: Tensor, sin_LK: Tensor) -> Tensor:
        q, k, v = self.qkv(x_BLD).split(self.widths, -1)
        if self.config.qk_norm == "width":
            q, k = self.query_norm(q), self.key_norm(k)
        q, k, v = (a.unflatten(-1, (-1, self.size)).transpose(1, 2) for a in (q, k, v))
        out_BHLK = functional.scaled_dot_product_attention(
            _rotate(q, cos_LK, sin_LK),
            _rotate(k, cos_LK, sin_LK),
            v,
            is_causal=True,
            enable_gqa=self.config.heads != self.config.kv_heads,
        )
        out_BLD = out_BHLK.transpose(1, 2).reshape(x_BLD.shape)
        if self.config.output_projection:
            out_BLD = self.output(out_BLD)
        return out_BLD

    def _mlp(self, x_BLD: Tensor) -> Tensor:
        gate_BLF, up_BLF = self.mlp_in(x_BLD).chunk(2, -1)
        y_BLD: Tensor = self.mlp_out(functional.silu(gate_BLF) * up_BLF)
        return y_BLD


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig, vocab_rows: int) -> None:
        super().__init__()
        c = self.config = config
        if used := [k for k in OTHERS if getattr(c, k) != getattr(ModelConfig, k)]:
            raise ValueError(f"not written here: {used[0]}")
        self.embedding = nn.Embedding(vocab_rows, c.dim)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.final_norm = _norm(c, c.dim)
        if c.tied:
            self.head = self.embedding.weight
        else:
            self.head = nn.Parameter(torch.empty(vocab_rows, c.dim))
        size = c.dim // c.heads
        frequency_K = c.rope.base ** (-torch.arange(0, size, 2) / size)
        angle_LK = torch.arange(c.length)[:, None] * frequency_K
        self.register_buffer("cos_LK", angle_LK.cos(), persistent=False)
        self.register_buffer("sin_LK", angle_LK.sin(), persistent=False)

    def forward(self, tokens_BL1: Tensor) -> Tensor:
        """Nats of each target, [B * L]."""
        x_BLD = self.embedding(tokens_BL1[:, :-1])
        length = x_BLD.shape[1]
        cos_LK, sin_LK = self.cos_LK[:length], self.sin_LK[:length]
        for block in self.blocks:
            x_BLD = block(x_BLD, cos_LK, sin_LK)
        logits_BLV = functional.linear(self.final_norm(x_BLD), self.head)
        return functional.cross_entropy(
            logits_BLV.flatten(0, 1), tokens_BL1[:, 1:].flatten(), reduction="none"
        )


def adamw(model: nn.Module, recipe: RecipeConfig) -> torch.optim.Optimizer:
    """Weight decay on matrices only; no matrix here has one dimension."""
    leaves = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in leaves if p.ndim > 1]},
        {"params": [p for p in leaves if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        weight_decay=recipe.weight_decay,
        fused=True,
    )


@torch.no_grad()
def write(model: Decoder, arrays: Arrays) -> None:
    """Copies parameters of the JAX model into `model`.

    Raises:
      ValueError: the two models do not have the same parameters.
    """
    views = _views(model)
    if different := set(views) ^ set(arrays):
        raise ValueError(f"only one model has {sorted(different)[0]}")
    for path, layers in views.items():
        array = torch.from_numpy(np.array(arrays[path]))
        if not path.startswith("layers/"):
            layers[0].copy_(array)
            continue
        for view, layer in zip(layers, array, strict=True):
            view.copy_(layer.reshape(view.shape))


def read(model: Decoder) -> Arrays:
    """The parameters of `model` as the JAX model would hold them, but that
    the two splits of the MLP's input are one dimension."""
    return {
        path: np.stack([view.numpy() for view in layers])
        if path.startswith("layers/")
        else layers[0].numpy().copy()
        for path, layers in _views(model).items()
    }


def _views(model: Decoder) -> dict[str, list[Tensor]]:
    """The JAX model's paths, and the parts of `model` that each stands for.

    JAX stores a linear map as [inputs, outputs] and PyTorch the other way.
    """
    views: dict[str, list[Tensor]] = {}

    def add(path: str, module: nn.Module, rows: slice = slice(None)) -> None:
        for name, parameter in module.named_parameters():
            value, leaf = parameter.detach(), name
            if name == "weight":
                linear = isinstance(module, nn.Linear)
                leaf = "kernel" if linear else "scale"
            value = value[rows].T if value.ndim == 2 else value[rows]
            views.setdefault(f"{path}/{leaf}", []).append(value)

    for block in model.blocks:
        assert isinstance(block, Block)
        for name, module in block.named_children():
            if name != "qkv":
                add(f"layers/{name}", module)
        start = 0
        for name, width in zip(("query", "key", "value"), block.widths, strict=True):
            add(f"layers/{name}", block.qkv, slice(start, start + width))
            start += width
    add("final_norm", model.final_norm)
    views["embedding"] = [model.embedding.weight.detach()]
    if not model.config.tied:
        views["head"] = [model.head.detach()]
    return views


def _norm(config: ModelConfig, width: int) -> nn.Module:
    kind = nn.LayerNorm if config.norm == "layer" else nn.RMSNorm
    return kind(width, eps=config.norm_eps)


def _rotate(x_BHLK: Tensor, cos_LK: Tensor, sin_LK: Tensor) -> Tensor:
    a, b = x_BHLK.chunk(2, -1)
    return torch.cat([a * cos_LK - b * sin_LK, b * cos_LK + a * sin_LK], -1)
