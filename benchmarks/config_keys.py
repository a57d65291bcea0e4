"""Changes every config key, and looks what every single command makes of it.

    python benchmarks/config_keys.py

A finished workdir is copied for each case. One command runs on the copy, with one key
changed to another valid value. What may happen:

    refused   exit code 2, and the message names the key
    result    what the command writes, or the plan it prints, is another
    said      a line names the key, or what is not used because of it
    same      the command reads the key, and its result is the same
    unused    the command reads no key of this group (`UNUSED`, `EXECUTION`)
    no value  no other value of this key is valid alone: it needs another key, too

Anything else is a failure: SILENT if the workdir was made with another value and nobody
says so, UNNAMED if a refusal names no key, and FAILED for any other exit code.

Keys are found by walking `Config`, so later ones join by themselves.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
import typing
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import machine
from ml_collections import config_dict

# `verify` and `doctor` take no config.
COMMANDS = (
    "prepare", "base", "train", "score", "validate", "search", "report", "plan",
    "run",
)  # fmt: skip
# What is in a workdir was made with these groups.
MADE = ("corpus", "model", "base", "recipe")
# Groups of which a command reads no key.
UNUSED = {
    "base": ("name", "train", "score", "validate", "search"),
    "train": ("name", "train", "score", "validate", "search"),
    "score": ("name", "train", "validate", "search"),
    "validate": ("name", "train"),
    "search": ("name", "train", "validate", "bucket"),
    "report": ("train", "score", "validate", "search", "bucket"),
    "plan": ("name", "bucket", "search"),
}
# How something is computed: results do not depend on it.
EXECUTION = (
    "train.", "corpus.workers", "score.rows", "score.chunk", "score.attention",
    "score.unroll", "score.loss_chunk", "score.model_axis", "score.memory",
)  # fmt: skip
# Values of keys for which no rule finds one.
VALUES: dict[str, tuple[Any, ...]] = {
    "bucket": ("s3:///",),  # refused before anything is sent
    "score.mixtures": ("subsets:1", "dirichlet:3"),
    "by_field": ("topic",),
    "by_dates": ((("1900", "1904"), ("1905", "1919")),),
    "where": ((("topic", "alpha"),),),
    "reader": ("records", "text"),
    "model.head_dim": (16,),
    "model.positions": (32,),
    "model.rope.share": (0.5,),
    "search.target": ({"a": 1.0},),
    "search.max_regression": ({"outside": 0.5},),
    "search.min_weight": ({"a": 0.5},),
    "search.max_weight": ({"a": 0.25},),
    "search.supply": ({"a": 1e4},),
    "search.tokens": (2000.0,),
    "search.divergence": (0.05,),
    "search.min_effect": (0.02,),
    "search.max_sources": (1, 2),
}
CONFIG = """
from pathlib import Path

from jaxsim.config import default_config, source

HERE = Path(__file__).parent


def get_config(arg=None):
    c = default_config()
    c.name = "keys"
    for kind, names in (("partitions", "abc"), ("domains", ["outside"])):
        setattr(c.corpus, kind, {
            name: source(reader="records", path=str(HERE / f"{name}.jsonl"))
            for name in names
        })
    c.corpus.tokenizer.kind = "bytes"
    c.corpus.split.dev = c.corpus.split.test = 0.25
    c.model.update(length=32, layers=1, dim=16, heads=2, kv_heads=2, mlp_dim=32)
    c.model.vocab_rows = 264
    c.base.update(steps=3, batch=8, warmup=1)
    c.recipe.update(steps=4, batch=4, warmup=1, learning_rate=3e-2)
    c.train.unroll = c.score.unroll = False
    c.score.update(rows=8, mixtures="subsets:1-2", windows=3)
    c.validate.update(held_out=4, replicates=1, candidates=50, windows=4)
    c.search.update(candidates=200, evaluations=20)
    return c
"""


def write_sources(folder: Path) -> Path:
    """Texts of words that differ by partition; the path of the config."""
    for name in ("a", "b", "c", "outside"):
        words = random.Random(name)
        letters = words.sample("abcdefghijklmnop", 6)
        with (folder / f"{name}.jsonl").open("w") as file:
            for i in range(16):
                text = " ".join(
                    "".join(words.choices(letters, k=4))
                    for _ in range((20, 20, 1)[i % 3])
                )
                record = {
                    "id": f"{name}/{i}",
                    "text": text,
                    "created": str(1900 + i % 8),
                    "topic": ("alpha", "beta")[i % 2],
                }
                file.write(json.dumps(record) + "\n")
    (folder / "keys.py").write_text(CONFIG)
    return folder / "keys.py"


def keys_of(kind: Any, value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf key below a group, with its type; of named groups, the first."""
    for key, hint in typing.get_type_hints(kind).items():
        found = value[key]
        path = f"{name}.{key}".lstrip(".")
        args = typing.get_args(hint)
        if dataclasses.is_dataclass(hint):
            yield from keys_of(hint, found, path)
        elif typing.get_origin(hint) is dict and dataclasses.is_dataclass(args[1]):
            yield path, hint
            for first in list(found)[:1]:
                yield from keys_of(args[1], found[first], f"{path}.{first}")
        else:
            yield path, hint


