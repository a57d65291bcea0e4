"""The Python interface: a workdir and its commands, with results that a notebook shows.

Each method calls the function of `jaxsim.commands` that the command line calls, so
both leave the same files behind. A result prints as a few lines, `to_pandas` gives all
of its rows, and `plot` draws on matplotlib axes.
"""

import dataclasses
import functools
import hashlib
import importlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from ml_collections import ConfigDict

from jaxsim import commands, records
from jaxsim.base import resolved
from jaxsim.cli import parse
from jaxsim.config import Config, from_config_dict, load_config
from jaxsim.corpus import open_corpus
from jaxsim.corpus.names import Labels
from jaxsim.devices import use_compilation_cache
from jaxsim.errors import UserError, check_known
from jaxsim.log import WIDTH, counted, wrapped
from jaxsim.pool import Manifest, open_pool
from jaxsim.report import agreement, figures, tables
from jaxsim.report.data import ReportData
from jaxsim.report.headline import Headline, headline
from jaxsim.report.table import (
    Column,
    Estimate,
    Table,
    bits_column,
    csv_lines,
    gain,
    short,
    target,
    text_column,
)
from jaxsim.scoring.evaluation import current_basis
from jaxsim.scoring.predicted import Predicted
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.scores import Scores, as_arrow
from jaxsim.scoring.table import Mixtures, mixture_key, read_csv
from jaxsim.search.closed_form import ClosedForm
from jaxsim.search.result import SearchResult, load_search
from jaxsim.validation.measured import CALIBRATED, TrainedChoice, targets_of
from jaxsim.validation.validate import Validation, load_validation
from jaxsim.workdir import check

_LINES, _CELL = 10, 50  # of a result that is printed
_WEIGHT = "weight:"  # begins the columns of a mixture's weights

# A config, a ConfigDict as config files return it, or FILE.py[:ARG].
AnyConfig: TypeAlias = Config | ConfigDict | Path | str
# Weights by member; several such by name; a DataFrame with a row for each mixture and a
# column for each member, or `weight:MEMBER`; a CSV file; or a search: its answer.
AnyMixtures: TypeAlias = Any


def prepare(config: AnyConfig, workdir: Path | str, dry_run: bool = False) -> "Workdir":
    """Turns documents into rows of tokens; a dry run only says what it would read.

    Raises:
      UserError: says what has to be changed; a dry run lists all of it.
    """
    work = Workdir(workdir, config)
    commands.prepare(work.config, work.path, dry_run=dry_run)
    return work


def run(config: AnyConfig, workdir: Path | str) -> "Workdir":
    """Runs all that the config asks for, from the documents to the report.

    It can be interrupted and called again: what is done is kept.
    """
    work = Workdir(workdir, config)
    commands.run(work.config, work.path)
    return work


def open(workdir: Path | str) -> "Workdir":
    """Opens a workdir that `run` or the command line made, with its config.

    Raises:
      UserError: it is none.
    """
    return Workdir(workdir)


class Shown:
    """A result that prints as the first rows of a table."""

    def _shown(self) -> Table:
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """All rows as a `DataFrame`; a mixture's weights are columns `weight:MEMBER`.

        Raises:
          UserError: pandas is not installed.
        """
        return _frame([_flat(row) for row in self._shown().rows])

    def __repr__(self) -> str:
        return _text(self._shown())


@dataclasses.dataclass(frozen=True, repr=False)
class Answer(Headline):
    """The answer of a workdir. It prints as much of the evidence as ten lines hold."""

    def __repr__(self) -> str:
        for most in range(len(self.evidence), -1, -1):
            shown = dataclasses.replace(self, evidence=self.evidence[:most]).lines()
            *said, last = shown  # a command stays on one line
            text = "\n".join(
                [*map(wrapped, said), last if self.command else wrapped(last)]
            )
            if text.count("\n") < _LINES:
                break
        return text


