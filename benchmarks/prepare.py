"""What `jaxsim prepare` costs: CPU time, memory, kills, and taking only a part.

    python benchmarks/prepare.py text --text=runs/prepare-text --of FOLDER...
    python benchmarks/prepare.py speed memory resume take --text=runs/prepare-text

`text` makes a corpus of what lies in folders: JSON Lines as `benchmarks/fields.py`
writes them, and files of text, also in gzip, such as the documentation that Debian
packages hold (`apt-get download linux-doc-6.1 git-doc python3.11-doc dict-foldoc`, then
`dpkg-deb -x FILE FOLDER` for each). Exact duplicates are dropped. It is written as JSON
Lines, in gzip and as Parquet, with a tokenizer that is trained on a part of it. The
others:

  speed   CPU seconds, beside `tokenizers` alone and datatrove on the same text.
          `--trove=PYTHON` has datatrove (`pip install datatrove orjson tokenizers`).
  memory  the most memory of all processes together, for 100 MB and for `--large` MB of
          the text with changed words.
  resume  killed at random moments and repeated: are the digests the same?
  take    a corpus of which the budget needs a twentieth, against all of it.

Each part adds its own to the results. `--megabytes` takes less text, to try it.
"""

import argparse
import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import machine
import psutil

LENGTH = 1024
VOCABULARY = 32_768
TRAINED_ON = 12_000_000  # characters, for the tokenizer
LONGEST = 20_000  # characters of a document; longer ones are cut at empty lines
SHORTEST = 80
FEWEST = 200  # documents of a topic
FILE = 8_000_000  # characters in a file, about
ENDINGS = (".txt", ".rst", ".md", ".yaml", ".dict")
FORMATS = {"jsonl": ".jsonl", "gz": ".jsonl.gz", "parquet": ".parquet"}
NEAR = "--config.corpus.near_duplicates=0.8"
TARGETS = {"prepare": 1.3, "near duplicates": 1.6, "take": 0.2, "memory": 1e9}
CONFIG = """
from jaxsim.config import default_config, source

def get_config(arg=None):
    c = default_config()
    rule = {rule!r}
    c.corpus.partitions = {{"text": source(reader="records", path={path!r}, **rule)}}
    c.corpus.tokenizer.kind = "file"
    c.corpus.tokenizer.path = {tokenizer!r}
    c.corpus.unit_budgets = {unit_budgets}
    c.corpus.max_epochs = 1e6
    c.corpus.workers = {workers}
    c.model.length = {length}
    c.recipe.steps = {rows}
    c.recipe.warmup = 0
    c.recipe.batch = 1
    c.base.steps = {rows}  # as much base text
    c.base.batch = 1
    c.base.warmup = 0
    return c
"""
TROVE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer

if __name__ == "__main__":
    text, tokenizer, out, workers = sys.argv[1:]
    writer = DocumentTokenizer(
        f"{out}/tokens", tokenizer, f"{out}/local", eos_token="<|endoftext|>"
    )
    LocalPipelineExecutor(
        [JsonlReader(text), writer],
        tasks=int(workers), workers=int(workers), logging_dir=f"{out}/logs",
        start_method="spawn",  # children that are waited for, and so are counted
    ).run()
