"""Ratios that teach a calibration the most: a design, not a sample.

A truth and the merge of its ratio agree to first order in the weights, and a
single is its own truth. So what truths can teach is a curvature: in this
design the difference is sum_c a_c w_c (1 - w_c) plus noise, with coefficients
a_c that share a mean. Ratios are taken one after another such that the
expected squared error of that difference, averaged over the mixtures that
truths are drawn from, falls most (Bayesian I-optimality; Chaloner and
Verdinelli 1995). Scattered over the weights as they are, such truths would
flatter any correlation: they are fitted on and never judged.
"""

import numpy as np

# Relative to the coefficients' own scatter of 1: what they share, and the
# noise of one run. At w = 1/2 a coefficient counts a quarter of itself.
_SHARED, _NOISE = 1.0, 0.1
_CANDIDATES = 2000
_APART = 0.1  # share of the tokens by which two ratios differ at least


def design(
    count: int,
    members: int,
    only_subsets: bool = False,
    rng: int = 0,
    exclude_MC: np.ndarray | None = None,
) -> np.ndarray:
    """[count, C] ratios; the first n of a longer design are the shorter one.

    Args:
      count: of ratios.
      members: C.
      only_subsets: equal weights only.
      rng: of the candidates.
      exclude_MC: ratios that may not be used: those that are judged.

    Returns:
      Fewer rows than `count` where there are not so many candidates.
    """
    generator = np.random.default_rng([rng, 9])
    candidate_KC = _candidates(members, only_subsets, generator)
    x_KC = candidate_KC * (1 - candidate_KC)
    # What is to be predicted: what truths are drawn from, and wider mixtures.
    aim_KC = x_KC if only_subsets else _aims(members, generator)
    moment_CC = aim_KC.T @ aim_KC / len(aim_KC)
    covariance_CC = np.eye(members) + _SHARED
    free_K = np.ones(len(candidate_KC), bool)
    if exclude_MC is not None:
        for w_C in exclude_MC:
            # A near twin of a judged truth shares its noise, too.
            apart_K = np.abs(candidate_KC - w_C).sum(axis=1) / 2
            free_K &= apart_K >= _APART / 2
    chosen: list[int] = []
    while len(chosen) < count and free_K.any():
        # One more truth at x takes V x x' V / (noise + x' V x) off V.
        vx_KC = x_KC @ covariance_CC
        variance_K = _NOISE**2 + np.sum(vx_KC * x_KC, axis=1)
        gain_K = np.sum((vx_KC @ moment_CC) * vx_KC, axis=1) / variance_K
        best = int(np.argmax(np.where(free_K, gain_K, -1.0)))
        chosen.append(best)
        apart_K = np.abs(candidate_KC - candidate_KC[best]).sum(axis=1) / 2
        free_K &= apart_K >= _APART
        step_C = vx_KC[best]
        covariance_CC -= np.outer(step_C, step_C) / variance_K[best]
    return candidate_KC[chosen]


def _candidates(
    c: int, only_subsets: bool, generator: np.random.Generator
) -> np.ndarray:
    """Different ratios of two members or more, to six decimals."""
    size_K = generator.integers(2, c + 1, _CANDIDATES)
    order_KC = generator.random((_CANDIDATES, c)).argsort(axis=1)
    subset_KC = (order_KC < size_K[:, None]) / size_K[:, None]
    drawn = [subset_KC]
    if not only_subsets:
        drawn += [
            np.round(generator.dirichlet(np.full(c, alpha), _CANDIDATES), 6)
            for alpha in (0.3, 1.0, 4.0)
        ]
    w_KC = np.concatenate(drawn)
    largest_K = np.argmax(w_KC, axis=1)
    w_KC[np.arange(len(w_KC)), largest_K] += 1 - w_KC.sum(axis=1)
    w_KC = w_KC[np.count_nonzero(w_KC, axis=1) > 1]
    _, first = np.unique(np.round(w_KC, 9), axis=0, return_index=True)
    return w_KC[np.sort(first)]


def _aims(c: int, generator: np.random.Generator) -> np.ndarray:
    w_KC = np.concatenate(
        [generator.dirichlet(np.full(c, a), _CANDIDATES) for a in (1.0, 4.0)]
    )
    return w_KC * (1 - w_KC)
