"""The loss of averaged token probabilities, for very many mixtures at once.

Given each member's probability of each correct token, a mixture is a matrix product
and a logarithm per token (mixture of data experts, arXiv 2502.15950). Probabilities
are taken relative to the token's best member:

    -log sum_c w_c p_c = min_c nll_c - log sum_c w_c exp(min_c nll_c - nll_c)

The first term is the same for all mixtures and is summed in float64. For the second,
float32 is enough if members are close enough that the sum cannot underflow. The few
other tokens are computed on the host, in log space.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from jaxsim.errors import DamagedError
from jaxsim.log import counted

# Tokens and mixtures of a call, of one shape for all: small enough to stay in cache.
_TOKENS, _MIXTURES = 2**13, 128
_BLOCK = 32  # tokens of one group that are summed in float32; then in float64
# Largest difference in nats between best and worst member for sums in float32:
# exp(-60) is 1e-26, far above the smallest float32, 1e-38.
_FAR = 60.0
_FAR_TOKENS = 32  # that are computed at once
_STEEPEST = 600.0  # logarithm of the largest slope of a token: sums stay finite


class Ensemble:
    """Sums the loss of averaged probabilities over groups of tokens.

    Memory holds the members' probabilities and a slice of the mixtures, whatever the
    number of mixtures.

    Args:
      nll_CT: nats of each token by member; infinite if a member gives it no
        probability.
      group_T: the group of each token; -1 for none.
      groups: number of groups.
      weight_T: what each token counts in its group's sum; None: 1.
    """

    def __init__(
        self,
        nll_CT: np.ndarray,
        group_T: np.ndarray,
        groups: int,
        weight_T: np.ndarray | None = None,
    ) -> None:
        weight_T = np.ones(len(group_T)) if weight_T is None else weight_T
        token_T = np.flatnonzero(group_T >= 0)
        token_T = token_T[np.argsort(group_T[token_T], kind="stable")]
        self._group_T, self._groups = group_T[token_T], groups
        self._weight_T = weight_T[token_T]
        worse_TC = nll_CT[:, token_T].T.astype(np.float64)
        best_T = worse_TC.min(axis=1, initial=np.inf)
        worse_TC -= best_T[:, None]
        self._best_G = self._sum(best_T)
        self._p_TC = np.exp(-worse_TC)
        worst_T = worse_TC.max(axis=1, where=np.isfinite(worse_TC), initial=0.0)
        self._near_T = worst_T <= _FAR
        self._far_FC = worse_TC[~self._near_T]
        self._damaged_C = np.isinf(nll_CT).all(axis=1)

    def sums(self, w_MC: np.ndarray) -> np.ndarray:
        """Returns the nats of each mixture and group.

        Args:
          w_MC: weights, each row sums to 1.

        Returns:
          [M, G], float64.

        Raises:
          DamagedError: a mixture uses a member without any probability.
        """
        if damaged := np.count_nonzero(w_MC[:, self._damaged_C].any(axis=1)):
            raise DamagedError(
                f"{counted(int(damaged), 'mixture')} with a damaged member"
            )
        nll_MG = np.tile(self._best_G, (len(w_MC), 1))
        # Every group starts a new block.
        group_G, count_G = np.unique(self._group_T[self._near_T], return_counts=True)
        blocks_G = -(-count_G // _BLOCK)
        shift_G = np.cumsum(blocks_G * _BLOCK) - blocks_G * _BLOCK
        shift_G -= np.cumsum(count_G) - count_G
        place_T = np.arange(count_G.sum()) + np.repeat(shift_G, count_G)
        group_S = np.repeat(group_G, blocks_G)
        size = -(-len(group_S) * _BLOCK // _TOKENS) * _TOKENS
        p_TC = np.ones((size, w_MC.shape[1]), np.float32)
        p_TC[place_T] = self._p_TC[self._near_T]
        weight_T = np.zeros(size, np.float32)
        weight_T[place_T] = self._weight_T[self._near_T]
        for m in range(0, len(w_MC), _MIXTURES):
            w_KC = w_MC[m : m + _MIXTURES]
            w_CK = np.zeros((w_MC.shape[1], _MIXTURES), np.float32)
            w_CK[:, : len(w_KC)] = w_KC.T
            parts = [
                _log_averages(p_TC[t : t + _TOKENS], weight_T[t : t + _TOKENS], w_CK)
                for t in range(0, size, _TOKENS)
            ]
            if parts:
                log_SK = np.concatenate(parts)[: len(group_S), : len(w_KC)]
                first = np.searchsorted(group_S, group_G)
                log_GK = np.add.reduceat(log_SK, first, axis=0, dtype=np.float64)
                nll_MG[m : m + len(w_KC), group_G] -= log_GK.T
        far_F, weight_F = self._group_T[~self._near_T], self._weight_T[~self._near_T]
        for f in range(0, len(far_F), _FAR_TOKENS):
            # The log of a weight of zero is -inf, as it should be.
            here = slice(f, f + _FAR_TOKENS)
            terms_FC1 = -self._far_FC[here, :, None]
            log_FM = scipy.special.logsumexp(terms_FC1, axis=1, b=w_MC.T)
            np.subtract.at(nll_MG.T, far_F[here], weight_F[here, None] * log_FM)
        return nll_MG

    def slope(self, w_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns one mixture's nats [G], and their derivatives [G, C].

        For each token, d/dw_c of -log sum_c w_c p_c is -p_c / sum_c w_c p_c.
        """
        average_T = np.maximum(self._p_TC @ w_C, np.finfo(float).tiny)
        log_T, slope_TC = np.log(average_T), self._p_TC / average_T[:, None]
        far_T = ~self._near_T
        log_T[far_T] = scipy.special.logsumexp(-self._far_FC, axis=1, b=w_C)
        more_FC = -self._far_FC - log_T[far_T, None]
        slope_TC[far_T] = np.exp(np.minimum(more_FC, _STEEPEST))
        nll_G = self._best_G - self._sum(log_T)
        return nll_G, -np.stack([self._sum(slope_T) for slope_T in slope_TC.T], axis=1)

    def _sum(self, x_T: np.ndarray) -> np.ndarray:
        x_T = self._weight_T * x_T
        return np.bincount(self._group_T, x_T, self._groups).astype(np.float64)


@jax.jit
def _log_averages(p_TC: jax.Array, weight_T: jax.Array, w_CK: jax.Array) -> jax.Array:
    """Weighted sums of logarithms of averaged probabilities over blocks.

    Tokens of weight 0 are padding. Returns float32 [S, K].
    """
    p_TK = jnp.dot(p_TC, w_CK, precision=jax.lax.Precision.HIGHEST)
    weight_T1 = weight_T[:, None]
    log_TK = jnp.where(weight_T1 > 0, weight_T1 * jnp.log(p_TK), 0.0)
    return log_TK.reshape(-1, _BLOCK, w_CK.shape[1]).sum(axis=1)
