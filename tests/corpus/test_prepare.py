"""`prepare` from end to end, with real ArrayRecord files."""

import dataclasses
import errno
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
import sealing
import tokenizers

from jaxsim.config import (
    BaseConfig,
    SourceConfig,
    SplitConfig,
    TokenizerConfig,
    save_config,
)
from jaxsim.corpus import open_corpus, prepare, store
from jaxsim.corpus import prepare as prepare_package
from jaxsim.corpus.arrayrecord import TableReader, write_table
from jaxsim.corpus.rows import evaluation_rows
from jaxsim.corpus.split import split_of
from jaxsim.corpus.work import Job, do
from jaxsim.errors import DamagedError, UserError

from .builders import (
    config_of,
    document,
    in_order,
    with_corpus,
    words,
    write_jsonl,
    write_partition,
)


@pytest.fixture
def sources(tmp_path):
    return {n: write_partition(tmp_path / "in", n) for n in ("a", "b", "c")}


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


def digests(corpus):
    return {
        **corpus.base_digests,
        **{n: u.digest for n, u in corpus.units.items()},
        **{
            (n, split): digest
            for n, d in corpus.domains.items()
            for split, digest in d.digests.items()
        },
    }


def texts_of(path):
    lines = path.read_text().split("\n")[:-1]
    return in_order({r["id"]: r["text"] for r in map(json.loads, lines)})


def test_rows_are_the_training_documents(sources, work, tmp_path):
    config = config_of(sources)
    corpus = prepare(config, work)
    assert list(corpus.units) == ["a", "b", "c"]
    assert corpus.budget_tokens == 4 * 2 * 32
    for name, unit in corpus.units.items():
        texts = texts_of(tmp_path / "in" / f"{name}.jsonl")
        split = config.corpus.split
        train = [
            t for i, t in texts.items()
            if split_of(document(i), split) == "train"
        ]  # fmt: skip
        stream = [t for x in train for t in [*x.encode(), 256]]
        reader = corpus.rows(name)
        assert len(reader) == unit.rows == (len(stream) - 1) // 32
        picked = np.random.default_rng(0).permutation(unit.rows)
        rows_RL1 = reader[picked]
        assert rows_RL1.dtype == np.int32
        for row, r in zip(rows_RL1, picked, strict=True):
            assert row.tolist() == stream[r * 32 : r * 32 + 33]
        assert reader[np.zeros(0, np.int64)].shape == (0, 33)
        assert unit.documents == len(train)
        assert unit.tokens == unit.rows * 32
        with pytest.raises(IndexError):
            reader[np.array([unit.rows])]
        with pytest.raises(IndexError):
            reader[np.array([-1])]
    base_RL1 = corpus.rows("base")[np.arange(corpus.base.rows)]
    assert base_RL1.shape == (corpus.base.rows, 33)


def test_every_byte_of_evaluation_documents_is_scored(sources, work, tmp_path):
    out = write_partition(tmp_path / "in", "out", documents=9)
    config = config_of(sources, domains={"out": out})
    corpus = prepare(config, work)
    assert [d.in_pool for d in corpus.domains.values()] == [True] * 3 + [False]
    for name, domain in corpus.domains.items():
        texts = texts_of(tmp_path / "in" / f"{name}.jsonl")
        for split in ("dev", "test"):
            e = corpus.evaluation(name, split)
            assert set(e.documents) == {
                i for i in texts
                if split == split_of(
                    document(i), config.corpus.split, in_pool=name != "out"
                )
            }  # fmt: skip
            for index, identity in enumerate(e.documents):
                scored = [
                    t
                    for r in np.flatnonzero(e.document_R == index)
                    for t in e.tokens_RL1[r, 1:][
                        e.first_R[r] :
                        e.first_R[r] + e.count_R[r]
                    ].tolist()
                ]  # fmt: skip
                assert bytes(scored).decode() == texts[identity]
            sizes = [len(texts[i]) for i in e.documents]
            assert e.count_R.sum() == domain.tokens[split] == sum(sizes)
            assert e.bytes_R.sum() == domain.bytes[split] == sum(sizes)
            folder = store.folder_of(work, "domain", e.digest)
            about = json.loads((folder / "documents.json").read_text())
            assert about["tokens"] == about["bytes"] == sizes
            assert domain.windows[split] == len(e.tokens_RL1)
            assert domain.documents[split] == len(e.documents)
            assert domain.digests[split] == e.digest
    ids = [corpus.evaluation("out", split).documents for split in ("dev", "test")]
    assert sum(map(len, ids)) == 9
    with pytest.raises(UserError, match="no domain 'x'"):
        corpus.evaluation("x", "dev")
    with pytest.raises(UserError, match="no split 'both'"):
        corpus.evaluation("out", "both")
    with pytest.raises(UserError, match="no unit 'x'"):
        corpus.rows("x")


