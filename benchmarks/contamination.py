"""How much evaluation text in training text does `prepare` find?

    python benchmarks/contamination.py --text=runs/fields-text/*.jsonl

Copies of evaluation documents are planted in training documents of their own: the words
as they are, wrapped anew, in another case, with other punctuation, or within a text
three times as long. Evaluation documents are running text, or tasks of which the prompt
or the completion is planted. Of each one a contiguous share of its words is copied, and
the rest of the planted document is clean text. By default a document is contaminated if
half of the shorter one's runs of 13 words are in the other, so that recall should be 1
for large shares and 0 for small ones.

All of it goes through one `jaxsim prepare`. A word of its own at the beginning of each
training document tells, from the rows of tokens, which ones are left. A clean document
that was dropped is a false positive, unless it does repeat evaluation text, compared
word by word: real text does.
"""

import json
import random
import re
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import machine
import numpy as np

SHARES = (1.0, 0.75, 0.6, 0.5, 0.4, 0.25)
KINDS: dict[str, Callable[[str], str]] = {
    "exact": lambda text: text,
    "wrapped anew": lambda text: text.replace(" ", "\n", 7).replace("\n\n", "\n \n"),
    "another case": lambda text: text.swapcase(),
    "other punctuation": lambda text: re.sub(r"[.,;:]", " -", text),
    "embedded": lambda text: text,
    "a task": lambda text: text,
    "prompt of a task": lambda text: text,
    "completion of a task": lambda text: text,
}
TASKS = ("a task", "prompt of a task", "completion of a task")
LONGER = {"embedded": 3}  # times as many words as the evaluation document
WORDS = range(60, 400)  # of a document
PROMPT = 0.8  # share of a task's words in its prompt
CLEAN, PLANTED = "clean", "planted"


def texts(paths: list[Path]) -> list[str]:
    """Different texts of a moderate length, in an order of their own."""
    found = {}
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                text = json.loads(line)["text"]
                if len(text.split()) in WORDS:
                    found.setdefault(" ".join(words_of(text)), text)
    kept = list(found.values())
    random.Random(0).shuffle(kept)
    return kept


