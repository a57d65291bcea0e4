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
    """The same as something to descend on, with its derivatives.

    d/dw_c of -log sum_c w_c p_c is -p_c / sum_c w_c p_c, for each token.
    """
    scorer, landscape = problem.scorer, problem.landscape
    e = scorer.evaluation
    domain_R = np.full(len(e), -1)
    domain_R[landscape.rows] = e.domain_R[landscape.rows]
    domain_T = np.repeat(domain_R, e.count_R)
    here = domain_T >= 0
    onehot_TD = np.eye(len(e.domains))[domain_T[here]]
    nll_CT = scorer.token_losses[1:][:, here].astype(np.float64)
    best_T = nll_CT.min(axis=0)
    # Relative to the best member nothing that matters underflows.
    p_CT = np.exp(best_T - nll_CT)

    def slope(w_C: np.ndarray) -> Slope:
        average_T = np.maximum(w_C @ p_CT, np.finfo(float).tiny)
        nll_D = (best_T - np.log(average_T)) @ onehot_TD
        dw_DC = -((p_CT / average_T) @ onehot_TD).T
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
