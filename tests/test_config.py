"""Configurations: errors, and that every config file loads."""

import ast
import dataclasses
import json
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imported
import pytest
import sealing
from ml_collections import config_dict

from jaxsim import cli
from jaxsim.cli import parse
from jaxsim.config import (
    Config,
    default_config,
    from_config_dict,
    load_config,
    parse_arg,
    save_config,
    source,
)
from jaxsim.corpus.documents import Tally, read_file
from jaxsim.corpus.sources import find_inputs
from jaxsim.corpus.split import places_of
from jaxsim.errors import JaxsimError, UserError
from jaxsim.train import reference_run

CONFIGS = sorted(Path(__file__).parent.parent.glob("configs/*.py"))
# What the paper's configs leave to the user.
PATHS = (
    "corpus.tokenizer.path",
    "corpus.partitions.s2orc.path",
    "corpus.partitions.wiki.path",
    "corpus.base_text.wikipedia.path",
    "corpus.base_text.gutenberg.path",
)


def load(name: str, *overrides: str) -> Config:
    """A file of configs/ as the command line loads it."""
    file, _, arg = name.partition(":")
    path = Path(__file__).parent.parent / "configs" / f"{file}.py"
    if file.startswith("paper"):
        overrides = (*(f"--config.{k}=somewhere" for k in PATHS), *overrides)
    arguments = [f"--config={path}:{arg}", "--workdir=unused", *overrides]
    config = parse(["run", *arguments]).config
    assert config is not None
    return config


def minimal() -> config_dict.ConfigDict:
    node = default_config()
    node.corpus.partitions = {"a": source(reader="text", path="a")}
    return node


def test_defaults_are_refused_only_for_missing_partitions() -> None:
    with pytest.raises(UserError, match=r"config\.corpus\.partitions"):
        from_config_dict(default_config())
    assert from_config_dict(minimal()).model == Config().model


def test_a_misspelled_key_cannot_be_set() -> None:
    with pytest.raises(AttributeError, match="dimm"):
        minimal().model.dimm = 3
    with pytest.raises(KeyError, match="pth"):
        source(pth="a")


def test_unknown_key_is_named() -> None:
    node = minimal()
    with node.unlocked():
        node.model.dimm = 3
    with pytest.raises(UserError, match=r"config\.model\.dimm: unknown key"):
        from_config_dict(node)


def test_missing_key_is_named() -> None:
    node = minimal()
    with node.unlocked():
        del node.recipe.steps
    with pytest.raises(UserError, match=r"config\.recipe\.steps: missing"):
        from_config_dict(node)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("base.seed", 2**31),
        ("base.seed", -1),
        ("recipe.beta1", 1.0),
        ("recipe.beta2", -0.5),
        ("model.norm_eps", -1.0),
        ("model.rope.base", 0.0),
        ("model.init_std", -1.0),
        ("train.step_limit", -1.0),
        ("corpus.tokenizer.begin_of_text", "<s>"),  # of a tokenizer trained here
        ("corpus.tokenizer.end_of_text", "</s>"),
        ("corpus.tokenizer.sample_bytes", 0),
        ("corpus.tokenizer.vocab_size", 10**12),
        ("model.dim", 10**12),
        ("base.steps", 10**10),
        ("recipe.decay", 0.04),  # 1 of 32 steps, and with its full rate
        ("recipe.warmup", 32),
        ("validate.token_multiplier", 0.25),  # runs of 8 steps, all of them warm-up
        ("score.memory", 1e300),
        ("score.memory", 1e-9),
        ("score.concentration", 1e-300),
        ("search.candidates", 10**12),
        ("search.evaluations", 10**12),
        ("validate.candidates", 10**12),
        ("validate.held_out", 10**12),
        ("validate.largest", 1),
        ("validate.largest", 3),  # without the budget 'sum'
    ],
)
def test_values_that_no_run_survives_are_refused(key: str, value: object) -> None:
    node = minimal()
    node.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=rf"config\.{key}: must be"):
        from_config_dict(node)


def test_a_warm_up_leaves_steps_at_the_full_rate() -> None:
    node = minimal()
    node.recipe.update(warmup=16, decay=0.5)
    with pytest.raises(UserError, match=r"recipe\.steps=32 less the 16 in which"):
        from_config_dict(node)
    node.recipe.warmup = 15
    from_config_dict(node)
    node.recipe.update(steps=6, warmup=0)  # with none, runs may be short
    node.validate.token_multiplier = 0.01
    from_config_dict(node)


