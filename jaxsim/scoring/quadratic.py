"""A closed form for the losses of merges, from the members' losses and one gradient.

The loss of a merge lies below the weighted mean of its members' losses. The gap is
nearly a quadratic form of the weights:

    L(w) = sum_c w_c L_c - 1/4 sum_ij w_i w_j D_ij (k_i + k_j) / 2

D_ij is how far members i and j are apart: the mean square of the differences of their
losses over the same tokens. That is an estimate of the curvature of the loss between
them in the space of logits, with the tokens of the text in the place of draws from the
model (the empirical Fisher information; Kunstner et al. 2019, arXiv 1905.12558), and
every pool has it: no further pass over the text is needed. A factor k_c for each member
and domain makes the form exact, in value and gradient along the simplex, at the uniform
merge; at members it is exact by construction. (Between two members only the value can
be met.)

The same form fits the ensemble, and so their mean. `benchmarks/quadratic.py` measures
how well it predicts real merges, here and with other choices of D; docs/search.md says
where it fails. `Misfit` refuses it there.
"""

import dataclasses

import numpy as np

from jaxsim.errors import DamagedError
from jaxsim.log import counted

CHECKS = 20  # real merges that a closed form is compared with
WORST_SHARE = 0.2  # of their spread: a larger error hides most differences
LEAST_CONVEXITY = -0.01  # below it the form is not convex, as merges nearly are
_ROUNDING = 1e-6  # relative spread of equal merges: their losses are float32
_RANK = 1e-9  # relative singular value; smaller ones are rounding
_BLOCK = 4096  # mixtures at a time: 32 MB with 1,000 members


