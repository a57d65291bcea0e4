"""Very large tables of mixtures: predicted in closed form instead of merged.

scores/NAME.parquet gets the columns of every scored table, for dev text, with other
predictors:

- quadratic merge, quadratic ensemble: the closed forms of both; see `quadratic`.
- quadratic mean: the mean of both.
- members: the weighted mean of the members' losses, which is one already.

What only single documents would give is NaN. The file has a row group for some
mixtures at a time. It has no JSON and no losses of windows, so nothing loads it as
`Scores`; its metadata say what it was computed from, and how good the closed forms are.

The best of many mixtures are those that a closed form flatters most. So they are merged
for real, as a scored table of their own: best-of-NAME.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from jaxsim import records
from jaxsim.errors import UserError
from jaxsim.log import counted, progress
from jaxsim.scoring.quadratic import Misfit
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import (
    PredictorScores,
    Scores,
    bits_per_byte,
    domain_sums,
    mixture_columns,
    sums_as_arrow,
)
from jaxsim.scoring.store import BEST_OF
from jaxsim.scoring.table import Mixtures
from jaxsim.scoring.targets import Targets

MERGE, ENSEMBLE, MEAN = "quadratic merge", "quadratic ensemble", "quadratic mean"
BEST = 9  # mixtures that are merged for real
_WEIGHTS = 2**16  # of the mixtures of a row group: Parquet then writes each once


@dataclasses.dataclass(frozen=True, eq=False)
class Predicted:
    """A table that was predicted, and how good its closed forms are.

    Attributes:
      count: of its mixtures.
      misfits: on random mixtures, by closed form and target, in bits per byte.
      left_out: the domains without rows, by closed form: those that it does not fit.
      best: real merges of the best mixtures, and of the standard merges; None if the
        closed form of merges does not fit what they would be the best on.
      best_misfits: of the closed form of merges on the best, by target.
    """

    count: int
    misfits: Mapping[str, Mapping[str, Misfit]]
    left_out: Mapping[str, list[str]]
    best: Scores | None
    best_misfits: Mapping[str, Misfit]


def predict(scorer: Scorer, name: str, table: Mixtures) -> Predicted:
    """Predicts a table in closed form, verifies that on real merges, and saves it.

    Args:
      scorer: of the pool.
      name: of the table on disk.
      table: the mixtures.

    Raises:
      UserError: a mixture has another scale than 1, or no closed form fits any domain.
      DamagedError: a mixture uses a damaged member, or a loss is not finite.
    """
    asked = f"{counted(len(table), 'mixture')} are predicted in closed form, which "
    instead = (
        f"ask for at most config.score.merges={scorer.config.merges:,} mixtures, which "
        "are merged, or raise it"
    )
    if (is_other_M := table.scale_M != 1).any():
        other = table.names[is_other_M.argmax()]
        raise UserError(
            f"mixture {other!r}: its scale is not 1, and {asked}knows no other; "
            f"{instead}"
        )
    scorer.stack.check_usable(table)
    unfit = f"{asked}does not fit this pool"
    if why := scorer.alone:
        raise UserError(f"{unfit} ({why}); {instead}")
    forms = _Forms(scorer)
    misfits = forms.misfits(scorer.checks())
    left_out = {
        form: [d for d in forms.domains if known[d].refusal]
        for form, known in misfits.items()
    }
    if all(known == forms.domains for known in left_out.values()):
        why = "; ".join(f"{d}: {misfits[MERGE][d].refusal}" for d in forms.domains)
        raise UserError(f"{unfit} ({why}); {instead}")
    step = max(1, _WEIGHTS // len(table.members))
    value_M = np.empty(len(table))

    def write(file: IO[bytes]) -> None:
        first = table.take([0])
        schema = forms.arrow(first, forms.nats(first), left_out).schema
        schema = schema.with_metadata(_facts(scorer, misfits))
        with (
            pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer,
            progress(len(table), f"predicting {name}", "mixtures") as tick,
        ):
            for start in range(0, len(table), step):
                some = table.take(range(start, min(start + step, len(table))))
                nats = forms.nats(some)
                value_M[start : start + step] = nats[MERGE] @ forms.lead_D
                arrow = forms.arrow(some, nats, left_out)
                writer.write_table(arrow, row_group_size=len(arrow))
                tick(len(some))

    scorer.store.save_predicted(name, write)
    if misfits[MERGE][forms.level].refusal:
        return Predicted(len(table), misfits, left_out, None, {})
    order = np.argsort(value_M, kind="stable")[:BEST].tolist()
    best = table.take(order)
    shown = table.take(list(dict.fromkeys([*order, *table.standard_merges()])))
    merged = scorer.score(BEST_OF + name, shown, "dev", scorer.config.windows)
    return Predicted(len(table), misfits, left_out, merged, forms.misfits(best)[MERGE])


def _facts(
    scorer: Scorer, misfits: Mapping[str, Mapping[str, Misfit]]
) -> dict[str, str]:
    """Metadata of the file: what it was computed from, and how good it is."""
    facts = {
        "members": scorer.members,
        "basis": scorer.basis,
        "how": scorer.computed_how,
        "notes": scorer.stack.notes,
        "misfits": misfits,
    }
    plain = {f"jaxsim.{key}": json.dumps(records.plain(x)) for key, x in facts.items()}
    return plain | {
        "jaxsim.version": str(records.VERSION),
        "jaxsim.evaluation": scorer.evaluation.digest,
    }


class _Forms:
    """The closed forms of a pool's predictors on the windows of its tables."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer, e = scorer, scorer.evaluation
        self._rows = e.rows("dev", scorer.config.windows)
        forms = scorer.quadratics(self._rows).values()
        self._quadratics = dict(zip((MERGE, ENSEMBLE, MEAN), forms, strict=True))
        nothing = PredictorScores(
            self._rows, np.empty((0, len(self._rows)), np.float32)
        )
        self._text = domain_sums(e, nothing, "dev")
        there_D = np.isin(np.arange(len(e.domains)), list(self._text))
        targets = Targets.of(e, there_D)
        self.domains, self.level = np.array(e.domains)[there_D].tolist(), targets.level
        self._weights = targets.weights(e.domains)
        bytes_D = e.sums(e.bytes_R[self._rows], self._rows)
        # Nats become bits per byte; those of a domain without windows are 0.
        self._bits_D = bits_per_byte(1.0, np.where(there_D, bytes_D, 1.0))
        self.lead_D = self._weights[self.level] * self._bits_D

    def misfits(self, table: Mixtures) -> dict[str, dict[str, Misfit]]:
        """How far each form is from what it predicts, by form and target.

        It merges the mixtures of `table`.
        """
        scorer, rows = self._scorer, self._rows
        merged = scorer.merge(table, rows, "checks of the closed form")
        merge_MD = scorer.evaluation.sums(merged.nll_MR, rows)
        ensemble_MD = scorer.ensemble(rows).sums(table.w_MC)
        mean_MD = (merge_MD + ensemble_MD) / 2
        real = {MERGE: merge_MD, ENSEMBLE: ensemble_MD, MEAN: mean_MD}
        found = {}
        for form, quadratic in self._quadratics.items():
            predicted_MD = quadratic.sums(table.w_MC)
            found[form] = {
                target: Misfit.of(
                    predicted_MD @ part_D,
                    real[form] @ part_D,
                    quadratic.convexity(part_D),
                )
                for target, weights_D in self._weights.items()
                for part_D in [weights_D * self._bits_D]
            }
        return found

    def nats(self, table: Mixtures) -> dict[str, np.ndarray]:
        """Nats [M, D] by predictor."""
        w_MC = table.w_MC
        nats = {form: of.sums(w_MC) for form, of in self._quadratics.items()}
        return nats | {"members": w_MC @ self._quadratics[MERGE].member_DC.T}

    def arrow(
        self,
        table: Mixtures,
        nats: Mapping[str, np.ndarray],
        left_out: Mapping[str, list[str]],
    ) -> pa.Table:
        """A row for each mixture, predictor and domain that is not left out."""
        e = self._scorer.evaluation
        mixtures, unknown_M = mixture_columns(table), np.full(len(table), np.nan)
        parts = []
        for predictor, nll_MD in nats.items():
            for d, text in self._text.items():
                if e.domains[d] in left_out.get(predictor, ()):
                    continue
                nll_M, mean_M = nll_MD[:, d], unknown_M
                if e.by_document[d]:  # these nats are sums of documents' means
                    nll_M, mean_M = unknown_M, nll_M * self._bits_D[d]
                sums = dataclasses.replace(text, nll_M=nll_M, mean_M=mean_M)
                parts.append(sums_as_arrow(e, mixtures, predictor, "dev", d, sums))
        return pa.concat_tables(parts)