class Members(Shown):
    """The members of a pool.

    Attributes:
      manifests: what each one was made from, by name.
    """

    def __init__(self, workdir: Path) -> None:
        self._data = ReportData(workdir)
        self.manifests: dict[str, Manifest] = self._data.of_kind("member")

    def _shown(self) -> Table:
        return tables.members(self.manifests, self._data)

    def plot(self, ax: Any = None) -> Any:
        """A heat map: what each member does to each domain on test text.

        Raises:
          UserError: the members are not scored yet.
        """
        data = self._data
        if data.standard is None:
            raise UserError(next(line for line in data.missing if "scores" in line))
        table = tables.gains(data.standard.members, data.bits["test"])
        in_pool = list(data.in_pool.values())
        axes = ax or _axes(*figures.heat_map_size(table, len(in_pool)))
        figures.heat_map(axes, table, in_pool, "gain over the base model (%)", 100.0, 1)
        return axes


class Scored(Shown, Scores):
    """A scored table. It prints its best rows.

    `to_pandas` has a row for each mixture, predictor, domain and split.
    """

    def _shown(self) -> Table:
        return tables.scores(self)

    def to_pandas(self) -> Any:
        members, rows = self.table.members, as_arrow(self).to_pylist()
        for row in rows:
            row["weights"] = dict(zip(members, row["weights"], strict=True))
        return _frame(list(map(_flat, rows)))


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class Found(Shown, SearchResult):
    """The answer to a search. It prints what ties; `to_pandas` has all `rows`.

    Attributes:
      closed: the predicted losses as a function of the weights, if they are known.
    """

    closed: ClosedForm | None = None

    def _shown(self) -> Table:
        return tables.mixtures(self)

    def plot(self, ax: Any = None) -> Any:
        """The answer's weights, beside proportional and uniform."""
        return self._bars(figures.shares, ax)

    def plot_sources(self, ax: Any = None) -> Any:
        """What the text of each member, alone, does to the target."""
        return self._bars(figures.effects, ax)

    def _bars(self, paint: Any, ax: Any) -> Any:
        table = tables.sources(self, self.closed)
        axes = ax or _axes(6.5, figures.bars_height(len(table.rows)))
        paint(axes, table)
        return axes


class Agreement(Shown, Validation):
    """How well predictions agree with reference runs; `to_pandas` has their points."""

    def _shown(self) -> Table:
        table, _ = agreement.by_group(self)[0]
        runs = counted(len(self.reference_runs), "run")
        return dataclasses.replace(table, title=f"agreement with {runs}: {table.title}")

    def to_pandas(self) -> Any:
        return _frame(list(map(_flat, agreement.points(self).rows)))

    def plot(
        self, target: str | None = None, predictor: str | None = None, ax: Any = None
    ) -> Any:
        """Predicted against trained losses of the held-out runs.

        Args:
          target: a domain or macro (default: the one that is printed).
          predictor: default: the calibrated merge, or the merge without one.
          ax: the axes to draw on.
        """
        target = target or next(iter(targets_of(self).titles().values()))[0]
        predictor = predictor or (CALIBRATED if CALIBRATED in self.points else "merge")
        known = [name for name in self.points if name != "reference"]
        check_known("predictor", predictor, known, "plot")
        check_known("target", target, self.targets, "plot")
        axes = ax or _axes(4.5, 4.5)
        figures.predicted(
            axes,
            np.array(self.points[predictor][target]),
            np.array(self.points["reference"][target]),
            self.noise.get(target, 0.0),
        )
        axes.set_title(f"{target}: {agreement.label(predictor)}")
        return axes


@dataclasses.dataclass(frozen=True, repr=False, kw_only=True)
class Trained(Shown, TrainedChoice):
    """Mixtures that were chosen and trained, beside their predictions.

    Attributes:
      found: the last search, whose objective comes first.
    """

    found: SearchResult | None = None

    def _shown(self) -> Table:
        return agreement.chosen(self, self.found)


