"""The command `export`: models for other people's tools, and mixtures for trainers.

A model of the pool, or a merge of its members, becomes a Hugging Face folder with the
files that the base model came with. A mixture becomes a file that mergekit, OLMo-core
or the library `datasets` reads.
"""

import contextlib
import dataclasses
import json
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.compute as pc
import tokenizers

from jaxsim import records
from jaxsim.config import CorpusConfig, ModelConfig, load_config
from jaxsim.corpus import Corpus, open_corpus, store
from jaxsim.corpus.formats import stem_of
from jaxsim.corpus.names import Labels
from jaxsim.corpus.sources import find_inputs
from jaxsim.corpus.tokenizer import Tokenizer, special_tokens
from jaxsim.errors import DamagedError, UserError, check_known, command_line
from jaxsim.log import progress, say
from jaxsim.model import LanguageModel
from jaxsim.model.huggingface import check_new, save_checkpoint
from jaxsim.pool import Manifest
from jaxsim.pool.digests import params_digest
from jaxsim.pool.manifest import file_problem, load_verified, read_manifest, repair
from jaxsim.pool.publish import SOURCE, is_published
from jaxsim.scoring.evaluation import current_basis
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.stack import check_entry
from jaxsim.scoring.table import Mixtures, mixture_key, one_mixture, read_csv
from jaxsim.search.result import check_best, load_search
from jaxsim.train.runs import title

