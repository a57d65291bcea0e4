"""The passes of `prepare`: results depend on content alone, whoever does the work."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxsim.config import SourceConfig, save_config
from jaxsim.corpus import open_corpus, prepare, store
from jaxsim.corpus.choose import settle
from jaxsim.corpus.pipeline import Pipeline
from jaxsim.corpus.prepare import prepare_share
from jaxsim.corpus.work import mapped
from jaxsim.errors import DamagedError, JaxsimError, UserError

from .builders import config_of, in_order, with_corpus, words, write_jsonl


def made(documents=360, seed=5):
    """Records of three topics: with near copies, and with no ids for some."""
    rng = random.Random(seed)
    records = []
    for i in range(documents):
        text = words(rng, rng.randrange(20, 60))
        record = {"id": f"d{i}", "text": text, "topic": "xyz"[i % 3]}
        if i % 7 == 0:
            del record["id"]
        records.append(record)
        if i % 3 == 0:
            near = " ".join([*text.split()[:-1], "other"])
            records.append({"id": f"near{i}", "text": near, "topic": "xyz"[i % 2]})
        if i % 7 == 1:
            records.append({"id": f"copy{i}", "text": text, "topic": "xyz"[i % 2]})
    return records


def written(folder, parts):
    folder.mkdir()
    for i, records in enumerate(parts):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{i}.jsonl").write_text(lines)
    return SourceConfig("records", str(folder), by_field="topic")


def config_for(source, **corpus):
    """A part of each partition is taken, and a part of each domain."""
    wanted = {"unit_budgets": 1.0, "evaluation_tokens": 600, "near_duplicates": 0.6}
    return config_of({"all": source}, kind="bpe", steps=40, **(wanted | corpus))


def digests(corpus):
    return {
        **corpus.base_digests,
        **{name: unit.digest for name, unit in corpus.units.items()},
        **{name: domain.digests for name, domain in corpus.domains.items()},
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    corpus = prepare(config_for(written(folder / "in", [made()])), folder / "work")
    summary = corpus.record.summary
    assert summary["near_duplicates"]
    assert set(summary["duplicates"]) == {"x", "y", "z"}
    assert all(unit.supply > unit.tokens for unit in corpus.units.values())
    return corpus


def test_the_order_of_records_and_files_changes_nothing(expected, tmp_path):
    records, rng = made(), random.Random(1)
    for shards in (3, 5):
        rng.shuffle(records)
        parts = [records[i::shards] for i in range(shards)]
        source = written(tmp_path / f"in{shards}", parts)
        corpus = prepare(config_for(source), tmp_path / f"work{shards}")
        assert digests(corpus) == digests(expected)
        assert corpus.units == expected.units
        found, known = corpus.record.summary, expected.record.summary
        for key in ("duplicates", "near_duplicates", "overlap", "documents"):
            assert found[key] == known[key]


def test_processes_and_shares_change_nothing(expected, tmp_path, capsys):
    records = made()
    source = written(tmp_path / "in", [records[i::4] for i in range(4)])
    config = config_for(source)
    two = prepare(with_corpus(config, workers=2), tmp_path / "two")
    assert digests(two) == digests(expected)
    work = tmp_path / "shares"
    capsys.readouterr()
    said, turns = "", 0
    while "run `jaxsim prepare`" not in said:
        prepare_share(config, work, (turns % 2, 2))
        said, turns = capsys.readouterr().out, turns + 1
        assert f"share {1 - turns % 2}/2 of" in said
    assert 3 < turns < 7
    assert not (work / "corpus" / "corpus.json").exists()
    assert digests(prepare(config, work)) == digests(expected)
    assert not (work / "corpus" / ".work").exists()
    prepare_share(config, work, (0, 2))
    with pytest.raises(ValueError, match="from 0 to n-1"):
        prepare_share(config, work, (2, 2))
    assert "nothing to do" in capsys.readouterr().out


def test_rounds_change_nothing(expected, tmp_path, monkeypatch):
    """A first guess that is far too low."""
    source = written(tmp_path / "in", [made()])
    monkeypatch.setattr("jaxsim.corpus.pipeline._MARGIN", 0.2)
    corpus = prepare(config_for(source), tmp_path / "work")
    assert digests(corpus) == digests(expected)


def test_a_part_is_the_beginning_of_all(tmp_path):
    source = written(tmp_path / "in", [made()])
    part = prepare(config_for(source, near_duplicates=0.0), tmp_path / "part")
    whole = config_for(source, near_duplicates=0.0, unit_budgets=1000.0)
    all_of_it = prepare(whole, tmp_path / "all")
    for name, unit in part.units.items():
        assert unit.rows == part.budget_rows
        rows = np.arange(unit.rows)
        assert (part.rows(name)[rows] == all_of_it.rows(name)[rows]).all()
        assert all_of_it.units[name].supply == all_of_it.units[name].tokens
        assert unit.supply == pytest.approx(all_of_it.units[name].tokens, rel=0.25)


def test_repeated_ids_are_copies_or_bad_whatever_the_order(tmp_path, capsys, verbose):
    records = made(60)
    twice = {**records[1], "text": "another text with some words"}
    found = []
    for order in (1, -1):
        every = [*records, records[2], twice][::order]
        source = written(tmp_path / f"in{order}", [every[:30], every[30:]])
        config = config_for(source, max_bad=0.1, unit_budgets=1000.0)
        found.append(prepare(config, tmp_path / f"work{order}"))
        said = capsys.readouterr().out
        assert "duplicate id" in said
    assert digests(found[0]) == digests(found[1])
    strict = config_for(written(tmp_path / "in", [[*records, twice]]), max_bad=0.0)
    with pytest.raises(UserError, match="1 duplicate id"):
        prepare(strict, tmp_path / "strict")
    listed = (tmp_path / "strict" / "corpus" / "quarantine.jsonl").read_text()
    assert json.loads(listed)["cause"].startswith("duplicate id, record ")


def later_files(rng, topics, has_ids):
    """Records of two topics; others, also with ids or texts of these."""
    old = [
        {"id": f"{i}", "text": words(rng, 30), "topic": "mo"[i % 2]} for i in range(160)
    ]
    copies = [{**r, "topic": name} for name in topics for r in old[:60]]
    others = [{**r, "text": words(rng, 30), "topic": topics[1]} for r in old[60:]]
    new = [
        {"id": f"new{i}", "text": words(rng, 30), "topic": topics[i % 2]}
        for i in range(160)
    ]
    found = old, [*copies, *others, *new]
    if has_ids:
        return found
    return [[{**record, "id": None} for record in records] for records in found]


@pytest.mark.parametrize("has_ids", [True, False])
def test_repeated_ids_in_later_files_leave_older_text_alone(has_ids, tmp_path):
    rng = random.Random(2)
    trained, more = later_files(rng, "az", has_ids)
    scored, also = later_files(rng, "by", has_ids)
    source = written(tmp_path / "in", [trained])
    domain = written(tmp_path / "domain", [scored])
    config = config_for(source, domains={"d": domain}, evaluation_tokens=0, max_bad=0.9)
    before = digests(prepare(config, tmp_path / "work"))
    write_jsonl(tmp_path / "in" / "0 first.jsonl", more)
    write_jsonl(tmp_path / "domain" / "0 first.jsonl", also)
    corpus = prepare(config, tmp_path / "work")
    assert before.items() <= digests(corpus).items()
    assert corpus.units.keys() == {"a", "m", "o", "z"}
    # Evaluation text is dropped from nowhere: domains may have it in common.
    assert sum(corpus.domains["d/b"].documents.values()) == 60 + 80


def test_a_record_of_two_domains_of_a_source_stays_in_both(tmp_path):
    rng = random.Random(3)
    records = [{"id": f"{i}", "text": words(rng, 20)} for i in range(40)]
    both = [{**r, "topic": topic} for topic in "st" for r in records]
    domain = written(tmp_path / "qa", [[*both, both[0]]])
    config = config_for(written(tmp_path / "in", [made()]), domains={"qa": domain})
    corpus = prepare(with_corpus(config, evaluation_tokens=0), tmp_path / "work")
    s, t = corpus.domains["qa/s"], corpus.domains["qa/t"]
    assert s.digests == t.digests
    assert sum(s.documents.values()) == 40


def test_a_document_of_several_partitions_is_no_copy_of_itself(tmp_path):
    records = [{**r, "topic": ["x", "y"]} for r in made(90) if "id" in r]
    source = written(tmp_path / "in", [records])
    config = config_for(source, unit_budgets=1000.0, near_duplicates=0.0)
    every = SourceConfig("records", source.path, by_field="topic", by_list="every")
    corpus = prepare(with_corpus(config, partitions={"all": every}), tmp_path / "work")
    x, y = corpus.units["x"], corpus.units["y"]
    assert x.digest == y.digest
    same = corpus.record.summary["duplicates"]
    assert same["x"] == same["y"] < 20


def test_documents_are_taken_until_partitions_are_full():
    place = np.array([0, 1, 0, 1, 0, 0, 1])
    rest = np.arange(7), np.full(7, 10), np.zeros(7, bool)
    key = np.array([1, 1, 2, 3, 4, 5, 4], np.uint64)
    full = np.array([20, 100])
    found = settle(place, *rest, lambda: [key], full)
    # The fifth document is not looked at, so the last one repeats nothing.
    assert found.considered.tolist() == [True, True, True, True, False, False, True]
    assert found.repeated.tolist() == [False, True, *[False] * 5]
    assert np.flatnonzero(found.kept).tolist() == [0, 2, 3, 6]
    keys = [np.arange(7), key]
    found = settle(place, *rest, lambda: keys, np.array([100, 100]))
    assert np.flatnonzero(found.near).tolist() == [1, 6]


@pytest.mark.parametrize("moment", ["evaluation", "training"])
@pytest.mark.parametrize("change", ["order", "texts"])
def test_a_changed_file_is_noticed(tmp_path, monkeypatch, moment, change):
    """Before evaluation text is read again, or before other text is."""
    found = [record for record in made(90) if "id" in record]
    source = written(tmp_path / "in", [found])
    path = tmp_path / "in" / "0.jsonl"
    before = getattr(Pipeline, moment)

    def change_and_go_on(*args):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        if change == "order":
            records = records[::-1]
        else:
            # The same ids and the same sizes.
            records = [r | {"text": r["text"][::-1]} for r in records]
        write_jsonl(path, records)
        return before(*args)

    monkeypatch.setattr(Pipeline, moment, change_and_go_on)
    with pytest.raises(UserError, match=r"'0\.jsonl' was changed while `prepare`"):
        prepare(config_for(source), tmp_path / "work")


KILLED = """
import sys, multiprocessing
from pathlib import Path
from jaxsim.config import load_config
from jaxsim.corpus import prepare
if __name__ == "__main__":
    config = load_config(Path(sys.argv[1]))
    print("ready", flush=True)
    prepare(config, Path(sys.argv[2]))