def test_a_new_partition_and_domain_change_nothing_else(sources, work, tmp_path):
    before = prepare(config_of(sources, kind="bpe"), work)
    # 'A first' sorts before the others; its text must not enter the base model.
    more = {
        "A first": write_partition(tmp_path / "in", "A first"), **sources
    }  # fmt: skip
    domain = write_partition(tmp_path / "in", "later", documents=8)
    config = config_of(more, kind="bpe", domains={"later": domain})
    after = prepare(config, work)
    old, new = digests(before), digests(after)
    assert old.items() <= new.items()
    assert {k for k in new if k not in old} == {
        "A first", ("A first", "dev"), ("A first", "test"),
        ("later", "dev"), ("later", "test"),
    }  # fmt: skip
    assert after.tokenizer_digest == before.tokenizer_digest
    # The frozen base text has no document of the new partition, so its 'base' split
    # is training text.
    split = config.corpus.split
    splits = [split_of(document(f"A first/{i}"), split) for i in range(30)]
    assert splits.count("base") > 0
    trained = splits.count("base") + splits.count("train")
    assert after.units["A first"].documents == trained
    del more["b"]
    third = prepare(config_of(more, kind="bpe"), work)
    assert list(third.units) == ["A first", "a", "c"]
    assert digests(third).items() <= new.items()


def test_the_same_input_gives_the_same_digests_in_another_workdir(
    sources, work, tmp_path
):
    first = prepare(config_of(sources, kind="bpe"), work)
    second = prepare(config_of(sources, kind="bpe"), tmp_path / "other")
    assert digests(first) == digests(second)
    changed = prepare(config_of(sources, kind="bytes"), tmp_path / "bytes")
    assert not set(digests(first).values()) & set(digests(changed).values())


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("model.length", {"length": 16}),
        ("recipe.steps * config.recipe.batch", {"steps": 5}),
        ("corpus.split.salt", {"split": SplitConfig(salt="u")}),
        ("corpus.tokenizer.kind", {"kind": "bpe"}),
        ("corpus.base_text", {"base_text": {"t": SourceConfig("text", "x")}}),
    ],
)
def test_a_config_that_contradicts_the_frozen_one_is_refused(
    sources, work, key, change
):
    prepare(config_of(sources), work)
    before = (work / "corpus" / "corpus.json").read_bytes()
    with pytest.raises(UserError) as error:
        prepare(config_of(sources, **change), work)
    assert str(error.value).startswith(f"config.{key}: ")
    assert "--refreeze" in str(error.value)
    assert (work / "corpus" / "corpus.json").read_bytes() == before


def test_refreeze_starts_over_and_leaves_the_pool(sources, work):
    prepare(config_of(sources), work)
    (work / "pool").mkdir()
    (work / "pool" / "pool.json").write_text("{}")
    corpus = prepare(config_of(sources, length=16), work, refreeze=True)
    assert corpus.length == 16
    assert (work / "pool" / "pool.json").exists()


def test_unchanged_input_is_not_read_again(sources, work, monkeypatch):
    config = config_of(sources)
    before = prepare(config, work)

    def refuse(*args, **kwargs):
        raise AssertionError("read again")

    module = sys.modules["jaxsim.corpus.prepare"]
    assert prepare_package is module.prepare
    with monkeypatch.context() as patch:
        patch.setattr(module, "scanned", refuse)
        assert digests(prepare(config, work)) == digests(before)
        path = sources["a"].path
        os.utime(path, ns=(1, 1))
        with pytest.raises(AssertionError, match="read again"):
            prepare(config, work)
    assert digests(prepare(config, work)) == digests(before)


def test_leftovers_are_cleared_even_if_nothing_changed(sources, work):
    prepare(config_of(sources), work)
    folder = work / "corpus"
    before = {path.name for path in folder.iterdir()}
    (folder / ".tmp_1").mkdir()
    (folder / ".quarantine.jsonl").write_text("half")
    (folder / ".corpus.json.0123").write_text("half")
    prepare(config_of(sources), work)
    assert {path.name for path in folder.iterdir()} == before


def test_a_full_disk_is_named_with_bytes_and_leaves_nothing_half_done(
    sources, work, monkeypatch
):
    folder, usage = work / "corpus", shutil.disk_usage(".")

    def full(path):
        has_room = len(list(folder.glob("unit_*"))) < 2
        return usage if has_room else usage._replace(free=1000)

    monkeypatch.setattr("shutil.disk_usage", full)
    with pytest.raises(
        OSError, match=r"disk full: 1[56]\d,\d+ bytes .* 1,000"
    ) as error:
        prepare(config_of(sources), work)
    assert error.value.errno == errno.ENOSPC
    assert len(list(folder.glob("unit_*"))) == 2
    assert not list(folder.glob(".tmp_*"))
    assert not (folder / "corpus.json").exists()
    monkeypatch.undo()
    assert list(prepare(config_of(sources), work).units) == ["a", "b", "c"]


