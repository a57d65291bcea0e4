"""The proxies: three ways to predict a mixture's losses without training it.

- merge: the loss of the averaged parameters (Na et al., EMNLP 2024).
- probability: the loss of the averaged token probabilities (mixtures of data
  experts, arXiv 2502.15950): each member's probability of each correct token
  is computed once, then a mixture is a matrix product and a logarithm.
- members: the weighted mean of the members' losses, the individual proxy.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxsim.errors import DamagedError
from jaxsim.metrics import progress
from jaxsim.mixture.evaluation import EvaluationSet, scored_mask
from jaxsim.mixture.evaluator import Evaluator
from jaxsim.mixture.scores import ProxyScores, ScoreStore, row_keys
from jaxsim.mixture.stack import Stack
from jaxsim.mixture.table import Mixtures, concatenate, seed_row, singles

# Float64 values of the probability average that exist at once.
_PRODUCT_VALUES = 2**24


class Proxies:
    """Scores tables over one stack by every proxy."""

    def __init__(
        self,
        workdir: Path,
        stack: Stack,
        evaluation: EvaluationSet,
        evaluator: Evaluator,
        precision: str,
    ) -> None:
        self._store = ScoreStore(workdir)
        self.stack = stack
        self._evaluation = evaluation
        self._evaluator = evaluator
        self._how = {"precision": precision}

    def merge(
        self,
        name: str,
        table: Mixtures,
        rows: np.ndarray,
        proxy: str = "merge",
        known: Mapping[str, np.ndarray] | None = None,
    ) -> ProxyScores:
        """The losses of the merges of `table` on the windows `rows`.

        Args:
          name, proxy: which files keep them.
          table: the mixtures.
          rows: windows, indices into the evaluation set.
          known: losses [len(rows)] of mixtures, by name, that the evaluator
            gave already, token by token.
        """
        self.stack.check_usable(table)
        known = known or {}

        def compute(
            missing: np.ndarray,
        ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            ready = [i for i in missing if table.names[i] in known]
            rest = [i for i in missing if table.names[i] not in known]
            for index in ready:
                yield np.array([index]), known[table.names[index]][None]
            if not rest:
                return
            with progress(len(rest), f"scoring {name}", "mixtures") as tick:
                chunks = self._evaluator.chunks(table.take(rest), rows)
                for part, nll_KR in chunks:
                    _check_finite([table.names[i] for i in rest[part]], nll_KR)
                    yield np.array(rest[part]), nll_KR
                    tick(part.stop - part.start)

        keys = row_keys(self.stack, table, self._evaluation, self._how)
        return self._store.fill(name, proxy, keys, rows, compute)

    def token_losses(self) -> np.ndarray:
        """Nats of every scored token for the seed and every member.

        Returns:
          [1 + C, T] float32, windows one after the other, the seed first;
          infinite for a damaged member, which gives no token a probability.
        """
        members = self.stack.names
        everything = concatenate(seed_row(members), singles(members))
        # Not kept: the key of a damaged member is that of a sound one.
        usable = [
            row
            for row, name in enumerate(everything.names)
            if name not in self.stack.damaged
        ]
        table = everything.take(usable)
        rows = np.arange(len(self._evaluation))
        mask_RL = scored_mask(self._evaluation, rows)

        def compute(
            missing: np.ndarray,
        ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            with progress(len(missing), "scoring members", "members") as tick:
                chunks = self._evaluator.chunks(
                    table.take(missing), rows, per_token=True
                )
                for part, nll_KRL in chunks:
                    nll_KT = nll_KRL[:, mask_RL]
                    _check_finite(
                        [table.names[i] for i in missing[part]], nll_KT
                    )
                    yield missing[part], nll_KT
                    tick(part.stop - part.start)

        keys = row_keys(
            self.stack, table, self._evaluation, {**self._how, "tokens": True}
        )
        tokens = np.arange(int(mask_RL.sum()))
        kept = self._store.fill("tokens", "merge", keys, tokens, compute)
        nll_CT = np.full((len(everything), len(tokens)), np.inf, np.float32)
        nll_CT[usable] = kept.nll_MR
        return nll_CT

    def members(self, table: Mixtures, nll_CT: np.ndarray) -> ProxyScores:
        """The weighted mean of the members' losses, by window.

        Args:
          table: the mixtures; rows of another scale than 1 have no such mean
            and are NaN.
          nll_CT: the members' token losses, without the seed's.
        """
        self.stack.check_usable(table)
        nll_CR = window_losses(self._evaluation, nll_CT)
        nll_CR = np.where(np.isfinite(nll_CR), nll_CR, 0.0)
        return self._unscaled(table, table.w_MC @ nll_CR)

    def probability(self, table: Mixtures, nll_CT: np.ndarray) -> ProxyScores:
        """The loss of the averaged token probabilities, by window.

        Args: as for `members`.
        """
        self.stack.check_usable(table)
        count_R = self._evaluation.count_R
        stop_R = np.cumsum(count_R)
        start_R = stop_R - count_R
        nll_MR = np.zeros((len(table), len(count_R)), np.float32)
        # Blocks of whole windows, so that a block's tokens sum to its windows.
        step = max(1, _PRODUCT_VALUES // (len(table) * int(count_R.max())))
        for begin in range(0, len(count_R), step):
            block = slice(begin, begin + step)
            first, last = start_R[block][0], stop_R[block][-1]
            # In float32 a loss above 103 nats has no probability left.
            p_CT = np.exp(-nll_CT[:, first:last].astype(np.float64))
            nll_MR[:, block] = np.add.reduceat(
                -np.log(table.w_MC @ p_CT), start_R[block] - first, axis=1
            )
        return self._unscaled(table, nll_MR)

    def _unscaled(self, table: Mixtures, nll_MR: np.ndarray) -> ProxyScores:
        nll_MR = np.where(table.scale_M[:, None] == 1, nll_MR, np.nan)
        rows = np.arange(len(self._evaluation))
        return ProxyScores(rows, nll_MR.astype(np.float32))


def _check_finite(names: Sequence[str], nll_KR: np.ndarray) -> None:
    """Refuses what float32 could not compute, before it is kept."""
    for name, nll_R in zip(names, nll_KR, strict=True):
        if not np.isfinite(nll_R).all():
            raise DamagedError(
                f"mixture {name!r}: its loss is not finite on "
                f"{np.count_nonzero(~np.isfinite(nll_R))} windows or tokens; "
                "if its scale is near 1, run `jaxsim verify`"
            )


def window_losses(evaluation: EvaluationSet, nll_CT: np.ndarray) -> np.ndarray:
    """Sums of token losses [C, T] over windows: [C, R] float64."""
    start_R = np.cumsum(evaluation.count_R) - evaluation.count_R
    return np.add.reduceat(nll_CT.astype(np.float64), start_R, axis=1)
