"""The smallest project that can be scored, made by the commands themselves.

Four members: two periods of one topic, one of another, and a source of its
own; so there is one group of two. One domain is out-of-pool.
"""

import contextlib
import functools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from jaxsim import cli

MEMBERS = ("alpha,1900-1909", "alpha,1910-1919", "beta,1900-1909", "solo")
CONFIG = """
from pathlib import Path

from jaxsim.config import default_config, source

HERE = Path(__file__).parent


def get_config(arg=None):
    words = (arg or "").split(",")
    c = default_config()
    c.name = "tiny"
    c.corpus.partitions = {
        "texts": source(
            reader="records",
            path=str(HERE / "texts.jsonl"),
            by_field="topic",
            by_dates=(("1900", "1909"), ("1910", "1919")),
        ),
        "solo": source(reader="records", path=str(HERE / "solo.jsonl")),
    }
    c.corpus.domains = {
        "outside": source(reader="records", path=str(HERE / "outside.jsonl")),
    }
    if "alone" in words:
        del c.corpus.partitions["texts"]
    if "small" in words:
        c.corpus.partitions["small"] = source(
            reader="records", path=str(HERE / "small.jsonl")
        )
    if "later" in words:
        c.corpus.domains["later"] = source(
            reader="records", path=str(HERE / "later.jsonl")
        )
    if "task" in words:
        c.corpus.domains["task"] = source(
            reader="records",
            path=str(HERE / "task.jsonl"),
            prompt_field="question.text",
            completion_field="answer",
            by_field="subject",
        )
    c.corpus.tokenizer.kind = "bytes"
    c.corpus.split.salt = "tiny"
    c.corpus.split.dev = 0.25
    c.corpus.split.test = 0.25
    c.model.length = 32
    c.model.layers = 1
    c.model.dim = 16
    c.model.heads = 2
    c.model.kv_heads = 2
    c.model.mlp_dim = 32
    c.model.vocab_rows = 264
    c.base.steps = 3
    c.base.batch = 8
    c.base.warmup = 1
    c.recipe.steps = 2
    c.recipe.warmup = 0
    c.recipe.batch = 8
    # Members should lie far enough apart to be told from rounding.
    c.recipe.learning_rate = 3e-2
    c.train.unroll = False
    c.score.unroll = False
    c.score.rows = 8
    c.score.mixtures = "subsets:1-2"
    c.score.windows = 3
    c.search.candidates = 200
    c.search.evaluations = 20
    c.validate.held_out = 3
    c.validate.replicates = 1
    return c
"""


def write_sources(folder: Path) -> Path:
    """Texts of words that differ by partition; the path of the config."""
    with (folder / "texts.jsonl").open("w") as file:
        for topic, year in (("alpha", 1905), ("alpha", 1915), ("beta", 1905)):
            for record in _records(f"{topic}{year}", 16):
                record |= {"created": str(year), "topic": topic}
                file.write(json.dumps(record) + "\n")
    for name, count in (("solo", 16), ("outside", 8), ("small", 8), ("later", 8)):
        with (folder / f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps(r) + "\n" for r in _records(name, count))
    with (folder / "task.jsonl").open("w") as file:
        for subject in ("easy", "hard"):
            for i, record in enumerate(_records(subject, 12)):
                words = record.pop("text").split()
                at = len(words) - 1 - i % 3
                question = {"text": f"{' '.join(words[:at])}:"}
                answer = f" {' '.join(words[at:])}"
                about = {"subject": subject, "question": question, "answer": answer}
                file.write(json.dumps(record | about) + "\n")
    path = folder / "tiny.py"
    path.write_text(CONFIG)
    return path


def _records(name: str, count: int) -> list[dict[str, str]]:
    rng = random.Random(name)
    letters = rng.sample("abcdefghijklmnop", 6)
    records = []
    for i in range(count):
        # Of every four documents one has a window of 8 tokens, one of 16.
        words = (20, 20, 1, 3)[i % 4]
        text = " ".join("".join(rng.choices(letters, k=4)) for _ in range(words))
        records.append({"id": f"{name}/{i}", "text": text})
    return records


@functools.cache
def project(folder: Path) -> Path:
    """A workdir with corpus, base model and members, and beside it tiny.py."""
    folder.mkdir()
    config, workdir = write_sources(folder), folder / "work"
    for command in ("prepare", "base", "train"):
        assert run(command, workdir, config) == 0
    return workdir


def run(command: str, workdir: Path, config: Path | str, *rest: str) -> int:
    """One command as a user types it; its exit code."""
    return cli.main([command, f"--config={config}", f"--workdir={workdir}", *rest])


def flip(path: Path, at: float = 0.5) -> None:
    """Flips a bit, at a share of the file's length."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


def largest_file(entry: Path) -> Path:
    """Of the parameters of a member, reference run or repeat."""
    files = [p for p in entry.glob("attempt-*/**/*") if p.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


@contextlib.contextmanager
def quick_compilation(cache: Path) -> Iterator[None]:
    """No optimizations, and each program only once in a session."""
    settings = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(cache),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {key: jax.config.values[key] for key in settings}
    for values in (settings, before):
        compilation_cache.reset_cache()
        for key, value in values.items():
            jax.config.update(key, value)
        if values is settings:
            yield