Dtype = Literal["float32", "bfloat16"]
README = "README.md"
# Files that `--recipe` writes.
RECIPES = {
    "mergekit": "mergekit.yaml",
    "json": "shares.json",
    "olmo-core": "olmo-core.yaml",
    "datasets": "datasets.json",
}
BFLOAT16_COST = (
    "Rounded to bfloat16. That changes a merge by about 3 % of what distinguishes a "
    "member from the base model; export float32 to keep all of it."
)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is exported: an entry of the pool, or a merge of its members.

    Attributes:
      name: as the user gave it, without folders.
      manifest: of the entry; None for a merge.
      row: the mixture, one row over the members; None for the base model.
    """

    name: str
    manifest: Manifest | None
    row: Mixtures | None

    @property
    def title(self) -> str:
        if self.manifest is None:
            return f"merge {self.name}"
        return title(self.manifest.kind, self.name)


def export(
    workdir: Path,
    what: str | None = None,
    to: Path | None = None,
    dtype: str | None = None,
    recipe: str | None = None,
    override: bool = False,
) -> Path:
    """Writes a model as a Hugging Face folder, or a mixture for another tool.

    Returns the folder, or the file of the mixture.
    """
    if what is None or to is None:
        missing = "--what=NAME" if what is None else "--to=FOLDER"
        raise UserError(f"export: {missing} is missing")
    to = Path(os.path.abspath(to))
    if recipe is not None:
        if dtype is not None:
            raise UserError("export: --dtype and --recipe: give one of them")
        path, scorer = to / RECIPES[recipe], Scorer(workdir, override=override)
        text = _recipe(scorer, what, to, recipe)
        try:
            to.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{to}: cannot be made: {error.strerror}") from error
        records.write(path, text)
        for gap in scorer.gaps:
            say(gap)
        return path
    check_new(to)
    kind: Dtype = "bfloat16" if dtype == "bfloat16" else "float32"
    _export_model(workdir, what, to, kind, override)
    return to


def _export_model(
    workdir: Path, what: str, to: Path, dtype: Dtype, override: bool
) -> None:
    corpus, entry = open_corpus(workdir), workdir / "base"
    if not is_published(entry):
        raise UserError(f"{workdir}: there is no base model; run `jaxsim base`")
    base, notes = read_manifest(entry), list[str]()
    config = records.from_plain(ModelConfig, base.model, "model")
    model = LanguageModel(config, corpus.tokenizer.vocab_size)
    source = _kept_files(entry, base)
    scorer, choice = None, Choice(Labels.BASE, base, None)
    if what != Labels.BASE or (workdir / "pool" / "pool.json").exists():
        scorer = Scorer(workdir, override=override)
        choice = _chosen(scorer, what)
    params = _parameters(workdir, scorer, choice, model, notes)
    facts = _facts(scorer, choice, base, corpus.tokenizer, notes)
    facts["digest"] = exact = params_digest(params)
    if dtype == "bfloat16":
        params = jax.tree.map(_rounded, params)
        facts["digest"] = params_digest(params)
    if facts["digest"] != exact:
        facts["digest before rounding"] = exact
    readme = _readme(choice, facts, scorer, to, config.length, dtype)

    def add(folder: Path) -> None:
        _write_tokenizer(folder, corpus)
        with records.naming(folder / README):
            (folder / README).write_text(readme, encoding="utf-8")

    save_checkpoint(to, params, config, model.vocab_size, source, dtype, add)
    for note in notes:
        say(note)


def _kept_files(entry: Path, base: Manifest) -> Path | None:
    """The folder of the files that an imported base model came with, checked."""
    if base.source is None:
        return None
    root = entry / base.attempt
    for name, file in base.files.items():
        if name.startswith(f"{SOURCE}/") and (
            problem := file_problem(root / name, *file)
        ):
            raise DamagedError(f"base model: file {name} {problem}", repair(entry))
    return root / SOURCE


def _chosen(scorer: Scorer, what: str) -> Choice:
    """What `--what` names.

    Raises:
      UserError: nothing; lists what there is.
    """
    workdir, pool, members = scorer.workdir, scorer.pool, scorer.members
    if what == Labels.BASE:
        return Choice(what, read_manifest(pool.base_entry), None)
    if what in pool.names():
        manifest, row = pool.manifest(what), None
        if manifest.mixture.keys() <= set(members):
            w_C = np.array([manifest.mixture.get(name, 0.0) for name in members])
            row = one_mixture(members, w_C)
        return Choice(what, manifest, row)
    file, separator, name = what.partition(".csv:")
    if separator:
        path = Path(os.path.expanduser(f"{file}.csv"))
        check_best(workdir, path)
        table = read_csv(members, path)
        check_known("row", name, table.names, str(path))
        row = table.take([table.names.index(name)])
        return Choice(f"{path.name}:{name}", None, row)
    if what == Labels.BEST:
        found = load_search(workdir)
        if changed := found.basis.difference(scorer.now()):
            raise UserError(
                f"{workdir}: the search was of another pool: {changed}; run `jaxsim "
                "search` again"
            )
        weights = found.best["weights"]
        w_C = np.array([weights.get(member, 0.0) for member in members])
        return Choice(what, None, one_mixture(members, w_C, found.best["scale"]))
    table = scorer.merges()
    known = (Labels.BASE, Labels.BEST, *table.names, *pool.names())
    check_known("model", what, known, f"--what={what}")
    return Choice(what, None, table.take([table.names.index(what)]))


def _parameters(
    workdir: Path,
    scorer: Scorer | None,
    choice: Choice,
    model: LanguageModel,
    notes: list[str],
) -> Any:
    """The parameters of a choice; `notes` gets what an override admits."""
    if scorer is None:
        entry = workdir / "base"
        return load_verified(entry, read_manifest(entry), model.shapes())
    pool, manifest = scorer.pool, choice.manifest
    if choice.row is None and choice.name == Labels.BASE:
        return pool.base()[1]
    if manifest is not None:
        check_entry(pool, manifest, scorer.corpus, scorer.override, notes)
        return load_verified(pool.entry(choice.name), manifest, model.shapes())
    assert choice.row is not None
    notes += scorer.gaps
    return _merged(scorer, choice.row, notes)


def _merged(scorer: Scorer, row: Mixtures, notes: list[str]) -> Any:
    """`base + scale * sum_c w_c * (member_c - base)` of one row, in float32.

    Memory holds two trees: as weights sum to 1, the sum is a mean of members, which
    takes in one after the other.
    """
    pool, scale = scorer.pool, float(row.scale_M[0])
    parts = row.parts(0) if scale else {}
    mean: Any = None
    total = 0.0
    with progress(len(parts), "merging", "members") as tick:
        for name, weight in parts.items():
            manifest = pool.manifest(name)
            check_entry(pool, manifest, scorer.corpus, scorer.override, notes)
            entry, shapes = pool.entry(name), pool.model.shapes()
            member = load_verified(entry, manifest, shapes)
            total += weight
            mean = member if mean is None else _toward(mean, member, weight / total)
            tick(1)
    if scale == 1:
        return mean
    base = pool.base()[1]
    return base if mean is None else _toward(base, mean, scale)


def _rounded(leaf: np.ndarray) -> np.ndarray:
    return np.asarray(leaf.astype(jnp.bfloat16).astype(np.float32))


def _toward(start: Any, end: Any, share: float) -> Any:
    """`start + share * (end - start)`, in the memory of `end`."""

    def move(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        np.subtract(b, a, out=b)
        np.multiply(b, np.float32(share), out=b)
        return np.add(a, b, out=b)

    return jax.tree.map(move, start, end)


# The tokenizer of a base model that was trained here.


def _write_tokenizer(folder: Path, corpus: Corpus) -> None:
    """Completes the files that transformers makes a tokenizer of.

    Those that an imported base model came with stay, unless they name other tokens
    before and after a document than the corpus was prepared with.
    """
    tokenizer, path = corpus.tokenizer, folder / "tokenizer.json"
    about_path = folder / "tokenizer_config.json"
    about: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": corpus.length,
        "clean_up_tokenization_spaces": False,
    }
    if tokenizer.kind == "bytes":
        path.write_text(_of_bytes(tokenizer).to_str(), encoding="utf-8")
    elif not path.exists():
        kept = store.folder_of(corpus.workdir, "tokenizer", tokenizer.digest)
        path.write_bytes((kept / path.name).read_bytes())
    borders = tokenizer.begin_of_text_token, tokenizer.end_of_text_token
    if about_path.exists():
        with contextlib.suppress(UserError):  # several ends, and such
            if special_tokens(folder) == borders:
                return
        about = json.loads(about_path.read_text(encoding="utf-8"))
    about |= {"bos_token": borders[0], "eos_token": borders[1]}
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    about_path.write_text(text, encoding="utf-8")


def _of_bytes(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """A byte-level BPE without merges, in which the id of a byte is its value."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    # Bytes that are no letter stand for the characters from 256 on, in order.
    others = (byte for byte in range(256) if byte not in plain)
    letters = {chr(256 + i): byte for i, byte in enumerate(others)}
    letters |= {chr(byte): byte for byte in plain}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(letters, []))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    bpe.decoder = tokenizers.decoders.ByteLevel()
    bpe.add_special_tokens([tokenizer.end_of_text_token])
    return bpe