def test_a_lost_data_set_is_written_again(sources, work):
    config = config_of(sources)
    corpus = prepare(config, work)
    shutil.rmtree(store.folder_of(work, "unit", corpus.units["b"].digest))
    with pytest.raises(DamagedError, match="unit 'b'"):
        open_corpus(work).rows("b")
    assert digests(prepare(config, work)) == digests(corpus)
    assert len(open_corpus(work).rows("b")) == corpus.units["b"].rows


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
@pytest.mark.parametrize("kind", ["unit", "domain"])
def test_damage_is_found_before_rows_are_used(sources, work, kind, damage):
    corpus = prepare(config_of(sources), work)
    digest = (
        corpus.units["a"].digest if kind == "unit"
        else corpus.domains["a"].digests["test"]
    )  # fmt: skip
    folder = store.folder_of(work, kind, digest)
    (file,) = folder.rglob("*array_record-*")
    data = bytearray(file.read_bytes())
    if damage == "flip":
        # ArrayRecord pads to 64 KiB; flip a bit outside the padding.
        used = len(bytes(data[: len(data) // 2]).rstrip(b"\0"))
        data[used // 2] ^= 4
        file.write_bytes(data)
    elif damage == "remove":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2 if damage == "cut" else 0])
    opened = open_corpus(work)
    with pytest.raises(DamagedError, match=f"{kind} 'a'"):
        if kind == "unit":
            opened.rows("a")
        else:
            opened.evaluation("a", "test")


@pytest.mark.parametrize("name", ["tokenizer*/about.json", "domain*/documents.json"])
def test_a_pipe_in_a_corpus_is_not_opened(sources, work, name):
    prepare(config_of(sources), work)
    path = next((work / "corpus").glob(name))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamagedError, match=f"{path.name}: is no regular file"):
        open_corpus(work)


def test_rows_of_another_data_set_are_refused(sources, work):
    corpus = prepare(config_of(sources), work)
    a, b = (store.folder_of(work, "unit", corpus.units[n].digest) for n in "ab")
    shutil.rmtree(a)
    shutil.copytree(b, a)
    with pytest.raises(DamagedError, match="digest"):
        open_corpus(work).rows("a")


def test_one_changed_token_is_found(sources, work):
    corpus = prepare(config_of(sources), work)
    tokens_RL1 = corpus.rows("a")[np.arange(corpus.units["a"].rows)]
    tokens_RL1[3, 7] ^= 1
    folder = store.folder_of(work, "unit", corpus.units["a"].digest)
    shutil.rmtree(folder)
    write_table(folder, [{"tokens": tokens_RL1}], tokens_RL1.nbytes)
    with pytest.raises(DamagedError, match="unit 'a': its rows differ"):
        open_corpus(work).rows("a")


def test_digests_depend_on_the_tokenizer():
    rows_RL1 = np.zeros((2, 5), np.int32)
    assert store.rows_digest([rows_RL1], 2, 4, "a") == store.rows_digest(
        [rows_RL1[:1], rows_RL1[1:]], 2, 4, "a"
    )
    windows = evaluation_rows([rows_RL1[0]], [rows_RL1[0]], 0, 0, 4, ["x"])
    about = {"bytes": [1], "tokens": [1]}
    pairs = [
        (
            store.rows_digest([rows_RL1], 2, 4, tokenizer),
            store.windows_digest(windows, about, tokenizer),
        )
        for tokenizer in ("a", "b")
    ]
    assert pairs[0][0] != pairs[1][0]
    assert pairs[0][1] != pairs[1][1]


def test_the_older_of_two_copies_stays(sources, work, tmp_path):
    config = config_of(sources)
    before = prepare(config, work)
    path = tmp_path / "in" / "A copy.jsonl"
    source = write_partition(tmp_path / "in", "A copy")
    texts = texts_of(tmp_path / "in" / "b.jsonl")
    split = config.corpus.split
    trained = [t for i, t in texts.items() if split_of(document(i), split) == "train"]
    free = (
        f"free{i}"
        for i in range(999)
        if split_of(document(f"free{i}"), split) == "train"
    )
    with path.open("a") as file:
        for text in trained:
            file.write(json.dumps({"id": next(free), "text": text}) + "\n")
    after = prepare(config_of({"A copy": source, **sources}), work)
    assert digests(before).items() <= digests(after).items()
    duplicates = after.record.summary["duplicates"]
    assert duplicates == {"A copy": len(trained)}


def test_a_missing_or_damaged_corpus_is_refused(sources, work):
    with pytest.raises(UserError, match="run `jaxsim prepare`"):
        open_corpus(work)
    prepare(config_of(sources), work)
    path = work / "corpus" / "corpus.json"
    record = json.loads(path.read_text())
    bad = {
        "format version 99": record | {"version": 99},
        "no SHA-256": {
            **record,
            "frozen": record["frozen"] | {"tokenizer_digest": "../../x"},
        },
        "format version None": {"format": 1},
        "frozen: must be a group": record | {"frozen": 1},
    }
    for message, content in bad.items():
        path.write_text(sealing.sealed(dict(content)))
        with pytest.raises(DamagedError, match=message):
            open_corpus(work)
    path.write_text("{")
    with pytest.raises(DamagedError, match="unreadable"):
        open_corpus(work)


def test_a_forged_record_of_the_corpus_is_refused(sources, work):
    """Its seal was made again; the rest of it does not fit."""
    prepare(config_of(sources), work)
    path = work / "corpus" / "corpus.json"
    genuine = path.read_text()

    def swap(digests):
        digests["dev"], digests["test"] = digests["test"], digests["dev"]

    for forge in (
        lambda units, domains, base: units["a"].update(tokens=5),
        lambda units, domains, base: base.update(tokens=5),
        lambda units, domains, base: units["a"].update(name="b"),
        lambda units, domains, base: units.update(uniform=units.pop("a")),
        lambda units, domains, base: domains["a"]["digests"].pop("dev"),
        lambda units, domains, base: swap(domains["a"]["digests"]),
        lambda units, domains, base: domains["a"].update(
            digests=domains["b"]["digests"]
        ),
        lambda units, domains, base: domains["a"]["documents"].update(test=1),
        lambda units, domains, base: domains["a"]["tokens"].update(test=1),
        lambda units, domains, base: domains["a"]["bytes"].update(test=1),
        lambda units, domains, base: domains["a"]["windows"].update(test=1),
    ):  # fmt: skip
        path.write_text(genuine)
        sealing.edit(
            path, lambda d, f=forge: f(d["units"], d["domains"], d["frozen"]["base"])
        )
        with pytest.raises(DamagedError, match=r"corpus\.json"):
            open_corpus(work).evaluation("a", "test")


def test_reading_from_threads(sources, work):
    corpus = prepare(config_of(sources), work)
    expected = corpus.rows("a")[np.arange(corpus.units["a"].rows)]
    wrong = []

    def read(base):
        rng = np.random.default_rng(base)
        for _ in range(20):
            picked = rng.integers(0, len(expected), 8)
            if (corpus.rows("a")[picked] != expected[picked]).any():
                wrong.append(base)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_large_partition_is_cut_into_pieces(sources, work, tmp_path):
    sources["big"] = write_partition(tmp_path / "in", "big", documents=60)
    corpus = prepare(config_of(sources, max_units=3, steps=20), work)
    names = [n for n in corpus.units if n.startswith("big")]
    assert names == ["big_1of3", "big_2of3", "big_3of3"]
    assert list(corpus.units)[:1] == ["a"]
    whole = []
    for name in names:
        unit = corpus.units[name]
        assert (unit.partition, unit.group) == ("big", "big")
        assert unit.rows >= corpus.budget_rows
        assert 0 < unit.documents < 60
        whole += corpus.rows(name)[np.arange(unit.rows)].tolist()
    # The pieces are one stream: each row starts with the last token before it.
    assert all(x[-1] == y[0] for x, y in itertools.pairwise(whole))
    assert set(corpus.domains) == {"a", "b", "big", "c"}
    uncut = prepare(config_of(sources, steps=20), tmp_path / "uncut")
    assert len(whole) == uncut.units["big"].rows


def test_a_domain_that_is_all_old_training_text_is_told_so(sources, work):
    prepare(config_of(sources), work)
    more = {"more": sources["a"]}
    with pytest.raises(UserError, match=r"'more'.*\(\d+ repeat older training text\)"):
        prepare(config_of(sources, domains=more), work)


def test_small_and_empty_partitions_are_named(sources, work, tmp_path):
    small = with_corpus(config_of(sources, steps=400), max_epochs=2.0)
    with pytest.raises(UserError, match=r"partition 'a'.*corpus\.max_epochs"):
        prepare(small, work)
    one = write_jsonl(tmp_path / "one.jsonl", [{"id": "0", "text": "only this"}])
    sources["one"] = SourceConfig(reader="records", path=str(one))
    with pytest.raises(UserError, match="'one' has no document in its"):
        prepare(config_of(sources), work)
    tiny = write_jsonl(
        tmp_path / "tiny.jsonl", [{"id": f"{i}", "text": f"{i}"} for i in range(20)]
    )
    sources["one"] = SourceConfig(reader="records", path=str(tiny))
    with pytest.raises(UserError, match="partition 'one': 0 rows"):
        prepare(config_of(sources), work)
    assert not (work / "corpus" / "corpus.json").exists()


def test_the_advised_salt_works(sources, work, tmp_path):
    few = write_partition(tmp_path / "in", "few", documents=12)
    config = config_of({"few": few}, split=SplitConfig(salt="t", dev=0.1, test=0.1))
    with pytest.raises(UserError, match=r"corpus\.split\.salt='\d+'") as error:
        prepare(config, work)
    salt = str(error.value).split("salt='")[1].split("'")[0]
    split = dataclasses.replace(config.corpus.split, salt=salt)
    prepare(with_corpus(config, split=split), work)


@pytest.mark.parametrize(
    "name",
    ["../x", "A", "base", "x" * 300, "a\0", "uniform", "a + b", "scale",
     "a.replicate1", "Macro in-pool"],
)  # fmt: skip
@pytest.mark.parametrize("where", ["partitions", "domains", "by_field"])
def test_hostile_names_are_refused(sources, work, where, name, tmp_path):
    sources_of = {"partitions": dict(sources), "domains": {}}
    if where == "by_field":
        records = [
            {"id": f"{i}", "text": text, "topic": name}
            for i, text in enumerate(texts_of(tmp_path / "in" / "b.jsonl").values())
        ]
        path = write_jsonl(tmp_path / "named.jsonl", records)
        by_field = SourceConfig("records", str(path), by_field="topic")
        sources_of["partitions"]["named"] = by_field
    else:
        sources_of[where][name] = sources["b"]
    with pytest.raises(UserError) as error:
        prepare(config_of(**sources_of), work)
    assert repr(name)[:100] in str(error.value)
    assert not list(work.glob("*/unit*"))


def test_a_group_is_no_partition_with_others(sources, work, tmp_path):
    """A partition 'news' is not joined with the parts of a source 'news'."""
    folder = tmp_path / "in"
    os.rename(sources["c"].path, folder / "news.jsonl")
    records = [{"id": f"{i}", "text": "words", "topic": "xy"[i % 2]} for i in range(9)]
    path = write_jsonl(folder / "topics.jsonl", records)
    parts = {
        "other": SourceConfig("records", str(folder / "news.jsonl"), by_file=True),
        "news": SourceConfig("records", str(path), by_field="topic"),
    }
    with pytest.raises(UserError, match="'news' is the name of a partition and of"):
        prepare(config_of(parts), work)


def test_two_partitions_do_not_become_one_by_their_joined_names(work, tmp_path):
    (tmp_path / "in").mkdir()
    for name, topic in (("b,c", "a"), ("c", "a,b")):
        records = [{"id": f"{topic}{i}", "text": "words", "topic": topic} for i in "xy"]
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", records)
    source = SourceConfig(
        "records", str(tmp_path / "in"), by_field="topic", by_file=True
    )
    with pytest.raises(UserError, match="'a,b,c' is the name of two partitions"):
        prepare(config_of({"s": source}), work)


def plant(tmp_path, sources, config):
    """Adds copies of an evaluation document of 'a' to the text of 'b'."""
    path = tmp_path / "in" / "a.jsonl"
    text = next(
        t for i, t in texts_of(path).items()
        if split_of(document(i), config.corpus.split) == "test"
    )  # fmt: skip
    rng = random.Random(8)
    copies = [
        text, text.upper(), textwrap.fill(text, 20),
        f"{words(rng, 50)} {text} {words(rng, 50)}",
    ]  # fmt: skip
    records = [
        {"id": f"copy{i}/{j}", "text": f"{copy}"}
        for i, copy in enumerate(copies)
        for j in range(1000)
        if split_of(document(f"copy{i}/{j}"), config.corpus.split) == "train"
    ]
    kept = {r["id"].split("/")[0]: r for r in records}
    with open(sources["b"].path, "a") as file:
        file.writelines(json.dumps(r) + "\n" for r in kept.values())


def test_planted_evaluation_text_is_dropped_and_counted(
    sources, work, tmp_path, capsys, verbose
):
    config = config_of(sources)
    clean = prepare(config, tmp_path / "clean")
    plant(tmp_path, sources, config)
    corpus = prepare(config, work)
    # Three copies are one normalized text: one overlap and two duplicates.
    summary = corpus.record.summary
    assert summary["overlap"] == {"b": {"a": {"training": 2, "evaluation": 0}}}
    assert summary["duplicates"] == {"b": 2}
    assert digests(corpus) == digests(clean)
    said = capsys.readouterr().out
    assert re.search(r"b, training documents +overlap with domain a +2 ", said)
    with pytest.raises(UserError, match="'b' and domain 'a': 2 documents"):
        prepare(with_corpus(config, overlap="refuse"), tmp_path / "no")


def test_evaluation_text_that_repeats_older_training_text_is_dropped(
    sources, work, tmp_path
):
    config = config_of(sources)
    before = prepare(config, work)
    texts = texts_of(tmp_path / "in" / "a.jsonl")
    by_split = {split_of(document(i), config.corpus.split): t for i, t in texts.items()}
    path = tmp_path / "in" / "new.jsonl"
    write_partition(tmp_path / "in", "new", documents=8)
    with path.open("a") as file:
        for split in ("base", "train"):
            record = {"id": split, "text": by_split[split].upper()}
            file.write(json.dumps(record) + "\n")
    new = SourceConfig(reader="records", path=str(path))
    after = prepare(with_corpus(config, domains={"new": new}), work)
    assert digests(before).items() <= digests(after).items()
    one = {"new": {"training": 0, "evaluation": 1}}
    assert after.record.summary["overlap"] == {"base": one, "a": one}
    ids = [i for s in ("dev", "test") for i in after.evaluation("new", s).documents]
    assert sorted(ids) == [f"new/{i}" for i in range(8)]


def test_more_evaluation_text_of_an_old_domain_leaves_older_text_alone(
    sources, work, tmp_path
):
    """A higher limit takes more of a domain, and then a file is added."""
    config = config_of(sources)
    texts = texts_of(tmp_path / "in" / "a.jsonl")
    split = config.corpus.split
    trained = [t for i, t in texts.items() if split_of(document(i), split) == "train"]
    records = [{"id": f"e{i}", "text": text} for i, text in enumerate(trained[:8])]
    rng = random.Random(7)
    records += [{"id": f"w{i}", "text": words(rng, 40)} for i in range(20)]
    folder = tmp_path / "in" / "d"
    folder.mkdir()
    write_jsonl(folder / "1.jsonl", records)
    config = with_corpus(config, domains={"d": SourceConfig("records", str(folder))})
    before = prepare(with_corpus(config, evaluation_tokens=100), work)
    after = prepare(config, work)
    assert after.units == before.units
    more = [{"id": f"f{i}", "text": text} for i, text in enumerate(trained[8:])]
    write_jsonl(folder / "2.jsonl", more)
    last = prepare(config, work)
    assert last.units == after.units
    assert last.domains["d"] == after.domains["d"]
    overlap = last.record.summary["overlap"]["a"]["d"]
    assert overlap["training"] + overlap["evaluation"] == len(trained)
    assert overlap["evaluation"] > len(trained) - 8
    # Documents of the first call are still older than the training text.
    other = write_partition(tmp_path / "in", "other")
    config = with_corpus(config, partitions=sources | {"other": other})
    assert last.units.items() <= prepare(config, work).units.items()


def test_less_evaluation_text_leaves_older_text_alone(sources, work, tmp_path):
    """Text that repeats what is no longer scored does not come back."""
    texts = list(texts_of(tmp_path / "in" / "a.jsonl").values())
    rng = random.Random(7)
    texts += [words(rng, 40) for _ in range(40)]
    records = [{"id": f"e{i}", "text": t} for i, t in enumerate(texts) if i > 20]
    domain = write_jsonl(tmp_path / "in" / "d.jsonl", records)
    domains = {"d": SourceConfig("records", str(domain))}
    config = with_corpus(config_of(sources), domains=domains)
    before = prepare(config, work)
    after = prepare(with_corpus(config, evaluation_tokens=100), work)
    assert after.units == before.units
    assert after.domains["d"].tokens["dev"] < before.domains["d"].tokens["dev"]


def test_base_text_from_another_source(sources, work, tmp_path):
    text = write_partition(tmp_path / "in", "common")
    config = config_of(sources, base_text={"common": text})
    corpus = prepare(config, work)
    assert corpus.base.documents == 30
    splits = [split_of(document(f"a/{i}"), config.corpus.split) for i in range(30)]
    trained = splits.count("base") + splits.count("train")
    assert corpus.units["a"].documents == trained


def test_base_text_may_have_the_names_of_partitions(work, tmp_path):
    """Its documents and groups are not taken for those of the partitions."""
    rng, paths = random.Random(3), []
    for name in ("pool", "text"):
        records = [
            {"id": f"{i}", "text": words(rng, 40), "topic": "xy"[i % 2]}
            for i in range(60)
        ] + [{"id": "odd", "text": "no topic"}]
        paths.append(write_jsonl(tmp_path / f"{name}.jsonl", records))
    pool, text = (SourceConfig("records", str(p), by_field="topic") for p in paths)
    corpus = prepare(config_of({"all": pool}, base_text={"base": text}), work)
    assert [unit.group for unit in corpus.units.values()] == ["all", "all"]
    summary = corpus.record.summary
    assert [count["base"] for count in summary["documents"].values()] == [0, 0]
    assert corpus.base.documents == 60
    again = prepare(config_of({"all": pool}, base_text={"all": text}), tmp_path / "v")
    assert again.record.summary["dropped"] == {"all": {"no topic": 2}}


def test_bad_records_abort_or_are_reported(sources, work, capsys, verbose):
    with open(sources["a"].path, "a") as file:
        file.write("7\n")
    with pytest.raises(UserError, match="1 not a JSON object"):
        prepare(config_of(sources), work)
    assert not (work / "corpus" / "corpus.json").exists()
    prepare(config_of(sources, max_bad=0.1), work)
    said = capsys.readouterr().out
    assert re.search(r"source a, bad +not a JSON object +1 ", said)
    (line,) = (work / "corpus" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "source": "a", "cause": "not a JSON object", "file": "a.jsonl",
        "line": 31,
    }  # fmt: skip


def test_a_source_without_a_good_record_is_explained(sources, work, tmp_path):
    path = write_jsonl(tmp_path / "bad.jsonl", [{"id": "0", "content": "x"}] * 5)
    sources["bad"] = SourceConfig("records", str(path))
    with pytest.raises(UserError, match=r"set text_field.* fields are id, content"):
        prepare(config_of(sources), work)
    with pytest.raises(UserError, match=r"no documents left: no text \(5\); its"):
        prepare(config_of(sources, max_bad=1.0), work)


def test_a_tokenizer_file_is_copied_and_compared_by_content(sources, work, tmp_path):
    bpe = prepare(config_of(sources, kind="bpe"), tmp_path / "bpe").tokenizer
    bpe.save(tmp_path / "t")
    path = tmp_path / "t" / "tokenizer.json"
    config = with_corpus(
        config_of(sources), tokenizer=TokenizerConfig(kind="file", path=str(path))
    )
    corpus = prepare(config, work)
    assert corpus.tokenizer_digest == bpe.digest
    path.rename(tmp_path / "moved.json")
    assert digests(prepare(config, work)) == digests(corpus)
    other = json.loads((tmp_path / "moved.json").read_text())
    merges = other["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    path.write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"tokenizer\.path"):
        prepare(config, work)


def with_letters(config, tmp_path, begin, end="</s>"):
    """The config with a tokenizer of ten letters, a blank, <s> (11) and </s> (12)."""
    vocabulary = dict(zip("abcdefghij ", range(11), strict=True))
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary | {"<s>": 11, "</s>": 12}, [])
    )
    inner.decoder = tokenizers.decoders.Fuse()
    path = str(tmp_path / "letters.json")
    inner.save(path)
    names = {"begin_of_text": begin, "end_of_text": end}
    return with_corpus(config, tokenizer=TokenizerConfig("file", path=path, **names))


