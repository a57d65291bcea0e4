"""The mixtures that may be chosen, as a set that methods can move in."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.errors import UserError
from jaxsim.search.landscape import Slope
from jaxsim.search.limits import Limit, Plan, limits_of, plan_of, sets_of
from jaxsim.search.region import TOLERANCE, Empty, Region
from jaxsim.search.sources import choose

_CONCENTRATIONS = (0.3, 1.0, 4.0)
_CORNERS = 4  # extreme mixtures that `sample` draws for a member
_FACES = 32  # choices of sources that it draws, if their number is limited


@dataclasses.dataclass(frozen=True, eq=False)
class Feasible:
    """The mixtures that may be chosen. Build it with `feasible`.

    Without `max_sources` the set is convex, and its programmes are solved
    exactly. With it, `nearest` keeps the partitions that hold most weight,
    which is a heuristic; `lowest` is exact unless the divergence is limited
    too.

    Attributes:
      members: names, C.
      partition_C: index of each member's partition.
      limits: on sums of weights.
      reference_C, divergence: most KL(w, reference) in nats; inf for any.
      max_sources: partitions with a weight, at most; 0 for any number.
      plan: the run that the mixture is for.
      open_C: members that may have a weight; not all only in a `face`.
    """

    members: tuple[str, ...]
    partition_C: np.ndarray
    limits: tuple[Limit, ...]
    reference_C: np.ndarray
    divergence: float
    max_sources: int
    plan: Plan
    open_C: np.ndarray

    @property
    def convex(self) -> bool:
        return self.max_sources == 0

    def contains(
        self, w_MC: np.ndarray, tolerance: float = 10 * TOLERANCE
    ) -> np.ndarray:
        """[M] bool: which mixtures are allowed, give or take a share."""
        inside_M = self._whole.excess(w_MC) <= tolerance
        inside_M &= w_MC[:, ~self.open_C].max(axis=1, initial=0.0) <= tolerance
        if not self.convex:
            count_M = np.array([self.sources(w_C) for w_C in w_MC])
            inside_M &= count_M <= self.max_sources
        return inside_M

    def nearest(self, w_C: np.ndarray) -> np.ndarray:
        """The allowed mixture at the least Euclidean distance."""
        if self.contains(w_C[None], TOLERANCE)[0]:
            return w_C
        if not self.convex:
            mass_Q = np.bincount(self.partition_C, w_C)
            return self._face_or_centre(self._choose(-mass_Q)[0]).nearest(w_C)
        return self._spread(self._region.nearest(w_C[self.open_C]))

    def lowest(self, slope_C: np.ndarray) -> np.ndarray:
        """The allowed mixture with the least slope . w."""
        piece = Slope(np.zeros(1), slope_C[None])
        return self.lowest_of(piece, np.zeros(len(slope_C)))[0]

    def lowest_of(
        self, slope: Slope, at_C: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Minimises the largest of the pieces, taken as linear from `at_C`.

        Returns:
          A mixture, and a lower bound of the minimum over the whole set.
        """
        if self.convex:
            here = self.open_C
            # What is shut goes to zero, wherever the pieces start from.
            gone_P = slope.slope_PC[:, ~here] @ at_C[~here]
            w_c, bound = self._region.lowest(
                slope.value_P - gone_P, slope.slope_PC[:, here], at_C[here]
            )
            return self._spread(w_c), bound
        none_Q = np.zeros(self.partition_C.max() + 1)
        chosen_Q, bound = self._choose(none_Q, slope, at_C)
        face = self._face_or_centre(chosen_Q)
        return face.lowest_of(slope, at_C)[0], bound

    def model_step(
        self, slope: Slope, at_C: np.ndarray, hessian_CC: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """`Region.model_step` on a convex set, from a mixture in it."""
        here = self.open_C
        w_c, share_P = self._region.model_step(
            slope.value_P,
            slope.slope_PC[:, here],
            at_C[here],
            hessian_CC[np.ix_(here, here)],
        )
        return self._spread(w_c), share_P

    def face(self, w_C: np.ndarray) -> "Feasible":
        """The convex part of the set with the partitions of a mixture."""
        if self.convex:
            return self
        return self._face(np.bincount(self.partition_C, w_C) > 0)

    def sample(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """[count, C] random allowed mixtures.

        Convex combinations of random corners, with Dirichlet weights of
        several concentrations: on the bare simplex, Dirichlet draws.
        """
        if count == 0:
            return np.zeros((0, len(self.members)))
        if not self.convex:
            size = (min(count, _FACES), self.partition_C.max() + 1)
            faces = [
                self._face_or_centre(self._choose(-mass_Q)[0])
                for mass_Q in generator.exponential(size=size)
            ]
            parts = np.array_split(np.arange(count), len(faces))
            draws = [
                face.sample(len(part), generator)
                for face, part in zip(faces, parts, strict=True)
            ]
            return generator.permutation(np.concatenate(draws))
        corners_VC = self._corners(count, generator)
        few = min(len(corners_VC), int(self.open_C.sum()))
        which_M = generator.integers(len(_CONCENTRATIONS), size=count)
        w_MC = np.empty((count, len(self.members)))
        for m, which in enumerate(which_M):
            places = generator.choice(len(corners_VC), few, replace=False)
            alpha = np.full(few, _CONCENTRATIONS[which])
            w_MC[m] = generator.dirichlet(alpha) @ corners_VC[places]
        return w_MC

    def repetition(self, w_C: np.ndarray) -> np.ndarray:
        """[C] epochs of each member's source; 0 if no run is planned."""
        return self.plan.repetition(w_C)

    def sources(self, w_C: np.ndarray) -> int:
        """How many partitions have a weight."""
        return len(np.unique(self.partition_C[w_C > TOLERANCE]))

    def divergence_of(self, w_C: np.ndarray) -> float:
        """KL(w, reference) in nats."""
        return float(self._whole.divergences(w_C[None])[0])

    def divergence_slope(self, w_C: np.ndarray) -> np.ndarray:
        """[C] its derivative."""
        return self._whole.divergence_slope(w_C)

    @functools.cached_property
    def centre_C(self) -> np.ndarray:
        """An allowed mixture: if convex, the nearest to the reference (KL).

        Raises:
          Empty: there is none.
        """
        if self.convex:
            return self._spread(self._region.centre_C)
        mass_Q = np.bincount(self.partition_C, self.reference_C)
        return self._face(self._choose(-mass_Q)[0]).centre_C

    @functools.cached_property
    def _whole(self) -> Region:
        """Of all members and any number of partitions."""
        matrix_KC = np.zeros((len(self.limits), len(self.members)))
        for limit, row_C in zip(self.limits, matrix_KC, strict=True):
            row_C[list(limit.places)] = limit.sign
        bound_K = np.array([x.sign * x.share for x in self.limits], float)
        return Region(matrix_KC, bound_K, self.reference_C, self.divergence)

    @functools.cached_property
    def _region(self) -> Region:
        """Of the open members."""
        here = self.open_C
        return dataclasses.replace(
            self._whole,
            matrix_KC=self._whole.matrix_KC[:, here],
            reference_C=self.reference_C[here],
        )

    def _spread(self, w_c: np.ndarray) -> np.ndarray:
        """Over all members what is over the open ones."""
        w_C = np.zeros(len(self.members))
        w_C[self.open_C] = w_c
        return w_C

    def _choose(
        self,
        cost_Q: np.ndarray,
        slope: Slope | None = None,
        at_C: np.ndarray | None = None,
    ) -> tuple[np.ndarray, float]:
        return choose(
            self._whole, self.partition_C, self.max_sources, cost_Q, slope, at_C
        )

    def _face(self, chosen_Q: np.ndarray) -> "Feasible":
        open_C = self.open_C & chosen_Q[self.partition_C]
        return dataclasses.replace(self, max_sources=0, open_C=open_C)

    def _face_or_centre(self, chosen_Q: np.ndarray) -> "Feasible":
        """The face of these partitions or, if it is empty, the centre's."""
        face = self._face(chosen_Q)
        try:
            _ = face.centre_C
        except Empty:
            return self.face(self.centre_C)
        return face

    def _corners(
        self, count: int, generator: np.random.Generator
    ) -> np.ndarray:
        """[V, C] random extreme mixtures of a convex set."""
        here = np.flatnonzero(self.open_C)
        if not self.limits and not np.isfinite(self.divergence):
            return np.eye(len(self.members))[here]
        size = (min(count + 8, _CORNERS * len(here)), len(here))
        return np.array(
            [
                self._spread(self._region.corner(slope_c))
                for slope_c in generator.standard_normal(size)
            ]
        )


def feasible(
    config: SearchConfig,
    members: Sequence[str],
    partitions: Sequence[str],
    groups: Sequence[str],
    tokens_C: np.ndarray,
    epochs_C: np.ndarray,
    anchor: float,
    seed_tokens: float = np.inf,
) -> Feasible:
    """The mixtures that `config` allows.

    Args:
      members, partitions, groups: names, one of each for every member.
      tokens_C: tokens of the text that each member was trained on.
      epochs_C: how often its run repeated them.
      anchor: share of the seed's text in every run.
      seed_tokens: tokens of that text.

    Raises:
      UserError: an unknown name, or no mixture is allowed; says which limits
        exclude each other.
    """
    sets = sets_of(members, partitions, groups)
    plan = plan_of(
        config, members, sets, tokens_C, epochs_C, anchor, seed_tokens
    )
    limits = limits_of(config, sets, plan)
    weight_C = np.asarray(tokens_C, float)
    if config.reference == "uniform":
        weight_C = np.ones(len(members))
    _, partition_C = np.unique(partitions, return_inverse=True)
    few = 0 < config.max_sources < len(set(partitions))
    found = Feasible(
        members=tuple(members),
        partition_C=partition_C,
        limits=limits,
        reference_C=weight_C / weight_C.sum(),
        divergence=config.divergence or np.inf,
        max_sources=config.max_sources if few else 0,
        plan=plan,
        open_C=np.ones(len(members), bool),
    )
    _check(found, config)
    return found


def _check(found: Feasible, config: SearchConfig) -> None:
    """Refuses limits that exclude each other, the simplest reason first."""
    try:
        _ = dataclasses.replace(
            found, divergence=np.inf, max_sources=0
        ).centre_C
    except Empty as error:
        limits = [found.limits[k] for k in error.rows]
        raise UserError(_contradiction(limits, found.plan, config)) from error
    try:
        _ = dataclasses.replace(found, max_sources=0).centre_C
    except Empty as error:
        raise UserError(
            "config.search.divergence: within the other limits no mixture "
            f"is nearer to the {config.reference} one than "
            f"{error.divergence:.4g} nats, and {found.divergence:g} are "
            "allowed; raise it, or loosen floors, ceilings or the plan"
        ) from error
    try:
        _ = found.centre_C
    except Empty as error:
        raise UserError(
            f"config.search.max_sources: found no {found.max_sources} "
            "partitions that meet the other limits; raise it, or loosen "
            "floors, ceilings, divergence or the plan"
        ) from error


def _contradiction(
    limits: Sequence[Limit], plan: Plan, config: SearchConfig
) -> str:
    named = {
        kind: [x for x in limits if x.kind == kind]
        for kind in ("floor", "ceiling", "supply")
    }
    said = [
        f"{kind}s " + ", ".join(f"{x.name}={x.share:g}" for x in some)
        for kind, some in named.items()
        if some and kind != "supply"
    ]
    if some := named["supply"]:
        share = sum(x.share for x in some)
        once = config.epochs == 1
        epochs = "1 epoch" if once else f"{config.epochs:g} epochs"
        enough = (
            f"{epochs} of {', '.join(x.name for x in some)} "
            f"{'gives' if once else 'give'} {share:.1%} of the "
            f"{plan.tokens:,.0f} tokens that are planned outside the "
            "anchor"
        )
        others = f", so none meets {' and '.join(said)}" if said else ""
        return (
            f"config.search: no mixture fills the plan: {enough}{others}; "
            "plan fewer tokens, allow more epochs, "
            + ("loosen the other limits, " if said else "")
            + "or give `supply` the tokens that there really are"
        )
    return (
        f"config.search: no mixture meets {' and '.join(said)} at once; "
        "loosen one of them"
    )
