"""Everything that scoring needs, opened once: pool, windows, programs."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxsim.config import ScoreConfig
from jaxsim.corpus import open_corpus
from jaxsim.mixture.evaluation import EvaluationSet, gather
from jaxsim.mixture.evaluator import Evaluator
from jaxsim.mixture.proxies import Proxies, window_losses
from jaxsim.mixture.scores import ProxyScores, Scores, ScoreStore
from jaxsim.mixture.stack import load_stack
from jaxsim.mixture.table import (
    Mixtures,
    concatenate,
    macro,
    parse,
    proportional,
    seed_row,
    singles,
    uniform,
)
from jaxsim.pool import open_pool

REFERENCES = "references"


class Scorer:
    """Scores tables over the members of a workdir's pool.

    Raises:
      UserError: there is no corpus, pool or member.
      DamagedError: a member is damaged or foreign, and `override` is not set.
    """

    def __init__(
        self,
        workdir: Path | str,
        config: ScoreConfig = ScoreConfig(),  # frozen
        override: bool = False,
    ) -> None:
        self.workdir = Path(workdir)
        self.config = config
        self.corpus = open_corpus(self.workdir)
        self.pool = open_pool(self.workdir)
        self.override = override
        self.store = ScoreStore(self.workdir)

    @functools.cached_property
    def members(self) -> tuple[str, ...]:
        """Names of the members, the columns of every table."""
        return tuple(self.pool.manifests("member"))

    @functools.cached_property
    def evaluation(self) -> EvaluationSet:
        """Every evaluation window of the corpus."""
        return gather(self.corpus)

    @functools.cached_property
    def proxies(self) -> Proxies:
        """Over the members."""
        return self._proxies(self.members)

    @functools.cached_property
    def token_losses(self) -> np.ndarray:
        """[1 + C, T] nats of the seed and of every member."""
        return self.proxies.token_losses()

    def references(self) -> Scores:
        """Seed, members and the plain merges, on every window."""
        units = [self.corpus.unit(name) for name in self.members]
        table = concatenate(
            seed_row(self.members),
            singles(self.members),
            uniform(self.members),
            proportional(self.members, [u.tokens for u in units]),
            macro(self.members, [u.group for u in units]),
        )
        usable = [
            row
            for row in range(len(table))
            if table.scale_M[row] == 0
            or not self.proxies.stack.damaged & set(table.parts(row))
        ]
        # The members went over every window already, token by token.
        nll_R = window_losses(self.evaluation, self.token_losses)
        known = dict(
            zip(["seed", *self.members], nll_R.astype(np.float32), strict=True)
        )
        return self.score(REFERENCES, table.take(usable), known=known)

    def table(self, spec: str) -> Mixtures:
        """The mixtures of a specification, and the plain merges.

        Raises:
          UserError: the specification is wrong.
        """
        units = [self.corpus.unit(name) for name in self.members]
        asked = parse(
            spec, self.members, self.config.concentration, self.config.rng
        )
        plain = concatenate(
            uniform(self.members),
            proportional(self.members, [u.tokens for u in units]),
            macro(self.members, [u.group for u in units]),
        )
        return concatenate(asked, plain)

    def score(
        self,
        name: str,
        table: Mixtures,
        half: str | None = None,
        windows: int = 0,
        known: Mapping[str, np.ndarray] | None = None,
    ) -> Scores:
        """Scores a table by every proxy, and saves it.

        Args:
          name: of the table on disk.
          table: the mixtures.
          half: the half that the merge is scored on; None for both.
          windows: the merge's windows for each domain and half; 0 for all.
            The other proxies cost no model, and always see everything.
          known: see `Proxies.merge`.
        """
        rows = self.evaluation.rows(half, windows)
        member_CT = self.token_losses[1:]
        scores = Scores(
            name,
            table,
            self.evaluation,
            {
                "merge": self.proxies.merge(name, table, rows, known=known),
                "probability": self.proxies.probability(table, member_CT),
                "members": self.proxies.members(table, member_CT),
            },
            self.proxies.stack.notes,
        )
        self.store.save(scores)
        return scores

    def load(self, name: str) -> Scores:
        """A table that was scored before, by name."""
        return self.store.load(name, self.evaluation)

    def score_entries(self, name: str, entries: Sequence[str]) -> Scores:
        """Truths or repeats of the pool, each as it is.

        On all report windows, and on those select windows that mixtures are
        scored on: they only serve to choose a rule.
        """
        proxies = self._proxies(entries)
        table = singles(tuple(entries))
        rows = np.union1d(
            self.evaluation.rows("report"),
            self.evaluation.rows("select", self.config.windows),
        )
        truth: ProxyScores = proxies.merge(name, table, rows, proxy="truth")
        scores = Scores(
            name, table, self.evaluation, {"truth": truth}, proxies.stack.notes
        )
        self.store.save(scores)
        return scores

    def _proxies(self, names: Sequence[str]) -> Proxies:
        stack = load_stack(self.pool, names, self.corpus, self.override)
        evaluator = Evaluator(
            self.pool.model, stack, self.evaluation, self.config
        )
        return Proxies(
            self.workdir,
            stack,
            self.evaluation,
            evaluator,
            self.config.precision,
        )


def table_name(spec: str) -> str:
    """The name on disk of the table of a specification."""
    stem = Path(spec).stem if spec.endswith(".csv") else spec
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem)