def test_documents_begin_with_a_token_of_their_own(
    sources, work, tmp_path, capsys, verbose
):
    config = with_letters(config_of(sources), tmp_path, "<s>")
    corpus = prepare(config, work)
    said = "begin-of-text: '<s>', id 11; end-of-text: '</s>', id 12"
    assert said in capsys.readouterr().out
    for name, unit in corpus.units.items():
        texts, stream = texts_of(tmp_path / "in" / f"{name}.jsonl"), []
        for i, text in texts.items():
            if split_of(document(i), config.corpus.split) == "train":
                stream += [11, *map("abcdefghij ".index, text), 12]
        rows_RL1 = corpus.rows(name)[np.arange(unit.rows)]
        assert unit.rows == (len(stream) - 1) // 32
        assert rows_RL1[:, :-1].ravel().tolist() == stream[: unit.rows * 32]
        e = corpus.evaluation(name, "dev")
        begins_R = np.diff(e.document_R, prepend=-1) > 0
        assert (e.tokens_RL1[begins_R, 0] == 11).all()
        assert not (e.tokens_RL1[:, 1:] == 11).any()
        assert e.bytes_R.sum() == e.count_R.sum()
    # Frozen base text is found again in new evaluation text.
    base = [
        t for i, t in texts_of(tmp_path / "in" / "a.jsonl").items()
        if split_of(document(i), config.corpus.split) == "base"
    ]  # fmt: skip
    new = write_partition(tmp_path / "in", "new", documents=8)
    with open(new.path, "a") as file:
        file.write(json.dumps({"id": "copy", "text": base[0]}) + "\n")
    after = prepare(with_corpus(config, domains={"new": new}), work)
    assert after.record.summary["overlap"]["base"]["new"]["evaluation"] == 1
    for begin in ("", "</s>"):
        with pytest.raises(UserError, match="begin_of_text: '<s>' was frozen"):
            prepare(with_letters(config, tmp_path, begin), work)


