"""The decoder in numpy and float64, written from the formulas and not for speed.

RMSNorm: Zhang and Sennrich 2019. RoPE: Su et al. 2021, pairs as complex numbers.
Llama 3's frequencies: Dubey et al. 2024 and its published code. YaRN: Peng et al.
2023 and its published code, which counts pairs in whole numbers.
"""

import cmath
import math
from typing import Any

import jax
import numpy as np
from scipy import special

from jaxsim.config import ModelConfig, RopeConfig

ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * special.ndtr(x),
    "gelu_tanh": lambda x: (
        x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
}


def logits(params: Any, tokens_L: np.ndarray, c: ModelConfig) -> np.ndarray:
    """The logits [L, V] of one row of token ids."""
    params = jax.tree.map(np.float64, params)
    x_LD = params["embedding"][tokens_L]
    if c.positions:
        x_LD = x_LD + params["positions"][: len(tokens_L)]
    for n in range(c.layers):
        layer = jax.tree.map(lambda leaf: leaf[n], params["layers"])  # noqa: B023

        def part(name, function, x_LD, layer=layer):
            if c.norm_place == "before":
                return function(_norm(x_LD, layer, name, c), layer, c)
            return _norm(function(x_LD, layer, c), layer, name, c)

        attended_LD = part("attention_norm", _attention, x_LD)
        read_LD = x_LD if c.parallel else x_LD + attended_LD
        x_LD = x_LD + attended_LD + part("mlp_norm", _mlp, read_LD)
    head_VD = params["embedding"] if c.tied else params["head"]
    return _norm(x_LD, params, "final_norm", c) @ head_VD.T


def nll(params: Any, tokens_L1: np.ndarray, c: ModelConfig) -> np.ndarray:
    """Nats [L] of the tokens 1 to L."""
    logits_LV = logits(params, tokens_L1[:-1], c)
    target_L = logits_LV[np.arange(len(logits_LV)), tokens_L1[1:]]
    return special.logsumexp(logits_LV, axis=-1) - target_L


def _attention(x_LD: np.ndarray, layer: Any, c: ModelConfig) -> np.ndarray:
    size = c.head_dim or c.dim // c.heads
    length, biased = len(x_LD), c.bias in ("qkv", "all")

    def heads(name: str, count: int) -> np.ndarray:
        y = _linear(x_LD, layer[name], biased)
        if c.clip_qkv:
            y = np.clip(y, -c.clip_qkv, c.clip_qkv)
        norm = name != "value" and c.qk_norm
        if norm == "width":
            y = _norm(y, layer, f"{name}_norm", c)
        y_LHK = y.reshape(length, count, size)
        if norm == "head":
            y_LHK = _norm(y_LHK, layer, f"{name}_norm", c)
        return y_LHK

    q_LHK, k_LGK = heads("query", c.heads), heads("key", c.kv_heads)
    v_LGK = heads("value", c.kv_heads)
    if not c.positions:
        q_LHK, k_LGK = _rotated(q_LHK, c.rope), _rotated(k_LGK, c.rope)
    out_LHK = np.zeros_like(q_LHK)
    for h in range(c.heads):
        g = h // (c.heads // c.kv_heads)
        for i in range(length):
            score_S = k_LGK[: i + 1, g] @ q_LHK[i, h] / math.sqrt(size)
            out_LHK[i, h] = special.softmax(score_S) @ v_LGK[: i + 1, g]
    out = out_LHK.reshape(length, -1)
    return (
        _linear(out, layer["output"], c.bias == "all") if c.output_projection else out
    )


def _mlp(x_LD: np.ndarray, layer: Any, c: ModelConfig) -> np.ndarray:
    kernel, biased = layer["mlp_in"]["kernel"], c.bias == "all"
    parts = []
    for half in range(2 if c.gated else 1):
        parts.append(x_LD @ kernel[:, half])
        if biased:
            parts[half] = parts[half] + layer["mlp_in"]["bias"][half]
    y_LF = ACTIVATIONS[c.activation](parts[0])
    return _linear(y_LF * parts[1] if c.gated else y_LF, layer["mlp_out"], biased)


def _linear(x: np.ndarray, params: Any, biased: bool) -> np.ndarray:
    y = x @ params["kernel"]
    return y + params["bias"] if biased else y


def _norm(x: np.ndarray, params: Any, name: str, c: ModelConfig) -> np.ndarray:
    if c.norm in ("layer", "plain"):
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps)
    if c.norm == "plain":
        return x
    x = x * params[name]["scale"]
    return x + params[name]["bias"] if c.norm == "layer" else x


def _rotated(x_LHK: np.ndarray, rope: RopeConfig) -> np.ndarray:
    half = int(x_LHK.shape[-1] * rope.share) // 2
    out_LHK = x_LHK.copy()
    scale = 1.0
    if rope.kind == "yarn":
        scale = rope.attention_factor or 0.1 * math.log(rope.factor) + 1
    for k in range(half):
        pair_LH = x_LHK[..., k] + 1j * x_LHK[..., k + half]
        angle = frequency(rope, k, 2 * half)
        for i in range(len(pair_LH)):
            turned_H = pair_LH[i] * cmath.exp(1j * i * angle) * scale
            out_LHK[i, :, k], out_LHK[i, :, k + half] = turned_H.real, turned_H.imag
    return out_LHK


def frequency(rope: RopeConfig, k: int, size: int) -> float:
    """Radians from one position to the next, of pair k of size / 2."""
    found = rope.base ** (-2 * k / size)
    if rope.kind == "llama3":
        wavelength = 2 * math.pi / found
        longest = rope.original_length / rope.low_freq_factor
        shortest = rope.original_length / rope.high_freq_factor
        if wavelength > longest:
            return found / rope.factor
        if wavelength < shortest:
            return found
        smooth = (rope.original_length / wavelength - rope.low_freq_factor) / (
            rope.high_freq_factor - rope.low_freq_factor
        )
        return (1 - smooth) * found / rope.factor + smooth * found
    if rope.kind == "yarn":

        def pair(turns: float) -> float:
            length = rope.original_length / (turns * 2 * math.pi)
            return size * math.log(length) / (2 * math.log(rope.base))

        low = max(math.floor(pair(rope.beta_fast)), 0)
        high = min(math.ceil(pair(rope.beta_slow)), size - 1)
        ramp = min(max((k - low) / (high - low), 0), 1)
        return found / rope.factor * ramp + found * (1 - ramp)
    return found