def test_steps_of_a_reference_run_are_rounded_as_in_training() -> None:
    node = minimal()
    node.recipe.update(steps=10, warmup=1, decay=0.5)
    node.validate.token_multiplier = 0.27  # 3 steps: the rate falls in 2, not in 1.35
    with pytest.raises(UserError, match=r"validate\.token_multiplier: must be large"):
        from_config_dict(node)
    node.validate.token_multiplier = 0.4
    recipe = from_config_dict(node).recipe
    assert recipe.steps_of(0.27) == reference_run({"a": 1.0}, recipe, 0.27).steps == 3
    # As with the float32 of a device, and not 11.
    assert dataclasses.replace(recipe, decay=0.07).falling(150) == 10


def test_replay_leaves_rows_of_its_own_to_every_run() -> None:
    node = minimal()
    node.recipe.update(steps=4, batch=4, replay=0.97, warmup=0)
    with pytest.raises(UserError, match=r"recipe\.replay: must .* a member .* 16 rows"):
        from_config_dict(node)
    node.recipe.replay = 0.9
    from_config_dict(node)
    node.validate.token_multiplier = 0.25
    with pytest.raises(UserError, match=r"recipe\.replay: must .* 4 rows .*_multipl"):
        from_config_dict(node)
    node.validate.budget = "sum"  # longer than members
    from_config_dict(node)


def test_an_imported_base_model_names_tokens_and_needs_no_base_text() -> None:
    node = minimal()
    node.base.path = "model"
    node.recipe.learning_rate = 1e-5
    node.corpus.tokenizer.end_of_text = "</s>"
    node.corpus.split.base = 0.0
    assert not from_config_dict(node).uses_base_text
    node.recipe.replay = 0.1
    with pytest.raises(UserError, match=r"corpus\.split\.base: must be positive"):
        from_config_dict(node)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dim", None),  # ConfigDict lets None through
        ("dim", 128.0),
        ("dim", True),
        ("norm", 1),
        ("tied", 1),
    ],
)
def test_wrong_type_is_named(key: str, value: object) -> None:
    node = minimal()
    with node.unlocked(), node.ignore_type():
        node.model[key] = value
    with pytest.raises(UserError, match=rf"config\.model\.{key}: must be"):
        from_config_dict(node)


def test_wrong_type_deep_inside_is_named() -> None:
    node = minimal()
    node.corpus.partitions.a.by_dates = (("1790", 1809),)
    key = r"config\.corpus\.partitions\.a\.by_dates\[0\]\[1\]"
    with pytest.raises(UserError, match=key):
        from_config_dict(node)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.heads", 3),
        ("model.dim", 0),
        ("model.norm", "batch"),
        ("recipe.tail", 1.5),
        ("recipe.replay", 1.0),
        ("corpus.split.test", 0.0),
        ("corpus.split.base", 0.8),
        ("base.warmup", 400),
        ("search.min_effect", -0.1),
        ("search.objective", "median"),
        ("search.method", "magic"),
        ("search.prior", "base"),
        ("search.max_sources", -1),
        ("search.divergence", -0.1),
        ("search.epochs", 0.0),
        ("corpus.partitions.a.reader", "csv"),
        ("corpus.partitions.a.path", ""),
    ],
)
def test_impossible_value_is_named(key: str, value: object) -> None:
    node = minimal()
    node.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"config.{key}: m"):  # must, missing
        from_config_dict(node)


YARN = {"rope.kind": "yarn", "rope.original_length": 64}


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"dim": 100, "heads": 3}, "heads", "head_dim must be set"),
        ({"kv_heads": 3}, "kv_heads", "divisor of heads=4"),
        ({"dim": 20, "kv_heads": 2}, "heads", "of each head's 5"),
        ({"head_dim": 7}, "heads", "of each head's 7"),
        ({"head_dim": 8, "rope.share": 0.4}, "rope.share", "of each head's 8"),
        ({"head_dim": 8, "rope.share": 0.1}, "rope.share", "of each head's 8"),
        ({"head_dim": 64, "output_projection": False}, "head_dim", "128 / 4"),
        ({"positions": 256, "rope.base": 5e5}, "positions", "learned"),
        ({"positions": 255}, "length", "at most config.model.positions=255"),
        ({"rope.kind": "yarn"}, "rope.original_length", "the length before"),
        ({"rope.kind": "llama3"}, "rope.original_length", "the length before"),
        (YARN | {"rope.beta_slow": 32.0}, "rope.beta_slow", "below beta_fast"),
        (YARN | {"rope.low_freq_factor": 2.0}, "rope.low_freq_factor", "'yarn'"),
        ({"rope.factor": 8.0}, "rope.factor", "1.0, with kind='default'"),
        ({"rope.kind": "linear"}, "rope.kind", "default, llama3, yarn"),
        ({"rope.base": 1.0}, "rope.base", "above 1"),
        ({"rope.share": 0.0}, "rope.share", "a positive share"),
        ({"clip_qkv": -1.0}, "clip_qkv", "from 0"),
    ],
)
def test_what_no_decoder_can_be_is_named(
    changes: dict[str, object], key: str, words: str
) -> None:
    node = minimal()
    node.model.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=f"config.model.{key}: must be .*{words}"):
        from_config_dict(node)


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": 7, "positions": 256},
        {"dim": 100, "heads": 3, "kv_heads": 1, "head_dim": 32},
        {"head_dim": 7, "rope.share": 0.9},
        YARN | {"rope.attention_factor": 1.2},
    ],
)
def test_unusual_decoders_are_accepted(changes: dict[str, object]) -> None:
    node = minimal()
    node.model.update_from_flattened_dict(changes)
    assert from_config_dict(node).model != Config().model


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("min_weight", 1.5),
        ("max_weight", -0.1),
        ("max_regression", -2.0),
        ("supply", 0.0),
    ],
)
def test_impossible_share_is_named(key: str, value: float) -> None:
    node = minimal()
    node.search[key] = {"distribution": value}
    with pytest.raises(UserError, match=f"config.search.{key}.distribution: must"):
        from_config_dict(node)


