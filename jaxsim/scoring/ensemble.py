"""The loss of averaged token probabilities, for very many mixtures at once.

Given each member's probability of each correct token, a mixture is a matrix
product and a logarithm per token (mixture of data experts, arXiv 2502.15950).
Probabilities are taken relative to the token's best member:

    -log sum_c w_c p_c = min_c nll_c - log sum_c w_c exp(min_c nll_c - nll_c)

The first term is the same for all mixtures and is summed in float64. For the
second, float32 is enough if members are close enough that the sum cannot
underflow. The few other tokens are computed in log space, member by member.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

# Mixtures and tokens of one call: few enough to waste little on padding, and
# enough to hide the overhead of a call.
_MIXTURES, _TOKENS = 1024, 2**16
# Tokens in a tile, so that a tile times the mixtures stays in cache.
_TILE, _FAR_TILE = 2**12, 2**7
# Tokens of one group that are summed in float32; their sums are added in
# float64.
_BLOCK, _SMALL_BLOCK = 256, 32
# Largest difference in nats between best and worst member for sums in float32:
# exp(-60) is 1e-26, far above the smallest float32, 1e-38.
_FAR = 60.0


class Ensemble:
    """Sums the loss of averaged probabilities over groups of tokens.

    Memory holds a slice of the tokens times a slice of the mixtures, whatever
    the number of either.

    Args:
      nll_CT: nats of each token by member, float32; infinite if a member gives
        it no probability.
      group_T: the group of each token; -1 for none.
      groups: number of groups.
    """

    def __init__(self, nll_CT: np.ndarray, group_T: np.ndarray, groups: int) -> None:
        self._nll_CT = nll_CT
        best_T = nll_CT.min(axis=0)
        worst_T = nll_CT.max(axis=0, where=np.isfinite(nll_CT), initial=-np.inf)
        counted_T = group_T >= 0
        far_T = worst_T - best_T > _FAR
        # Without tokens, `bincount` would return integers.
        self._best_G = np.bincount(
            group_T[counted_T], best_T[counted_T], groups
        ).astype(np.float64)
        self._near = _Blocks(group_T, counted_T & ~far_T, _TILE)
        self._far = _Blocks(group_T, counted_T & far_T, _FAR_TILE)

    def __call__(self, w_MC: np.ndarray) -> np.ndarray:
        """Returns the sums of each mixture and group.

        Args:
          w_MC: weights, each row sums to 1.

        Returns:
          Nats [M, G], float64.
        """
        nll_MG = np.tile(self._best_G, (len(w_MC), 1))
        with np.errstate(divide="ignore"):
            log_MC = np.log(w_MC)
        for program, weights_MC, blocks in (
            (_near, w_MC, self._near),
            (_far, log_MC, self._far),
        ):
            for worse, real, group_S in blocks.calls(self._nll_CT):
                first_S, at = np.unique(group_S, return_index=True)
                for start, weights_CK in _chunks(weights_MC):
                    nll_SK = np.asarray(program(weights_CK, worse, real))
                    sums_GK = np.add.reduceat(
                        nll_SK[: len(group_S)], at, axis=0, dtype=np.float64
                    )
                    part = nll_MG[start : start + sums_GK.shape[1]]
                    part[:, first_S] += sums_GK.T[: len(part)]
        return nll_MG


class EnsembleSlope:
    """Computes the same sums at one mixture, and their derivatives.

    For each token, d/dw_c of -log sum_c w_c p_c is -p_c / sum_c w_c p_c.

    Args:
      nll_CT, group_T, groups: see `ProbabilityAverage`.
    """

    def __init__(self, nll_CT: np.ndarray, group_T: np.ndarray, groups: int) -> None:
        here = group_T >= 0
        self._group_TG = np.eye(groups)[group_T[here]]
        nll_CT = nll_CT[:, here].astype(np.float64)
        self._best_T = nll_CT.min(axis=0)
        # Relative to the best member, only what is negligible underflows.
        self._p_CT = np.exp(self._best_T - nll_CT)

    def __call__(self, w_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nats [G] of the groups and their derivatives [G, C]."""
        average_T = np.maximum(w_C @ self._p_CT, np.finfo(float).tiny)
        nll_G = (self._best_T - np.log(average_T)) @ self._group_TG
        return nll_G, -((self._p_CT / average_T) @ self._group_TG).T


