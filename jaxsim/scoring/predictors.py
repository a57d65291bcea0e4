"""Predictors: three ways to predict a mixture's losses without training it.

- merge: the loss of the averaged parameters (Na et al., EMNLP 2024).
- probability: the loss of the averaged token probabilities (mixture of data
  experts, arXiv 2502.15950). Each member's probability of each correct token is
  computed once; a mixture is then a matrix product and a logarithm.
- members: the weighted mean of the members' losses.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxsim.errors import DamagedError
from jaxsim.log import progress
from jaxsim.scoring.ensemble import Ensemble, EnsembleSlope
from jaxsim.scoring.evaluation import EvaluationSet, scored_mask
from jaxsim.scoring.evaluator import Evaluator
from jaxsim.scoring.gradient import Differentiator, Jacobian
from jaxsim.scoring.scores import PredictorScores, ScoreStore, row_keys
from jaxsim.scoring.stack import Stack
from jaxsim.scoring.table import Mixtures, base_row, concatenate, one_mixture, singles

# Float64 losses in memory at once: 64 MiB.
_VALUES = 2**23


class Predictors:
    """Scores tables over one stack by every predictor."""

    def __init__(
        self,
        workdir: Path,
        stack: Stack,
        evaluation: EvaluationSet,
        evaluator: Evaluator,
        differentiator: Differentiator,
    ) -> None:
        self._store = ScoreStore(workdir)
        self.stack = stack
        self._evaluation = evaluation
        self._evaluator = evaluator
        self._differentiator = differentiator

    @property
    def how(self) -> dict[str, str]:
        """Precisions that merges are scored with."""
        return self._evaluator.how

    def merge(
        self,
        name: str,
        table: Mixtures,
        rows: np.ndarray,
        known: Mapping[str, np.ndarray] | None = None,
    ) -> PredictorScores:
        """Losses of the merges of `table` on the windows `rows`.

        Args:
          name: of the table, for the progress bar; '' for no bar.
          table: the mixtures.
          rows: indices of windows in the evaluation set.
          known: losses [len(rows)] by name of mixture, from token losses that
            the evaluator has already computed.

        Raises:
          DamagedError: a mixture uses a damaged member, or a loss is not
            finite.
        """
        self.stack.check_usable(table)
        known = known or {}

        def compute(missing: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            ready = [i for i in missing if table.names[i] in known]
            rest = [i for i in missing if table.names[i] not in known]
            for index in ready:
                yield np.array([index]), known[table.names[index]][None]
            if not rest:
                return
            with _progress(len(rest), name) as tick:
                chunks = self._evaluator.chunks(table.take(rest), rows)
                for part, nll_KR in chunks:
                    _check_finite([table.names[i] for i in rest[part]], nll_KR)
                    yield np.array(rest[part]), nll_KR
                    tick(part.stop - part.start)

        keys = row_keys(self.stack, table, self._evaluation, self._evaluator.how)
        journal = self._store.journal("windows", self._evaluation, rows, len(rows))
        return PredictorScores(rows, journal.fill(keys, compute))

    def jacobian(self, w_C: np.ndarray, scale: float, rows: np.ndarray) -> Jacobian:
        """Losses of one merge on the windows `rows`, and their derivatives.

        They are cached like losses, in float32. Computed and cached values are
        the same numbers, so a search that is killed and resumed takes the same
        path.
        """
        table = one_mixture(self.stack.names, w_C, scale)
        self.stack.check_usable(table)
        r, d, c = len(rows), len(self._evaluation.domains), len(w_C)

        def compute(_: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            found = self._differentiator.jacobian(w_C, scale, rows)
            values = [found.nll_R, found.dw_DC.ravel(), found.dscale_D]
            yield np.array([0]), np.concatenate(values)[None]

        # Derivatives depend on all members, also those without weight, and on
        # the order of columns.
        how = {**self._evaluator.how, "gradient": self.stack.digests}
        keys = row_keys(self.stack, table, self._evaluation, how)
        journal = self._store.journal(
            "gradients", self._evaluation, rows, r + d * c + d
        )
        values = journal.fill(keys, compute)[0].astype(np.float64)
        nll_R, dw, dscale_D = np.split(values, [r, r + d * c])
        return Jacobian(nll_R, dw.reshape(d, c), dscale_D)

    def token_losses(self) -> np.ndarray:
        """Computes the nats of every scored token by the base and every member.

        Returns:
          float32 [1 + C, T], the base first, tokens in the order of windows;
          infinite for a damaged member.
        """
        members = self.stack.names
        everything = concatenate(base_row(members), singles(members))
        # Damaged members are left out: their keys are those of sound ones, so
        # their losses must not be cached.
        usable = [
            row
            for row, name in enumerate(everything.names)
            if name not in self.stack.damaged
        ]
        table = everything.take(usable)
        rows = np.arange(len(self._evaluation))
        mask_RL = scored_mask(self._evaluation, rows)

        def compute(missing: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            with progress(len(missing), "scoring members", "members") as tick:
                chunks = self._evaluator.chunks(
                    table.take(missing), rows, per_token=True
                )
                for part, nll_KRL in chunks:
                    nll_KT = nll_KRL[:, mask_RL]
                    _check_finite([table.names[i] for i in missing[part]], nll_KT)
                    yield missing[part], nll_KT
                    tick(part.stop - part.start)

        keys = row_keys(
            self.stack, table, self._evaluation, {**self._evaluator.how, "tokens": True}
        )
        count = int(mask_RL.sum())
        journal = self._store.journal("tokens", self._evaluation, rows, count)
        nll_CT = np.full((len(everything), count), np.inf, np.float32)
        nll_CT[usable] = journal.fill(keys, compute)
        return nll_CT

    def members(self, table: Mixtures, nll_CT: np.ndarray) -> PredictorScores:
        """The weighted mean of the members' losses, by window.

        Args:
          table: the mixtures; rows whose scale is not 1 give NaN.
          nll_CT: the members' token losses, without the base's.
        """
        self.stack.check_usable(table)
        nll_CR = _finite(window_losses(self._evaluation, nll_CT))
        return self._by_window(table, lambda w_MC: w_MC @ nll_CR)

    def ensemble(self, table: Mixtures, nll_CT: np.ndarray) -> PredictorScores:
        """The loss of the averaged token probabilities, by window.

        Args:
          table, nll_CT: see `members`.
        """
        self.stack.check_usable(table)
        windows = np.arange(len(self._evaluation))
        average = Ensemble(
            nll_CT, np.repeat(windows, self._evaluation.count_R), len(windows)
        )
        return self._by_window(table, average)

    # The search looks up these two by name: '{predictor}_sums'.

    def members_sums(
        self, w_MC: np.ndarray, nll_CT: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Sums `members` over the windows `rows` of each domain.

        For very many mixtures: no array has the size of mixtures x windows.

        Args:
          w_MC: weights, each row sums to 1; the scale is 1.
          nll_CT: see `members`.
          rows: indices of windows in the evaluation set.

        Returns:
          Nats [M, D], float64; 0 for a domain without windows.

        Raises:
          DamagedError: a mixture uses a damaged member.
        """
        self._check_weights(w_MC)
        e = self._evaluation
        nll_CR = _finite(window_losses(e, nll_CT))[:, rows]
        return w_MC @ (nll_CR @ np.eye(len(e.domains))[e.domain_R[rows]])

    def ensemble_sums(
        self, w_MC: np.ndarray, nll_CT: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """Sums `probability` over the windows `rows` of each domain.

        Args, returns, raises: see `members_sums`.
        """
        self._check_weights(w_MC)
        domain_T, count = self._domain_T(rows), len(self._evaluation.domains)
        return Ensemble(nll_CT, domain_T, count)(w_MC)

    def ensemble_slope(self, nll_CT: np.ndarray, rows: np.ndarray) -> EnsembleSlope:
        """Returns `ensemble_sums` of one mixture, with derivatives."""
        count = len(self._evaluation.domains)
        return EnsembleSlope(nll_CT, self._domain_T(rows), count)

    def _domain_T(self, rows: np.ndarray) -> np.ndarray:
        """Returns the domain of every scored token; -1 outside of `rows`."""
        e = self._evaluation
        domain_R = np.full(len(e), -1)
        domain_R[rows] = e.domain_R[rows]
        return np.repeat(domain_R, e.count_R)

    def _by_window(
        self, table: Mixtures, sums: Callable[[np.ndarray], np.ndarray]
    ) -> PredictorScores:
        """Applies `sums` to some mixtures at a time; [M, R] for all windows."""
        rows = np.arange(len(self._evaluation))
        nll_MR = np.empty((len(table), len(rows)), np.float32)
        step = max(1, _VALUES // len(rows))
        for start in range(0, len(table), step):
            part = slice(start, start + step)
            nll_MR[part] = sums(table.w_MC[part])
        nll_MR[table.scale_M != 1] = np.nan
        return PredictorScores(rows, nll_MR)

    def _check_weights(self, w_MC: np.ndarray) -> None:
        for name, w_M in zip(self.stack.names, w_MC.T, strict=True):
            if name in self.stack.damaged and w_M.any():
                raise DamagedError(
                    f"{np.count_nonzero(w_M)} mixtures use {name!r}, which is damaged"
                )


@contextlib.contextmanager
def _progress(total: int, name: str) -> Iterator[Callable[[int], None]]:
    """Shows progress for a named table; calls of a search have no name."""
    if not name:
        yield lambda _: None
        return
    with progress(total, f"scoring {name}", "mixtures") as tick:
        yield tick


def _check_finite(names: Sequence[str], nll_KR: np.ndarray) -> None:
    """Checks losses [K, R] of mixtures before they are cached.

    Raises:
      DamagedError: one is not finite.
    """
    for name, nll_R in zip(names, nll_KR, strict=True):
        if not np.isfinite(nll_R).all():
            raise DamagedError(
                f"mixture {name!r}: its loss is not finite on "
                f"{np.count_nonzero(~np.isfinite(nll_R))} windows or tokens; "
                "if its scale is near 1, run `jaxsim verify`"
            )


def window_losses(evaluation: EvaluationSet, nll_CT: np.ndarray) -> np.ndarray:
    """Sums token losses [C, T] over windows: float64 [C, R]."""
    start_R = np.cumsum(evaluation.count_R) - evaluation.count_R
    return np.add.reduceat(nll_CT, start_R, axis=1, dtype=np.float64)


def _finite(nll_CR: np.ndarray) -> np.ndarray:
    """Replaces the infinite losses of damaged members, which have no weight."""
    return np.where(np.isfinite(nll_CR), nll_CR, 0.0)
