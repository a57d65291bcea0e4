"""What the first `prepare` fixes for good, and what a later one may change."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from jaxsim.config import Config, SourceConfig, TokenizerConfig
from jaxsim.corpus.sources import input_files
from jaxsim.corpus.store import FORMAT_VERSION
from jaxsim.corpus.tokenizer import Tokenizer
from jaxsim.errors import UserError

# Fields that decide what each kind of tokenizer is; a 'file' by its digest.
_DECIDING = {
    "bytes": ("kind",),
    "bpe": ("kind", "vocab_size", "sample_bytes"),
    "file": ("kind", "end_of_text"),
}


def frozen_config(config: Config) -> dict[str, Any]:
    """The part of a config that a pool rests on, as plain JSON data."""
    return plain(
        {
            "length": config.model.length,
            "budget_rows": config.recipe.steps * config.recipe.batch,
            "tokenizer": dataclasses.asdict(config.corpus.tokenizer),
            "split": dataclasses.asdict(config.corpus.split),
            "seed_text": {
                name: dataclasses.asdict(source)
                for name, source in config.corpus.seed_text.items()
            },
        }
    )


def check_frozen(frozen: dict[str, Any], config: Config, folder: Path) -> None:
    """Refuses a config that contradicts what was frozen.

    Raises:
      UserError: naming key, frozen value and new value.
    """
    new = frozen_config(config)

    def need(key: str, was: object, wanted: object) -> None:
        if was != wanted:
            raise UserError(
                f"{key}: {was!r} was frozen in {folder}, the config has "
                f"{wanted!r}; set it back, use another --workdir, or start a "
                "new corpus with `jaxsim prepare --refreeze` (the pool trained "
                "on the old one will then be refused)"
            )

    need("model.length", frozen["length"], new["length"])
    need(
        "recipe.steps * recipe.batch",
        frozen["budget_rows"],
        new["budget_rows"],
    )
    kind = frozen["tokenizer"]["kind"]
    for field in _DECIDING[kind]:
        need(
            f"corpus.tokenizer.{field}",
            frozen["tokenizer"][field],
            new["tokenizer"][field],
        )
    if kind == "file":
        need(
            "corpus.tokenizer.path (its content)",
            frozen["tokenizer_digest"],
            _file_digest(config.corpus.tokenizer, frozen["tokenizer_digest"]),
        )
    for field, value in frozen["split"].items():
        need(f"corpus.split.{field}", value, new["split"].get(field))
    need("corpus.seed_text", frozen["seed_text"], new["seed_text"])


def _file_digest(config: TokenizerConfig, frozen: str) -> str:
    # The workdir has a copy: the file itself may be gone.
    if not Path(config.path).exists():
        return frozen
    return Tokenizer.from_file(Path(config.path), config.end_of_text).digest


def fingerprint(config: Config) -> str:
    """Cheap evidence that a `prepare` would do the same work again.

    Sizes and modification times of all inputs and everything in the config
    that matters here. It can only make work be done again, never be skipped
    wrongly by a copy: modification times are compared for equality.
    """
    inputs = [
        (where, name, file, path.stat().st_size, path.stat().st_mtime_ns)
        for where, sources in _sources(config).items()
        for name, source in sources.items()
        for file, path in input_files(name, source)
    ]
    corpus = dataclasses.asdict(config.corpus)
    content = json.dumps(
        plain([FORMAT_VERSION, corpus, frozen_config(config), inputs]),
        sort_keys=True,
    )
    return hashlib.sha256(content.encode()).hexdigest()


def _sources(config: Config) -> dict[str, dict[str, SourceConfig]]:
    return {
        "partitions": config.corpus.partitions,
        "domains": config.corpus.domains,
        "seed_text": config.corpus.seed_text,
    }


def plain(value: Any) -> Any:
    """As JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(value))
