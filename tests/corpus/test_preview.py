"""`prepare --dry-run`: what it says, beside what `prepare` then does."""

import dataclasses
import gzip
import json
import random
import re

import pytest
import tokenizers
from tokenizers.models import WordLevel

from jaxsim import cli
from jaxsim.config import ModelConfig, SourceConfig, SplitConfig, TokenizerConfig
from jaxsim.corpus import prepare
from jaxsim.corpus import preview as module
from jaxsim.corpus.preview import epochs, evaluation, kept, pieces, preview

from .builders import config_of, with_corpus, words, write_jsonl, write_partition

FILE = """
from jaxsim.config import default_config, source


def get_config(arg=None):
    c = default_config()
    c.corpus.partitions = {{
        "web": source(reader="records", path={path!r}, by_field="topic"),
        {more}
    }}
    c.corpus.tokenizer.kind = "bytes"
    c.corpus.split.salt = "t"
    c.model.length = 32
    c.recipe.steps = 4
    c.recipe.warmup = 0
    c.recipe.batch = 2
    return c
"""


def records(count: int, **fields) -> list[dict]:
    rng = random.Random(0)
    return [
        {"id": f"{i}", "text": words(rng, 30), "topic": "xy"[i % 2], **fields}
        for i in range(count)
    ]


@pytest.fixture
def dry_run(tmp_path, capfd):
    """Runs the command on the folder `data`; its exit code, stdout and stderr."""

    def call(more: str = "", *flags: str) -> tuple[int, str, str]:
        config, data = tmp_path / "config.py", tmp_path / "data"
        config.write_text(FILE.format(path=str(data), more=more))
        workdir = tmp_path / "work"
        line = ["prepare", "--dry-run", f"--config={config}", f"--workdir={workdir}"]
        code = cli.main([*line, *flags])
        assert not workdir.exists()
        return code, *capfd.readouterr()

    (tmp_path / "data").mkdir()
    return call


def test_numbers_are_those_of_prepare(tmp_path):
    """Of a corpus that is read whole, without copies."""
    sources = {
        name: write_partition(tmp_path / "data", name, documents=60)
        for name in ("a", "b", "large")
    }
    domains = {"outside": write_partition(tmp_path / "data", "c", documents=10)}
    made = [r | {"created": f"{2000 + i % 2}"} for i, r in enumerate(records(40))]
    path = write_jsonl(tmp_path / "data" / "dated.jsonl", made)
    years = (("2000", "2000"), ("2001", "2001"))
    domains["dated"] = SourceConfig("records", str(path), by_dates=years)
    more = {"domains": domains, "evaluation_tokens": 300, "evaluation_windows": 2}
    config = config_of(sources, max_units=3, steps=20, **more)
    found = preview(config, tmp_path / "work")
    assert not found.problems
    assert not (tmp_path / "work").exists()
    corpus = prepare(config, tmp_path / "work")
    counts = corpus.record.summary["documents"]
    for place in found.places("partitions"):
        here = [u for u in corpus.units.values() if u.partition == place.name]
        assert pieces(config, place) == len(here)
        assert sum(map(place.documents, place.sizes)) == counts[place.name]["read"]
        assert place.documents("base") == counts[place.name]["base"]
        assert kept(config, place) == pytest.approx(
            sum(u.tokens for u in here), rel=0.05
        )
        times = corpus.budget_rows / here[0].rows
        assert epochs(config, place) == pytest.approx(times, rel=0.1)
    shorter = dataclasses.replace(config, model=ModelConfig(length=16))
    (problem,) = preview(shorter, tmp_path / "work").problems
    assert "config.model.length: 32 was frozen" in problem
    places = found.places("partitions") + found.places("domains")
    assert {place.name for place in places} == corpus.domains.keys()
    for place in places:
        domain = corpus.domains[place.name]
        for split, (tokens, windows) in evaluation(config, place).items():
            assert tokens == pytest.approx(domain.tokens[split], abs=64)
            assert windows == pytest.approx(domain.windows[split], abs=2)