def test_a_begin_of_text_that_is_the_end_changes_nothing(sources, work, tmp_path):
    one, same = (
        with_letters(config_of(sources), tmp_path, begin) for begin in ("", "</s>")
    )
    corpus = prepare(one, work)
    assert digests(prepare(same, tmp_path / "same")) == digests(corpus)
    assert digests(prepare(same, work)) == digests(corpus)
    rows_RL1 = corpus.rows("a")[np.arange(corpus.units["a"].rows)]
    assert not (rows_RL1 == 11).any()


def test_the_end_of_a_turn_is_pointed_out(sources, work, tmp_path, capsys):
    prepare(with_letters(config_of(sources), tmp_path, "", "<s>"), work)
    assert "set config.corpus.tokenizer.end_of_text='</s>'" in capsys.readouterr().out


def test_an_imported_base_model_needs_no_base_text(sources, work, tmp_path):
    here = config_of(sources)
    config = dataclasses.replace(here, base=BaseConfig(path="model"))
    corpus = prepare(config, work)
    assert corpus.base is None
    for name, unit in corpus.units.items():
        splits = [
            split_of(document(f"{name}/{i}"), here.corpus.split) for i in range(30)
        ]
        assert unit.documents == splits.count("train") + splits.count("base")
    with pytest.raises(UserError, match="has no base text"):
        corpus.rows("base")
    more = sources | {"d": write_partition(tmp_path / "in", "d")}
    after = prepare(with_corpus(config, partitions=more), work)
    assert digests(corpus).items() <= digests(after).items()
    replay = dataclasses.replace(here.recipe, replay=0.25)
    replayed = dataclasses.replace(config, recipe=replay)
    assert digests(prepare(replayed, tmp_path / "r")) == digests(
        prepare(here, tmp_path / "here")
    )
    for one, place in ((replayed, work), (here, work), (config, tmp_path / "r")):
        with pytest.raises(UserError, match="whether base text is used"):
            prepare(one, place)


