"""What ranks very many mixtures for a search: the quadratic of merges, or the ensemble.

The quadratic is first compared with random merges, on the search's own objective and
windows. Where it refuses itself, or the budget cannot pay for that, the ensemble takes
its place. Neither runs a model once it is there.
"""

import dataclasses
import functools
from typing import Literal

import numpy as np

from jaxsim.scoring.ensemble import Ensemble
from jaxsim.scoring.quadratic import Misfit, Quadratic, convexity, is_convex
from jaxsim.scoring.scores import PredictorScores, bits_of, bits_per_byte
from jaxsim.scoring.table import mixture_key
from jaxsim.search.feasible import Feasible
from jaxsim.search.objective import Slope
from jaxsim.search.optimize import GRADIENT_COST, LossOracle, descend
from jaxsim.search.problem import Problem

_CHECKING = 1 / 2  # of the budget, at most; the rest is for the search
_GRADIENTS = 100  # most gradients for a minimum
# Share of the tokens that moves in a difference of derivatives. The ensemble bends much
# in a step of 0.1; rounding does not matter down to 1e-7.
_STEP = 0.005
_BLOCK = 16_384  # mixtures at a time
_FLATTEST = 1e-6  # of the largest curvature; less is raised to it


@dataclasses.dataclass(frozen=True, eq=False)
class Surrogate:
    """A cheap predictor of a search's objective.

    Attributes:
      problem: what is searched.
      quadratic: of merges, on the problem's windows; None: the ensemble.
      misfit: of the quadratic, also where it is not used; None if it was not checked.
      refusal: why it is not used, as a clause.
    """

    problem: Problem
    quadratic: Quadratic | None
    misfit: Misfit | None = None
    refusal: str = ""

    @property
    def name(self) -> Literal["quadratic", "ensemble"]:
        return "quadratic" if self.quadratic else "ensemble"

    def bits(self, w_MC: np.ndarray) -> np.ndarray:
        """Bits per byte of mixtures [M, D], without the correction."""
        return bits_per_byte(self._form.sums(w_MC), self.problem.bytes_D)

    def values(self, w_MC: np.ndarray) -> np.ndarray:
        """The penalized objective [M].

        That of the quadratic is corrected as that of merges is. Memory beyond the
        arguments is bounded, whatever M.
        """
        value_M = np.empty(len(w_MC))
        for start in range(0, len(w_MC), _BLOCK):
            here = slice(start, start + _BLOCK)
            bits_KD = self.bits(w_MC[here])
            if self.quadratic and (correction := self.problem.correction):
                rows = self.problem.rows
                bits_KD = bits_KD + correction.shift(w_MC[here], bits_KD, rows)
            value_M[here] = self.problem.objective.penalised(bits_KD)
        return value_M

    def slope(self, w_C: np.ndarray) -> Slope:
        """The pieces of the same, with derivatives."""
        rows, bits_DC = self.problem.rows, self._derivatives(w_C)
        (bits_D,) = self.bits(w_C[None])
        if self.quadratic and (correction := self.problem.correction):
            bits_DC = bits_DC + correction.slope(w_C, bits_DC, rows)
            bits_D = bits_D + correction.shift(w_C[None], bits_D[None], rows)[0]
        return self.problem.objective.pieces(bits_D, bits_DC)

    def lowest(self, face: Feasible) -> tuple[np.ndarray, np.ndarray]:
        """The lowest mixture of a convex set, and the curvature [C, C] there."""
        loss = LossOracle(self.values, self.slope, GRADIENT_COST * _GRADIENTS)
        if not self.quadratic:
            # From the center: a descent that begins near its end learns no curvature.
            return descend(loss, face, face.center_C)
        start_C = face.center_C
        w_C, hessian_CC = descend(
            loss, face, start_C, self.hessian(start_C).mean(axis=0)
        )
        # The multipliers of the optimum weigh the pieces' curvatures.
        _, share_P = face.lowest(self.slope(w_C), w_C, hessian_CC)
        return w_C, np.tensordot(share_P, self.hessian(w_C), 1)

    def hessian(self, w_C: np.ndarray) -> np.ndarray:
        """The pieces' second derivatives along the simplex [P, C, C], made convex.

        Only with the quadratic.
        """
        none_D, bend_DN = self._bend(w_C)
        return self._convex(self.problem.objective.pieces(none_D, bend_DN))[0]

    def hessians_apart(self, w_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of the functions of `Objective.apart`, and which needed no change [P].

        That is, which were convex before, as far as `is_convex` asks for.
        """
        none_D, bend_DN = self._bend(w_C)
        found = map(self._convex, self.problem.objective.apart(none_D, bend_DN))
        hessians, kept = zip(*found, strict=True)
        return np.concatenate(hessians), np.concatenate(kept)

    def _bend(self, w_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Zeros [D], and the second derivatives of bits per byte in a row [D, C C].

        Functions that are linear in the domains take these for values and derivatives.
        The correction's part is a difference of derivatives.
        """
        assert self.quadratic
        bytes_D11 = self.problem.bytes_D[:, None, None]
        hessian_DCC = bits_per_byte(self.quadratic.hessian_DCC, bytes_D11)
        if correction := self.problem.correction:
            sound_C = ~self.quadratic.damaged_C
            moved_NC = w_C + _STEP * (np.eye(len(w_C))[sound_C] - w_C)
            here_DC, *there_NDC = (
                correction.slope(x_C, self._derivatives(x_C), self.problem.rows)
                for x_C in (w_C, *moved_NC)
            )
            change_NDC = (np.array(there_NDC) - here_DC) / _STEP
            hessian_DCC[:, sound_C] += np.swapaxes(change_NDC, 0, 1)
        return np.zeros(len(hessian_DCC)), hessian_DCC.reshape(len(hessian_DCC), -1)

    def _convex(self, bend: Slope) -> tuple[np.ndarray, np.ndarray]:
        """The nearest curvatures without directions that bend down [P, C, C].

        Along the simplex of the sound members; and which had none to speak of [P].
        """
        assert self.quadratic
        sound = np.flatnonzero(~self.quadratic.damaged_C)
        pieces, c = len(bend.value_P), len(self.quadratic.damaged_C)
        hessian_PCC = bend.slope_PC.reshape(pieces, c, c)
        kept_P = np.zeros(pieces, bool)
        convex_PCC = np.zeros_like(hessian_PCC)
        along_cc = np.eye(len(sound)) - 1 / len(sound)
        for p, hessian_CC in enumerate(hessian_PCC):
            bent_cc = along_cc @ hessian_CC[np.ix_(sound, sound)] @ along_cc
            bent_cc = (bent_cc + bent_cc.T) / 2
            kept_P[p] = is_convex(convexity(bent_cc))
            curve_c, axis_cc = np.linalg.eigh(bent_cc)
            least = max(_FLATTEST * curve_c[-1], np.finfo(float).tiny)
            raised_cc = (axis_cc * np.maximum(curve_c, least)) @ axis_cc.T
            convex_PCC[p, sound[:, None], sound] = raised_cc
        return convex_PCC, kept_P

    @functools.cached_property
    def _form(self) -> Quadratic | Ensemble:
        return self.quadratic or self.problem.scorer.ensemble(self.problem.rows)

    def _derivatives(self, w_C: np.ndarray) -> np.ndarray:
        """Those of `bits` of one mixture [D, C]."""
        _, dw_DC = self._form.slope(w_C)
        return bits_per_byte(dw_DC, self.problem.bytes_D[:, None])


def surrogate(problem: Problem) -> Surrogate:
    """The quadratic if it holds on random merges, or the ensemble.

    Its gradient and the merges are paid from the budget, and the merges are candidates.
    """
    scorer, loss, goal = problem.scorer, problem.loss, problem.objective
    if reason := scorer.alone:
        return Surrogate(problem, None, refusal=reason)
    w_MC = scorer.checks().w_MC
    cost = GRADIENT_COST + len(w_MC)
    if cost > _CHECKING * loss.budget:
        reason = (
            f"to check it costs {cost:.0f} evaluations, more than {_CHECKING:.0%} of "
            f"config.search.evaluations={loss.budget:.0f}"
        )
        return Surrogate(problem, None, refusal=reason)
    loss.pay(GRADIENT_COST)
    loss.values(w_MC)
    quadratic = scorer.quadratic(problem.rows)
    nll_MR = np.array([problem.nll[mixture_key(w_C)] for w_C in w_MC])
    real_MD = bits_of(scorer.evaluation, PredictorScores(problem.rows, nll_MR), "dev")
    found = Surrogate(problem, quadratic)
    bytes_D = np.where(goal.weights_D > 0, problem.bytes_D, 1.0)
    misfit = Misfit.of(
        goal.value(found.bits(w_MC)),
        goal.value(real_MD),
        quadratic.convexity(goal.weights_D / bytes_D),
    )
    if reason := misfit.refusal:
        return Surrogate(problem, None, misfit, reason)
    return dataclasses.replace(found, misfit=misfit)