def test_a_good_corpus(dry_run, tmp_path, verbose):
    data = tmp_path / "data"
    made = records(200, created="2015-03-01", extra={"score": 0.5})
    made[3]["created"] = "n.d."
    made[4]["topic"] = None
    write_jsonl(data / "a.jsonl", made)
    write_jsonl(data / ".hidden.jsonl", made)
    (data / "notes.md").write_text("# Notes\n")
    code, out, _ = dry_run()
    assert code == 0
    for line in (
        "1 file of",
        "files left out: hidden (1): .hidden.jsonl",
        "files left out: plain text (1): notes.md",
        "looked at all 200 records",
        "; 199 documents taken",
        "left out: no topic (1)",
        "dates: 199, from 2015-03-01 to 2015-03-01",
        " date (1, as 'n.d.')",
        "extra.score",
        "all scoring",
        "nothing was written",
    ):
        assert line in out, line
    for record in [r for r in made if r["topic"] == "x"][:3]:
        assert f" {record['id']} " in out and record["text"][:40] in out


def test_all_problems_are_named_at_once(dry_run, tmp_path, verbose):
    write_jsonl(tmp_path / "data" / "a.jsonl", records(8))
    write_jsonl(tmp_path / "other.jsonl", records(100))
    missing = '"gone": source(reader="records", path="/no/such/folder"),'
    other = f'path="{tmp_path}/other.jsonl"'
    unread = f'"unread": source(reader="records", {other}, text_field="body"),'
    wrong = f'"wrong": source(reader="records", {other}, by_field="theme"),'
    flags = ["--config.score.mixtures=subsets:5-6", "--config.recipe.steps=9000"]
    code, out, error = dry_run(missing + unread + wrong, *flags)
    assert code == 2
    assert "looked at all 8 records" in out  # what can be read is shown
    for what in (
        "nothing at path '/no/such/folder'",
        "source 'unread': 100 of",
        "source 'wrong': no documents left: no theme (100); fields are id, text, topic",
        "has no document in its",
        "config.corpus.max_epochs",
        "mixtures 'subsets:5-6'",
    ):
        assert what in error, what
    assert "\n1. " in error and "\n6. " in error


def test_a_large_source_is_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE", 100_000)
    folder, made = tmp_path / "data", records(4000)
    folder.mkdir()
    for n in range(4):
        lines = "".join(json.dumps(r) + "\n" for r in made[n::4]).encode()
        name = f"{n}.jsonl" + ".gz" * (n % 2)
        (folder / name).write_bytes(gzip.compress(lines) if n % 2 else lines)
    source = SourceConfig(reader="records", path=str(folder), by_field="topic")
    config = config_of({"web": source})
    found = preview(config, tmp_path / "work")
    (looked,) = found.sources
    assert len(looked.weights) == 4
    assert looked.tally.records < 1000
    assert looked.share == pytest.approx(looked.tally.records / 4000, rel=0.1)
    for place in found.places("partitions"):
        everything = sum(map(place.documents, place.sizes))
        assert everything == pytest.approx(2000, rel=0.1)
        text = sum(len(r["text"]) for r in made if r["topic"] == place.name)
        assert sum(map(place.tokens, place.sizes)) == pytest.approx(text, rel=0.1)


def test_a_tokenizer_that_does_not_know_the_text(tmp_path):
    vocabulary = {"the": 0, "[UNK]": 1, "<|endoftext|>": 2}
    words_only = tokenizers.Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    words_only.save(str(tmp_path / "tokenizer.json"))
    config = config_of({"a": write_partition(tmp_path / "data", "a")})
    tokenizer = TokenizerConfig(kind="file", path=str(tmp_path / "tokenizer.json"))
    found = preview(with_corpus(config, tokenizer=tokenizer), tmp_path / "work")
    assert any(
        "partition 'a': the tokenizer does not know" in p for p in found.problems
    )


def test_a_salt_that_is_proposed_works(tmp_path):
    sources = {n: write_partition(tmp_path, n, documents=20) for n in ("a", "b")}
    few = SourceConfig("records", str(write_jsonl(tmp_path / "few.jsonl", records(6))))
    config = config_of({**sources, "few": few}, split=SplitConfig(salt="1"))
    problems = [p for p in preview(config, tmp_path / "work").problems if "salt" in p]
    (salt,) = {re.search(r"split\.salt='(\d+)'", problem)[1] for problem in problems}
    config = with_corpus(config, split=SplitConfig(salt=salt))
    assert not preview(config, tmp_path / "work").problems