class _Blocks:
    """Arranges tokens in blocks of one group each, for calls of one shape.

    Args:
      group_T: the group of each token.
      chosen_T: bool, the tokens to arrange.
      tile: tokens that a program processes together.
    """

    def __init__(self, group_T: np.ndarray, chosen_T: np.ndarray, tile: int) -> None:
        token_T = np.flatnonzero(chosen_T)
        token_T = token_T[np.argsort(group_T[token_T], kind="stable")]
        group, count_G = np.unique(group_T[token_T], return_counts=True)
        large = len(token_T) >= 8 * _BLOCK * max(1, len(group))
        self._block = _BLOCK if large else _SMALL_BLOCK
        self._tile = tile
        # The place of each token if every group starts a new block.
        blocks_G = -(-count_G // self._block)
        padded_G = blocks_G * self._block
        shift_G = (np.cumsum(padded_G) - padded_G) - (np.cumsum(count_G) - count_G)
        self._token_T = token_T
        self._place_T = np.arange(len(token_T)) + np.repeat(shift_G, count_G)
        self._group_S = np.repeat(group, blocks_G)

    def calls(
        self, nll_CT: np.ndarray
    ) -> Iterator[tuple[jax.Array, jax.Array, np.ndarray]]:
        """Yields slices of the tokens as arguments of a program.

        Yields:
          Nats above the best member [N, tile, C]; which tokens are not padding,
          bool [N, tile / block, block]; and the group of each block that has
          tokens.
        """
        total = len(self._group_S) * self._block
        if not total:
            return
        tile = min(self._tile, _next_power(total))
        size = min(-(-total // tile), _TOKENS // tile) * tile
        for start in range(0, total, size):
            here = slice(*np.searchsorted(self._place_T, (start, start + size)))
            token = self._token_T[here]
            place = self._place_T[here] - start
            nll_tC = nll_CT[:, token].T
            worse = np.zeros((size, len(nll_CT)), np.float32)
            worse[place] = nll_tC - nll_tC.min(axis=1, keepdims=True)
            real = np.zeros(size, bool)
            real[place] = True
            first = start // self._block
            yield (
                jax.device_put(worse.reshape(-1, tile, len(nll_CT))),
                jax.device_put(real.reshape(-1, tile // self._block, self._block)),
                self._group_S[first : first + size // self._block],
            )


def _chunks(weights_MC: np.ndarray) -> Iterator[tuple[int, jax.Array]]:
    """Yields slices [C, K] of mixtures; the last one repeats its last row."""
    m = len(weights_MC)
    size = min(_MIXTURES, _next_power(m))
    for start in range(0, m, size):
        at = np.minimum(np.arange(start, start + size), m - 1)
        yield start, jax.device_put(weights_MC[at].T.astype(np.float32))


@jax.jit
def _near(w_CK: jax.Array, worse: jax.Array, real: jax.Array) -> jax.Array:
    """Sums nats above the best member over blocks: float32 [S, K]."""

    def tile(xs: tuple[jax.Array, jax.Array]) -> jax.Array:
        worse_TC, real_SB = xs
        p_TK = jnp.dot(jnp.exp(-worse_TC), w_CK, precision=jax.lax.Precision.HIGHEST)
        return _block_sums(-jnp.log(p_TK), real_SB)

    return jax.lax.map(tile, (worse, real)).reshape(-1, w_CK.shape[1])


@jax.jit
def _far(log_CK: jax.Array, worse: jax.Array, real: jax.Array) -> jax.Array:
    """Computes the same as `_near` in log space, from log-weights."""

    def tile(xs: tuple[jax.Array, jax.Array]) -> jax.Array:
        worse_TC, real_SB = xs
        log_TCK = log_CK - worse_TC[:, :, None]
        nll_TK = -jax.nn.logsumexp(log_TCK, axis=1)
        return _block_sums(nll_TK, real_SB)

    return jax.lax.map(tile, (worse, real)).reshape(-1, log_CK.shape[1])


def _block_sums(nll_TK: jax.Array, real_SB: jax.Array) -> jax.Array:
    nll_SBK = nll_TK.reshape(*real_SB.shape, -1)
    return jnp.sum(jnp.where(real_SB[..., None], nll_SBK, 0.0), axis=1)


def _next_power(value: int) -> int:
    """The next power of two, but at least 32, the smallest block."""
    return 1 << max(5, (value - 1).bit_length())
