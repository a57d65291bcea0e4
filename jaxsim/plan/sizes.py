"""What a configuration leaves open: members of the pool, and vocabulary."""

import dataclasses
from pathlib import Path

from jaxsim.config import Config, SourceConfig, TokenizerConfig
from jaxsim.corpus import open_corpus
from jaxsim.corpus.tokenizer import Tokenizer
from jaxsim.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Members of the pool, and entries of the tokenizer."""

    members: int
    vocabulary: int


def sizes_of(
    config: Config, workdir: Path | None, members: int | None
) -> Sizes:
    """From a prepared workdir, else from the configuration.

    Args:
      config: of the project; its text need not be there.
      workdir: prepared, not yet, or none.
      members: if given, wins over both.

    Raises:
      UserError: the number of members cannot be known.
    """
    if workdir is not None and (workdir / "corpus" / "corpus.json").exists():
        corpus = open_corpus(workdir)
        return Sizes(members or len(corpus.units), corpus.tokenizer.vocab_size)
    return Sizes(members or _members(config), _vocabulary(config))


def _members(config: Config) -> int:
    if config.corpus.max_units > 1:
        raise UserError(
            f"config.corpus.max_units={config.corpus.max_units}: how many "
            f"members that gives shows when the text is prepared; {_INSTEAD}"
        )
    return sum(
        _partitions(name, source)
        for name, source in config.corpus.partitions.items()
    )


_INSTEAD = "give --members=N, or the --workdir of a `jaxsim prepare`"


def _partitions(name: str, source: SourceConfig) -> int:
    if source.by_field or source.by_file:
        raise UserError(
            f"config.corpus.partitions.{name}: how many partitions its "
            f"by_field or by_file gives shows when it is read; {_INSTEAD}"
        )
    return len(source.by_dates) or 1


def _vocabulary(config: Config) -> int:
    tokenizer: TokenizerConfig = config.corpus.tokenizer
    if tokenizer.kind == "bytes":
        return Tokenizer.from_bytes().vocab_size
    if tokenizer.kind == "file" and Path(tokenizer.path).is_file():
        path = Path(tokenizer.path)
        return Tokenizer.from_file(path, tokenizer.end_of_text).vocab_size
    return tokenizer.vocab_size
