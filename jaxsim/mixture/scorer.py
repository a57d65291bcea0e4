"""Everything that scoring needs, opened once: pool, windows, programs."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxsim.config import ScoreConfig
from jaxsim.corpus import open_corpus
from jaxsim.errors import DamagedError, UserError
from jaxsim.log import say
from jaxsim.mixture.evaluation import EvaluationSet, gather
from jaxsim.mixture.evaluator import Evaluator
from jaxsim.mixture.gradient import Differentiator
from jaxsim.mixture.proxies import Proxies, window_losses
from jaxsim.mixture.resident import load_resident
from jaxsim.mixture.scores import ProxyScores, Scores, ScoreStore
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
        return self._scored_references

    @functools.cached_property
    def _scored_references(self) -> Scores:
        table = self._usable(self._references())
        # The members went over every window already, token by token.
        nll_R = window_losses(self.evaluation, self.token_losses)
        known = dict(
            zip(["seed", *self.members], nll_R.astype(np.float32), strict=True)
        )
        return self.score(REFERENCES, table, known=known)

    def table(self, spec: str) -> Mixtures:
        """The mixtures of a specification, and the plain merges.

        Under an override those that use a damaged member are left out, but
        for a user's own rows: scoring refuses them.

        Raises:
          UserError: the specification is wrong, or gives a row the name of
            another one.
        """
        asked = parse(
            spec, self.members, self.config.concentration, self.config.rng
        )
        concatenate(self._references(), asked)  # their names are taken
        return self._usable(concatenate(asked, self._merges()))

    def check(self, table: Mixtures) -> None:
        """Refuses a table before anything is trained or computed for it.

        Raises:
          DamagedError: a member is damaged or foreign, or under an override
            a row uses such a one.
        """
        self.proxies.stack.check_usable(table)

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
            self.proxies.stack.pins,
            self.proxies.how,
        )
        self.store.save(scores)
        return scores

    def load(self, name: str) -> Scores:
        """A table that was scored before, by name.

        Raises:
          UserError: it was never scored, or what it was computed from is no
            longer what the pool and the corpus have.
          DamagedError: its files are damaged.
        """
        scores = self.store.load(name, self.evaluation)
        self.check_current(scores)
        return scores

    def scored(self, spec: str) -> Scores:
        """The table of a specification, as `jaxsim score` leaves it.

        Raises:
          UserError: also if the config or the CSV has changed since.
        """
        name = table_name(spec)
        scores = self.load(name)
        rows = self.evaluation.rows("select", self.config.windows)
        if not np.array_equal(scores.proxies["merge"].rows, rows):
            raise UserError(
                f"table {name!r} was scored on other windows than config.score."
                f"windows={self.config.windows} says; run `jaxsim score` again"
            )
        if dict(scores.how) != self.proxies.how:
            raise UserError(
                f"table {name!r} was scored with {dict(scores.how)}, and the "
                f"config says {self.proxies.how}; run `jaxsim score` again"
            )
        if not scores.table.same_as(self.table(spec)):
            raise UserError(
                f"table {name!r} holds other mixtures than {spec!r} gives now; "
                "run `jaxsim score` again"
            )
        return scores

    def check_current(self, scores: Scores) -> None:
        """Refuses scores of a pool that has changed since.

        Raises:
          UserError: names a member or entry that is new, gone or different.
        """
        now = {"seed": self.pool.identity["seed_digest"]} | {
            name: manifest.params_digest
            for name, manifest in self.pool.manifests().items()
        }
        columns = {"seed", *scores.table.members}
        if "merge" in scores.proxies:
            columns |= set(self.members)
        for name in sorted(columns):
            if name not in now:
                what = "is gone"
            elif name not in scores.digests:
                what = "is new"
            elif scores.digests[name] != now[name]:
                what = "has changed"
            else:
                continue
            raise UserError(
                f"table {scores.name!r} was scored with another pool: {name!r} "
                f"{what}; run `jaxsim score` again"
            )

    def score_entries(
        self,
        name: str,
        entries: Sequence[str],
        half: str | None = None,
        windows: int = 0,
    ) -> Scores:
        """Truths or repeats of the pool, each as it is.

        Args:
          name: of the table on disk.
          entries: of the pool.
          half: whose windows; None for both.
          windows: for each domain and half; 0 for all.
        """
        proxies = self._proxies(entries)
        table = singles(tuple(entries))
        rows = self.evaluation.rows(half, windows)
        truth: ProxyScores = proxies.merge(name, table, rows)
        stack = proxies.stack
        scores = Scores(
            name,
            table,
            self.evaluation,
            {"truth": truth},
            stack.notes,
            stack.pins,
            proxies.how,
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

    def _references(self) -> Mixtures:
        return concatenate(
            seed_row(self.members), singles(self.members), self._merges()
        )

    def _usable(self, table: Mixtures) -> Mixtures:
        """Without the rows that an override cannot save."""
        if not self.override:
            return table
        damaged = self.proxies.stack.damaged
        usable = [
            row
            for row in range(len(table))
            if table.kinds[row] == "given"
            or table.scale_M[row] == 0
            or not damaged & table.parts(row).keys()
        ]
        if len(usable) < len(table):
            say(
                f"OVERRIDE: {len(table) - len(usable)} of {len(table)} "
                f"mixtures use {', '.join(sorted(damaged))}, and are left out"
            )
        if not usable:
            raise DamagedError(
                f"every mixture uses a damaged member: {', '.join(damaged)}"
            )
        return table.take(usable)

    def _proxies(self, names: Sequence[str]) -> Proxies:
        pool = load_resident(
            self.pool, names, self.corpus, self.override, self.config
        )
        evaluator = Evaluator(
            self.pool.model, pool, self.evaluation, self.config
        )
        differentiator = Differentiator(
            self.pool.model, pool, self.evaluation, self.config
        )
        return Proxies(
            self.workdir,
            pool.stack,
            self.evaluation,
            evaluator,
            differentiator,
        )


def table_name(spec: str) -> str:
    """The name on disk of the table of a specification."""
    # No CSV can take the place of a table that the commands make.
    stem = f"csv-{Path(spec).stem}" if spec.endswith(".csv") else spec
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem)