class Prediction(Shown):
    """The predicted losses of mixtures on test text, without a model.

    Attributes:
      bits_MD: bits per byte of each mixture on each of `domains`.
      gain_M: the share by which each lowers the objective's loss, compared with the
        proportional mixture; positive is better.
      merged_M: whether a number is that of the real merge, as in the report; the
        others are those of a closed form.
    """

    def __init__(self, form: ClosedForm, table: Mixtures) -> None:
        known = {
            mixture_key(w_C): preset["bits"]
            for w_C, preset in zip(form.preset_MC, form.presets, strict=True)
        }
        keys = [mixture_key(w_C) for w_C in table.w_MC]
        self.form, self.table, self.domains = form, table, form.domains
        self.merged_M = np.array([key in known for key in keys])
        if form.refusal and not self.merged_M.all():
            name = table.names[int(self.merged_M.argmin())]
            raise UserError(
                f"mixture {name!r}: the closed form does not stand for merges of this "
                f"pool ({form.refusal}); merge it instead, with `score`"
            )
        self.bits_MD = form.bits(table.w_MC)
        for m, key in enumerate(keys):
            self.bits_MD[m] = known.get(key, self.bits_MD[m])
        self.gain_M = form.gain(self.bits_MD)

    def _shown(self) -> Table:
        form, before = self.form, self.form.reference
        before_D = next(p["bits"] for p in form.presets if p["name"] == before)
        aimed = {d for parts in form.target.values() for d in parts}
        order = sorted(enumerate(form.domains), key=lambda pair: pair[1] not in aimed)
        rows = [
            {
                "mixture": name,
                "weights": self.table.parts(m),
                "domain": domain,
                "base": form.base[d],
                "bits": float(self.bits_MD[m, d]),
                "gain": float(1 - self.bits_MD[m, d] / before_D[d]),
                "residual": None if self.merged_M[m] else form.residual[d],
            }
            for m, name in enumerate(self.table.names)
            for d, domain in order
        ]
        columns = (
            text_column("mixture", "mixture" if len(self.table) > 1 else ""),
            Column("weights"),
            text_column("domain", "domain"),
            bits_column("base", "base model\n(bits per byte)"),
            bits_column("bits", "predicted\n(bits per byte)"),
            Column("gain", f"gain over\n{before} (%)", gain),
            bits_column("residual", "off by\nabout"),
        )
        gains = ", ".join(f"{gain(value)}%" for value in self.gain_M[:3])
        on = target(form.weights, form.kind)
        title = f"predicted on test text; gain on {on}: {gains}"
        return Table.of(title, rows, columns)


