"""What a call of the scoring program consists of, each piece measured alone.

In the shapes of one block: K mixtures in parallel, B windows of L tokens. The
sum of the pieces is what a call would take if nothing were lost between them.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsim.config import ModelConfig
from jaxsim.model.attention import attend
from jaxsim.model.loss import next_token_nll
from jaxsim.scoring.evaluator import Programs
from jaxsim.scoring.layout import Layout, bytes_of
from jaxsim.scoring.program import merge

REPLICATES = 5
PRODUCTS = 10  # one after the other, so that launching costs nothing
TOLERANCE = 2e-2  # of bfloat16 attention, where values are about 1


def seconds(function: Callable[..., Any], *args: Any) -> float:
    """Median of a few calls, after one that compiles."""
    jax.block_until_ready(function(*args))
    taken = []
    for _ in range(REPLICATES):
        begin = time.perf_counter()
        jax.block_until_ready(function(*args))
        taken.append(time.perf_counter() - begin)
    return float(np.median(taken))


def product_flops(width: int) -> float:
    """FLOP/s of a product of two square bfloat16 matrices."""
    a, b = _normal(0, width, width), _normal(1, width, width)

    @jax.jit
    def chain(a: jax.Array, b: jax.Array) -> jax.Array:
        # Each needs the one before; 1 / sqrt(width) keeps values near 1.
        def step(_: int, x: jax.Array) -> jax.Array:
            return (x @ b) * jnp.bfloat16(width**-0.5)

        return jax.lax.fori_loop(0, PRODUCTS, step, a)

    return PRODUCTS * 2 * width**3 / seconds(chain, a, b)


def bandwidth(width: int) -> float:
    """Bytes read and written per second by a copy of 4 * width^2 float32."""
    x = jnp.zeros((4, width, width), jnp.float32)
    return 2 * x.nbytes / seconds(jax.jit(lambda x: x + 1), x)


def check_attention(config: ModelConfig, on_gpu: bool) -> dict[str, Any]:
    """cuDNN's attention under vmap against XLA's, as mixtures use it.

    Elsewhere than on a GPU, `einsum` takes cuDNN's place.
    """
    name = "cudnn" if on_gpu else "einsum"
    head = config.head_size
    q = _normal(0, 4, 2, config.length, config.heads, head)
    k, v = (_normal(i, 4, 2, config.length, config.kv_heads, head) for i in (1, 2))

    def attention(name: str) -> Callable[..., jax.Array]:
        return jax.jit(jax.vmap(functools.partial(attend, name=name)))

    found: dict[str, Any] = {"tested": name, "against": "xla"}
    expected = np.asarray(attention("xla")(q, k, v), np.float32)
    try:
        got = np.asarray(attention(name)(q, k, v), np.float32)
    # Whatever it is, the run must go on and say so.
    except Exception as error:  # noqa: BLE001
        message = str(error).splitlines() or [repr(error)]
        return {**found, "verdict": f"fails: {message[0]}"}
    worst = float(np.max(np.abs(got - expected)))
    agrees = "agrees" if worst <= TOLERANCE else "DIFFERS"
    verdict = f"{name} {agrees} with xla, largest difference {worst:.1e}"
    return {**found, "difference": worst, "verdict": verdict}


def measure(
    programs: Programs, layout: Layout, windows: int, product: float, bandwidth: float
) -> dict[str, dict[str, float]]:
    """Seconds of the pieces of one call, and how well each uses the device.

    Args:
      programs, layout: of the call, on one device.
      windows: of full length; as many as a call has at most.
      product, bandwidth: FLOP/s and bytes/s to compare with.
    """
    model, pool, config = programs.model, programs.pool, programs.config
    c, dtype = model.config, jnp.dtype(config.precision)
    k, block = layout.mixtures, layout.windows
    blocks = -(-windows // block)
    tokens, head = k * block * c.length, c.head_size

    members, parameters = len(pool.names), model.parameter_count()
    w_KC = jnp.full((k, members), 1 / members)
    merging = jax.jit(jax.vmap(merge, in_axes=(None, None, 0, 0)))
    found = {
        "merge": _piece(
            seconds(merging, pool.base, pool.delta_C, w_KC, w_KC[:, 0]),
            k * members * 2.0 * parameters,
            # The pool is read once, and the merged models written.
            bytes_of((pool.base, pool.delta_C)) + 4 * k * parameters,
        )
    }

    x = _normal(0, k, block * c.length, c.dim).astype(dtype)
    dense_seconds = dense_flops = 0.0
    multiply = jax.jit(lambda x, w: jnp.einsum("ktd,kdo->kto", x, w))
    for inputs, outputs in _matrices(c):
        w = _normal(1, k, inputs, outputs).astype(dtype)
        given = jnp.zeros((k, block * c.length, inputs), dtype) + 1
        dense_seconds += seconds(multiply, given, w)
        dense_flops += 2.0 * tokens * inputs * outputs
    found["dense layers"] = _piece(
        blocks * c.layers * dense_seconds, blocks * c.layers * dense_flops, 0
    )

    q = _normal(0, k, block, c.length, c.heads, head).astype(dtype)
    kv = _normal(1, k, block, c.length, c.kv_heads, head).astype(dtype)
    attention = jax.jit(jax.vmap(functools.partial(attend, name=config.attention)))
    found["attention"] = _piece(
        blocks * c.layers * seconds(attention, q, kv, kv),
        blocks * c.layers * 2.0 * tokens * c.length * c.heads * c.head_size,
        0,
    )

    head_KVD = _normal(2, k, model.vocab_rows, c.dim).astype(dtype)
    targets = jnp.zeros((k, block, c.length), jnp.int32)
    loss = jax.jit(jax.vmap(functools.partial(next_token_nll, chunk=config.loss_chunk)))
    found["loss"] = _piece(
        blocks * seconds(loss, x.reshape(k, block, c.length, c.dim), head_KVD, targets),
        blocks * 2.0 * tokens * model.vocab_rows * c.dim,
        # Logits in float32, written and read once.
        blocks * 2.0 * 4 * tokens * model.vocab_rows,
    )
    for piece in found.values():
        piece["flops_share"] = piece["flops"] / piece["seconds"] / product
        piece["bandwidth_share"] = piece["bytes"] / piece["seconds"] / bandwidth
    return found


def _piece(seconds: float, flops: float, moved: float) -> dict[str, float]:
    return {"seconds": seconds, "flops": flops, "bytes": float(moved)}


def _matrices(c: ModelConfig) -> list[tuple[int, int]]:
    """Inputs and outputs of every linear map of a layer."""
    width, kv_width = c.heads * c.head_size, c.kv_heads * c.head_size
    found = [(c.dim, width), (c.dim, kv_width), (c.dim, kv_width)]
    if c.output_projection:
        found.append((width, c.dim))
    return [*found, (c.dim, (1 + c.gated) * c.mlp_dim), (c.mlp_dim, c.dim)]


def _normal(key: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(key), shape, jnp.bfloat16)