"""


class Used:
    """What a program used: seconds of CPU and of the clock, and the most memory."""

    def __init__(self, code: int, cpu: float, wall: float, memory: int) -> None:
        self.code, self.cpu, self.wall, self.memory = code, cpu, wall, memory


def watched(words: list[str], kill_after: float = 0.0) -> Used:
    """Runs a program and all processes it starts; their resources, together.

    Memory that processes share counts once: it is the sum of proportional shares.
    """
    begin = time.monotonic()
    process = subprocess.Popen(
        words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=sys.stderr
    )
    ended, most = threading.Event(), 0

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.1):
            most = max(most, _memory(process.pid))
            if kill_after and time.monotonic() - begin > kill_after:
                os.killpg(process.pid, signal.SIGKILL)
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    # It counts the processes that the program has waited for, too.
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - begin
    ended.set()
    watcher.join()
    process.returncode = code = os.waitstatus_to_exitcode(status)
    return Used(code, usage.ru_utime + usage.ru_stime, wall, most)


def _memory(root: int) -> int:
    total = 0
    try:
        top = psutil.Process(root)
        processes = [top, *top.children(recursive=True)]
    except psutil.Error:
        return 0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:  # it has ended
            continue
    return total


def prepare(args: Any, folder: Path, *flags: str, **settings: Any) -> Used:
    """One `jaxsim prepare` of the files `settings["path"]`."""
    values: dict[str, Any] = {
        "rule": {"by_field": "topic"},
        "tokenizer": str(args.text / "tokenizer.json"),
        "unit_budgets": 1e9,
        "workers": args.threads,
        "length": LENGTH,
        "rows": 1,
    }
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.py"
    config.write_text(CONFIG.format(**values | settings))
    words = [sys.executable, "-m", "jaxsim", "prepare", f"--config={config}"]
    return watched(
        [*words, f"--workdir={folder / 'work'}", *flags], args.kill_after or 0.0
    )


def digests(folder: Path) -> dict[str, Any]:
    from jaxsim.corpus import open_corpus

    corpus = open_corpus(folder / "work")
    found: dict[str, Any] = {name: unit.digest for name, unit in corpus.units.items()}
    return found | {f"/{name}": d.digests for name, d in corpus.domains.items()}


def files_of(args: Any, kind: str) -> str:
    return str(args.text / kind / ("{topic}-*" + FORMATS[kind]))


def done(used: Used) -> Used:
    if used.code:
        raise SystemExit(f"ended with code {used.code}")
    return used


# -- text ------------------------------------------------------------------------------


def documents(folder: Path) -> Iterator[tuple[str, str]]:
    """(topic, text) of all that lies below a folder."""
    for path in sorted(folder.rglob("*")):
        if path.name.endswith(".jsonl"):
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    yield path.stem, json.loads(line)["text"]
        elif path.is_file() and path.name.removesuffix(".gz").removesuffix(
            ".dz"
        ).endswith(ENDINGS):
            opened = gzip.open if path.name.endswith((".gz", ".dz")) else open
            with opened(path, "rt", encoding="utf-8", errors="replace") as file:
                for text in pieces(file.read()):
                    yield folder.name.replace("-", "_"), text


def pieces(text: str) -> Iterator[str]:
    """A text cut at empty lines, so that no piece is much longer than `LONGEST`."""
    piece = ""
    for part in text.split("\n\n"):
        if piece and len(piece) + len(part) > LONGEST:
            yield piece
            piece = ""
        piece += part + "\n\n"
    yield piece


def make_text(args: Any) -> dict[str, Any]:
    """Writes the corpus in every format, and a tokenizer."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    by_topic: dict[str, list[dict[str, str]]] = {}
    seen, characters = set(), 0
    for folder in args.of:
        for topic, text in documents(folder):
            identity = hashlib.sha256(text.encode()).hexdigest()[:16]
            if len(text) >= SHORTEST and "\0" not in text and identity not in seen:
                seen.add(identity)
                characters += len(text)
                record = {"id": identity, "text": text}
                by_topic.setdefault(topic, []).append(record)
    sample = random.Random(0)
    texts = [r["text"] for records in by_topic.values() for r in records]
    sample.shuffle(texts)
    taken = texts[: max(1, int(len(texts) * min(1, TRAINED_ON / characters)))]
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(taken, trainer)
    args.text.mkdir(parents=True, exist_ok=True)
    model.save(str(args.text / "tokenizer.json"))
    limit = args.megabytes * 1e6 / characters if args.megabytes else 1
    # None so small that a split is empty.
    others = [t for t, records in by_topic.items() if len(records) < FEWEST]
    by_topic["others"] = [r for topic in others for r in by_topic.pop(topic)]
    for topic, records in by_topic.items():
        kept = records[: max(FEWEST, int(len(records) * limit))]
        for kind in FORMATS:
            write(args.text / kind, topic, kept, kind)
    print(f"{characters / 1e6:.1f} million characters in {len(texts):,} documents")
    return {"characters": characters, "documents": len(texts), "topics": len(by_topic)}


def write(folder: Path, topic: str, records: list[dict[str, str]], kind: str) -> None:
    """Files of a topic, of about `FILE` characters each."""
    import pyarrow
    import pyarrow.parquet

    folder.mkdir(parents=True, exist_ok=True)
    parts: list[list[dict[str, str]]] = [[]]
    size = 0
    for record in records:
        if size > FILE:
            parts.append([])
            size = 0
        parts[-1].append(record)
        size += len(record["text"])
    for number, part in enumerate(parts):
        path = folder / f"{topic}-{number}{FORMATS[kind]}"
        if kind == "parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), path)
            continue
        lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in part)
        with gzip.open(path, "wb", 6) if kind == "gz" else path.open("wb") as file:
            file.write(lines.encode())


