"""Named model shapes: tiny ones for CPUs, a Llama-like one, and the paper's three.

The paper's shapes follow the published code of Na et al., EMNLP 2024
(clarana/ez-data-ablations): LayerNorm, full-width QK-norm, no output projection
in attention, biases, a tied head, and more rows of the embedding than tokens.
"""

from jaxsim.config import ModelConfig
from jaxsim.errors import UserError


def _tiny(layers: int, dim: int, heads: int, mlp_dim: int) -> ModelConfig:
    return ModelConfig(
        layers=layers, dim=dim, heads=heads, kv_heads=heads, mlp_dim=mlp_dim
    )


def _paper(layers: int, dim: int, heads: int, mlp_dim: int) -> ModelConfig:
    return ModelConfig(
        length=2048,
        layers=layers,
        dim=dim,
        heads=heads,
        kv_heads=heads,
        mlp_dim=mlp_dim,
        norm="layer",
        qk_norm="width",
        bias="all",
        output_projection=False,
        vocab_rows=50_304,
    )


_PRESETS = {
    "tiny-0.3m": _tiny(2, 64, 2, 176),
    "tiny-0.6m": _tiny(2, 128, 4, 352),
    "tiny-3m": _tiny(4, 224, 7, 608),
    "tiny-5m": _tiny(6, 256, 8, 688),
    "llama-110m": ModelConfig(
        length=1024, layers=12, dim=768, heads=12, kv_heads=4, mlp_dim=2048
    ),
    "paper-130m": _paper(12, 768, 12, 1536),
    "paper-300m": _paper(24, 1024, 16, 2048),
    "paper-1b": _paper(24, 2048, 16, 4096),
}


def preset(name: str) -> ModelConfig:
    """The model shape called `name`.

    Raises:
      UserError: there is no such shape; names all shapes.
    """
    if name not in _PRESETS:
        raise UserError(
            f"no model preset {name!r}; choose one of {', '.join(_PRESETS)}"
        )
    return _PRESETS[name]
