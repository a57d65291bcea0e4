"""A pool: members, reference runs and replicates of one base model and one recipe."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxsim import records
from jaxsim.config import Config, ModelConfig, RecipeConfig
from jaxsim.corpus import Corpus
from jaxsim.corpus.names import Labels
from jaxsim.errors import DamagedError, UserError
from jaxsim.model import LanguageModel
from jaxsim.pool.digests import differences
from jaxsim.pool.manifest import Manifest, load_verified, read_manifest
from jaxsim.pool.publish import is_published
from jaxsim.train.runs import title

POOL_ADVICE = "copy the pool again"
# What a pool's recipe has besides the fields of a `RecipeConfig`.
FROM_CORPUS = ("unit_tokens", "replay_text")


@dataclasses.dataclass(frozen=True)
class PoolRecord:
    """What pool.json says: what all entries share, and the vocabulary's size."""

    vocab_size: int
    base_digest: str
    tokenizer_digest: str
    recipe: dict[str, Any]
    model: ModelConfig

    def check_parts(self) -> None:
        """Raises a `UserError` if a field is impossible; see `records`."""
        found, most = self.vocab_size, 2**31
        records.need(0 < found < most, f"below {most:,}", found, "vocab_size")
        recipe = {k: v for k, v in self.recipe.items() if k not in FROM_CORPUS}
        records.from_plain(RecipeConfig, recipe, "recipe")

    def identity(self) -> dict[str, Any]:
        """What all entries share, as plain data."""
        plain = dataclasses.asdict(self)
        del plain["vocab_size"]
        return plain


@dataclasses.dataclass(frozen=True)
class Pool:
    """An open pool. Entries are read again, so that additions are seen."""

    workdir: Path
    model: LanguageModel  # the shape of every tree in it
    identity: dict[str, Any]  # see `PoolRecord`

    @property
    def base_entry(self) -> Path:
        return self.workdir / "base"

    def entry(self, name: str) -> Path:
        """The directory of an entry, published or not."""
        return self.workdir / "pool" / "members" / name

    def names(self) -> list[str]:
        """The names of all admitted entries, sound or damaged."""
        root = self.workdir / "pool" / "members"
        paths = sorted(root.iterdir()) if root.is_dir() else []
        return [path.name for path in paths if is_published(path)]

    def manifests(self, *kinds: str) -> dict[str, Manifest]:
        """The admitted entries of these kinds, or all, by name."""
        found = {name: read_manifest(self.entry(name)) for name in self.names()}
        return {n: m for n, m in found.items() if not kinds or m.kind in kinds}

    def manifest(self, name: str) -> Manifest:
        """The manifest of one entry; a `UserError` if the pool has none."""
        if not is_published(self.entry(name)):
            raise UserError(
                f"{self.workdir}: the pool has no entry {name!r}; run `jaxsim train`"
            )
        return read_manifest(self.entry(name))

    def base(self) -> tuple[Manifest, Any]:
        """The base model's manifest and verified parameters."""
        manifest = read_manifest(self.base_entry)
        params = load_verified(self.base_entry, manifest, self.model.shapes())
        if manifest.params_digest != self.identity["base_digest"]:
            raise DamagedError(
                f"{self.workdir}: the base model is not the one that the pool was "
                "made from"
            )
        return manifest, params

    def load(self, manifest: Manifest) -> Any:
        """The parameters that `manifest` admits, as numpy arrays; see `load_verified`.

        Another base model, tokenizer, recipe or model is a `DamagedError`, too.
        """
        if problems := self.compatibility_problems(manifest):
            raise DamagedError(
                f"{title(manifest.kind, manifest.name)} does not belong to this "
                f"pool: {'; '.join(problems)}"
            )
        return load_verified(self.entry(manifest.name), manifest, self.model.shapes())

    def compatibility_problems(self, manifest: Manifest) -> list[str]:
        """Fields of `manifest` that differ from what the pool shares."""
        found = {key: getattr(manifest, key) for key in self.identity}
        return differences(self.identity, found)

    def problems(self) -> dict[str, str]:
        """Everything wrong with the base model and all entries, by name."""
        found = {}
        for name in ("base", *self.names()):
            try:
                if name == "base":
                    self.base()
                else:
                    self.load(read_manifest(self.entry(name)))
            except DamagedError as error:
                found[name] = error.what
        return found


def create_pool(workdir: Path, config: Config, corpus: Corpus) -> Pool:
    """Opens the pool of `workdir`, or starts it from the base model there.

    Raises:
      UserError: the pool was made with another base model, recipe or model, or the
        corpus with another budget.
    """
    if not is_published(workdir / "base"):
        raise UserError(f"{workdir}: there is no base model; run `jaxsim base`")
    base = read_manifest(workdir / "base")
    recipe, length, budget = config.recipe, config.model.length, corpus.budget_tokens
    shared = dataclasses.asdict(recipe) | {"unit_tokens": budget}
    # What a base model was trained on is in its manifest.
    if recipe.replay and not base.data_digests:
        shared["replay_text"] = corpus.unit(Labels.BASE).digest
    record = PoolRecord(
        vocab_size=corpus.tokenizer.vocab_size,
        base_digest=base.params_digest,
        tokenizer_digest=base.tokenizer_digest,
        recipe=shared,
        model=config.model,
    )
    path = workdir / "pool" / "pool.json"
    if path.exists():
        if lines := differences(open_pool(workdir).identity, record.identity()):
            raise UserError(
                f"{workdir} holds a pool that this config cannot continue: "
                f"{'; '.join(lines)}. Restore those values, or use another "
                "--workdir"
            )
    elif recipe.steps * recipe.batch * length != budget:
        raise UserError(
            f"{workdir}: its corpus has units of {budget:,} tokens, and "
            f"the config asks for {recipe.steps} steps of {recipe.batch} rows "
            f"of {length}; set them back, or prepare the text again in another "
            "--workdir"
        )
    else:
        records.save(path, record)
    return open_pool(workdir)


def open_pool(workdir: Path) -> Pool:
    """The pool of a workdir, for reading.

    Raises:
      UserError: there is none yet.
      DamagedError: its pool.json is unreadable or of another version; or see
        `check_tree`.
    """
    records.check_tree(workdir)
    path = Path(workdir) / "pool" / "pool.json"
    if not path.exists():
        raise UserError(f"{workdir}: there is no pool; run `jaxsim train`")
    record = records.load(path, PoolRecord, POOL_ADVICE)
    model = LanguageModel(record.model, record.vocab_size)
    return Pool(Path(workdir), model, record.identity())