class Workdir:
    """A workdir: what there is, and the commands.

    Attributes:
      path: of the folder.
      config: the config that commands use.
    """

    def __init__(self, path: Path | str, config: AnyConfig | None = None) -> None:
        self.path = Path(path).expanduser()
        self.config = _config(self.path, config)
        use_compilation_cache()

    @property
    def members(self) -> Members:
        """The members of the pool."""
        return Members(self.path)

    @property
    def headline(self) -> Answer:
        """The answer of the last search in a few sentences, as in the report."""
        return Answer(**vars(headline(ReportData(self.path), self.path)))

    @property
    def found(self) -> Found:
        """The last search.

        Raises:
          UserError: there was none.
        """
        return self._found(load_search(self.path))

    @property
    def agreement(self) -> Agreement | None:
        """The last comparison of predictions with reference runs, if there was one."""
        known = load_validation(self.path)
        return Agreement(**vars(known)) if known else None

    @property
    def trained(self) -> Trained | None:
        """What came of the chosen mixtures that were trained last, if any were."""
        known = TrainedChoice.load(self.path)
        return self._trained(known) if known else None

    def score(
        self, mixtures: AnyMixtures = None, **settings: Any
    ) -> Scored | Predicted:
        """Predicts the losses of mixtures by merging the members.

        Args:
          mixtures: `subsets:1-3`, `dirichlet:100`, or see `AnyMixtures` (default:
            those of the config).
          settings: keys of `config.score`, as in `windows=20`.
        """
        config = self._with("score", settings)
        spec = mixtures
        if not (spec is None or isinstance(spec, str)):
            spec = str(self._file(mixtures))
        scorer = self._scorer
        if config.score != self.config.score:
            scorer = Scorer(self.path, config.score)
        made = commands.score(config, self.path, spec, scorer=scorer)
        return Scored(**vars(made)) if isinstance(made, Scores) else made

    def search(self, target: Any = None, **settings: Any) -> Found:
        """Searches for the best mixture; it replaces the last search.

        Args:
          target: what to minimize the loss on: a domain, a list of them, or weights by
            domain (default: that of the config).
          settings: other keys of `config.search`, as in `max_weight={"web": 0.5}`.
        """
        if isinstance(target, str):
            target = [target]
        if target is not None:
            weights = (
                target if isinstance(target, Mapping) else dict.fromkeys(target, 1.0)
            )
            settings["target"] = dict(weights)
        config = self._with("search", settings)
        return self._found(commands.search(config, self.path, scorer=self._scorer))

    def validate(
        self,
        mixtures: AnyMixtures = None,
        runs: tuple[Path | str, Path | str] | None = None,
        **settings: Any,
    ) -> Agreement | Trained:
        """Trains reference runs and compares them with their predictions.

        Args:
          mixtures: trains these instead, see `AnyMixtures`.
          runs: two files, of mixtures and metrics, of runs that were trained elsewhere.
          settings: keys of `config.validate`, as in `seeds=3`.
        """
        config = self._with("validate", settings)
        made = commands.validate(
            config,
            self.path,
            runs=(Path(runs[0]), Path(runs[1])) if runs else None,
            mixtures=None if mixtures is None else self._file(mixtures),
            scorer=self._scorer,
        )
        if isinstance(made, TrainedChoice):
            return self._trained(made)
        return Agreement(**vars(made))

    def predict(self, mixtures: AnyMixtures) -> Prediction:
        """Predicts the losses of mixtures at once, by the closed form of the search.

        Args:
          mixtures: see `AnyMixtures`.

        Raises:
          UserError: nothing was searched, or the closed form does not fit this pool,
            or not what it is now.
        """
        form = ClosedForm.load(self.path)
        if form is None:
            raise UserError(f"{self.path}: no closed form yet: run `jaxsim search`")
        now = current_basis(open_corpus(self.path), open_pool(self.path))
        if changed := form.basis.difference(now):
            raise UserError(
                f"{self.path}: the search was of another pool: {changed}; search again"
            )
        return Prediction(form, _mixtures(mixtures, form.members))

    def report(self) -> Path:
        """Writes the report and returns the path of its page."""
        return commands.report(self.config, self.path)

    def export(
        self,
        to: Path | str,
        what: AnyMixtures = Labels.BEST,
        recipe: str | None = None,
        dtype: str | None = None,
    ) -> Path:
        """Writes a model as a Hugging Face folder, or a mixture for another tool.

        Args:
          to: the folder.
          what: `best`, `base`, the name of a member or standard mixture, FILE.csv:ROW,
            or a mixture, see `AnyMixtures`.
          recipe: json, olmo-core, datasets or mergekit, for a mixture.
          dtype: float32 or bfloat16, for a model.
        """
        if not isinstance(what, str):
            table = _mixtures(what, tuple(self.members.manifests))
            if len(table) != 1:
                raise UserError(f"export: one mixture at a time, not {len(table)}")
            what = f"{self._file(what)}:{table.names[0]}"
        return commands.export(self.path, what, Path(to), dtype, recipe)

    def __repr__(self) -> str:
        return repr(self.headline)

    @functools.cached_property
    def _scorer(self) -> Scorer:
        """One for all calls: it keeps the members in memory."""
        check(self.config, self.path)
        return Scorer(self.path, self.config.score)

    def _found(self, found: SearchResult) -> Found:
        return Found(**vars(found), closed=ClosedForm.load(self.path))

    def _trained(self, chosen: TrainedChoice) -> Trained:
        there = (self.path / "search" / "result.json").exists()
        return Trained(**vars(chosen), found=load_search(self.path) if there else None)

    def _with(self, group: str, settings: Mapping[str, Any]) -> Config:
        """The config with other values in one group."""
        values = records.plain(self.config)
        values[group] |= records.plain(settings)
        return records.from_plain(Config, values, "config")

    def _file(self, given: AnyMixtures) -> Path:
        """A file of mixtures, as the commands take it."""
        if isinstance(given, str | Path):
            return Path(given)
        table = _mixtures(given, tuple(self.members.manifests))
        rows = zip(table.names, table.w_MC.tolist(), strict=True)
        lines = [[Labels.NAME, *table.members], *([name, *w_C] for name, w_C in rows)]
        text = csv_lines(lines)
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        path = self.path / "mixtures" / f"{name}.csv"
        records.write(path, text)
        return path


