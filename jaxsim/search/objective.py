"""What a search minimizes: bits per byte of the target, under regression limits.

Every objective here is the largest of a few linear functions of the domains' bits per
byte. So it is convex in them, and its pieces are smooth in the weights wherever the
bits are.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.errors import UserError
from jaxsim.scoring.evaluation import EvaluationSet
from jaxsim.scoring.targets import Targets

# A regression limit is kept exactly as long as one more bit in the limited domain
# would win fewer bits of the objective than this.
PENALTY = 10.0
EXCESS = 1e-4  # bits per byte by which a limit may be missed


@dataclasses.dataclass(frozen=True)
class Slope:
    """The objective at one mixture, as the largest of P smooth pieces."""

    value_P: np.ndarray  # in the objective's units
    slope_PC: np.ndarray  # derivatives with respect to the weights, taken as free

    @property
    def value(self) -> float:
        return float(self.value_P.max())


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """A function of the bits per byte on D domains; smaller is better.

    'mean' is the weighted mean over the target. 'worst' is the largest loss relative
    to the base model over the domains with positive weight, plus the base model's
    weighted mean, so that it stays on the scale of bits per byte. Domains that are not
    needed may hold NaN.
    """

    domains: tuple[str, ...]
    weights_D: np.ndarray  # of the target; they sum to 1
    kind: str  # 'mean' or 'worst'
    base_D: np.ndarray  # bits per byte of the base model on the same text
    max_regression_D: np.ndarray  # share of it by which a domain may get worse, or inf

    @functools.cached_property
    def used_D(self) -> np.ndarray:
        """The domains of the target; [D] bool."""
        return self.weights_D > 0

    @functools.cached_property
    def limited_D(self) -> np.ndarray:
        """The domains with a regression limit; [D] bool."""
        return np.isfinite(self.max_regression_D)

    @property
    def needed_D(self) -> np.ndarray:
        """The domains whose bits matter; [D] bool."""
        return self.used_D | self.limited_D

    @property
    def needed(self) -> list[str]:
        """The names of the domains whose bits matter."""
        return np.array(self.domains)[self.needed_D].tolist()

    @property
    def limit_D(self) -> np.ndarray:
        """The most bits per byte [D]; inf or NaN without a limit."""
        return self.base_D * (1 + self.max_regression_D)

    def value(self, bits_MD: np.ndarray) -> np.ndarray:
        """The objective [M] without the limits, in bits per byte."""
        if self.kind == "mean":
            return weighted_mean(bits_MD, self.weights_D)
        loss_MT = bits_MD[:, self.used_D] - self.base_D[self.used_D]
        return loss_MT.max(axis=1) + self._base_mean

    def violation(self, bits_MD: np.ndarray) -> np.ndarray:
        """The largest excess over a limit [M], in bits; 0 where all are met."""
        excess_MT = bits_MD[:, self.limited_D] - self.limit_D[self.limited_D]
        return excess_MT.max(axis=1, initial=0.0)

    def penalised(self, bits_MD: np.ndarray) -> np.ndarray:
        """What searches minimize [M]: value plus `PENALTY` times violation."""
        return self.value(bits_MD) + PENALTY * self.violation(bits_MD)

    def pieces(self, bits_D: np.ndarray, jacobian_DC: np.ndarray) -> Slope:
        """The functions of which `penalised` is the largest, with derivatives.

        `jacobian_DC` are those of `bits_D` with respect to C coordinates.
        """
        eye_DD, limited = np.eye(len(self.domains)), self.limited_D
        if self.kind == "mean":
            slope_TD, offset_T = self.weights_D[None], np.zeros(1)
        else:
            slope_TD = eye_DD[self.used_D]
            offset_T = self._base_mean - self.base_D[self.used_D]
        excess_ED = np.concatenate([0 * eye_DD[:1], PENALTY * eye_DD[limited]])
        offset_E = np.append(0.0, -PENALTY * self.limit_D[limited])
        slope_PD = (slope_TD[:, None] + excess_ED).reshape(-1, len(eye_DD))
        offset_P = (offset_T[:, None] + offset_E).ravel()
        needed = self.needed_D
        slope_Pd = slope_PD[:, needed]
        value_P = slope_Pd @ bits_D[needed] + offset_P
        return Slope(value_P, slope_Pd @ jacobian_DC[needed])

    @property
    def _base_mean(self) -> float:
        return float(self.base_D[self.used_D] @ self.weights_D[self.used_D])


def objective(config: SearchConfig, evaluation: EvaluationSet) -> Objective:
    """The target, kind and limits that `config` asks for, with NaN for the base model.

    Raises:
      UserError: names an unknown domain.
    """
    weights_D = target_weights(config, evaluation)
    weights_D = weights_D / weights_D.max()  # their sum may be infinite
    domains, limits = evaluation.domains, config.max_regression
    _check_names("max_regression", limits, domains)
    return Objective(
        domains=domains,
        weights_D=weights_D / weights_D.sum(),
        kind=config.objective,
        base_D=np.full(len(domains), np.nan),
        max_regression_D=np.array([limits.get(n, np.inf) for n in domains]),
    )


def target_weights(config: SearchConfig, evaluation: EvaluationSet) -> np.ndarray:
    """[D] weights of the objective, as they were given.

    An empty target is every out-of-pool domain or, with none, every domain.

    Raises:
      UserError: names a domain that there is not.
    """
    e = evaluation
    target: Mapping[str, float] = config.target
    if not target:
        target = Targets.of(e, np.ones(len(e.domains), bool)).default
    _check_names("target", target, e.domains)
    weights_D = np.array([target.get(n, 0.0) for n in e.domains])
    if (weights_D < 0).any() or not weights_D.any():
        raise UserError(
            "config.search.target: weights must be zero or more, and one of "
            "them positive"
        )
    return weights_D


def _check_names(key: str, names: Iterable[str], domains: Sequence[str]) -> None:
    if unknown := [name for name in names if name not in domains]:
        raise UserError(
            f"config.search.{key}: {unknown[0]!r} is not a domain; domains are "
            f"{', '.join(domains)}"
        )


def weighted_mean(bits_MD: np.ndarray, weights_D: np.ndarray) -> np.ndarray:
    """Weighted mean over domains [M]; a domain of weight zero may hold NaN."""
    used = weights_D > 0
    return bits_MD[:, used] @ (weights_D[used] / weights_D[used].sum())