def others(key: str, hint: Any, value: Any, like: Any) -> Iterator[Any]:
    """Other values to try for a key; the first one that is valid is used."""
    for end, given in VALUES.items():
        if key == end or key.endswith(f".{end}"):
            yield from given
            return
    if typing.get_origin(hint) is Literal:
        yield from (v for v in typing.get_args(hint) if v != value)
    elif hint is bool:
        yield not value
    elif hint in (int, float):
        one = hint(1)
        yield from (value + one, value * 2, value / 2, value + 1e-3, value // 2)
    elif hint is str and not key.endswith("path"):
        yield f"{value}x"
    elif isinstance(value, dict):  # named groups: one more
        yield value | {"more": like}


def changed(plain: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    new: dict[str, Any] = json.loads(json.dumps(plain))
    *groups, last = key.split(".")
    functools.reduce(lambda node, part: node[part], groups, new)[last] = value
    return new


def snapshot(workdir: Path, command: str, said: str) -> str:
    """A digest of what a command leaves, or prints if it leaves nothing."""
    if command == "plan":
        lines = [line for line in said.splitlines() if not line.startswith("plan: of")]
        return re.sub(r"(after|in) [\d.]+ s", "", "\n".join(lines))
    sha = hashlib.sha256()
    for path in sorted(workdir.rglob("*")):
        place = str(path.relative_to(workdir))
        if not path.is_file() or place.startswith(("state", "metrics")):
            continue
        if "/attempt-" in place or path.suffix in (".journal", ".png", ".html"):
            continue
        text = path.read_bytes()
        if path.suffix == ".json":
            text = json.dumps(stable(json.loads(text)), sort_keys=True).encode()
        sha.update(f"{place}\0".encode() + text)
    return sha.hexdigest()


def stable(value: Any) -> Any:
    """JSON data without seals, and without what two equal calls may differ in."""
    volatile = {
        "sha256", "provenance", "files", "attempt", "wall_seconds", "device_seconds",
        "cost", "fingerprint",
    }  # fmt: skip
    if isinstance(value, dict):
        return {k: stable(v) for k, v in value.items() if k not in volatile}
    return [stable(v) for v in value] if isinstance(value, list) else value


def call(command: str, node: Mapping[str, Any], workdir: Path) -> tuple[int, str]:
    """Runs one command in a child process; its exit code and what it printed."""
    with tempfile.TemporaryFile("w+") as out:
        child = os.fork()
        if not child:
            code = 1
            with contextlib.suppress(BaseException):
                os.dup2(out.fileno(), 1)
                os.dup2(out.fileno(), 2)
                code = _guarded(command, node, workdir)
                sys.stdout.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        return os.waitstatus_to_exitcode(status), out.read()


def _guarded(command: str, node: Mapping[str, Any], workdir: Path) -> int:
    from jaxsim import cli, commands
    from jaxsim.config import from_config_dict
    from jaxsim.devices import Chip
    from jaxsim.plan import plan
    from jaxsim.report import write
    from jaxsim.scoring import evaluator, layout

    # Measured anew by each process; what is decided by them is no result.
    plan.chip_of = lambda *_, **__: Chip("cpu", 0, 1e11, "assumed")
    for module in (evaluator, layout):
        module.process_bytes = lambda: 10**9
    layout.usable_memory = lambda *_: 8 * 10**9
    # What they show is in the tables.
    write._draw, write._page = lambda *_: {}, lambda *_: ""

    def action() -> None:
        config = from_config_dict(config_dict.ConfigDict(node))
        getattr(commands, command)(config, workdir)

    try:
        return cli._guarded(action)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        return 1


def outcome(
    command: str, key: str, code: int, said: str, is_same: bool
) -> tuple[str, str]:
    """What happened, and the line that says so."""
    group = key.partition(".")[0]
    # A message may name the entry of a dictionary, or the dictionary.
    names = {key} | ({key.rpartition(".")[0]} - {"", group})
    if key == "corpus.domains":
        names.add("domain 'more'")  # its text is that of a partition
    if group == "corpus" and len(parts := key.split(".")) == 4:
        names |= {f"{parts[1].rstrip('s')} {parts[2]!r}", f"member {parts[2]} is"}
        names.add(f"source {parts[2]!r}")
    lines = [line for line in said.splitlines() if any(n in line for n in names)]
    line = next((line for line in lines if f"config.{key}" in line), "".join(lines[:1]))
    if code in (2, 3):
        last = said.strip().splitlines()[-1]
        return ("refused" if lines else "UNNAMED"), line or last
    if code:
        return "FAILED", f"{code}: {said.strip()[-300:]}"
    if not is_same:
        return "result", line
    if lines or "search: ignoring" in said:
        return "said", line
    if group in UNUSED.get(command, ()) or key.startswith(EXECUTION):
        return "unused", ""
    if group in MADE:
        return "SILENT", ""
    return "same", ""


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--workdir", type=Path, help="finished; default: a tiny one")
    parser.add_argument("--config", help="that it was made with; FILE.py[:ARG]")
    text = "regular expression of keys; replaces their results"
    parser.add_argument("--keys", default="", help=text)
    parser.add_argument("--jobs", type=int, default=1, help="cases at once")
    parser.add_argument("--commands", default=",".join(COMMANDS), help="some of them")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        sweep(args, Path(made))


def sweep(args: argparse.Namespace, folder: Path) -> None:
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_PLATFORMS": "cpu",
    }
    # Imported once, in this process, which must not start a backend.
    from jaxsim import cli, commands, config  # noqa: F401

    file = args.config or str(write_sources(folder))
    plain = json.loads(cli._run_config_file(file).to_json_best_effort())
    finished = args.workdir or folder / "finished"
    if not args.workdir:
        code, said = call("run", plain, finished)
        assert not code, said
    before, begin = {}, time.monotonic()
    asked = args.commands.split(",")

    def one(command: str, node: Mapping[str, Any]) -> tuple[int, str, str]:
        with tempfile.TemporaryDirectory(dir=folder) as case:
            work = Path(case) / "work"
            shutil.copytree(finished, work)
            code, said = call(command, node, work)
            found = snapshot(work, command, said)
        return code, said.replace(str(work), "WORKDIR"), found

    for command in asked:
        code, said, before[command] = one(command, plain)
        assert not code, said
        assert one(command, plain)[2] == before[command], (
            f"{command}: differs by itself"
        )

    def row_of(pair: tuple[str, Any]) -> dict[str, Any]:
        key, hint = pair
        value = functools.reduce(lambda node, part: node[part], key.split("."), plain)
        if key.endswith("path"):
            VALUES[key] = (other_text(folder, value),)
        node, new = valid(plain, key, hint, value)
        row: dict[str, Any] = {"key": key, "value": value, "changed": new}
        for command in asked:
            unused = key.partition(".")[0] in UNUSED.get(command, ())
            if node is None or unused:
                row[command] = "unused" if unused else "no value"
                continue
            code, said, found = one(command, node)
            is_same = found == before[command]
            row[command], line = outcome(command, key, code, said, is_same)
            if row[command].isupper():
                row[f"{command} said"] = line
                print(f"{row[command]}: {command} {key}={new!r}: {line}", flush=True)
        seconds = f"{time.monotonic() - begin:.0f} s"
        print(key, *(row[c] for c in asked), seconds, flush=True)
        return row

    pairs = [p for p in keys_of(config.Config, plain) if re.search(args.keys, p[0])]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        rows = list(pool.map(row_of, pairs))
    if args.keys and (there := args.out / "config_keys.json").exists():
        known = {row["key"]: row for row in json.loads(there.read_text())["keys"]}
        known |= {row["key"]: known.get(row["key"], {}) | row for row in rows}
        rows = [known[k] for k, _ in keys_of(config.Config, plain) if k in known]
    counts = Counter(row[c] for row in rows for c in COMMANDS if c in row)
    result = {
        "machine": machine.describe(("jax", "jaxlib")),
        "seconds": round(time.monotonic() - begin),
        "counts": dict(counts),
        "keys": rows,
    }
    machine.save(args.out, "config_keys", result, markdown(rows, counts))
    print(dict(counts))


def other_text(folder: Path, value: str) -> str:
    """A copy with one document less, or a new file."""
    path = folder / f"other-{Path(value).name or 'new.jsonl'}"
    there = Path(value).read_text().splitlines(keepends=True) if value else []
    path.write_text("".join(there[:-1]))
    return str(path)


def valid(
    plain: Mapping[str, Any], key: str, hint: Any, value: Any
) -> tuple[dict[str, Any] | None, Any]:
    """A config with another value of a key; None if no rule finds one."""
    from jaxsim.config import from_config_dict
    from jaxsim.errors import UserError

    like = next(iter(plain["corpus"]["partitions"].values()))
    for other in others(key, hint, value, like):
        other = int(other) if hint is int else other
        if other == value:
            continue
        with contextlib.suppress(UserError):
            node = changed(plain, key, other)
            from_config_dict(config_dict.ConfigDict(node))
            return node, other
    return None, None


def markdown(rows: list[dict[str, Any]], counts: Mapping[str, int]) -> str:
    lines = [
        "# Every config key, changed after the fact, in every command",
        "",
        "Made by `python benchmarks/config_keys.py`, whose first lines say what the "
        "words mean.",
        "",
        ", ".join(f"{count} {word}" for word, count in sorted(counts.items())),
        "",
        "| " + " | ".join(("config.", "from", "to", *COMMANDS)) + " |",
        "| " + " | ".join(["---"] * (3 + len(COMMANDS))) + " |",
    ]
    for row in rows:
        shown = (_short(row[k]) for k in ("value", "changed"))
        cells = (f"`{row['key']}`", *shown, *(row.get(c, "") for c in COMMANDS))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _short(value: Any) -> str:
    if isinstance(value, dict | list) and len(str(value)) > 24:
        return f"{len(value)} entries"
    return Path(value).name if "/" in str(value) else str(value)


if __name__ == "__main__":
    main()
