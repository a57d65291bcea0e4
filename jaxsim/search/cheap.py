"""The objective by the probability average: nearly free, and convex for a mean.

Averaged token probabilities need no model once each member's are known, so a
hundred thousand mixtures can be looked at before the first merge is scored.
"""

import numpy as np

from jaxsim.search.landscape import Ledger, Slope
from jaxsim.search.problem import Problem

_STEPS = 100  # slopes that finding the minimum may take


def cheap_values(problem: Problem, w_MC: np.ndarray) -> np.ndarray:
    """The penalised objective [M] by the probability average."""
    scorer, landscape = problem.scorer, problem.landscape
    nll_MD = scorer.proxies.probability_sums(
        w_MC, scorer.token_losses[1:], landscape.rows
    )
    return problem.objective.penalised(landscape.per_byte(nll_MD.T).T)


def cheap_landscape(problem: Problem) -> Ledger:
    """The same as something to descend on, with its derivatives."""
    scorer, landscape = problem.scorer, problem.landscape
    at = scorer.proxies.probability_slope(
        scorer.token_losses[1:], landscape.rows
    )

    def slope(w_C: np.ndarray) -> Slope:
        nll_D, dw_DC = at(w_C)
        bits_D = landscape.per_byte(nll_D[:, None])[:, 0]
        return Slope(
            *problem.objective.pieces(bits_D, landscape.per_byte(dw_DC))
        )

    return Ledger(
        landscape.members,
        lambda w_MC: cheap_values(problem, w_MC),
        slope,
        budget=3.0 * _STEPS,
    )
