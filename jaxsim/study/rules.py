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
    w_MC: np.ndarray,
    own_C: np.ndarray | None,
    choose: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, np.ndarray]:
    """A predicted loss for each mixture; lower is better.

    Args:
      w_MC: weights.
      own_C: bool, the units of the domain's own partition; None for text from
        outside the pool and for a macro: membership and own weight are blank.
      choose: weights [F, C] and losses [F] of the truths that the best single
        weight is picked on, which are not those it is judged on. It is blank
        where this is None or tells no weight from another.

    Returns:
      By rule, [M] float64; "random" predicts nothing.
    """
    c = w_MC.shape[1]
    rules = {}
    if own_C is not None:
        own_M = w_MC[:, own_C].sum(axis=1)
        rules["membership"] = -is_in(w_MC, own_C).astype(float)
        rules["own weight"] = -own_M
        aim_C = own_C / own_C.sum()
    else:
        aim_C = np.full(c, 1 / c)
    rules["closeness"] = np.linalg.norm(w_MC - aim_C, axis=1)
    best = None if choose is None else _best_weight(*choose)
    if best is not None:
        column, sign = best
        rules["best single weight"] = sign * w_MC[:, column]
    rules["number of units"] = -np.count_nonzero(w_MC, axis=1).astype(float)
    return rules


def is_in(w_MC: np.ndarray, own_C: np.ndarray) -> np.ndarray:
    """[M] bool: mixtures that hold the own partition with at least 1/C."""
    # Weights of a user's file may have six decimals, and those of ours have.
    held: np.ndarray = w_MC[:, own_C].sum(axis=1) >= 1 / w_MC.shape[1] - 1e-5
    return held


def _best_weight(
    w_FC: np.ndarray, loss_F: np.ndarray
) -> tuple[int, float] | None:
    """The column most correlated with the losses, and the sign of it.

    A weight may hurt: then less of it is the rule. Two truths correlate
    perfectly with anything, so it takes three.
    """
    if len(loss_F) < 3 or not np.ptp(loss_F):
        return None
    off_FC, off_F = w_FC - w_FC.mean(axis=0), loss_F - loss_F.mean()
    spread_C = np.linalg.norm(off_FC, axis=0)
    correlation_C = np.divide(
        off_F @ off_FC,
        spread_C * np.linalg.norm(off_F),
        out=np.zeros(w_FC.shape[1]),
        where=spread_C > 1e-12,
    )
    column = int(np.argmax(np.abs(correlation_C)))
    sign = float(np.sign(correlation_C[column]))
    return (column, sign) if sign else None
