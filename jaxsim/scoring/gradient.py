"""Exact derivatives of losses with respect to a mixture's weights and scale.

With p = base + scale * sum_c w_c * delta_c, and g the gradient of a loss with
respect to p, the chain rule gives d/dw_c = scale * <g, delta_c> and d/dscale =
sum_c w_c * <g, delta_c>. One merge, one backward pass and one inner product per
member are enough. Differentiating through the merge would be no more exact, and
would keep everything that the merge reads in memory.

Device memory holds the pool, three trees like the base and one block of
windows, whatever the number of windows and domains.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxsim.config import ScoreConfig
from jaxsim.errors import DamagedError, JaxsimError
from jaxsim.model import LanguageModel
from jaxsim.scoring.backward import Backward
from jaxsim.scoring.evaluation import EvaluationSet, scored_mask
from jaxsim.scoring.scores import bits_per_byte
from jaxsim.scoring.stack import Resident


@dataclasses.dataclass(frozen=True)
class Jacobian:
    """Derivatives of every domain's summed loss; 0 without windows.

    Attributes:
      nll_R: nats of each window.
      dw_DC: derivatives with respect to each weight, the others fixed.
      dscale_D: derivatives with respect to the scale.
    """

    nll_R: np.ndarray
    dw_DC: np.ndarray
    dscale_D: np.ndarray


class Differentiator:
    """Computes derivatives at one mixture at a time; see also `Evaluator`.

    Weights are free coordinates: nothing is projected on the simplex. The
    derivative with respect to a damaged member is zero, because its column is.
    The model runs in `config.precision`, merges and inner products in the
    precision of the base, float32. Results are float64, on the host.
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

    def jacobian(self, w_C: np.ndarray, scale: float, rows: np.ndarray) -> Jacobian:
        """Differentiates every domain's loss, summed over its windows.

        Costs one backward pass over `rows`, and one inner product per domain
        and member.

        Args:
          w_C, scale: the mixture.
          rows: indices of windows in the evaluation set, in any order.

        Raises:
          DamagedError: the mixture uses a damaged member.
          JaxsimError: a loss or a derivative is not finite.
          UserError: a block of windows does not fit in the device's memory.
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
        return Jacobian(nll_R, scale * along_DC, along_DC @ w_C)

    def lowered(self, length: int = 0) -> dict[str, jax.stages.Lowered]:
        """Returns the programs before compilation; see `Backward.lowered`.

        Args:
          length: tokens of a window; 0 for the full length.
        """
        full = self._evaluation.tokens_RL1.shape[1] - 1
        return self._backward.lowered(length or full)

    def _merged(self, w_C: np.ndarray, scale: float) -> Any:
        for name, weight in zip(self._stack.names, w_C, strict=True):
            if weight and scale and name in self._stack.damaged:
                raise DamagedError(
                    f"a mixture uses {name!r} with weight {weight:g}, but its "
                    "parameters are damaged"
                )
        return self._backward.merge(w_C, scale)

    def _sweep(self, params: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the losses [R] of windows, and <gradient, delta_c> [C]."""
        sums = self._backward.zeros(params)
        parts = []
        for places in self._blocks(rows):
            block = self._block(rows[places])
            sums, nll_B = self._backward.add(sums, params, *block)
            parts.append((places, nll_B))
        # This waits, so that only one domain's sums are in memory.
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
        """Yields blocks of places in `rows`, each of one length bucket."""
        bucket_R = self._buckets(rows)
        for length in np.unique(bucket_R):
            here = np.flatnonzero(bucket_R == length)
            size = self._backward.windows(int(length))
            for start in range(0, len(here), size):
                yield here[start : start + size]

    def _buckets(self, rows: np.ndarray) -> np.ndarray:
        """Returns the padded length [R] of each window."""
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
    dw_DC: np.ndarray, w_C: np.ndarray, bytes_D: np.ndarray, share: float = 0.01
) -> np.ndarray:
    """Change of every domain's loss if a share of the tokens goes to a member.

    Member c takes `share` of all tokens from all members in proportion to their
    weights: w + share * (e_c - w), which stays on the simplex. To first order,
    the loss changes by share * (J_c - sum_j w_j J_j), where J are derivatives
    of the domain's nats. Weighted by w, a domain's values sum to 0: not every
    member can be worth more than the mixture.

    Args:
      dw_DC: derivatives of the domains' summed nats with respect to the
        weights, see `Differentiator.jacobian`.
      w_C: the mixture at which they were taken; sums to 1.
      bytes_D: bytes of the text that the nats are sums over; may be 0.
      share: share of the tokens that moves.

    Returns:
      Bits per byte [D, C], negative if more of c lowers the domain's loss; NaN
      for a domain without text.
    """
    mean_D1 = dw_DC @ w_C[:, None]
    return bits_per_byte(share * (dw_DC - mean_D1), bytes_D[:, None])