def _config(workdir: Path, config: AnyConfig | None) -> Config:
    if isinstance(config, Config):
        return config
    if isinstance(config, ConfigDict):
        return resolved(from_config_dict(config))
    if config is not None:
        made = parse(["run", f"--config={config}", f"--workdir={workdir}"]).config
        assert made is not None
        return made
    if not (path := workdir / "config.json").is_file():
        raise UserError(
            f"{workdir}: no workdir, because there is no {path.name}; "
            "jaxsim.run(config, workdir) makes one"
        )
    # The workdir may come from somebody else.
    return dataclasses.replace(load_config(path), bucket="")


def _mixtures(given: AnyMixtures, members: tuple[str, ...] | list[str]) -> Mixtures:
    """The table of what a user calls mixtures; see `AnyMixtures`."""
    if isinstance(given, str | Path):
        return read_csv(members, Path(given))
    if isinstance(given, SearchResult):
        given = {given.best["name"]: given.best["weights"]}
    elif hasattr(given, "fillna") and hasattr(
        given, "columns"
    ):  # absent weights are zero, as in a dictionary
        frame = given.fillna(0.0).rename(columns=lambda c: str(c).removeprefix(_WEIGHT))
        given = frame.to_dict("index")
    if not (isinstance(given, Mapping) and given):
        raise UserError(
            "mixtures: must be weights by member, as in {'web': 0.7, 'books': 0.3}, "
            f"several such by name, a DataFrame or a CSV file; is {given!r}"
        )
    if not any(isinstance(parts, Mapping) for parts in given.values()):
        given = {"mixture": given}
    for name, parts in given.items():
        if not isinstance(parts, Mapping):
            raise UserError(
                f"mixture {name!r}: must be weights by member; is {parts!r}"
            )
        for member in parts:
            check_known("member", member, members, f"mixture {name!r}")
    try:
        w_MC = [[float(x.get(c, 0.0)) for c in members] for x in given.values()]
    except (TypeError, ValueError) as error:
        raise UserError(f"mixtures: a weight is no number: {error}") from error
    names = tuple(map(str, given))
    kinds, scale_M = ("given",) * len(names), np.ones(len(names))
    made = Mixtures(tuple(members), names, kinds, np.array(w_MC), scale_M)
    # Rounding is undone, as in files.
    sum_M1 = made.w_MC.sum(axis=1, keepdims=True)
    return dataclasses.replace(made, w_MC=made.w_MC / sum_M1)


def _axes(width: float, height: float) -> Any:
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def _frame(rows: list[dict[str, Any]]) -> Any:
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise UserError(
            "to_pandas: pandas is not installed; run "
            "`pip install 'jaxsim-mixtures[notebook]'`"
        ) from error
    frame = pandas.DataFrame(rows)
    weights = [name for name in frame if str(name).startswith(_WEIGHT)]
    return frame.fillna(dict.fromkeys(weights, 0.0))


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose mixtures and intervals have columns of their own."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{_WEIGHT}{name}": weight for name, weight in value.items()}
        elif isinstance(value, Estimate):
            low, high = value.bounds or (None, None)
            flat |= {key: value.value, f"{key}_low": low, f"{key}_high": high}
        else:
            flat[key] = value
    return flat


def _text(table: Table) -> str:
    """The first rows and columns of a table, as text."""
    columns = [column for column in table.visible if column.on_console]
    headings = [column.heading.split("\n") for column in columns]
    height = max(map(len, headings), default=0)
    room = _LINES - height - 1
    rows = table.rows if len(table.rows) <= room else table.rows[: room - 1]
    cells = [
        [""] * (height - len(heading))
        + heading
        + [short(column.show(row[column.key]), _CELL) for row in rows]
        for column, heading in zip(columns, headings, strict=True)
    ]
    widths = [max(map(len, column)) for column in cells]
    ends = list(itertools.accumulate(width + 2 for width in widths))
    kept = [
        [text.ljust(width) if column.is_text else text.rjust(width) for text in texts]
        for column, texts, width, end in zip(columns, cells, widths, ends, strict=True)
        if end - 2 <= WIDTH
    ]
    lines = ["  ".join(line).rstrip() for line in zip(*kept, strict=True)]
    more = len(table.rows) - len(rows)
    rest = [f"... and {counted(more, 'more row')}; see `to_pandas()`"] if more else []
    return "\n".join([short(table.title, WIDTH), *lines, *rest])