def is_key(name: str) -> bool:
    """Whether `Config` has this key, or a group of this name."""
    kind: Any = Config
    for part in name.split("."):
        if typing.get_origin(kind) is dict:  # by any name
            kind = typing.get_args(kind)[1]
        elif part in (hints := typing.get_type_hints(kind)):
            kind = hints[part]
        else:
            return False
    return True


def messages() -> Iterator[tuple[str, str]]:
    """Every text with spaces in the package that is no docstring, with its place."""
    for path in sorted(Path(cli.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text())
        alone = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        for node in ast.walk(tree):
            text = getattr(node, "value", None)
            if isinstance(text, str) and " " in text and id(node) not in alone:
                yield f"{path.name}:{node.lineno}", text


def test_messages_name_keys_that_exist_and_can_be_set() -> None:
    """As in `--config.recipe.steps=64`."""
    wrong, groups = [], "|".join(f.name for f in dataclasses.fields(Config))
    for place, text in messages():
        keys = re.findall(r"\bconfig\.(?!json\b|py\b)([a-z_0-9.]*[a-z_0-9])", text)
        wrong += [(place, key) for key in keys if not is_key(key)]
        bare = re.findall(rf"(?<![\w.])((?:{groups})\.[a-z_0-9.]*[a-z_0-9])", text)
        wrong += [(place, key) for key in bare if is_key(key)]
    assert not wrong


def test_parse_arg_rejects_leftovers() -> None:
    assert parse_arg(None, "smoke") == frozenset()
    assert parse_arg("smoke", "smoke", "big") == {"smoke"}
    with pytest.raises(UserError, match=r"'smok'.*knows smoke"):
        parse_arg("smok", "smoke")


def test_saved_config_is_read_back(tmp_path: Path) -> None:
    config = load("quickstart", "--config.search.target={'messages': 1.0}")
    path = tmp_path / "config.json"
    save_config(config, path)
    assert load_config(path) == config
    changed = dataclasses.replace(config, name="other")
    assert load_config(path) != changed


@pytest.mark.parametrize("change", ["recipe.dekay: unknown", "bucket: missing"])
def test_a_saved_config_with_other_keys_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "config.json"
    save_config(load("quickstart"), path)

    def edit(saved: dict[str, Any]) -> None:
        if "unknown" in change:
            saved["recipe"]["dekay"] = 0.5
        else:
            del saved["bucket"]

    sealing.edit(path, edit)
    with pytest.raises(JaxsimError, match=rf"{change}.*give --config"):
        load_config(path)


def test_a_kill_while_saving_leaves_the_old_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, path = load("quickstart"), tmp_path / "config.json"
    save_config(config, path)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            save_config(dataclasses.replace(config, name="other"), path)
    assert load_config(path) == config


@pytest.mark.parametrize("arg", ["", "smoke"])
@pytest.mark.parametrize("name", [path.stem for path in CONFIGS])
def test_config_files_load(name: str, arg: str, tmp_path, monkeypatch) -> None:
    # A base model that is imported must be there.
    monkeypatch.setenv("JAXSIM_SMOLLM2", str(imported.write_folder(tmp_path / "m")))
    config = load(f"{name}:{arg}")
    assert config.name.startswith(name)
    assert ("smoke" in config.name) == bool(arg)


def test_smoke_is_smaller() -> None:
    for name in ("quickstart", "paper", "paper:1b"):
        small, full = load(f"{name}{',' if ':' in name else ':'}smoke"), load(name)
        assert small.model.dim <= 64 < full.model.dim
        assert small.base.steps < full.base.steps
        assert small.corpus.partitions.keys() == full.corpus.partitions.keys()


@pytest.mark.parametrize(
    "name, key, value",
    [
        ("fields:short", "recipe.steps", 32),
        ("fields:shorter", "recipe.steps", 8),
        ("fields:long", "recipe.steps", 512),
        ("fields:short,last", "recipe.tail", 0.0),
        ("fields:small", "model.dim", 64),
        ("fields:wide", "model.dim", 256),
        ("fields:repeated", "corpus.max_epochs", 200.0),
        ("fields:replay", "recipe.replay", 0.25),
        ("eras:smoke", "validate.held_out", 4),
    ],
)
def test_words_of_the_study(name: str, key: str, value: float) -> None:
    """A word changes the config as documented; the plain config stays the same."""
    found, plain = load(name), load(name.partition(":")[0])
    for part in key.split("."):
        found, plain = getattr(found, part), getattr(plain, part)
    assert found == value != plain


def test_a_forecast_trains_on_no_later_text() -> None:
    config = load("eras:forecast")
    (domain,) = config.corpus.domains.values()
    last = max(end for _, end in config.corpus.partitions["eras"].by_dates)
    assert last < domain.by_dates[0][0]


def test_quickstart_has_twelve_eras() -> None:
    eras = load("quickstart").corpus.partitions["sotu"].by_dates
    assert len(eras) == 12
    assert eras[0] == ("1790", "1809")
    assert eras[-1] == ("2010", "2029")


@pytest.mark.parametrize("name", ["paper", "paper:1b,smoke"])
@pytest.mark.parametrize("missing", PATHS[1:])
def test_paper_configs_ask_for_the_users_data(name: str, missing: str) -> None:
    file, _, arg = name.partition(":")
    path = Path(__file__).parent.parent / "configs" / f"{file}.py"
    paths = [f"--config.{key}=somewhere" for key in PATHS if key != missing]
    with pytest.raises(UserError, match=f"config.{missing}: missing"):
        parse(["run", f"--config={path}:{arg}", "--workdir=unused", *paths])


def test_paper_recipe() -> None:
    small, large = load("paper"), load("paper:1b")
    assert (small.model.dim, small.model.layers, small.model.heads) == (768, 12, 12)
    assert (large.model.dim, large.model.layers, large.model.heads) == (2048, 24, 16)
    for config in (small, large):
        assert config.model.vocab_rows == 50_304
        assert not config.model.output_projection
        unit = config.recipe.steps * config.recipe.batch * config.model.length
        assert unit == 1_048_576_000
        assert config.recipe.learning_rate == 6e-5
        assert config.recipe.tail == config.recipe.warmup == 0
        assert config.recipe.weight_decay_all
        assert (config.validate.budget, config.validate.largest) == ("sum", 3)
    assert small.recipe == large.recipe
    assert small.corpus == large.corpus
    assert (small.base.learning_rate, large.base.learning_rate) == (6e-4, 3e-4)


def test_the_corpus_of_the_paper_is_partitioned_as_published(tmp_path: Path) -> None:
    """By field of study, a list, and year, a number; in the layout of Dolma."""
    records = [
        (["Biology", "Medicine"], 1999), (["Computer Science"], 2001), (["Art"], 1950),
        (None, 2001), (["Art"], None),
    ]  # fmt: skip
    lines = [
        {"text": f"{i}", "metadata": {"s2fieldsofstudy": fields, "year": year}}
        for i, (fields, year) in enumerate(records)
    ]
    (tmp_path / "a.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = load("paper", f"--config.corpus.partitions.s2orc.path={tmp_path}")
    settings = config.corpus.partitions["s2orc"]
    (file,) = find_inputs("s2orc", settings).files
    assert [
        places_of("s2orc", settings, document)
        for document in read_file(file, settings, Tally())
    ] == [
        [("Biology,1994-1999", "Biology")],
        [("Computer Science,2000-2004", "Computer Science")],
        "outside every range of by_dates",
        "no s2fieldsofstudy",
        "no year",
    ]


@pytest.mark.parametrize(
    ("section", "fields", "said"),
    [
        ("domains", {"prompt_field": "q"}, "only go together"),
        ("partitions", {"prompt_field": "q", "completion_field": "a"}, "only scored"),
        ("base_text", {"reader": "olmes"}, "only scored"),
    ],
)
def test_tasks_are_domains(section: str, fields: dict[str, str], said: str) -> None:
    node = minimal()
    node.corpus[section] = {"b": source(**{"reader": "text", "path": "b"} | fields)}
    with pytest.raises(UserError, match=rf"config\.corpus\.{section}\.b: .*{said}"):
        from_config_dict(node)
