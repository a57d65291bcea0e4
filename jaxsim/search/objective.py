"""What a search minimizes: bits per byte of the target, under regression limits.

Every objective here is the largest of a few linear functions of the domains' bits per
byte. So it is convex in them, and its pieces are smooth in the weights wherever the
bits are.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.errors import UserError, nearest
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

    'mean' is the weighted mean over T targets. 'worst' is the largest loss relative
    to the base model over them, plus the base model's weighted mean, so that it stays
    on the scale of bits per byte. Targets, and what has one of L limits, are means over
    domains. Domains that are not needed may hold NaN.
    """

    domains: tuple[str, ...]
    parts_TD: np.ndarray  # weights of the domains in each target; they sum to 1
    weights_T: np.ndarray  # of the targets; they sum to 1
    kind: str  # 'mean' or 'worst'
    base_D: np.ndarray  # bits per byte of the base model on the same text
    limits_LD: np.ndarray  # weights of the domains in what is limited
    max_regression_L: np.ndarray  # share of the base's bits by which it may get worse

    @classmethod
    def of_domains(
        cls,
        domains: tuple[str, ...],
        weights_D: np.ndarray,
        kind: str,
        base_D: np.ndarray,
        max_regression_D: np.ndarray | None = None,
    ) -> "Objective":
        """Each domain with a weight is a target; each finite regression is a limit."""
        eye_DD, used_D = np.eye(len(domains)), weights_D > 0
        if max_regression_D is None:
            max_regression_D = np.full(len(domains), np.inf)
        limited_D = np.isfinite(max_regression_D)
        return cls(
            domains,
            eye_DD[used_D],
            weights_D[used_D] / weights_D.sum(),
            kind,
            base_D,
            eye_DD[limited_D],
            max_regression_D[limited_D],
        )

    @functools.cached_property
    def weights_D(self) -> np.ndarray:
        """Weights of the domains in the mean over targets; they sum to 1."""
        return self.weights_T @ self.parts_TD

    @functools.cached_property
    def needed_D(self) -> np.ndarray:
        """The domains whose bits matter; [D] bool."""
        return (self.parts_TD != 0).any(axis=0) | (self.limits_LD != 0).any(axis=0)

    @property
    def needed(self) -> list[str]:
        """The names of the domains whose bits matter."""
        return np.array(self.domains)[self.needed_D].tolist()

    def check_text(self, there_D: np.ndarray) -> None:
        """Raises a `UserError` if a domain that matters has no scored window.

        `there_D` [D] says which domains have one.
        """
        if empty := np.array(self.domains)[self.needed_D & ~there_D].tolist():
            raise UserError(
                f"domain {empty[0]!r} has no dev window that was scored; leave it out "
                "of the objective"
            )

    @property
    def limit_L(self) -> np.ndarray:
        """The most bits per byte of what is limited."""
        return means(self.base_D, self.limits_LD) * (1 + self.max_regression_L)

    def value(self, bits_MD: np.ndarray) -> np.ndarray:
        """The objective [M] without the limits, in bits per byte."""
        if self.kind == "mean":
            return weighted_mean(bits_MD, self.weights_D)
        loss_MT = means(bits_MD, self.parts_TD) - means(self.base_D, self.parts_TD)
        return loss_MT.max(axis=1) + self._base_mean

    def violation(self, bits_MD: np.ndarray) -> np.ndarray:
        """The largest excess over a limit [M], in bits; 0 where all are met."""
        excess_ML = means(bits_MD, self.limits_LD) - self.limit_L
        return excess_ML.max(axis=1, initial=0.0)

    def penalised(self, bits_MD: np.ndarray) -> np.ndarray:
        """What searches minimize [M]: value plus `PENALTY` times violation."""
        return self.value(bits_MD) + PENALTY * self.violation(bits_MD)

    def pieces(self, bits_D: np.ndarray, jacobian_DC: np.ndarray) -> Slope:
        """The functions of which `penalised` is the largest, with derivatives.

        `jacobian_DC` are those of `bits_D` with respect to C coordinates.
        """
        goal, excess = self.apart(bits_D, jacobian_DC)
        value_E = np.append(0.0, PENALTY * excess.value_P)
        slope_EC = np.pad(PENALTY * excess.slope_PC, ((1, 0), (0, 0)))
        slope_PC = (goal.slope_PC[:, None] + slope_EC).reshape(-1, slope_EC.shape[1])
        return Slope((goal.value_P[:, None] + value_E).ravel(), slope_PC)

    def apart(self, bits_D: np.ndarray, jacobian_DC: np.ndarray) -> tuple[Slope, Slope]:
        """The functions of which `value` is the largest, and the excess over limits.

        For the arguments, see `pieces`.
        """
        parts_TD, offset_T = self.weights_D[None], np.zeros(1)
        if self.kind == "worst":
            parts_TD = self.parts_TD
            offset_T = self._base_mean - means(self.base_D, parts_TD)
        d, jacobian_dC = self.needed_D, jacobian_DC[self.needed_D]
        goal, excess = (
            Slope(parts_ND[:, d] @ bits_D[d] + offset_N, parts_ND[:, d] @ jacobian_dC)
            for parts_ND, offset_N in (
                (parts_TD, offset_T),
                (self.limits_LD, -self.limit_L),
            )
        )
        return goal, excess

    @property
    def _base_mean(self) -> float:
        return float(weighted_mean(self.base_D[None], self.weights_D)[0])