@dataclasses.dataclass(frozen=True, eq=False)
class Quadratic:
    """Nats of D domains as a quadratic function of weights that sum to 1.

    Sums are those of `EvaluationSet.sums`; 0 for a domain without windows.

    Attributes:
      member_DC: nats of each domain by member; 0 for a damaged member.
      curve_DCC: D_ij (k_i + k_j) / 2 of each domain, in nats.
      damaged_C: members that no mixture may use.
    """

    member_DC: np.ndarray
    curve_DCC: np.ndarray
    damaged_C: np.ndarray

    def sums(self, w_MC: np.ndarray) -> np.ndarray:
        """Nats of each mixture and domain [M, D], float64.

        Raises:
          DamagedError: a mixture uses a damaged member.
        """
        if damaged := np.count_nonzero(w_MC[:, self.damaged_C].any(axis=1)):
            raise DamagedError(
                f"{counted(int(damaged), 'mixture')} with a damaged member"
            )
        nll_MD = w_MC @ self.member_DC.T
        for start in range(0, len(w_MC), _BLOCK):
            here = slice(start, start + _BLOCK)
            w_KC = w_MC[here]
            for d, curve_CC in enumerate(self.curve_DCC):
                gap_K = np.einsum("kc,kc->k", w_KC @ curve_CC, w_KC) / 4
                nll_MD[here, d] -= gap_K
        return nll_MD

    def slope(self, w_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One mixture's nats [D], and their derivatives [D, C]; weights are free."""
        (nll_D,) = self.sums(w_C[None])
        return nll_D, self.member_DC - self.curve_DCC @ w_C / 2

    @property
    def hessian_DCC(self) -> np.ndarray:
        """Second derivatives of each domain's nats, the same for all mixtures."""
        return -self.curve_DCC / 2

    def convexity(self, part_D: np.ndarray) -> float:
        """Whether a weighted sum of domains is convex: see the function `convexity`.

        Damaged members do not count.
        """
        sound = np.flatnonzero(~self.damaged_C)
        hessian_CC = np.tensordot(part_D, self.hessian_DCC, 1)
        return convexity(hessian_CC[np.ix_(sound, sound)])

    def mean_with(self, other: "Quadratic") -> "Quadratic":
        """The closed form of the mean of two predictors' losses."""
        return Quadratic(
            (self.member_DC + other.member_DC) / 2,
            (self.curve_DCC + other.curve_DCC) / 2,
            self.damaged_C | other.damaged_C,
        )


@dataclasses.dataclass(frozen=True)
class Misfit:
    """How far a closed form is from real merges, on one objective."""

    error: float  # root mean square of predicted minus real, in the objective's units
    spread: float  # standard deviation of the real values; 0 if it is rounding
    count: int  # of merges
    convexity: float = 0.0  # of the form; see the function

    @classmethod
    def of(
        cls, predicted_M: np.ndarray, real_M: np.ndarray, convexity: float = 0.0
    ) -> "Misfit":
        """Compares predicted with real values of the same merges."""
        error, spread = np.sqrt(np.mean((predicted_M - real_M) ** 2)), np.std(real_M)
        if spread <= _ROUNDING * np.abs(real_M).max():
            spread = 0.0
        return cls(float(error), float(spread), len(real_M), convexity)

    @property
    def share(self) -> float:
        """The error as a share of the spread; infinite where there is none."""
        return self.error / self.spread if self.spread else np.inf

    @property
    def refusal(self) -> str:
        """Why the closed form may not be used, as a clause; '' if it may."""
        if not self.spread:
            return f"{self.count} random merges do not differ"
        if not self.share <= WORST_SHARE:  # also if it is NaN
            return (
                f"on {self.count} random merges it is off by {self.share:.0%} of their "
                f"spread, more than {WORST_SHARE:.0%}"
            )
        if not is_convex(self.convexity):
            return (
                "it is not convex: its lowest curvature is "
                f"{self.convexity:.0%} of its largest one"
            )
        return ""


def fit(
    member_DC: np.ndarray,
    uniform_D: np.ndarray,
    slope_DC: np.ndarray,
    apart_CC: np.ndarray,
) -> Quadratic:
    """Fits the closed form of a predictor.

    Args:
      member_DC: nats of each domain by member; not finite for damaged members.
      uniform_D: the predictor's nats at equal weights of the sound members.
      slope_DC: its derivatives there. Only differences between members matter.
      apart_CC: the members' squared distances, in any unit; see `token_distances`.
    """
    sound = np.flatnonzero(np.isfinite(member_DC).all(axis=0))
    (domains, members), c = member_DC.shape, len(sound)
    apart_cc = apart_CC[np.ix_(sound, sound)]
    member_Dc, slope_Dc = member_DC[:, sound], slope_DC[:, sound]
    # The gap and its derivatives at equal weights u, linear in k:
    # gap = 1/4 sum_i k_i u_i r_i, d gap / dw = 1/4 (r k + D u k), with r = D u.
    u_c = np.full(c, 1 / c)
    reach_c = apart_cc @ u_c
    slope_cc = (np.diag(reach_c) + apart_cc * u_c) / 4
    value_1c = (u_c * reach_c)[None] / 4
    # One more row of the same weight as all others together.
    system = np.concatenate([slope_cc - slope_cc.mean(axis=0), c * value_1c])
    gap_D = member_Dc.mean(axis=1) - uniform_D
    pull_Dc = member_Dc - slope_Dc
    pull_Dc -= pull_Dc.mean(axis=1, keepdims=True)
    wanted = np.concatenate([pull_Dc, c * gap_D[:, None]], axis=1)
    # From one factor for all members, change as little as the equations ask.
    whole = float(value_1c.sum())
    common_D1 = (gap_D / whole if whole else np.zeros(domains))[:, None]
    rest = wanted - common_D1 * system.sum(axis=1)
    k_Dc = common_D1 + np.linalg.lstsq(system, rest.T, rcond=_RANK)[0].T
    curve_Dcc = apart_cc * (k_Dc[:, :, None] + k_Dc[:, None, :]) / 2
    whole_DC = np.zeros((domains, members))
    whole_DC[:, sound] = member_Dc
    curve_DCC = np.zeros((domains, members, members))
    curve_DCC[:, sound[:, None], sound] = curve_Dcc
    damaged_C = ~np.isin(np.arange(members), sound)
    return Quadratic(whole_DC, curve_DCC, damaged_C)


def token_distances(nll_CT: np.ndarray, domain_T: np.ndarray) -> np.ndarray:
    """Squared distances between members: of their losses over the same tokens.

    The mean over domains of each domain's mean over its tokens, so that a domain
    counts whatever its length. NaN for a member with losses that are not finite.

    Args:
      nll_CT: nats of each token by member.
      domain_T: the domain of each token.

    Returns:
      [C, C], float64.
    """
    sound = np.flatnonzero(np.isfinite(nll_CT).all(axis=1))
    apart_cc = np.zeros((len(sound),) * 2)
    found = np.unique(domain_T)
    for d in found:
        nll_ct = nll_CT[np.ix_(sound, np.flatnonzero(domain_T == d))].astype(float)
        nll_ct -= nll_ct.mean(axis=0)  # what is common cancels before it is squared
        gram_cc = nll_ct @ nll_ct.T / nll_ct.shape[1]
        square_c = np.diag(gram_cc)
        apart_cc += (square_c[:, None] + square_c - 2 * gram_cc) / len(found)
    np.fill_diagonal(apart_cc, 0.0)
    apart_CC = np.full((len(nll_CT),) * 2, np.nan)
    apart_CC[np.ix_(sound, sound)] = apart_cc
    return apart_CC


def is_convex(convexity: float) -> bool:
    """Whether a function with such a convexity counts as convex."""
    return convexity >= LEAST_CONVEXITY


def convexity(hessian_CC: np.ndarray) -> float:
    """The lowest over the largest eigenvalue of a Hessian along the simplex.

    Negative if the function is not convex there.
    """
    along_CC = np.eye(len(hessian_CC)) - 1 / len(hessian_CC)
    curvature_C = np.linalg.eigvalsh(along_CC @ hessian_CC @ along_CC)
    largest = float(np.abs(curvature_C).max())
    return float(curvature_C[0]) / largest if largest else 0.0