def test_evaluation_text_is_capped(sources, work, tmp_path):
    out = write_partition(tmp_path / "in", "out", documents=20, n_words=80)
    config = config_of(sources, domains={"out": out})
    whole = prepare(config, work).domains["out"]
    few = with_corpus(config, evaluation_windows=3)
    capped = prepare(few, work).domains["out"]
    # Every document is scored, up to the cap.
    assert capped.documents == whole.documents
    for split, documents in capped.documents.items():
        assert capped.windows[split] == 3 * documents < whole.windows[split]
        assert capped.tokens[split] == capped.bytes[split] == 96 * documents
    fewer = with_corpus(few, evaluation_tokens=200)
    assert set(prepare(fewer, work).domains["out"].documents.values()) == {3}
    fewer = with_corpus(config, evaluation_tokens=600)
    assert set(prepare(fewer, work).domains["out"].documents.values()) == {2}


def test_text_that_the_tokenizer_does_not_know_is_refused(
    sources, work, tmp_path, capsys
):
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            dict(zip("abcdefghij ?", range(12), strict=True)) | {"</s>": 12},
            [], unk_token="?",
        )
    )  # fmt: skip
    inner.save(str(tmp_path / "letters.json"))
    greek = [{"id": f"{i}", "text": "\u03b1" * (i + 9)} for i in range(9)]
    path = write_jsonl(tmp_path / "greek.jsonl", greek)
    config = with_corpus(
        config_of(sources),
        tokenizer=TokenizerConfig(
            kind="file", path=str(tmp_path / "letters.json"),
            end_of_text="</s>",
        ),
    )  # fmt: skip
    prepare(config, tmp_path / "known")
    assert "by the tokenizer" not in capsys.readouterr().out
    config = with_corpus(
        config, domains={"greek": SourceConfig(reader="records", path=str(path))}
    )
    with pytest.raises(UserError, match=r"'greek'.*raise config\.corpus\.max_unknown"):
        prepare(config, work)
    summary = prepare(with_corpus(config, max_unknown=1.0), work).record.summary
    assert set(summary["unknown"]) == {
        "domain 'greek', split 'dev'", "domain 'greek', split 'test'",
    }  # fmt: skip
    for counts in summary["unknown"].values():
        assert counts["unknown"] == counts["tokens"]
        assert counts["lost"] == counts["bytes"] == 2 * counts["tokens"]
    assert "not kept by the tokenizer: domain" in capsys.readouterr().out