def objective(config: SearchConfig, evaluation: EvaluationSet) -> Objective:
    """The target, kind and limits that `config` asks for, with NaN for the base model.

    Raises:
      UserError: names an unknown domain.
    """
    targets = target_weights(config, evaluation)
    weights_T = np.array(list(targets.values()))
    weights_T = weights_T / weights_T.max()  # their sum may be infinite
    limits = config.max_regression
    domains = evaluation.domains
    return Objective(
        domains=domains,
        parts_TD=_parts("target", targets, evaluation),
        weights_T=weights_T / weights_T.sum(),
        kind=config.objective,
        base_D=np.full(len(domains), np.nan),
        limits_LD=_parts("max_regression", limits, evaluation),
        max_regression_L=np.array(list(limits.values())),
    )


def target_weights(config: SearchConfig, evaluation: EvaluationSet) -> dict[str, float]:
    """The targets with positive weight, by name, as they were given.

    An empty target is every out-of-pool group or domain or, with none, every domain.

    Raises:
      UserError: names something that there is not.
    """
    target: Mapping[str, float] = config.target
    _parts("target", target, evaluation)
    if not target:
        target = _every(evaluation).default
    found = {name: weight for name, weight in target.items() if weight > 0}
    if any(weight < 0 for weight in target.values()) or not found:
        raise UserError(
            "config.search.target: weights must be zero or more, and one of "
            "them positive"
        )
    return found


def _parts(key: str, names: Iterable[str], evaluation: EvaluationSet) -> np.ndarray:
    """[N, D] weights of the domains in domains, groups and macros."""
    e, every = evaluation, _every(evaluation)
    parts = {name: every.parts(name, e.domains) for name in names}
    for name, part_D in parts.items():
        if not part_D.any():
            known = dict.fromkeys((*every.all, *e.groups))
            raise UserError(
                f"config.search.{key}: {name!r} is not a domain or a group of domains; "
                f"{nearest(name, known)}there are {', '.join(known)}"
            )
    return np.array(list(parts.values())).reshape(-1, len(e.domains))


def _every(evaluation: EvaluationSet) -> Targets:
    return Targets.of(evaluation, np.ones(len(evaluation.domains), bool))


def means(bits: np.ndarray, parts_ND: np.ndarray) -> np.ndarray:
    """Means [..., N] of bits [..., D]; a domain without a part may hold NaN."""
    used_D = parts_ND.any(axis=0)
    mean: np.ndarray = bits[..., used_D] @ parts_ND[:, used_D].T
    return mean


def weighted_mean(bits_MD: np.ndarray, weights_D: np.ndarray) -> np.ndarray:
    """Weighted mean over domains [M]; a domain of weight zero may hold NaN."""
    used = weights_D > 0
    return bits_MD[:, used] @ (weights_D[used] / weights_D[used].sum())
