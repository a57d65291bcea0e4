"""Opens what scoring needs, once: pool, evaluation windows, programs."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxsim.config import ScoreConfig
from jaxsim.corpus import open_corpus
from jaxsim.errors import DamagedError, UserError
from jaxsim.log import say
from jaxsim.pool import open_pool
from jaxsim.records import Basis
from jaxsim.scoring.evaluation import EvaluationSet, current_basis, gather, make_basis
from jaxsim.scoring.evaluator import Evaluator
from jaxsim.scoring.gradient import Differentiator
from jaxsim.scoring.predictors import Predictors, window_losses
from jaxsim.scoring.scores import PredictorScores, Scores, ScoreStore
from jaxsim.scoring.stack import load_resident
from jaxsim.scoring.table import (
    Mixtures,
    base_row,
    concatenate,
    macro,
    parse,
    proportional,
    singles,
    uniform,
)

STANDARD = "standard"


class Scorer:
    """Scores tables over the members of a workdir's pool.

    Args:
      workdir: of the project.
      config: how to score; the defaults if None.
      override: whether to admit damaged members and those of other pools, see
        `load_stack`.

    Raises:
      UserError: there is no corpus, pool or member.
      DamagedError: a member is damaged or belongs to another pool, and
        `override` is not set.
    """

    def __init__(
        self,
        workdir: Path | str,
        config: ScoreConfig | None = None,
        override: bool = False,
    ) -> None:
        self.workdir = Path(workdir)
        self.config = config or ScoreConfig()
        self.corpus = open_corpus(self.workdir)
        self.pool = open_pool(self.workdir)
        self.override = override
        self.store = ScoreStore(self.workdir)

    @functools.cached_property
    def members(self) -> tuple[str, ...]:
        """Names of the members: the columns of every table."""
        names = tuple(self.pool.manifests("member"))
        if not names:
            raise UserError(
                f"{self.workdir}: the pool has no members yet; run `jaxsim train`"
            )
        return names

    @functools.cached_property
    def evaluation(self) -> EvaluationSet:
        """All evaluation windows of the corpus."""
        return gather(self.corpus)

    @functools.cached_property
    def predictors(self) -> Predictors:
        """The predictors over the members."""
        return self._predictors(self.members)

    @functools.cached_property
    def basis(self) -> Basis:
        """What every result of this scorer rests on."""
        stack = self.predictors.stack
        members = dict(zip(stack.names, stack.digests, strict=True))
        return make_basis(self.corpus, stack.base_digest, members)

    def now(self) -> Basis:
        """What the pool and the corpus hold now, to compare results with."""
        return current_basis(self.corpus, self.pool)

    @functools.cached_property
    def token_losses(self) -> np.ndarray:
        """Nats [1 + C, T] of every scored token by base and members."""
        return self.predictors.token_losses()

    def standard(self) -> Scores:
        """Scores base, members and standard merges on all windows, once."""
        return self._scored_standard

    @functools.cached_property
    def _scored_standard(self) -> Scores:
        table = self._usable(self._standard_table())
        # Base and members have token losses on all windows already.
        nll_R = window_losses(self.evaluation, self.token_losses)
        known = dict(
            zip(["base", *self.members], nll_R.astype(np.float32), strict=True)
        )
        return self.score(STANDARD, table, known=known)

    def table(self, spec: str) -> Mixtures:
        """Returns the mixtures of a specification, and the standard merges.

        With an override, mixtures that use a damaged member are left out,
        except for the user's own, which scoring refuses.

        Args:
          spec: see `jaxsim.scoring.table.parse`.

        Raises:
          UserError: the specification is wrong, or uses a name twice.
        """
        asked = parse(spec, self.members, self.config.concentration, self.config.seed)
        concatenate(self._standard_table(), asked)  # raises if a name is taken
        return self._usable(concatenate(asked, self._merges()))

    def check(self, table: Mixtures) -> None:
        """Checks a table before anything is trained or computed for it.

        Raises:
          DamagedError: a member is damaged or belongs to another pool, or, with
            an override, a mixture uses a damaged one.
        """
        self.predictors.stack.check_usable(table)

    def score(
        self,
        name: str,
        table: Mixtures,
        split: str | None = None,
        windows: int = 0,
        known: Mapping[str, np.ndarray] | None = None,
    ) -> Scores:
        """Scores a table by every predictor, and saves it.

        Args:
          name: of the table on disk.
          table: the mixtures.
          split: the split that merges are scored on; None for both.
          windows: windows of each domain and split that merges are scored on; 0
            for all. The other predictors run no model and use all windows.
          known: see `Predictors.merge`.

        Raises:
          DamagedError: see `check`; or a loss is not finite.
        """
        rows = self.evaluation.rows(split, windows)
        member_CT = self.token_losses[1:]
        scores = Scores(
            name,
            table,
            self.evaluation,
            {
                "merge": self.predictors.merge(name, table, rows, known=known),
                "ensemble": self.predictors.ensemble(table, member_CT),
                "members": self.predictors.members(table, member_CT),
            },
            self.predictors.stack.notes,
            self.basis,
            self.predictors.how,
        )
        self.store.save(scores)
        return scores

    def load(self, name: str) -> Scores:
        """Loads a scored table by name.

        Raises:
          UserError: it was never scored, or the pool or the corpus has changed
            since.
          DamagedError: its files are damaged.
        """
        scores = self.store.load(name, self.evaluation)
        self.check_current(scores)
        return scores

    def scored(self, spec: str) -> Scores:
        """Loads the table that `jaxsim score` saved for a specification.

        Raises:
          UserError: it was never scored, or the config, the CSV, the pool or
            the corpus has changed since.
          DamagedError: its files are damaged.
        """
        name = table_name(spec)
        scores = self.load(name)
        rows = self.evaluation.rows("dev", self.config.windows)
        if not np.array_equal(scores.predictors["merge"].rows, rows):
            raise UserError(
                f"table {name!r} was scored on other windows than config.score."
                f"windows={self.config.windows} says; run `jaxsim score` again"
            )
        if dict(scores.how) != self.predictors.how:
            raise UserError(
                f"table {name!r} was scored with {dict(scores.how)}, and the "
                f"config says {self.predictors.how}; run `jaxsim score` again"
            )
        if not scores.table.same_as(self.table(spec)):
            raise UserError(
                f"table {name!r} holds other mixtures than {spec!r} gives now; "
                "run `jaxsim score` again"
            )
        return scores

    def check_current(self, scores: Scores) -> None:
        """Checks that the pool has not changed since a table was scored.

        Raises:
          UserError: it has; names what is new, gone or different.
        """
        if what := scores.basis.difference(self.now()):
            raise UserError(
                f"table {scores.name!r} was scored with another pool: {what}; "
                "run `jaxsim score` again"
            )

    def score_entries(
        self,
        name: str,
        entries: Sequence[str],
        split: str | None = None,
        windows: int = 0,
    ) -> Scores:
        """Scores reference runs or replicates, each by itself, and saves them.

        Args:
          name: of the table on disk.
          entries: names of pool entries.
          split: whose windows; None for both.
          windows: windows of each domain and split; 0 for all.
        """
        predictors = self._predictors(entries)
        table = singles(tuple(entries))
        rows = self.evaluation.rows(split, windows)
        reference: PredictorScores = predictors.merge(name, table, rows)
        stack = predictors.stack
        others = dict(zip(entries, stack.digests, strict=True))
        scores = Scores(
            name,
            table,
            self.evaluation,
            {"reference": reference},
            stack.notes,
            make_basis(self.corpus, stack.base_digest, {}, others),
            predictors.how,
        )
        self.store.save(scores)
        return scores

    def _merges(self) -> Mixtures:
        units = [self.corpus.unit(name) for name in self.members]
        return concatenate(
            uniform(self.members),
            proportional(self.members, [u.tokens for u in units]),
            macro(self.members, [u.group for u in units]),
        )

    def _standard_table(self) -> Mixtures:
        return concatenate(
            base_row(self.members), singles(self.members), self._merges()
        )

    def _usable(self, table: Mixtures) -> Mixtures:
        """Leaves out mixtures with damaged members, except the user's own.

        Raises:
          DamagedError: no mixture is left.
        """
        if not self.override:
            return table
        damaged = self.predictors.stack.damaged
        usable = [
            row
            for row in range(len(table))
            if table.kinds[row] == "given"
            or table.scale_M[row] == 0
            or not damaged & table.parts(row).keys()
        ]
        if len(usable) < len(table):
            say(
                f"OVERRIDE: leaving out {len(table) - len(usable)} of "
                f"{len(table)} mixtures, which use {', '.join(sorted(damaged))}"
            )
        if not usable:
            raise DamagedError(
                f"every mixture uses a damaged member: {', '.join(damaged)}"
            )
        return table.take(usable)

    def _predictors(self, names: Sequence[str]) -> Predictors:
        pool = load_resident(self.pool, names, self.corpus, self.override, self.config)
        evaluator = Evaluator(self.pool.model, pool, self.evaluation, self.config)
        differentiator = Differentiator(
            self.pool.model, pool, self.evaluation, self.config
        )
        return Predictors(
            self.workdir, pool.stack, self.evaluation, evaluator, differentiator
        )


def table_name(spec: str) -> str:
    """Returns the name on disk of the table of a specification."""
    # The prefix keeps a CSV from replacing a table that a command makes.
    stem = f"csv-{Path(spec).stem}" if spec.endswith(".csv") else spec
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem)