"""


def test_a_killed_prepare_continues_and_its_processes_end(expected, tmp_path):
    records = made()
    source = written(tmp_path / "in", [records[i::6] for i in range(6)])
    config = with_corpus(config_for(source), workers=2)
    save_config(config, tmp_path / "config.json")
    script, work = tmp_path / "killed.py", tmp_path / "work"
    script.write_text(KILLED)
    passes = ("scan_*", "tokens_*")
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    for name in passes:
        child = subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "config.json"), str(work)],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
        folder = work / "corpus" / ".work"
        while child.poll() is None and not list(folder.glob(name)):
            time.sleep(0.01)
        assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        assert child.stdout is not None
        # Its processes have the same stdout, so this waits for them, too.
        child.communicate(timeout=30)
    done = {p.name: p.stat().st_mtime_ns for p in folder.glob("[st]*_*")}
    seen = []
    rmtree = store.shutil.rmtree

    def look(path, *args, **kwargs):
        if path == folder:
            seen.append({p.name: p.stat().st_mtime_ns for p in folder.iterdir()})
        rmtree(path, *args, **kwargs)

    store.shutil.rmtree = look
    try:
        assert digests(prepare(config, work)) == digests(expected)
    finally:
        store.shutil.rmtree = rmtree
    # What was done was not done again.
    assert done
    assert done.items() <= seen[0].items()
    assert not list((work / "corpus").glob(".tmp_*"))


def test_a_process_that_is_killed_is_named_by_its_file(tmp_path, monkeypatch):
    parts = [made(30), made(30, 6)]
    config = with_corpus(config_for(written(tmp_path / "in", parts)), workers=2)
    monkeypatch.setattr("jaxsim.corpus.scan.scan", kill_myself)
    with pytest.raises(JaxsimError, match=r"was killed, while it read '[01]\.jsonl'"):
        prepare(config, tmp_path / "work")
    assert not list((tmp_path / "work" / "corpus" / ".work").iterdir())


def kill_myself(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_in_order_is_the_order_of_documents(tmp_path):
    records = [{"id": f"{i}", "text": f"document {i} " * 9} for i in range(40)]
    folder = tmp_path / "in"
    written(folder, [[{**r, "topic": "x"} for r in records]])
    source = SourceConfig("records", str(folder))
    corpus = prepare(config_of({"a": source}), tmp_path / "work")
    for split in ("dev", "test"):
        found = corpus.evaluation("a", split).documents
        assert found == tuple(in_order(dict.fromkeys(found, "")))
    assert open_corpus(tmp_path / "work").units == corpus.units


def test_a_table_says_what_became_of_documents_and_warns(tmp_path, capsys, verbose):
    records = made(120)
    lost = [{"id": f"lost{i}", "text": words(random.Random(i), 9)} for i in range(60)]
    twice = [{**record, "id": f"again{i}"} for i, record in enumerate(records[:60])]
    source = written(tmp_path / "in", [records + lost, twice])
    (tmp_path / "in" / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    corpus = prepare(config_for(source, unit_budgets=1000.0), tmp_path / "work")
    said = " ".join(capsys.readouterr().out.split())
    count = len(records + lost + twice)
    assert f"source all {count} - 60 " in said
    assert (
        f"source all: {60 / count:.0%} of {count} records are in no partition" in said
    )
    assert "source all: 1 file not read: picture.png" in said
    loses = r"partition x loses (\d+)% of (\d+) documents: (\d+) duplicate"
    assert re.search(loses, said), said
    for name, counts in corpus.record.summary["documents"].items():
        gone = corpus.record.summary["duplicates"][name] + counts["overlapping"]
        gone += corpus.record.summary["near_duplicates"].get(name, 0)
        domain = corpus.domains[name].documents
        # The rest is evaluation text that was not needed.
        rest = counts["read"] - gone - counts["base"] - counts["train"]
        assert rest >= sum(domain.values()) > 0


def test_copies_beyond_the_part_that_is_taken_are_no_supply(tmp_path):
    texts = [record for record in made() if record.get("id", "").startswith("d")]
    records = [{**r, "id": f"{r['id']}/{k}"} for r in texts for k in range(4)]
    source = written(tmp_path / "in", [records])
    config = config_for(source, near_duplicates=0.0)
    part = prepare(config, tmp_path / "part")
    all_of_it = prepare(with_corpus(config, unit_budgets=1000.0), tmp_path / "all")
    for name, unit in part.units.items():
        known = all_of_it.units[name].supply
        assert unit.tokens < 0.7 * known
        assert unit.supply == pytest.approx(known, rel=0.25)


def test_what_a_pass_wrote_and_is_cut_off_is_damage(tmp_path):
    whole = np.arange(5, dtype="<u4")
    whole.tofile(tmp_path / "entries")
    assert mapped(tmp_path / "entries", whole.dtype, 5).tolist() == [*range(5)]
    (tmp_path / "entries").write_bytes(whole.tobytes()[:-1])
    with pytest.raises(DamagedError, match=r"truncated.*delete the folder"):
        mapped(tmp_path / "entries", whole.dtype, 5)