def salted(args: Any, megabytes: float) -> str:
    """About so many MB of the text, in copies that have every eighth word changed."""
    folder = args.text / f"salted-{megabytes:g}"
    pattern = str(folder / "{topic}-*.jsonl")
    if (folder / "complete").exists():
        return pattern
    folder.mkdir(parents=True, exist_ok=True)
    left, copy = megabytes * 1e6, 0
    sources = sorted((args.text / "jsonl").glob("*.jsonl"))
    while left > 0:
        for source in sources:
            if left <= 0:
                break
            topic, _, number = source.stem.rpartition("-")
            path = folder / f"{topic}-{copy}.{number}.jsonl"
            with source.open() as lines, path.open("w") as out:
                for line in lines:
                    record = json.loads(line)
                    words = record["text"].split(" ")
                    words[::8] = [f"{word}{copy:x}q" for word in words[::8]]
                    text = " ".join(words)
                    record = {"id": f"{copy}:{record['id']}", "text": text}
                    left -= out.write(json.dumps(record, ensure_ascii=False) + "\n")
        copy += 1
    (folder / "complete").touch()
    return pattern


# -- measurements ----------------------------------------------------------------------


def text_bytes(args: Any) -> int:
    total = 0
    for path in (args.text / "jsonl").glob("*.jsonl"):
        with path.open() as lines:
            total += sum(len(json.loads(line)["text"].encode()) for line in lines)
    return total


def tokenize_alone(folder: Path) -> None:
    """Prints the CPU seconds of `encode_batch` on texts in memory."""
    import tokenizers

    texts = []
    for path in sorted((folder / "jsonl").glob("*.jsonl")):
        with path.open() as lines:
            texts += [json.loads(line)["text"] for line in lines]
    model = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    begin, tokens = time.process_time(), 0
    for start in range(0, len(texts), 1000):
        encoded = model.encode_batch(texts[start : start + 1000])
        tokens += sum(len(e.ids) for e in encoded)
    print(json.dumps({"cpu": time.process_time() - begin, "tokens": tokens}))


def speed(args: Any, folder: Path) -> dict[str, Any]:
    def alone() -> dict[str, float]:
        words = [sys.executable, __file__, "--alone", f"--text={args.text}"]
        found = subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout
        return json.loads(found)

    first, rows = alone(), {}
    tiny = args.text / "tiny"
    write(
        tiny, "tiny", [{"id": str(i), "text": f"{i} " * 99} for i in range(60)], "jsonl"
    )
    cases = [("start alone", str(tiny / "{topic}-*.jsonl"), ())]
    cases += [(f"prepare, {kind}", files_of(args, kind), ()) for kind in FORMATS]
    cases += [("prepare, jsonl, near duplicates", files_of(args, "jsonl"), (NEAR,))]
    for name, path, flags in cases:
        rows[name] = done(prepare(args, folder / name, *flags, path=path))
    script = folder / "trove.py"
    script.write_text(TROVE)
    words = [args.trove, str(script), str(args.text / "jsonl")]
    words += [str(args.text / "tokenizer.json"), str(folder / "trove")]
    trove = watched([*words, str(args.threads)])
    if trove.code:
        print("datatrove: not measured; give --trove=PYTHON", file=sys.stderr)
    else:
        rows["datatrove"] = trove
    last = alone()
    cpu = (first["cpu"] + last["cpu"]) / 2
    size = text_bytes(args)
    return {
        "bytes": size,
        "tokens": first["tokens"],
        "tokenizers": [first["cpu"], last["cpu"]],
        "rows": {
            name: {
                "cpu": used.cpu,
                "wall": used.wall,
                "memory": used.memory,
                "ratio": used.cpu / cpu,
            }
            for name, used in rows.items()
        },
    }


def memory(args: Any, folder: Path) -> dict[str, Any]:
    result = {}
    for megabytes in (args.large / 10, args.large):
        path = salted(args, megabytes)
        used = done(prepare(args, folder / f"{megabytes:g}", path=path))
        result[f"{megabytes:g}"] = {
            "memory": used.memory,
            "cpu": used.cpu,
            "wall": used.wall,
        }
    return result


def resume(args: Any, folder: Path) -> dict[str, Any]:
    path, generator = files_of(args, "gz"), random.Random(args.seed)
    whole = done(prepare(args, folder / "whole", path=path))
    kills = []
    for _ in range(args.kills):
        args.kill_after = generator.uniform(0.1, 0.9) * whole.wall
        used = prepare(args, folder / "killed", path=path)
        kills.append({"after": args.kill_after, "code": used.code, "cpu": used.cpu})
        if used.code == 0:
            break
    args.kill_after = 0.0
    last = done(prepare(args, folder / "killed", path=path))
    return {
        "whole": {"cpu": whole.cpu, "wall": whole.wall},
        "kills": kills,
        "last": {"cpu": last.cpu, "wall": last.wall},
        "same": digests(folder / "whole") == digests(folder / "killed"),
    }