def words_of(text: str) -> list[str]:
    """Lower-case words: letters and digits of any script."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


class Corpus:
    """Evaluation documents, and training documents with a word that names each."""

    def __init__(self, pool: Iterator[str], count: int, clean: int) -> None:
        self.evaluation: list[dict[str, str]] = []
        self.training: dict[str, dict[str, str]] = {}
        self.cells: dict[str, tuple[str, float]] = {}
        for kind, change in KINDS.items():
            for share in SHARES:
                for _ in range(count):
                    self._plant(kind, share, change, pool)
        for _ in range(clean):
            self._train(CLEAN, next(pool))
        self.base = [{"id": f"b{i}", "text": next(pool)} for i in range(40)]

    def _plant(
        self, kind: str, share: float, change: Callable[[str], str], pool: Iterator[str]
    ) -> None:
        text = next(pool)
        words = text.split(" ")
        cut = round(PROMPT * len(words)) if kind in TASKS else 0
        prompt, completion = " ".join(words[:cut]), " ".join(words[cut:])
        record = {"id": f"e{len(self.evaluation)}", "text": text}
        if kind in TASKS:
            record = {"id": record["id"], "prompt": prompt, "completion": completion}
        self.evaluation.append(record)
        parts = dict(zip(TASKS, (text, prompt, completion), strict=True))
        words = parts.get(kind, text).split(" ")
        copied = words[: max(1, round(share * len(words)))]
        # A task's part is planted in a document as long as the whole task.
        total = LONGER.get(kind, 1) * len(text.split(" "))
        clean: list[str] = []
        while len(clean) < total - len(copied):
            clean += next(pool).split(" ")
        clean = clean[: total - len(copied)]
        half = len(clean) // 2
        planted = (
            " ".join(clean[:half]),
            change(" ".join(copied)),
            " ".join(clean[half:]),
        )
        name = self._train(PLANTED, "\n".join(part for part in planted if part))
        self.cells[name] = kind, share

    def _train(self, partition: str, text: str) -> str:
        name = f"zq{len(self.training):06d}qz"
        self.training[name] = {"id": name, "text": f"{name} {text}", "of": partition}
        return name

    def write(self, folder: Path) -> None:
        by_file = {
            "training": list(self.training.values()),
            "base": self.base,
            "running": [r for r in self.evaluation if "text" in r],
            "tasks": [r for r in self.evaluation if "text" not in r],
        }
        for name, records in by_file.items():
            lines = "".join(json.dumps(r) + "\n" for r in records)
            (folder / f"{name}.jsonl").write_text(lines)

    def overlaps(self, name: str, share: float, n: int) -> bool:
        """Whether a training document repeats evaluation text, word by word."""
        mine = grams(self.training[name]["text"], n)
        counts: Counter[int] = Counter()
        for gram in mine:
            counts.update(self.index.get(gram, ()))
        return any(
            common >= max(1, share * min(len(mine), self.sizes[e]))
            for e, common in counts.items()
        )

    def make_index(self, n: int, held_out: set[str]) -> None:
        """Of all evaluation text, also what is held out from the partitions."""
        self.index: dict[tuple[str, ...], list[int]] = {}
        self.sizes = []
        within = [self.training[name] for name in sorted(held_out)]
        for e, record in enumerate(self.evaluation + within):
            parts = [record[k] for k in ("text", "prompt", "completion") if k in record]
            found = grams(" ".join(parts), n)
            self.sizes.append(len(found))
            for gram in found:
                self.index.setdefault(gram, []).append(e)


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    words = words_of(text)
    return {tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1))}


def measure(corpus: Corpus, folder: Path, args: Any) -> dict[str, Any]:
    from jaxsim.config import (
        Config,
        CorpusConfig,
        ModelConfig,
        RecipeConfig,
        SourceConfig,
        SplitConfig,
        TokenizerConfig,
    )
    from jaxsim.corpus import prepare

    def source(name: str, **fields: Any) -> SourceConfig:
        return SourceConfig(reader="records", path=str(folder / name), **fields)

    tasks = {"prompt_field": "prompt", "completion_field": "completion"}
    config = Config(
        corpus=CorpusConfig(
            partitions={"training": source("training.jsonl", by_field="of")},
            domains={
                "running": source("running.jsonl"),
                "tasks": source("tasks.jsonl", **tasks),
            },
            base_text={"base": source("base.jsonl")},
            tokenizer=TokenizerConfig(kind="bytes"),
            # Nearly everything is training text.
            split=SplitConfig(dev=0.01, test=0.01),
            overlap_words=args.words,
            overlap_share=args.share,
            evaluation_tokens=0,
            max_epochs=1e9,
            unit_budgets=1e9,
        ),
        model=ModelConfig(length=256),  # shorter than any document
        recipe=RecipeConfig(steps=1, batch=1),
    )
    prepared = prepare(config, folder / "work")
    left, seen = set(), set()
    for name in prepared.units:
        rows = prepared.rows(name)
        tokens_RL1 = rows[np.arange(len(rows))]
        stream = np.append(tokens_RL1[:, :-1].ravel(), tokens_RL1[-1, -1])
        text = prepared.tokenizer.decode(stream[stream < 256].astype(np.int32))
        left |= set(re.findall(r"zq\d{6}qz", text))
    for name in corpus.training:
        split = _split(name, config.corpus.split)
        if split == "train":
            seen.add(name)
    corpus.make_index(args.words, {*corpus.training} - seen)
    table = {
        kind: {
            f"{share:g}": [sum(name not in left for name in cell), len(cell)]
            for share in SHARES
            for cell in [
                [n for n, c in corpus.cells.items() if c == (kind, share) and n in seen]
            ]
        }
        for kind in KINDS
    }
    repeats = {n for n in seen if corpus.overlaps(n, args.share, args.words)}
    clean = {n for n in seen if n not in corpus.cells}
    dropped = clean - left
    return {
        "recall": table,
        "clean": len(clean),
        "dropped": len(dropped),
        "false_positives": len(dropped - repeats),
        "missed": len(clean & left & repeats),
        "training": len(seen),
        "unlike_the_definition": len((seen - left) ^ repeats),
    }


def _split(name: str, split: Any) -> str:
    from jaxsim.corpus.documents import Document
    from jaxsim.corpus.split import split_of

    return split_of(Document(name, "", ""), split, True, False)


def markdown(found: dict[str, Any]) -> str:
    shares = [f"{share:g}" for share in SHARES]
    lines = [
        f"Share of planted training documents that were dropped, by the share of the "
        "evaluation document's words that were copied; runs of "
        f"{found['words']} words, `overlap_share` {found['share']:g}.",
        "",
        f"| planted | {' | '.join(f'{float(s):.0%}' for s in shares)} |",
        "| --- |" + " ---: |" * len(shares),
    ]
    for kind, row in found["recall"].items():
        cells = [f"{row[s][0] / max(1, row[s][1]):.2f}" for s in shares]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    _, count = found["recall"]["exact"][shares[0]]
    lines += [
        "",
        f"About {count} documents in each cell. Of {found['clean']:,} clean training "
        f"documents {found['dropped']:,} were dropped, of which "
        f"{found['false_positives']} do not repeat evaluation text; "
        f"{found['missed']} that do were kept. Of all {found['training']:,} training "
        f"documents, {found['unlike_the_definition']} were treated otherwise than a "
        "comparison word by word says.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--count", type=int, default=40, help="documents in a cell")
    parser.add_argument("--clean", type=int, default=10_000, help="documents")
    parser.add_argument("--words", type=int, default=13)
    parser.add_argument("--share", type=float, default=0.5)
    args = parser.parse_args()
    pool = texts(args.text)
    needed = len(KINDS) * len(SHARES) * args.count
    if len(pool) < 3 * needed + args.clean:
        args.clean = max(0, len(pool) - 4 * needed)
    corpus = Corpus(iter(pool), args.count, args.clean)
    with tempfile.TemporaryDirectory() as made:
        corpus.write(Path(made))
        found = measure(corpus, Path(made), args)
    found |= {"words": args.words, "share": args.share, "texts": len(pool)}
    found["machine"] = machine.describe(("numpy",))
    machine.save(args.out, "contamination", found, markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
