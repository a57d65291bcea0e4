"""Predictions that know nothing of any model: what a proxy must beat.

In small prototypes "is the domain's own partition in the mixture?" predicted
per-domain truths as well as any proxy, and the evenness of the weights ranked
the in-pool macro nearly as well. Only text from outside the pool can show
what a proxy knows, so every agreement table has these rules as rows.
"""

import numpy as np

RULES = (
    "membership",
    "own weight",
    "closeness",
    "best single weight",
    "number of units",
    "random",
)


def predictions(
    w_MC: np.ndarray, own_C: np.ndarray | None, choose_M: np.ndarray | None
) -> dict[str, np.ndarray]:
    """A predicted loss for each mixture; lower is better.

    Args:
      w_MC: weights.
      own_C: bool, the units of the domain's own partition; None for text from
        outside the pool and for a macro: membership and own weight are blank.
      choose_M: losses that the best single weight is picked on, which are not
        those it is judged on; None leaves it out.

    Returns:
      By rule, [M] float64.
    """
    c = w_MC.shape[1]
    rules = {}
    if own_C is not None:
        own_M = w_MC[:, own_C].sum(axis=1)
        rules["membership"] = -(own_M >= 1 / c - 1e-9).astype(float)
        rules["own weight"] = -own_M
        aim_C = own_C / own_C.sum()
    else:
        aim_C = np.full(c, 1 / c)
    rules["closeness"] = np.linalg.norm(w_MC - aim_C, axis=1)
    if choose_M is not None:
        centred_M = choose_M - choose_M.mean()
        spread_C = (w_MC - w_MC.mean(0)).std(axis=0)
        covariance_C = centred_M @ (w_MC - w_MC.mean(0))
        score_C = np.divide(
            -covariance_C,
            spread_C,
            out=np.full(c, -np.inf),
            where=spread_C > 0,
        )
        rules["best single weight"] = -w_MC[:, int(np.argmax(score_C))]
    rules["number of units"] = -np.count_nonzero(w_MC, axis=1).astype(float)
    return rules