def take(args: Any, folder: Path) -> dict[str, Any]:
    path = files_of(args, "jsonl").replace("{topic}", "*")
    every = done(prepare(args, folder / "all", path=path, rule={}))
    from jaxsim.corpus import open_corpus

    unit = open_corpus(folder / "all" / "work").unit("text")
    rows = max(1, unit.rows // 20)
    part = done(
        prepare(args, folder / "part", path=path, rule={}, rows=rows, unit_budgets=1.0)
    )
    taken = open_corpus(folder / "part" / "work").unit("text").rows
    return {
        "all": {"rows": unit.rows, "cpu": every.cpu, "wall": every.wall},
        "part": {"rows": taken, "cpu": part.cpu, "wall": part.wall},
        "cpu": part.cpu / every.cpu,
        "wall": part.wall / every.wall,
    }


def markdown(found: dict[str, Any]) -> str:
    box = found["machine"]
    lines = [f"{box['cores_used']} cores ({box['cpu']}), {box['date']}.", ""]
    if part := found.get("speed"):
        alone = sum(part["tokenizers"]) / 2
        lines += [
            f"{part['bytes'] / 1e6:.1f} MB of text, {part['tokens']:,} tokens; a ratio "
            "is to the CPU time of `tokenizers` alone (`encode_batch` of texts in "
            "memory). `start alone` is a corpus of 60 short documents: the start of "
            "Python and JAX; the second ratio is without it.",
            "",
            "| | CPU s | ratio | without start | MB / CPU s | s | MB of memory |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            f"| tokenizers alone | {alone:.1f} | 1 | 1 | "
            f"{part['bytes'] / 1e6 / alone:.2f} | | |",
        ]
        start = part["rows"]["start alone"]["cpu"]
        lines += [
            f"| {name} | {row['cpu']:.1f} | {row['ratio']:.2f} | "
            f"{(row['cpu'] - start * ('prepare' in name)) / alone:.2f} | "
            f"{part['bytes'] / 1e6 / row['cpu']:.2f} | {row['wall']:.1f} | "
            f"{row['memory'] / 1e6:.0f} |"
            for name, row in part["rows"].items()
        ]
    if part := found.get("memory"):
        lines += ["", "| MB of text | MB of memory | CPU s | s |"]
        lines += ["| ---: | ---: | ---: | ---: |"]
        lines += [
            f"| {size} | {row['memory'] / 1e6:.0f} | {row['cpu']:.0f} | "
            f"{row['wall']:.0f} |"
            for size, row in part.items()
        ]
    if part := found.get("resume"):
        count = sum(kill["code"] != 0 for kill in part["kills"])
        same = "the same" if part["same"] else "**NOT** the same"
        lines += [
            "",
            f"Killed {count} times at random moments of {part['whole']['wall']:.0f} s "
            f"and repeated: digests {same}; the last call took "
            f"{part['last']['wall']:.0f} s.",
        ]
    if part := found.get("take"):
        lines += [
            "",
            f"{part['part']['rows']:,} of {part['all']['rows']:,} rows are needed: "
            f"{part['cpu']:.2f} of the CPU time and {part['wall']:.2f} of the time of "
            "taking all.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = machine.parser(__doc__, threads=2)
    parts = ("text", "speed", "memory", "resume", "take")
    parser.add_argument("parts", nargs="*", help=", ".join(parts))
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--of", type=Path, nargs="+", default=[], help="for `text`")
    parser.add_argument("--trove", default=sys.executable, help="a Python")
    parser.add_argument("--megabytes", type=float, default=0, help="of text; 0: all")
    parser.add_argument("--large", type=float, default=1000, help="MB, for `memory`")
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.text, args.kill_after = args.text.absolute(), 0.0
    machine.pin(args.threads)
    if unknown := {*args.parts} - {*parts}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if args.alone:
        tokenize_alone(args.text)
        return
    known = {"speed": speed, "memory": memory, "resume": resume, "take": take}
    if "text" in args.parts:
        make_text(args)
    path = args.out / "prepare.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    found["machine"] = machine.describe(("jax", "tokenizers", "pyarrow"))
    for name, measure in known.items():
        if name in args.parts:
            with tempfile.TemporaryDirectory(dir=args.text) as made:
                found[name] = measure(args, Path(made))
            machine.save(args.out, "prepare", found, markdown(found))
            print(f"{name}: {json.dumps(found[name], indent=1)}", flush=True)


if __name__ == "__main__":
    main()
