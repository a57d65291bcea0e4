"""What a workdir was made with, and whether a config asks for the same."""

from pathlib import Path
from typing import Any

from jaxsim import records
from jaxsim.config import Config
from jaxsim.corpus import Corpus, open_corpus, store
from jaxsim.corpus.store import CorpusRecord
from jaxsim.distributed import on_lead
from jaxsim.errors import JaxsimError, UserError
from jaxsim.log import say
from jaxsim.pool import open_pool
from jaxsim.pool.digests import differences
from jaxsim.pool.manifest import read_manifest
from jaxsim.pool.pool import FROM_CORPUS
from jaxsim.pool.publish import is_published

# Settings of the recipe that a base model is trained with, too.
SHARED = ("beta1", "beta2", "weight_decay", "weight_decay_all", "clip", "precision")


def check(config: Config, workdir: Path) -> None:
    """Refuses a config that asks for another corpus or pool than the workdir has.

    Every command that takes a config calls it.

    Raises:
      UserError: names the keys that differ.
    """
    asked, was = records.plain(config), dict[str, Any]()
    if (path := store.path_of(workdir)).exists():
        record = records.load(path, CorpusRecord, store.ADVICE)
        was["corpus"] = records.plain(record.config)
        del was["corpus"]["workers"]  # changes no result
        if config.base.path:  # which says where the tokenizer is
            was["corpus"]["tokenizer"]["path"] = config.corpus.tokenizer.path
        _adopt_paths(was["corpus"], asked["corpus"])
    if is_published(workdir / "base"):
        made = read_manifest(workdir / "base")
        keys = asked["base"] if made.source is None else ["path"]
        was["base"] = {key: made.recipe.get(key) for key in keys}
        was["model"] = made.model
        if made.source is None:
            was["recipe"] = {key: made.recipe.get(key) for key in SHARED}
        elif config.base.path:
            folder = Path(config.base.path)
            if folder.is_dir() and (other := made.source.difference(folder)):
                raise UserError(
                    f"config.base.path={str(folder)!r}: the base model of {workdir} "
                    f"was imported from other files: {other}. Give the folder that it "
                    "was imported from, or use another --workdir"
                )
            was["base"]["path"] = config.base.path  # moved, or no longer needed
    if (workdir / "pool" / "pool.json").exists():
        shared = open_pool(workdir).identity
        was |= {"recipe": shared["recipe"], "model": shared["model"]}
        for key in FROM_CORPUS:
            was["recipe"].pop(key, None)
    asked = {g: {key: asked[g].get(key) for key in part} for g, part in was.items()}
    if lines := differences(was, asked, "config."):
        other = "use another --workdir"
        if all(line.startswith("config.corpus.") for line in lines):
            other = "run `jaxsim prepare` first"
        raise UserError(
            f"{workdir} was made with other values: {'; '.join(lines)}. Restore them, "
            f"or {other}"
        )


def say_misfit(what: str, config: Config, workdir: Path) -> None:
    """Says what `check` refuses, for commands that do not depend on it."""
    try:
        check(config, workdir)
    except JaxsimError as error:
        say(f"{what}: {error}")


def checked_corpus(config: Config, workdir: Path) -> Corpus:
    """The corpus as process 0 sees it; its digests check what others read."""

    def checked() -> dict[str, Any]:
        check(config, workdir)
        return dict(records.plain(open_corpus(workdir).record))

    record = records.from_plain(CorpusRecord, on_lead(checked), "corpus.json")
    return Corpus(workdir, record)


def _adopt_paths(was: dict[str, Any], asked: dict[str, Any]) -> None:
    """Replaces paths that are not on this machine: another one made the corpus."""
    for key in was.keys() & asked.keys():
        then, now = was[key], asked[key]
        if isinstance(then, dict):
            _adopt_paths(then, now)
        elif key == "path" and then != now and not Path(now).exists():
            say(f"{now} is not on this machine; the corpus was made from {then}")
            asked[key] = then