KILLED = """
import json, sys
from pathlib import Path
from jaxsim.config import load_config
from jaxsim.corpus import prepare
config = load_config(Path(sys.argv[1]))
print("ready", flush=True)
prepare(config, Path(sys.argv[2]))
assert "tensorflow" not in sys.modules, "TensorFlow was imported"
assert "pandas" not in sys.modules, "pandas was imported"
"""


def start(config, work, tmp_path):
    path = tmp_path / "config.json"
    save_config(config, path)
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), str(work)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def test_a_kill_at_any_moment_does_not_change_the_corpus(sources, work, tmp_path):
    config = config_of(sources, kind="bpe")
    began = time.monotonic()
    child = start(config, tmp_path / "undisturbed", tmp_path)
    began = time.monotonic()
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    taken = time.monotonic() - began
    expected = digests(open_corpus(tmp_path / "undisturbed"))
    rng = random.Random(0)
    for attempt in range(5):
        workdir = tmp_path / f"killed{attempt}"
        child = start(config, workdir, tmp_path)
        time.sleep(rng.random() * taken)
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=60)
        if (workdir / "corpus" / "corpus.json").exists():
            assert digests(open_corpus(workdir)) == expected
        corpus = prepare(config, workdir)
        assert digests(corpus) == expected
        assert not list((workdir / "corpus").glob(".tmp_*"))
        for name in ("base", *corpus.units):
            corpus.rows(name)


