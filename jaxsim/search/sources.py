"""Which few partitions to use: a mixed-integer programme, by HiGHS."""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from jaxsim.search.landscape import Slope
from jaxsim.search.region import Empty, Region


def choose(
    region: Region,
    partition_C: np.ndarray,
    most: int,
    cost_Q: np.ndarray,
    slope: Slope | None = None,
    at_C: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """The best partitions if the divergence did not matter.

    Minimises the sum of `cost_Q` over the chosen partitions plus the largest
    of the pieces, over weights that the region's linear limits allow.

    Args:
      partition_C: index of each member's partition, below Q.
      most: partitions that may be chosen.
      slope: pieces, taken as linear from `at_C`.

    Returns:
      [Q] bool, and a lower bound of the minimum.

    Raises:
      Empty: no choice allows anything.
    """
    k, c = region.matrix_KC.shape
    q = len(cost_Q)
    # Unknowns: weights, choices, and the largest piece.
    belongs_CQ = np.eye(q)[partition_C]
    rows = [
        LinearConstraint(np.repeat([1.0, 0.0, 0.0], [c, q, 1]), 1, 1),
        LinearConstraint(np.repeat([0.0, 1.0, 0.0], [c, q, 1]), 0, most),
        LinearConstraint(
            np.hstack([np.eye(c), -belongs_CQ, np.zeros((c, 1))]), -np.inf, 0
        ),
    ]
    if k:
        wide_KN = np.hstack([region.matrix_KC, np.zeros((k, q + 1))])
        rows.append(LinearConstraint(wide_KN, -np.inf, region.bound_K))
    free = 0.0
    if slope is not None and at_C is not None:
        p, free = len(slope.value_P), np.inf
        pieces_PN = np.hstack(
            [slope.slope_PC, np.zeros((p, q)), -np.ones((p, 1))]
        )
        offset_P = slope.slope_PC @ at_C - slope.value_P
        rows.append(LinearConstraint(pieces_PN, -np.inf, offset_P))
    found = milp(
        np.concatenate([np.zeros(c), cost_Q, [1.0]]),
        integrality=np.repeat([0, 1, 0], [c, q, 1]),
        bounds=Bounds(
            np.append(np.zeros(c + q), -free), np.append(np.ones(c + q), free)
        ),
        constraints=rows,
    )
    if found.x is None:
        raise Empty(tuple(range(k)))
    return found.x[c : c + q] > 0.5, float(found.mip_dual_bound)
