"""Exact derivatives of losses with respect to a mixture's weights and scale.

With p = seed + scale * sum_c w_c * delta_c and g the gradient of a loss with
respect to p, the chain rule gives d/dw_c = scale * <g, delta_c> and d/dscale =
sum_c w_c * <g, delta_c>. So one merge, one backward pass and one inner product
with each member are enough, and nothing differentiates through the merge: that
would keep what the merge has read, and is no more exact.

What is alive is the pool, three trees like the seed and one block of windows,
whatever the number of windows and domains.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxsim.config import ScoreConfig
from jaxsim.errors import DamagedError, JaxsimError
from jaxsim.mixture.backward import Backward
from jaxsim.mixture.evaluation import EvaluationSet, scored_mask
from jaxsim.mixture.scores import bits_per_byte
from jaxsim.mixture.stack import Resident
from jaxsim.model import LanguageModel


@dataclasses.dataclass(frozen=True)
class Jacobian:
    """Of the summed losses of every domain; 0 where one has no window.

    Attributes:
      nll_R: nats of each window.
      nll_D: nats of each domain, over these windows.
      dw_DC: derivatives with respect to each weight, all others fixed.
      dscale_D: derivatives with respect to the scale.
    """

    nll_R: np.ndarray
    nll_D: np.ndarray
    dw_DC: np.ndarray
    dscale_D: np.ndarray


class Differentiator:
    """Derivatives at one mixture after the other; see `Evaluator`.

    Weights are free coordinates: nothing projects on the simplex. The column
    of a damaged member is zero, and so is its derivative. Everything returned
    is float64 on the host; the model runs in `config.precision`, and merges
    and inner products in the precision of the seed, float32.
    """

    def __init__(
        self,
        model: LanguageModel,
        pool: Resident,
        evaluation: EvaluationSet,
        config: ScoreConfig,
    ) -> None:
        self._stack = pool.stack
        self._evaluation = evaluation
        self._backward = Backward(model, pool, config)

    def jacobian(
        self, w_C: np.ndarray, scale: float, rows: np.ndarray
    ) -> Jacobian:
        """The derivatives of every domain's loss, summed over its windows.

        Costs one backward pass over `rows`, as a gradient does, and the inner
        products of each domain.

        Args, raises: see `gradient`.
        """
        rows = np.asarray(rows)
        domains = len(self._evaluation.domains)
        domain_R = self._evaluation.domain_R[rows]
        nll_R = np.zeros(len(rows))
        along_DC = np.zeros((domains, len(w_C)))
        params = self._merged(w_C, scale)
        for d in np.unique(domain_R):
            here = np.flatnonzero(domain_R == d)
            nll_R[here], along_DC[d] = self._sweep(params, rows[here])
        nll_D = np.bincount(domain_R, nll_R, domains)
        return Jacobian(nll_R, nll_D, scale * along_DC, along_DC @ w_C)

    def lowered(self, length: int = 0) -> dict[str, jax.stages.Lowered]:
        """The programs, not compiled, for windows of this length or of all.

        See `Backward.lowered`.
        """
        full = self._evaluation.tokens_RL1.shape[1] - 1
        return self._backward.lowered(length or full)

    def _merged(self, w_C: np.ndarray, scale: float) -> Any:
        for name, weight in zip(self._stack.names, w_C, strict=True):
            if weight and scale and name in self._stack.damaged:
                raise DamagedError(
                    f"a mixture uses {name!r} with weight {weight:g}, and its "
                    "parameters are damaged"
                )
        return self._backward.merge(w_C, scale)

    def _sweep(
        self, params: Any, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Losses [R] of the windows, and <gradient, delta_c> [C]."""
        sums = self._backward.zeros(params)
        parts = []
        for places in self._blocks(rows):
            block = self._block(rows[places])
            sums, nll_B = self._backward.add(sums, params, *block)
            parts.append((places, nll_B))
        # Waits, so that the sums of another domain do not come on top.
        along_C = self._backward.along(sums)
        nll_R = np.zeros(len(rows))
        for places, nll_B in parts:
            nll_R[places] = np.asarray(nll_B)[: len(places)]
        if not (np.isfinite(nll_R).all() and np.isfinite(along_C).all()):
            raise JaxsimError(
                "a loss or its gradient is not finite; if the mixture's scale "
                "is near 1, run `jaxsim verify`"
            )
        return nll_R, along_C

    def _blocks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Places in `rows` of windows of one length bucket each."""
        bucket_R = self._buckets(rows)
        for length in np.unique(bucket_R):
            here = np.flatnonzero(bucket_R == length)
            size = self._backward.windows(int(length))
            for start in range(0, len(here), size):
                yield here[start : start + size]

    def _buckets(self, rows: np.ndarray) -> np.ndarray:
        """The length [R] of each window's bucket."""
        full = self._evaluation.tokens_RL1.shape[1] - 1
        buckets = np.unique([full, -(-full // 2), -(-full // 4)])
        length_R = self._evaluation.length_R[rows]
        return buckets[np.searchsorted(buckets, length_R)]

    def _block(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Tokens and scored targets, padded with unscored windows."""
        length = int(self._buckets(rows)[0])
        arrays = (
            self._evaluation.tokens_RL1[rows, : length + 1],
            scored_mask(self._evaluation, rows)[:, :length],
        )
        short = self._backward.windows(length) - len(rows)
        return tuple(
            np.pad(array, [(0, short)] + [(0, 0)] * (array.ndim - 1))
            for array in arrays
        )


def marginal_values(
    dw_DC: np.ndarray,
    w_C: np.ndarray,
    bytes_D: np.ndarray,
    share: float = 0.01,
) -> np.ndarray:
    """Change of every domain when a share of the tokens goes to one member.

    Member c takes `share` of the whole from all members in proportion to
    their weights, w + share * (e_c - w), which stays on the simplex. To first
    order the loss then changes by share * (J_c - sum_j w_j J_j), J the
    derivatives of the domain's nats; divided by its bytes and ln 2, these are
    bits per byte. Weighted by w, a domain's values sum to 0: relative to what
    the mixture is, not everything can be worth more.

    Args:
      dw_DC: derivatives of the domains' summed nats with respect to the
        weights, see `Differentiator.jacobian`.
      w_C: the mixture at which they were taken; sums to 1.
      bytes_D: of the text that the nats are of; 0 where there is none.
      share: of the tokens that move.

    Returns:
      [D, C] bits per byte, negative where more of c makes the domain's loss
      lower; NaN for a domain without text.
    """
    mean_D1 = dw_DC @ w_C[:, None]
    return bits_per_byte(share * (dw_DC - mean_D1), bytes_D[:, None])
