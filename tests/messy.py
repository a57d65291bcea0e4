"""The folder of a new user: many formats, three names for a date, copies, bad lines."""

import gzip
import json
import random
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

TOPICS = {"science": "abcdefgh", "sport": "ghijklmn"}  # the letters of their words
PERIODS = (("2010", "2014"), ("2015", "2019"))
NAIVE = """
from jaxsim.config import default_config, source


def get_config(arg=None):
    c = default_config()
    c.corpus.partitions = {{
        "web": source(
            reader="records",
            path="{data}/web",
            by_field="topic",
            by_dates=(("2010", "2014"), ("2015", "2019")),
        ),
        "notes": source(reader="text", path="{data}/notes"),
    }}
    c.corpus.domains = {{
        "questions": source(reader="records", path="{data}/questions.jsonl"),
    }}
    c.corpus.tokenizer.kind = "bytes"
    c.corpus.split.salt = "messy"
    c.corpus.split.dev = 0.2
    c.corpus.split.test = 0.2
    c.corpus.evaluation_tokens = 500
    c.model.update(length=32, layers=1, dim=16, heads=2, kv_heads=2, mlp_dim=32)
    c.train.unroll = False
    c.base.steps = 2
    c.base.batch = 8
    c.base.warmup = 1
    c.recipe.steps = 2
    c.recipe.warmup = 0
    c.recipe.batch = 8
    c.recipe.learning_rate = 3e-2
    c.score.unroll = False
    c.score.mixtures = "subsets:1-2"
    c.search.method = "table"
    {more}
    return c
"""
# What the dry run of the first config asks for.
MORE = """
    c.corpus.partitions.web.date_field = "created|added|date"
    c.corpus.domains.questions.text_field = "body.question"
    c.corpus.max_bad = 0.05
"""


def text(rng: random.Random, topic: str, words: int = 40) -> str:
    return " ".join("".join(rng.choices(TOPICS[topic], k=4)) for _ in range(words))


def make(folder: Path) -> None:
    """Writes web/, notes/ and questions.jsonl."""
    rng = random.Random(0)

    def records(name: str, count: int = 32) -> list[dict]:
        """Of both topics and periods in turn; `year` is for the caller."""
        made = []
        for i in range(count):
            topic, year = list(TOPICS)[i % 2], 2012 if i % 4 < 2 else 2017
            record = {"id": f"{name}{i}", "text": text(rng, topic)}
            made.append(record | {"topic": topic, "year": year})
        return made

    web, notes = folder / "web", folder / "notes"
    (web / ".ipynb_checkpoints").mkdir(parents=True)
    (web / "shards").mkdir()
    notes.mkdir()
    questions = [text(rng, "science") for _ in range(24)]

    a = [r | {"created": f"{r.pop('year')}-03-01"} for r in records("a")]
    lines = [json.dumps(record) for record in a]
    lines[5:5] = ['{"id": "cut off', json.dumps(a[0] | {"id": "no", "text": None})]
    lines.append(json.dumps(a[0] | {"id": "none", "text": "a b c", "topic": None}))
    (web / "a.jsonl").write_text("\n".join(lines) + "\n")
    # Jupyter's and macOS's copies.
    (web / ".ipynb_checkpoints" / "a-checkpoint.jsonl").write_text("\n".join(lines[:9]))
    (web / "._a.jsonl").write_bytes(b"\0\5\x16\7")
    (web / "README.md").write_text("# Where this is from\n")

    b = [  # Dolma: fields in `metadata`
        {
            "id": r["id"],
            "text": r["text"],
            "added": r["year"],
            "metadata": {"topic": r["topic"]},
        }
        for r in records("b")
    ]
    data = "".join(json.dumps(record) + "\n" for record in b).encode()
    (web / "b.JSONL.gz").write_bytes(gzip.compress(data))

    c = [r | {"date": f"March 3, {r.pop('year')}"} for r in records("c")]
    data = "".join(json.dumps(record) + "\n" for record in c).encode()
    with pa.CompressedOutputStream(str(web / "shards" / "c.jsonl.zst"), "zstd") as file:
        file.write(data)

    d = [
        r | {"created": datetime(r.pop("year"), 5, 1, tzinfo=UTC)} for r in records("d")
    ]
    for i in (0, 4, 8):  # science of the first period, with a question in it
        d[i]["text"] = f"{d[i]['text']}\n\n{questions[i]}"
    pa.parquet.write_table(pa.Table.from_pylist(d), web / "d.parquet")

    e = [r | {"date": datetime(r.pop("year"), 5, 1).timestamp()} for r in records("e")]
    for i in range(12):
        e[i]["text"] = a[4 + i]["text"]  # copies under other ids
    pa.csv.write_csv(pa.Table.from_pylist(e), web / "e.csv")

    for i in range(40):
        topic = list(TOPICS)[i % 2]
        (notes / f"{i}.md").write_text(f"# Note {i}\n\n{text(rng, topic)}\n")
    (notes / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    lines = [
        json.dumps({"id": i, "body": {"question": question, "votes": i}})
        for i, question in enumerate(questions)
    ]
    (folder / "questions.jsonl").write_text("\n".join(lines))


def config(folder: Path, data: Path, more: str = "") -> Path:
    path = folder / ("second.py" if more else "first.py")
    path.write_text(NAIVE.format(data=data, more=more.strip()))
    return path