# README.md.


def _facts(
    scorer: Scorer | None,
    choice: Choice,
    base: Manifest,
    tokenizer: Tokenizer,
    notes: Sequence[str],
) -> dict[str, str]:
    """What identifies an exported model, by name."""
    facts = {}
    if base.source is not None:
        facts["base model"] = f"{base.source.name} ({base.source.family})"
    facts |= {
        "token before a document": tokenizer.begin_of_text_token,
        "token after a document": tokenizer.end_of_text_token,
        "base digest": base.params_digest,
    }
    if scorer is not None:
        now = records.plain(current_basis(scorer.corpus, scorer.pool).members)
        facts["pool digest"] = records.digest([base.params_digest, now])
    return facts | {"note": "; ".join(notes)} if notes else facts


def _readme(
    choice: Choice,
    facts: dict[str, str],
    scorer: Scorer | None,
    to: Path,
    length: int,
    dtype: str,
) -> str:
    """What the folder holds, as Markdown."""
    lines = [f"# {choice.title}", ""]
    origin = (
        "A merge of the members of a pool"
        if choice.manifest is None
        else {
            "base": "The base model of a pool",
            "member": "The base model after training on one unit",
            "reference": "A model trained on a mixture",
            "replicate": "A run repeated with another data seed",
        }[choice.manifest.kind]
    )
    lines += [f"{origin}, made with jaxsim.", ""]
    rounded = "digest before rounding" in facts
    if rounded and choice.row is not None:
        lines += [BFLOAT16_COST, ""]
    lines += _table(("what", "value"), facts.items())
    if choice.row is not None:
        scale = float(choice.row.scale_M[0])
        parts = choice.row.parts(0).items()
        lines += ["## Mixture", ""]
        if scale != 1:
            lines += [f"The difference from the base model times {scale:g}.", ""]
        lines += _table(("member", "weight"), [(n, f"{w:.6g}") for n, w in parts])
    lines += ["## Evaluation" + ", before rounding" * rounded, ""]
    if rows := _evaluated(scorer, choice) if scorer else []:
        lines += _table(("domain", "text", "bits per byte", "tokens"), rows)
    else:
        text = (
            "Not scored. `jaxsim score --mixtures=FILE.csv` scores the rows of a file"
        )
        lines += [
            f"{text} (for the best mixture: search/best.csv); then export it.",
            "",
        ]
    arguments = {
        "pretrained": str(to),
        "dtype": dtype,
        "max_length": str(length),
        "add_bos_token": "False",
    }
    joined = ",".join(f"{key}={value}" for key, value in arguments.items())
    line = shlex.join(["lm_eval", "--model", "hf", "--model_args", joined])
    lines += [
        f"Windows of {length} tokens, as in training. To score whole texts in the same "
        "way:",
        "",
        f"    {line} --tasks TASK",
        "",
    ]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown; bars in cells are escaped."""
    cells = [header, ["---"] * len(header), *rows]
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in cells]
    return [*(f"| {line} |" for line in lines), ""]


def _evaluated(scorer: Scorer, choice: Choice) -> list[tuple[str, str, str, str]]:
    """Bits per byte by domain and split, from the table with the most tokens."""
    merged = choice.manifest is None or choice.manifest.kind in ("base", "member")
    predictor = "merge" if merged else "reference"
    now, found = scorer.now(), list[list[dict[str, Any]]]()
    for table in scorer.store.names():
        record = scorer.store.record(table)
        if predictor not in record.predictors or record.basis.difference(now):
            continue
        for m, name in enumerate(record.names):
            row = np.array(record.weights[m]), record.scales[m], record.members
            if name == choice.name if not merged else _is_row(choice, *row):
                arrow = scorer.store.arrow(table)
                for column, value in (("mixture", name), ("predictor", predictor)):
                    arrow = arrow.filter(pc.equal(arrow[column], value))
                found.append(arrow.to_pylist())
                break
    best = max(found, key=lambda rows: sum(r["tokens"] for r in rows), default=[])
    return [
        (
            *(row["domain"], row["split"]),
            f"{row['bits_per_byte']:.5f}",
            f"{row['tokens']:,}",
        )
        for row in best
    ]


def _is_row(
    choice: Choice, w_C: np.ndarray, scale: float, members: Sequence[str]
) -> bool:
    """Whether a row of a table is the same model."""
    if choice.row is None or scale == 0:
        return choice.row is None and scale == 0
    return (
        choice.row.members == tuple(members)
        and float(choice.row.scale_M[0]) == scale
        and mixture_key(choice.row.w_MC[0]) == mixture_key(w_C)
    )


# Mixtures for other tools.


def _recipe(scorer: Scorer, what: str, to: Path, recipe: str) -> str:
    """The text of a mixture's file.

    Raises:
      UserError: it is no mixture, or the tool cannot be told about it.
    """
    choice = _chosen(scorer, what)
    if choice.row is None:
        raise UserError(f"--what={what}: is no mixture of the members of this pool")
    if recipe == "mergekit":
        return _mergekit(scorer, choice, to)
    if choice.row.scale_M[0] != 1:
        raise UserError(
            f"--what={what}: has scale {choice.row.scale_M[0]:g}; a merge can have "
            "one, training data cannot"
        )
    corpus = scorer.corpus
    shares: dict[str, float] = {}
    for member, weight in choice.row.parts(0).items():
        partition = corpus.unit(member).partition
        shares[partition] = shares.get(partition, 0.0) + weight
    replay = scorer.pool.identity["recipe"]["replay"]
    if recipe == "json":
        return _json({"name": what, "shares": shares, "replay": replay})
    config = load_config(scorer.workdir / "config.json").corpus
    paths = {name: _paths(config, name, recipe) for name in shares}
    if recipe == "olmo-core":
        return _olmo_core(what, shares, paths)
    # Shares are of tokens, but `interleave_datasets` draws documents.
    documents = {n: shares[n] / _document_tokens(corpus, n) for n in shares}
    total = sum(documents.values())
    return _json(
        {
            "names": list(shares),
            "paths": list(paths.values()),
            "probabilities": [x / total for x in documents.values()],
            "shares": list(shares.values()),
            "replay": replay,
        }
    )


def _mergekit(scorer: Scorer, choice: Choice, to: Path) -> str:
    """A linear merge of exported members, as mergekit reads it."""
    assert choice.row is not None
    if choice.manifest is not None and choice.manifest.kind != "member":
        raise UserError(f"--what={choice.name}: was trained, so there is no merge")
    scale = float(choice.row.scale_M[0])
    weights = {name: scale * w for name, w in choice.row.parts(0).items()}
    if scale != 1:
        weights[Labels.BASE] = 1 - scale
    lines = [f"# {choice.title}", "merge_method: linear", "dtype: float32", "models:"]
    for name, weight in weights.items():
        folder = to / name
        if not _holds(folder, _chosen(scorer, name).manifest):
            flags = f"--what={name}", f"--to={folder}"
            line = command_line("export", scorer.workdir, *flags)
            raise UserError(
                f"{folder}: is not this model in float32; delete what is there and run "
                f"`{line}` first"
            )
        lines += [
            f"  - model: {_quoted(str(folder))}",
            f"    parameters: {{weight: {_number(weight)}}}",
        ]
    return "\n".join([*lines, ""])


def _holds(folder: Path, manifest: Manifest | None) -> bool:
    """Whether a folder is the export of an entry, by the digest in its README.md."""
    if manifest is None or not (folder / README).is_file():
        return False
    line = f"| digest | {manifest.params_digest} |"
    return line in (folder / README).read_text(encoding="utf-8")


def _olmo_core(what: str, shares: dict[str, float], paths: dict[str, list[str]]) -> str:
    """A `SourceMixtureList` of OLMo-core."""
    lines = [
        f"# {what}: shares of tokens. OLMo-core reads arrays of token ids: put those",
        "# made from these files in the place of the paths.",
        "sources:",
    ]
    for name, share in shares.items():
        lines += [
            f"  - source_name: {_quoted(name)}",
            f"    target_ratio: {_number(share)}",
            "    paths:",
            *(f"      - {_quoted(path)}" for path in paths[name]),
        ]
    return "\n".join([*lines, ""])


def _paths(config: CorpusConfig, partition: str, recipe: str) -> list[str]:
    """The files or the folder that hold a partition and nothing else."""
    for name, source in config.partitions.items():
        if not source.path or source.by_field or source.by_dates or source.where:
            continue
        try:
            files = find_inputs(name, source).files
        except UserError as error:
            raise UserError(
                f"config.corpus.partitions.{name}.path={source.path!r}: {error}; run "
                "this where `jaxsim prepare` ran, so that paths are those of then"
            ) from error
        if not source.by_file and name == partition and Path(source.path).exists():
            return [str(Path(source.path).absolute())]
        here = [
            file.path if "://" in file.path else str(Path(file.path).absolute())
            for file in files
            if (stem_of(file.name) if source.by_file else name) == partition
        ]
        if here:
            return here
    raise UserError(
        f"--recipe={recipe}: partition {partition!r} has no file or folder of its own: "
        "its documents are chosen by metadata, or come with a package. Write them to a "
        "folder, or take --recipe=json, which has names and shares"
    )


def _document_tokens(corpus: Corpus, partition: str) -> float:
    """Mean tokens of a document of a partition, with its end."""
    tokens = sum(u.tokens for u in corpus.units.values() if u.partition == partition)
    return tokens / corpus.record.summary["documents"][partition]["train"]


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _quoted(text: str) -> str:
    """A string of YAML."""
    return json.dumps(text, ensure_ascii=False)


def _number(value: float) -> str:
    """A number of YAML, in which 1e-05 would be a string."""
    return np.format_float_positional(value, trim="0")
