"""A search problem: an objective, the mixtures that may be chosen, and a budget."""

import dataclasses
from typing import NamedTuple, Protocol

import numpy as np

from jaxsim.config import SearchConfig
from jaxsim.scoring.evaluator import Jacobian
from jaxsim.scoring.quadratic import Quadratic
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import PredictorScores, Scores, bits_of, bits_per_byte
from jaxsim.scoring.table import Mixtures, mixture_key
from jaxsim.search.constraints import feasible
from jaxsim.search.objective import Objective, Slope, objective
from jaxsim.search.optimize import LossOracle


class Form(NamedTuple):
    """Bits per byte of D domains: constant + linear w - 1/4 w' curve w."""

    constant_D: np.ndarray
    linear_DC: np.ndarray
    curve_DCC: np.ndarray  # symmetric

    @classmethod
    def of(cls, quadratic: Quadratic, bytes_D: np.ndarray) -> "Form":
        """The closed form of a predictor, from its sums of nats."""
        linear_DC = bits_per_byte(quadratic.member_DC, bytes_D[:, None])
        curve_DCC = bits_per_byte(quadratic.curve_DCC, bytes_D[:, None, None])
        return cls(np.zeros(len(bytes_D)), linear_DC, curve_DCC)

    def bits(self, w_MC: np.ndarray) -> np.ndarray:
        """Bits per byte [M, D]."""
        bent_MDC = np.einsum("mi,dij->mdj", w_MC, self.curve_DCC)
        bent_MD = np.einsum("mdj,mj->md", bent_MDC, w_MC)
        return self.constant_D + w_MC @ self.linear_DC.T - bent_MD / 4


class Correction(Protocol):
    """How far training is expected to lie from merges, on the windows `rows`."""

    def shift(
        self, w_MC: np.ndarray, bits_MD: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """The shift [M, D] for mixtures with these bits per byte."""

    def slope(
        self, w_C: np.ndarray, bits_DC: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """The derivatives of the shift [D, C], from those of the bits."""

    def closed(self, merge: Form, ensemble: Form) -> Form:
        """The closed form of corrected merges, from those of merge and ensemble."""


class Problem:
    """An objective on dev text, mixtures that may be chosen, and a budget.

    For the arguments, see `jaxsim.search.search.search`.

    Attributes:
      known: scores that a descent starts with.
      base_R: the base model's nats on every window of the evaluation set.
      rows: windows that an evaluation is on, indices into the evaluation set.
      bytes_D: of the text in `rows`, with their weights; see `EvaluationSet.sums`.
      objective: on `rows`.
      loss: the penalized objective of merges, and its budget.
      nll: float32 nats [R] of all mixtures in its history, by `mixture_key`.

    Raises:
      UserError: an unknown name, a domain without dev text, or constraints that
        contradict each other.
    """

    def __init__(
        self,
        scorer: Scorer,
        config: SearchConfig,
        correction: Correction | None = None,
        table: Scores | None = None,
    ) -> None:
        e, standard = scorer.evaluation, scorer.standard()
        self.scorer, self.config, self.correction = scorer, config, correction
        self.table = table
        self.known = [standard]
        if table is not None and config.method != "table":
            self.known.append(table)
        self.base_R = standard.predictors["merge"].nll_MR[0]
        self.objective = objective(config, e)
        self.rows = self.windows("dev", config.windows)
        there_D = np.isin(range(len(e.domains)), e.domain_R[self.rows])
        self.objective.check_text(there_D)
        self.bytes_D = e.sums(e.bytes_R[self.rows], self.rows)
        self.objective = self.objective_on(self.rows)
        shut = dict.fromkeys(scorer.stack.damaged, 0.0)
        manifests = scorer.pool.manifests("member")
        self.feasible = feasible(
            dataclasses.replace(config, max_weight=config.max_weight | shut),
            [scorer.corpus.unit(name) for name in scorer.members],
            np.array([max(manifests[n].epochs.values()) for n in scorer.members]),
            scorer.pool.identity["recipe"]["replay"],
            scorer.corpus.base.supply if scorer.corpus.base else 0,
        )
        self.loss = LossOracle(self._values, self._slope, config.evaluations)
        self.nll: dict[bytes, np.ndarray] = {}
        for scores in self.known:
            self._know(scores)

    def windows(self, split: str, count: int = 0) -> np.ndarray:
        """Windows of a split in the domains that matter, at most `count` of each."""
        e = self.scorer.evaluation
        rows = e.rows(split, count)
        return rows[self.objective.needed_D[e.domain_R[rows]]]

    def objective_on(self, rows: np.ndarray) -> Objective:
        """The objective, relative to the base model on these windows."""
        e = self.scorer.evaluation
        nll_D, bytes_D = (e.sums(x_R[rows], rows) for x_R in (self.base_R, e.bytes_R))
        return dataclasses.replace(self.objective, base_D=bits_per_byte(nll_D, bytes_D))

    def bits(
        self, w_MC: np.ndarray, losses: PredictorScores
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bits per byte of merges on dev text, and those expected of training.

        Both are [M, D], NaN for domains without windows.
        """
        bits_MD = bits_of(self.scorer.evaluation, losses, "dev")
        if self.correction is None:
            return bits_MD, bits_MD
        return bits_MD, bits_MD + self.correction.shift(w_MC, bits_MD, losses.rows)

    def derivatives(self, w_C: np.ndarray) -> tuple[np.ndarray, np.ndarray, Jacobian]:
        """A mixture's bits per byte [D], their derivatives [D, C], and the merge's own.

        The first two are those expected of training.
        """
        found = self.scorer.jacobian(w_C, 1.0, self.rows)
        bits_DC = bits_per_byte(found.dw_DC, self.bytes_D[:, None])
        if self.correction is not None:
            bits_DC = bits_DC + self.correction.slope(w_C, bits_DC, self.rows)
        losses = PredictorScores(self.rows, found.nll_R[None])
        _, (bits_D,) = self.bits(w_C[None], losses)
        return bits_D, bits_DC, found

    def _know(self, scores: Scores) -> None:
        """Takes in the merges of a table, if they are scored on all of `rows`."""
        known, table = scores.on(self.rows).predictors["merge"], scores.table
        usable = np.isfinite(known.nll_MR).all(axis=1) & (table.scale_M == 1)
        if len(known.rows) == len(self.rows) and usable.any():
            w_MC, nll_MR = table.w_MC[usable], known.nll_MR[usable]
            self.loss.keep(w_MC, self._taken(w_MC, nll_MR))

    def _values(self, w_MC: np.ndarray) -> np.ndarray:
        count = len(w_MC)
        names = tuple(f"candidate {i + 1}" for i in range(count))
        kinds = ("candidate",) * count
        table = Mixtures(self.scorer.members, names, kinds, w_MC, np.ones(count))
        merges = self.scorer.merge(table, self.rows)
        return self._taken(w_MC, merges.nll_MR)

    def _slope(self, w_C: np.ndarray) -> Slope:
        bits_D, bits_DC, found = self.derivatives(w_C)
        self.nll.setdefault(mixture_key(w_C), found.nll_R.astype(np.float32))
        return self.objective.pieces(bits_D, bits_DC)

    def _taken(self, w_MC: np.ndarray, nll_MR: np.ndarray) -> np.ndarray:
        """Keeps the losses, and gives their values [M]."""
        for w_C, nll_R in zip(w_MC, nll_MR, strict=True):
            self.nll.setdefault(mixture_key(w_C), nll_R.astype(np.float32))
        _, bits_MD = self.bits(w_MC, PredictorScores(self.rows, nll_MR))
        return self.objective.penalised(bits_MD)
