"""Opens what scoring needs, once, and scores tables by every predictor.

A predictor says what training on a mixture would give, without training:

- merge: the loss of the averaged parameters (Na et al., EMNLP 2024).
- ensemble: the loss of the averaged token probabilities (mixture of data experts, arXiv
  2502.15950). Each member's probability of each correct token is computed once.
- members: the weighted mean of the members' losses.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxsim.config import ScoreConfig
from jaxsim.corpus import open_corpus
from jaxsim.corpus.names import Labels, check_name
from jaxsim.devices import is_cpu
from jaxsim.errors import DamagedError, UserError, check_known
from jaxsim.log import counted, progress, say
from jaxsim.pool import open_pool
from jaxsim.pool.manifest import load_verified
from jaxsim.records import Basis, digest
from jaxsim.scoring.ensemble import Ensemble
from jaxsim.scoring.evaluation import (
    SPLITS,
    EvaluationSet,
    current_basis,
    gaps,
    gather,
    make_basis,
    scored_mask,
)
from jaxsim.scoring.evaluator import Evaluator, Jacobian
from jaxsim.scoring.quadratic import CHECKS, Quadratic, fit, token_distances
from jaxsim.scoring.scores import PredictorScores, Scores
from jaxsim.scoring.stack import StackedPool, check_entry, load_stack
from jaxsim.scoring.store import Journal, ScoreStore, row_keys
from jaxsim.scoring.table import (
    Mixtures,
    base_row,
    concatenate,
    dirichlet,
    macro,
    one_mixture,
    parse,
    proportional,
    singles,
    uniform,
)

STANDARD = "standard"
# Float64 losses in memory at once: 64 MiB.
_VALUES = 2**23


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
        self._devices: set[str] = set()  # that computed what was asked for so far

    @functools.cached_property
    def members(self) -> tuple[str, ...]:
        """Names of the members of the corpus: the columns of every table."""
        admitted = self.pool.manifests("member")
        names = tuple(name for name in admitted if name in self.corpus.units)
        if not names:
            raise UserError(
                f"{self.workdir}: the pool has no members yet; run `jaxsim train`"
            )
        return names

    @functools.cached_property
    def gaps(self) -> list[str]:
        """How the members differ from the units of the corpus; see `gaps`."""
        return gaps(self.corpus, self.pool.manifests("member"))

    def check_complete(self) -> None:
        """Refuses a pool that lacks members, unless there is an override.

        Raises:
          UserError: names the units that have none.
        """
        if len(self.members) < len(self.corpus.units) and not self.override:
            raise UserError(
                f"{self.workdir}: {self.gaps[0]}. With --override it goes on without "
                "them, and marks every result"
            )

    @functools.cached_property
    def evaluation(self) -> EvaluationSet:
        """All evaluation windows of the corpus."""
        return gather(self.corpus)

    @functools.cached_property
    def stack(self) -> StackedPool:
        """The members, on devices."""
        stack = load_stack(
            self.pool, self.members, self.corpus, self._adopted, self.override
        )
        for gap in self.gaps:
            say(gap)
        return dataclasses.replace(stack, notes=(*self.gaps, *stack.notes))

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        return Evaluator(self.pool.model, self.stack, self.evaluation, self._adopted)

    def release(self) -> None:
        """Frees an accelerator's memory until the pool is needed again."""
        if "stack" in self.__dict__ and not is_cpu(self.stack.mesh):
            self.__dict__.pop("evaluator", None)
            self.__dict__.pop("stack", None)

    @functools.cached_property
    def basis(self) -> Basis:
        """What every result of this scorer rests on."""
        members = dict(zip(self.stack.names, self.stack.digests, strict=True))
        return make_basis(self.corpus, self.stack.base_digest, members)

    def now(self) -> Basis:
        """What the pool and the corpus hold now, to compare results with."""
        return current_basis(self.corpus, self.pool)

    @property
    def how(self) -> dict[str, str]:
        """What losses depend on beside models and text, see `Evaluator.how`."""
        return self.evaluator.how

    @property
    def computed_how(self) -> dict[str, str]:
        """The same, with the devices that computed what was asked for so far."""
        return self.how | {"device": ", ".join(sorted(self._devices))}

    @functools.cached_property
    def _adopted(self) -> ScoreConfig:
        """The config; where it says 'auto', as another kind of device scored.

        So a pool that was scored on an accelerator can be searched on a laptop.
        """
        how: dict[str, Any] = self._standard_how
        here = jax.devices()[0].device_kind
        auto = [n for n in ("precision", "deltas") if getattr(self.config, n) == "auto"]
        # What was scored in TF32 is scored again: only NVIDIA GPUs compute in it.
        if not auto or how.get("device", here) == here or how["precision"] == "tf32":
            return self.config
        say(
            f"scores: {' and '.join(f'{n} {how[n]}' for n in auto)}, as on "
            f"{how['device']}; config.score.precision and deltas choose others"
        )
        return dataclasses.replace(self.config, **{n: how[n] for n in auto})

    @functools.cached_property
    def _standard_how(self) -> dict[str, str]:
        """How the standard table was scored, if it was."""
        with contextlib.suppress(UserError, DamagedError):  # it is scored again
            return self.store.record(STANDARD).how
        return {}

    @functools.cached_property
    def token_losses(self) -> np.ndarray:
        """Nats of every scored token by the base and every member.

        float32 [1 + C, T], the base first, tokens in the order of windows; infinite
        for a damaged member.
        """
        e, damaged = self.evaluation, self.stack.damaged
        table = concatenate(base_row(self.members), singles(self.members))
        nll_CT = np.full((len(table), int(e.count_R.sum())), np.inf, np.float32)
        # Damaged members are left out: their keys are those of sound ones, so their
        # losses must not be cached.
        sound = [row for row, name in enumerate(table.names) if name not in damaged]
        rows = np.arange(len(e))
        nll_CT[sound] = self._computed(table.take(sound), rows, "members", True)
        return nll_CT

    @functools.cached_property
    def window_losses(self) -> np.ndarray:
        """Nats of every window by the base and every member; float64 [1 + C, R]."""
        start_R = np.cumsum(self.evaluation.count_R) - self.evaluation.count_R
        return np.add.reduceat(self.token_losses, start_R, axis=1, dtype=np.float64)

    def standard(self) -> Scores:
        """Scores base, members and standard merges on all windows, once."""
        return self._scored_standard

    @functools.cached_property
    def _scored_standard(self) -> Scores:
        return self.score(STANDARD, self._usable(self._standard_table()))

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
        try:
            concatenate(self._standard_table(), asked)
        except UserError as error:  # a name is taken
            raise UserError(f"{spec}: {error}") from error
        return self._usable(concatenate(asked, self.merges()))

    def is_predicted(self, table: Mixtures) -> bool:
        """Whether a table is so large that it is predicted, see `predicted`."""
        return len(table) - len(self.merges()) > self.config.merges

    def merges(self) -> Mixtures:
        """The standard merges: uniform, proportional, macro, and of groups."""
        units = [self.corpus.unit(name) for name in self.members]
        return concatenate(
            uniform(self.members),
            proportional(self.members, [u.supply for u in units]),
            macro(self.members, [u.group for u in units]),
        )

    def score(
        self, name: str, table: Mixtures, split: str | None = None, windows: int = 0
    ) -> Scores:
        """Scores a table by every predictor, and saves it.

        Args:
          name: of the table on disk.
          table: the mixtures.
          split: the split that merges are scored on; None for both.
          windows: windows of each domain and split that merges are scored on; 0
            for all. The other predictors run no model and use all windows.

        Raises:
          UserError: the table has no rows, or a name is unknown or unusable.
          DamagedError: a row uses a damaged member, or a loss is not finite.
        """
        _check_name(name, table.names)
        rows, e = self.evaluation.rows(split, windows), self.evaluation
        member_CR = _finite(self.window_losses[1:])
        window_T = np.repeat(np.arange(len(e)), e.count_R)
        average = Ensemble(self.token_losses[1:], window_T, len(e))
        predictors = {
            "merge": self.merge(table, rows, name),
            "ensemble": self._by_window(table, average.sums),
            "members": self._by_window(table, lambda w_MC: w_MC @ member_CR),
        }
        return self._saved(name, table, predictors, self.stack.notes, self.basis)

    def merge(
        self, table: Mixtures, rows: np.ndarray, name: str = ""
    ) -> PredictorScores:
        """Losses of the merges of `table` on the windows `rows`.

        The base and single members need no merge: their token losses are known.

        Args:
          table: the mixtures.
          rows: indices of windows in the evaluation set.
          name: of the table, for the progress bar; '' for no bar.

        Raises:
          DamagedError: a mixture uses a damaged member, or a loss is not finite.
        """
        self.stack.check_usable(table)
        is_base_M = table.scale_M == 0
        is_single_M = np.count_nonzero(table.w_MC, axis=1) == 1
        known_M = is_base_M | ((table.scale_M == 1) & is_single_M)
        model_M = np.where(is_base_M, 0, 1 + table.w_MC.argmax(axis=1))
        nll_MR = np.empty((len(table), len(rows)), np.float32)
        if known_M.any():
            nll_MR[known_M] = self.window_losses[model_M[known_M]][:, rows]
        merged = table.take(np.flatnonzero(~known_M))
        nll_MR[~known_M] = self._computed(merged, rows, name)
        return PredictorScores(rows, nll_MR)

    def jacobian(self, w_C: np.ndarray, scale: float, rows: np.ndarray) -> Jacobian:
        """Losses of one merge on the windows `rows`, and their derivatives.

        They are cached like losses, in float32. Computed and cached values are
        the same numbers, so a search that is killed and resumed takes the same
        path.

        Raises:
          DamagedError: the mixture uses a damaged member.
        """
        table = one_mixture(self.members, w_C, scale)
        self.stack.check_usable(table)
        r, d, c = len(rows), len(self.evaluation.domains), len(w_C)
        journal = self.store.journal("gradients", self.evaluation, rows, r + d * c + d)
        # Derivatives depend on all members, also those without weight, and on
        # the order of columns.
        damaged = sorted(self.stack.damaged)
        keys = self._keys(journal, table, gradient=self.stack.digests, damaged=damaged)
        values_1V, missing = self._read(journal, keys)
        if len(missing):
            found = self.evaluator.jacobian(w_C, scale, rows)
            parts = [found.nll_R, found.dw_DC.ravel(), found.dscale_D]
            values_1V[0] = np.concatenate(parts)
            journal.append(keys[0], values_1V)
        nll_R, dw, dscale_D = np.split(values_1V[0].astype(float), [r, r + d * c])
        return Jacobian(nll_R, dw.reshape(d, c), dscale_D)

    def ensemble(self, rows: np.ndarray) -> Ensemble:
        """The ensemble's losses, by `EvaluationSet.sums` of the windows `rows`."""
        e = self.evaluation
        domain_R = np.full(len(e), -1)
        domain_R[rows] = e.domain_R[rows]
        domain_T, weight_T = (
            np.repeat(x_R, e.count_R) for x_R in (domain_R, e.weight_R)
        )
        return Ensemble(self.token_losses[1:], domain_T, len(e.domains), weight_T)

    def quadratic(self, rows: np.ndarray, predictor: str = "merge") -> Quadratic:
        """A closed form of a predictor, by `EvaluationSet.sums` of the windows `rows`.

        That of merges needs one gradient, at the uniform merge; see `jacobian`.

        Args:
          rows: indices of windows in the evaluation set.
          predictor: 'merge' or 'ensemble'.
        """
        check_known("predictor", predictor, ("merge", "ensemble"), "quadratic")
        e, members = self.evaluation, self.members
        u_C = np.array([name not in self.stack.damaged for name in members], float)
        u_C /= u_C.sum()
        if predictor == "merge":
            found = self.jacobian(u_C, 1.0, rows)
            uniform_D, slope_DC = e.sums(found.nll_R, rows), found.dw_DC
        else:
            uniform_D, slope_DC = self.ensemble(rows).slope(u_C)
        nll_CR = self.window_losses[1:, rows]
        nll_CR = np.where(np.isfinite(nll_CR), nll_CR, np.nan)  # of damaged members
        member_DC = e.sums(nll_CR, rows).T
        return fit(member_DC, uniform_D, slope_DC, self._apart_CC)

    def quadratics(self, rows: np.ndarray) -> dict[str, Quadratic]:
        """The closed forms of 'merge', 'ensemble' and the 'mean' of their losses."""
        merge, ensemble = (self.quadratic(rows, p) for p in ("merge", "ensemble"))
        mean = merge.mean_with(ensemble)
        return {"merge": merge, "ensemble": ensemble, "mean": mean}

    @functools.cached_property
    def _apart_CC(self) -> np.ndarray:
        """How far members are apart on all dev text; see `token_distances`."""
        e, dev = self.evaluation, SPLITS.index("dev")
        dev_T = np.repeat(e.split_R == dev, e.count_R)
        domain_T = np.repeat(e.domain_R, e.count_R)[dev_T]
        return token_distances(self.token_losses[1:, dev_T], domain_T)

    @property
    def alone(self) -> str:
        """Why a closed form is of no use to this pool, as a clause; '' if it may be."""
        one = len(self.members) - len(self.stack.damaged) < 2
        return "one member has nothing to mix with" if one else ""

    def checks(self) -> Mixtures:
        """The random mixtures whose real merges show how good a closed form is.

        They are drawn from Dirichlet(1) over the sound members.
        """
        sound = [n for n in self.members if n not in self.stack.damaged]
        drawn = dirichlet(sound, CHECKS, 1.0, self.config.seed)
        names = tuple(Labels.CHECK.format(m + 1) for m in range(CHECKS))
        w_MC = np.zeros((CHECKS, len(self.members)))
        w_MC[:, [self.members.index(name) for name in sound]] = drawn.w_MC
        kinds = ("check",) * CHECKS
        return Mixtures(self.members, names, kinds, w_MC, drawn.scale_M)

    def members_sums(self, w_MC: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The members' mean losses, by `EvaluationSet.sums` of the windows `rows`.

        Returns:
          Nats [M, D], float64; 0 for a domain without windows.

        Raises:
          DamagedError: a mixture uses a damaged member.
        """
        e, finite_C = self.evaluation, np.isfinite(self.window_losses[1:]).all(axis=1)
        if damaged := np.count_nonzero(w_MC[:, ~finite_C].any(axis=1)):
            raise DamagedError(
                f"{counted(int(damaged), 'mixture')} with a damaged member"
            )
        nll_CR = _finite(self.window_losses[1:])[:, rows]
        return w_MC @ e.sums(nll_CR, rows)

    def load(self, name: str) -> Scores:
        """Loads a scored table by name.

        Raises:
          UserError: it was never scored, or the pool or corpus has changed since.
          DamagedError: its files are damaged.
        """
        scores = self.store.load(name, self.evaluation)
        self.check_current(scores)
        return scores

    def scored(self, spec: str) -> Scores:
        """Loads the table that `jaxsim score` saved for a specification.

        Raises:
          UserError: it was never scored or is predicted in closed form, or the config,
            the CSV, the pool or the corpus has changed since.
          DamagedError: its files are damaged.
        """
        table = self.table(spec)
        if self.is_predicted(table):
            raise not_searched(spec, self.config.merges)
        scores = self.load(table_name(spec))
        rows = self.evaluation.rows("dev", self.config.windows)
        other = ""
        if not np.array_equal(scores.predictors["merge"].rows, rows):
            windows = self.config.windows
            other = f"was scored on other windows than config.score.windows={windows}"
        elif {**scores.how, "device": ""} != {**self.how, "device": ""}:
            how = dict(scores.how)
            other = f"was scored with {how}, and the config says {self.how}"
        elif not scores.table.same_as(table):
            other = f"holds other mixtures than {spec!r} gives now"
        if other:
            raise UserError(f"table {scores.name!r} {other}; run `jaxsim score` again")
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
        """Scores reference runs or replicates, one after the other, and saves them.

        Args:
          name: of the table on disk.
          entries: names of pool entries.
          split: whose windows; None for both.
          windows: windows of each domain and split; 0 for all.

        Raises:
          DamagedError: an entry is damaged or does not belong to this pool, or a loss
            is not finite.
        """
        _check_name(name, entries)
        rows, notes = self.evaluation.rows(split, windows), list[str]()
        manifests = [self.pool.manifest(entry) for entry in entries]
        for manifest in manifests:
            check_entry(self.pool, manifest, self.corpus, self.override, notes)
        digests = {m.name: m.params_digest for m in manifests}
        keys = [
            [digest([found, self.evaluation.digest, how]) for found in digests.values()]
            for how in self._accepted()
        ]
        journal = self.store.journal("windows", self.evaluation, rows, len(rows))
        nll_MR, missing = self._read(journal, keys)
        with progress(len(missing), f"scoring {name}", "models") as tick:
            for m in missing:
                params = load_verified(
                    self.pool.entry(entries[m]), manifests[m], self.pool.model.shapes()
                )
                nll_MR[m] = self.evaluator.score_model(params, rows)
                _check_finite([entries[m]], nll_MR[m : m + 1])
                journal.append([keys[0][m]], nll_MR[m : m + 1])
                tick(1)
        basis = make_basis(self.corpus, self.stack.base_digest, {}, digests)
        reference = {"reference": PredictorScores(rows, nll_MR)}
        return self._saved(name, singles(tuple(entries)), reference, notes, basis)

    def _computed(
        self, table: Mixtures, rows: np.ndarray, name: str, per_token: bool = False
    ) -> np.ndarray:
        """Nats of windows, or of their scored tokens, from the cache or the evaluator.

        Rows are cached as soon as they are computed. Equal rows are computed once.

        Returns:
          float32 [M, len(rows)], or with `per_token` [M, T].
        """
        mask_RL = scored_mask(self.evaluation, rows)
        width = int(mask_RL.sum()) if per_token else len(rows)
        kind = "tokens" if per_token else "windows"
        journal = self.store.journal(kind, self.evaluation, rows, width)
        keys = self._keys(journal, table)
        values_MW, missing = self._read(journal, keys)
        # Equal rows have equal keys.
        first = {key: m for m, key in reversed(list(enumerate(keys[0])))}
        missing = np.array([m for m in missing if first[keys[0][m]] == m], int)
        if not len(missing):
            return values_MW
        todo = table.take(missing)
        bar = progress(len(todo), f"scoring {name}", "mixtures")
        with bar if name else contextlib.nullcontext(lambda _: None) as tick:
            for part, nll in self.evaluator.chunks(todo, rows, per_token):
                values_KW = nll[:, mask_RL] if per_token else nll
                _check_finite(todo.names[part], values_KW)
                values_MW[missing[part]] = values_KW
                journal.append([keys[0][m] for m in missing[part]], values_KW)
                tick(part.stop - part.start)
        return values_MW[[first[key] for key in keys[0]]]

    def _keys(
        self, journal: Journal, table: Mixtures, **more: object
    ) -> list[list[str]]:
        """The keys of rows as computed here, and as computed on another device."""
        # The journal's name has the kind of values and which windows they are of.
        more |= {"journal": journal.path.name, "model": self.pool.identity["model"]}
        return [
            row_keys(self.stack, table, self.evaluation, how | more)
            for how in self._accepted()
        ]

    def _accepted(self) -> list[dict[str, str]]:
        """How losses are computed here; and on the devices of the standard table.

        Kinds of devices differ by rounding alone.
        """
        devices = self._standard_how.get("device", "").split(", ")
        return [
            self.how | {"device": device}
            for device in dict.fromkeys([self.how["device"], *devices])
        ]

    def _read(
        self, journal: Journal, keys: list[list[str]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads rows by the first of their keys that is on file, see `_keys`."""
        values_MW = np.empty((len(keys[0]), journal.width), np.float32)
        missing = np.arange(len(values_MW))
        for how, same in zip(self._accepted(), keys, strict=True):
            found, gone = journal.read([same[m] for m in missing])
            values_MW[missing] = found
            if len(gone) < len(missing):
                self._devices.add(how["device"])
            missing = missing[gone]
        if len(missing):
            self._devices.add(self.how["device"])
        return values_MW, missing

    def _saved(
        self,
        name: str,
        table: Mixtures,
        predictors: dict[str, PredictorScores],
        notes: Sequence[str],
        basis: Basis,
    ) -> Scores:
        scores = Scores(
            name,
            table,
            self.evaluation,
            predictors,
            tuple(notes),
            basis,
            self.computed_how,
        )
        self.store.save(scores)
        return scores

    def _by_window(
        self, table: Mixtures, sums: Callable[[np.ndarray], np.ndarray]
    ) -> PredictorScores:
        """Applies `sums` to some mixtures at a time; NaN where the scale is not 1."""
        rows = np.arange(len(self.evaluation))
        nll_MR = np.full((len(table), len(rows)), np.nan, np.float32)
        merged, step = np.flatnonzero(table.scale_M == 1), max(1, _VALUES // len(rows))
        for start in range(0, len(merged), step):
            part = merged[start : start + step]
            nll_MR[part] = sums(table.w_MC[part])
        return PredictorScores(rows, nll_MR)

    def _standard_table(self) -> Mixtures:
        return concatenate(base_row(self.members), singles(self.members), self.merges())

    def _usable(self, table: Mixtures) -> Mixtures:
        """Leaves out mixtures with damaged members, except the user's own.

        Raises:
          DamagedError: no mixture is left.
        """
        if not self.override:
            return table
        damaged = self.stack.damaged
        usable = [
            row
            for row in range(len(table))
            if table.kinds[row] == "given"
            or table.scale_M[row] == 0
            or not damaged & table.parts(row).keys()
        ]
        if len(usable) < len(table):
            say(
                f"OVERRIDE: of {counted(len(table), 'mixture')}, leaving out "
                f"{len(table) - len(usable)} with {', '.join(sorted(damaged))}"
            )
        if not usable:
            raise DamagedError(
                f"every mixture uses a damaged member: {', '.join(damaged)}"
            )
        return table.take(usable)


def table_name(spec: str) -> str:
    """Returns the name on disk of the table of a specification."""
    # The prefix keeps a CSV from replacing a table that a command makes.
    stem = f"csv-{Path(spec).stem}" if spec.endswith(".csv") else spec
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in stem)


def not_searched(spec: str, merges: int) -> UserError:
    """The error of a search in a table that is predicted."""
    return UserError(
        f"table {table_name(spec)!r} has more than config.score.merges={merges:,} "
        "mixtures: they are predicted in closed form, and a search takes only what is "
        "merged. Method 'descend' needs no table; for 'table', raise "
        "config.score.merges or ask for fewer"
    )


def _check_name(name: str, rows: Sequence[str]) -> None:
    """Checks that a table has a name that is no path, and rows."""
    check_name(name, "table of scores")
    if not rows:
        raise UserError(f"table {name!r}: it has no rows, so nothing can be scored")


def _check_finite(names: Sequence[str], nll_KR: np.ndarray) -> None:
    """Checks losses [K, R] of mixtures before they are cached.

    Raises:
      DamagedError: one is not finite.
    """
    for name, nll_R in zip(names, nll_KR, strict=True):
        if not np.isfinite(nll_R).all():
            raise DamagedError(
                f"mixture {name!r}: its loss is not finite on "
                f"{np.count_nonzero(~np.isfinite(nll_R))} of {len(nll_R)} numbers; "
                "if its scale is near 1, run `jaxsim verify`"
            )


def _finite(nll_CR: np.ndarray) -> np.ndarray:
    """Replaces the infinite losses of damaged members, which have no weight."""
    return np.where(np.isfinite(nll_CR), nll_CR, 0.0)