def test_a_full_disk_is_an_error_of_the_system(tmp_path):
    """ArrayRecord's own is a RuntimeError; the limit stands for a full disk."""
    tokens_RL1 = np.arange(40_000, dtype=np.int32).reshape(10, -1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_table(tmp_path / "table", [{"tokens": tokens_RL1}], 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(tmp_path / "table")


def test_a_full_disk_is_named_by_a_pass_over_files(tmp_path):
    """NumPy's error has no number."""
    job = Job("x", 0, tmp_path / "target", _save_much, ())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, before[1]))
    try:
        with pytest.raises(OSError, match="No space left on device") as caught:
            do(job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path))
    assert not list(tmp_path.iterdir())


def _save_much(folder):
    np.save(folder / "x.npy", np.arange(40_000))


def test_few_tables_are_open_at_once(tmp_path, monkeypatch):
    """A process may open 64 files, and a corpus has more units."""
    files = "/proc/self/fd"
    if not os.path.isdir(files):
        pytest.skip("no /proc")
    monkeypatch.setattr("resource.getrlimit", lambda _: (8, 8))
    tables = []
    for i in range(4):
        tokens_RL1 = np.full((1, 9), i, np.int32)
        write_table(tmp_path / str(i), [{"tokens": tokens_RL1}], 0)
        tables.append(TableReader(tmp_path / str(i), "a table", 9))
    for i in (0, 1, 2, 3, 0, 2):
        assert tables[i][np.array([0])].tolist() == [[i] * 9]
        opened = [os.path.realpath(f"{files}/{n}") for n in os.listdir(files)]
        assert len([path for path in opened if str(tmp_path) in path]) <= 2
