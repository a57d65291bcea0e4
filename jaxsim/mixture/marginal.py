"""What is the next percent of a member's data worth?"""

import numpy as np


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
    with np.errstate(divide="ignore", invalid="ignore"):
        return share * (dw_DC - mean_D1) / (bytes_D[:, None] * np.log(2.0))
