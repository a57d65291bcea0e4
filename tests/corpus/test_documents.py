"""Documents of files, and what is counted of the others."""

import bz2
import codecs
import csv
import gzip
import json
import lzma
import os
import pickle
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jaxsim.config import SourceConfig
from jaxsim.corpus import documents, readers
from jaxsim.corpus.documents import Tally, check_bad, read_file
from jaxsim.corpus.fields import NOT_UTF8, TOO_LONG, find
from jaxsim.corpus.sources import find_inputs
from jaxsim.errors import DamagedError, UserError

from .builders import write_jsonl
from .reading import partitions, read, texts


def good(n):
    return json.dumps({"id": f"good{n}", "text": "fine text"}).encode()


DIRTY = [
    (b'{"id": "u", "text": "\xff\xfe"}', NOT_UTF8),
    (b'{"id": "n", "text": "a\\u0000b"}', documents.NUL),
    (b"{not json", readers.NOT_JSON),
    (b"[" * 100_000, readers.NOT_JSON),
    (b'{"id": "big", "text": 1' + b"0" * 5000 + b"}", readers.NOT_JSON),
    (b"3", readers.NOT_OBJECT),
    (b'["text"]', readers.NOT_OBJECT),
    (b'{"id": "m"}', "no text"),
    (b'{"id": "e", "text": "  \\n"}', "no text"),
    (b'{"id": "b", "text": "\\ufeff"}', "no text"),
    (b'{"id": "i", "text": 7}', "text is a number"),
    (b'{"id": "t", "text": true}', "text is a boolean"),
    (b'{"id": "s", "text": ["a", "b"]}', "text is a list"),
    (b'{"id": ["x"], "text": "a"}', "id is a list"),
    (b'{"id": "l", "text": "a\\ud800b"}', documents.SURROGATES),
]


@pytest.mark.parametrize(("line", "cause"), DIRTY)
def test_a_bad_line_is_counted_and_located(tmp_path, line, cause):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([good(0), line, good(1)]))
    found, tally = read(path)
    assert [d.id for d in found] == ["good0", "good1"]
    assert tally.bad == {cause: 1}
    assert tally.records == 3
    assert tally.places == [("a.jsonl", 2, cause)]
    assert pickle.loads(pickle.dumps(tally)) == tally


def test_places_say_nothing_of_the_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(good(0) + b'\n{"text": "secret\\u0000"}\n{"text": "secret",}\n')
    _, tally = read(path)
    assert len(tally.places) == 2
    assert "secret" not in repr(tally)
    assert tally.fields == {"id": "'good0'", "text": "(text)"}


def test_too_many_bad_records_are_an_error_with_counts(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b"\n".join([*map(good, range(8)), b"3", b'{"id": [1], "text": "x"}'])
    )
    _, tally = read(path)
    check_bad("s", tally, 0.2, tmp_path / "q")
    with pytest.raises(UserError) as error:
        check_bad("s", tally, 0.19, tmp_path / "q")
    for part in (
        "2 of 10", "1 not a JSON object", "1 id is a list, as [1]",
        f"see {tmp_path / 'q'}", "config.corpus.max_bad=0.19", "every source, to 0.2",
    ):  # fmt: skip
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"content": "words", "lang": "en"}\n', "set text_field.*content, lang"),
        ('{"text": {"en": "words"}, "lang": "en"}\n', r"text_field.*text\.en, lang"),
        ("words\n", "no file of JSON Lines"),
        ("[1]\n", "no file of JSON Lines"),
        ('{"text": "\xe9t\xe9"}\n', "iconv"),
    ],
)
def test_a_file_that_is_all_bad_has_another_layout(tmp_path, content, said):
    """More bad records must not be allowed then; the option that helps is named."""
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(map(good, range(50))))
    # Its first line keeps it from being taken for another kind of file.
    data = b"{}\n" + content.encode("latin-1") * 30
    (tmp_path / "b.jsonl").write_bytes(data)
    _, tally = read(tmp_path)
    # However small its share: it has another layout.
    for most, named in ((0.001, True), (0.9, False)):
        with pytest.raises(UserError, match=rf"of 'b\.jsonl'.*{said}") as error:
            check_bad("s", tally, most, tmp_path)
        assert "raise" not in str(error.value)
        assert ("max_bad" in str(error.value)) == named


def test_a_quote_that_swallows_rows_is_named(tmp_path):
    rows = [f"{i},words {i}\n" for i in range(3000)]
    rows[100], rows[2000] = '100,"Oh\n', '2000,say "no"\n'
    (tmp_path / "a.csv").write_text("id,text\n" + "".join(rows))
    found, tally = read(tmp_path)
    assert (len(found), tally.bad.total(), tally.records) == (1099, 1901, 3000)
    with pytest.raises(UserError, match=r"line 102 of 'a\.csv' opens may have swallow"):
        check_bad("s", tally, 0.5)


def test_reading_ends_early_where_most_records_are_bad(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MANY_BAD", 10)
    path = tmp_path / "a.jsonl"
    source = SourceConfig(reader="records", path=str(path))

    def count(max_bad):
        (file,) = find_inputs("s", source).files
        return len(list(read_file(file, source, Tally(max_bad))))

    path.write_bytes(b"\n".join([good(0), *[b"{}"] * 99_999]))
    with pytest.raises(UserError, match="10 of the first 11 records are bad"):
        count(0.001)
    # Bad records may come together; good ones after them can make up for them.
    lines = [*map(good, range(180))]
    path.write_bytes(b"\n".join([*lines[:20], *[b"{}"] * 20, *lines[20:]]))
    assert count(0.1) == 180
    path.write_bytes(b"\n".join([b"{}"] * 200))
    assert count(1.0) == 0


def test_a_line_that_is_too_long_is_skipped_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "MAX_RECORD_BYTES", 100)
    path = tmp_path / "a.jsonl.gz"
    long = json.dumps({"id": "x", "text": "y" * 950}).encode()
    path.write_bytes(gzip.compress(b"\n".join([good(0), long, good(1)])))
    found, tally = read(path)
    assert [d.id for d in found] == ["good0", "good1"]
    assert tally.places == [("a.jsonl.gz", 2, TOO_LONG)]


def test_damage_says_how_far_it_was_read(tmp_path):
    rng = random.Random(0)
    lines = [json.dumps({"text": str(rng.random())}).encode() for _ in range(3000)]
    data = gzip.compress(b"\n".join(lines))
    path = tmp_path / "a.json.gz"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DamagedError, match=r"a\.json\.gz' is truncated") as error:
        read(path)
    record = str(error.value).split("after record ")[1].split(":")[0]
    assert 500 < int(record) < 3000


@pytest.mark.parametrize("reader", ["records", "text"])
def test_a_file_that_vanishes_is_named(tmp_path, reader):
    for name in ("a", "b"):
        ending = "jsonl" if reader == "records" else "txt"
        (tmp_path / f"{name}.{ending}").write_bytes(good(name))
    source = SourceConfig(reader=reader, path=str(tmp_path))
    a, b = find_inputs("s", source).files
    assert len(list(read_file(a, source, Tally()))) == 1
    os.unlink(b.path)
    with pytest.raises(UserError, match=r"cannot read '.*/b\.\w+': No such file"):
        list(read_file(b, source, Tally()))


def test_bom_and_crlf_are_repaired(tmp_path):
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + b"one\r\ntwo\r\n")
    (found,), tally = read(tmp_path, reader="text")
    assert found.text == "one\ntwo\n"
    assert tally.repaired == {documents.BOM: 1, documents.CRLF: 1}
    path = tmp_path / "a.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + b'{"id": 1, "text": "x\\r\\ny"}\r\n')
    (found,), tally = read(path)
    assert (found.id, found.text) == ("1", "x\ny")
    assert not tally.bad


def test_a_document_without_id_has_one_from_its_text(tmp_path):
    """Files may be cut and named anew; the split stays."""
    records = [{"text": f"words {i}"} for i in range(6)] + [{"id": "x", "text": "y"}]
    write_jsonl(tmp_path / "a.jsonl", records)
    found, _ = read(tmp_path)
    assert len({d.id for d in found}) == 7
    assert all(d.id.startswith(documents.FROM_TEXT) for d in found[:6])
    (tmp_path / "a.jsonl").unlink()
    write_jsonl(tmp_path / "b.jsonl", records[:3])
    write_jsonl(tmp_path / "c.jsonl", records[3:])
    assert [d.id for d in read(tmp_path)[0]] == [d.id for d in found]
    assert [d.id[:7] for d in read(tmp_path, id_field="")[0]] == ["sha256:"] * 7
    write_jsonl(tmp_path / "d.jsonl", [{"id": "", "text": "words 0"}])
    assert read(tmp_path / "d.jsonl")[0][0].id == found[0].id


def test_ids_that_restart_in_each_file(tmp_path):
    for name in ("a", "b"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"id": 0, "text": name}])
    assert [d.id for d in read(tmp_path)[0]] == ["0", "0"]
    found, tally = read(tmp_path, ids="per file")
    assert [d.id for d in found] == ["a.jsonl:0", "b.jsonl:0"]
    tally.bad[documents.DUPLICATE_ID] = 1
    with pytest.raises(UserError, match=r"ids='per file'.*id_field=''"):
        check_bad("s", tally, 0.001, tmp_path)


def test_fields_of_text_id_and_date_can_be_named(tmp_path):
    record = {
        "body": {"text": "words"}, "meta": {"id": 7.0, "when": "Feb 1 2024"},
        "id": "other", "text": "", "created": 1990,
    }  # fmt: skip
    write_jsonl(tmp_path / "a.jsonl", [record])
    (found,), _ = read(
        tmp_path,
        text_field="text|body.text",
        id_field="meta.id",
        date_field="meta.when",
    )
    assert (found.text, found.id, found.date) == ("words", "7", "2024-02-01")
    assert find(found.fields, "meta.when") == "Feb 1 2024"


def test_the_layout_of_dolma(tmp_path):
    folder = tmp_path / "documents" / "sub"
    folder.mkdir(parents=True)
    record = {
        "id": "1", "text": "t", "source": "web", "created": "2020-01-02",
        "added": "2024-01-01", "metadata": {"field": "physics", "n": 3},
    }  # fmt: skip
    write_jsonl(folder / "b.jsonl", [record, {"id": "2", "text": "u"}])
    with gzip.open(tmp_path / "documents" / "a.json.gz", "wt") as file:
        file.write(json.dumps({"id": "0", "text": "v", "added": "2021"}))
    found, _ = read(tmp_path / "documents")
    assert [(d.id, d.file, d.date) for d in found] == [
        ("0", "a.json.gz", "2021"), ("1", "sub/b.jsonl", "2020-01-02"),
        ("2", "sub/b.jsonl", ""),
    ]  # fmt: skip
    assert [find(d.fields, "n") for d in found] == [None, 3, None]
    where = (("source", "web"), ("n", "3"))
    found, tally = read(tmp_path, where=where)
    assert [d.id for d in found] == ["1"]
    assert (tally.records, tally.filtered) == (3, 2)


def test_the_layout_of_paloma(tmp_path):
    """Files of a source; the subdomain is a field, and there may be dates."""
    for source, domains in {"c4_100": ["a.org", "b.org"], "m2d2": ["Art"]}.items():
        records = [
            {"text": f"{d} words", "id": f"{source}{d}", "source": source,
             "subdomain": d, "added": "2023-08-10T20:19:34", "metadata": {}}
            for d in domains
        ]  # fmt: skip
        folder = tmp_path / source / "val"
        folder.mkdir(parents=True)
        with gzip.open(folder / "val.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
    counts, _ = partitions(f"{tmp_path}/{{set}}/val/*", by_field="set")
    assert counts == {"c4_100": 2, "m2d2": 1}
    counts, _ = partitions(tmp_path / "c4_100", by_field="subdomain")
    assert counts == {"a.org": 1, "b.org": 1}


def test_values_that_are_missing_are_no_partition(tmp_path):
    values = ['"web"', "NaN", "null", '""', '" "', "[]", '{"a": 1}', "[[1]]"]
    lines = [
        f'{{"text": "t{i}", "metadata": {{"topic": {v}}}}}'
        for i, v in enumerate(values)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, '{"text": "absent"}']))
    counts, dropped = partitions(tmp_path, by_field="topic")
    assert counts == {"web": 1}
    assert dropped == {
        "no topic": 6, "topic is an object": 1, "topic is a list with a list in it": 1,
    }  # fmt: skip


def test_a_list_stands_for_its_first_value_or_for_every_one(tmp_path):
    """As S2ORC says the fields of a paper; its year is a number."""
    write_jsonl(
        tmp_path / "a.jsonl",
        [
            {
                "text": "a",
                "metadata": {"s2fieldsofstudy": ["Art", "Law"], "year": 1999},
            },
            {"text": "b", "metadata": {"s2fieldsofstudy": ["Law"], "year": 2001.0}},
            {"text": "c", "metadata": {"s2fieldsofstudy": None, "year": 2001}},
        ],
    )
    rules = {
        "by_field": "s2fieldsofstudy", "date_field": "year",
        "by_dates": (("1970", "1999"), ("2000", "2022")),
    }  # fmt: skip
    first, dropped = partitions(tmp_path, **rules)
    assert first == {"Art,1970-1999": 1, "Law,2000-2022": 1}
    assert dropped == {"no s2fieldsofstudy": 1}
    every, _ = partitions(tmp_path, **rules, by_list="every")
    assert every == first + type(first)(["Law,1970-1999"])


def test_dates_in_one_field_and_several_kinds(tmp_path):
    values = [1995, 1052000000, "2024-02-01T00:00:00Z", "Feb 1 2024", "soon", 12, None]
    write_jsonl(
        tmp_path / "a.jsonl",
        [{"text": f"{v}", "created": v, "added": "2024-02-01"} for v in values],
    )
    ranges = (("1990", "1999"), ("2000", "2009"), ("2020", "2029"))
    counts, dropped = partitions(tmp_path, by_dates=ranges)
    # The last record has no `created`, and only then `added` counts.
    assert counts == {"1990-1999": 1, "2000-2009": 1, "2020-2029": 3}
    assert dropped == {
        "created is no date": 1,
        "created is a number that is no date": 1,
    }


def test_coarse_dates_are_in_a_range_if_all_of_them_is(tmp_path):
    dates = ["1995", "1995-06", "1995-06-30", "1995-07-01"]
    write_jsonl(tmp_path / "a.jsonl", [{"text": d, "created": d} for d in dates])
    counts, dropped = partitions(tmp_path, by_dates=(("1995", "1995-06"),))
    assert counts == {"1995-1995-06": 2}
    assert dropped == {"outside every range of by_dates": 2}
    counts, _ = partitions(tmp_path, by_dates=(("1995-01", "1995-12"),))
    assert counts == {"1995-01-1995-12": 4}


@pytest.mark.parametrize("seed", range(3))
def test_a_corpus_is_the_same_in_every_format(tmp_path, seed):
    """Ids, texts, dates and partitions of random records; years as tables have them."""
    rng = random.Random(seed)
    letters = "ab é\u2028\U0001f600\n\t,;\"'|"
    records = [
        {
            "text": "x" + "".join(rng.choices(letters, k=rng.randrange(1, 60))),
            "topic": rng.choice(["web", "code", "", None]),
            "year": rng.choice([1995, 2003, None]),
            "n": rng.randrange(5),
        }
        for _ in range(200)
    ]
    for i, record in enumerate(records[::2]):
        record["id"] = i
    lines = [json.dumps(r, ensure_ascii=rng.random() < 0.5) + "\n" for r in records]
    data = "".join(lines).encode()
    # With missing values between them, whole numbers become floats.
    columns = {
        key: [None if r.get(key) is None else kind(r[key]) for r in records]
        for key, kind in {"id": int, "text": str, "topic": str, "year": float}.items()
    }
    table = pa.table({**columns, "n": [r["n"] for r in records]})
    written = {
        "a.jsonl": data,
        "a.json.gz": gzip.compress(data),
        "a.ndjson.bz2": bz2.compress(data),
        "a.jsonl.xz": lzma.compress(data),
    }
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=70)
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as file:
        file.write_table(table, max_chunksize=60)
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "topic", "year", "n"])
        writer.writeheader()
        writer.writerows(table.to_pylist())
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
    rules = {
        "by_field": "topic", "date_field": "year", "where": (("n", "3"),),
        "by_dates": (("1990", "1999"), ("2000", "2009")),
    }  # fmt: skip
    wanted = None
    for name in (*written, "a.parquet", "a.arrow", "a.csv"):
        found, tally = read(tmp_path / name, **rules, also=())
        made = [(d.id, d.text, d.date) for d in found]
        made += [partitions(tmp_path / name, **rules), tally.records, tally.filtered]
        wanted = wanted or made
        assert made == wanted, name
    assert len(wanted) > 20


def test_records_of_a_task(tmp_path):
    path = tmp_path / "a.jsonl"
    task = {"q": "Question?\r\nAnswer:", "a": " yes\r\n", "text": "other"}
    write_jsonl(
        path, [{"id": "1", **task}, {"id": "2", "q": "no answer"}, {"a": " x"}, task]
    )
    found, tally = read(path, prompt_field="q", completion_field="a")
    assert (found[0].id, found[0].prompt) == ("1", task["q"])
    assert found[0].text == task["a"]
    assert found[1].id.startswith(documents.FROM_TEXT)
    assert tally.bad == {"no a": 1, "no q": 1}
    assert not tally.repaired


def test_cells_of_a_table_are_texts(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,text\n1,5.0\n1.0,a\n1000000000000000001.0,b\n")
    found, tally = read(path)
    assert [(d.id, d.text) for d in found] == [
        ("1", "5.0"), ("1.0", "a"), ("1000000000000000001.0", "b"),
    ]  # fmt: skip
    assert not tally.bad


def test_numbers_are_prompts_and_completions_but_no_running_text(tmp_path):
    path = tmp_path / "a.jsonl"
    answers = [5, 5.0, -0.25, True, float("nan"), "5"]
    write_jsonl(path, [{"q": i, "a": answer} for i, answer in enumerate(answers)])
    found, tally = read(path, prompt_field="q", completion_field="a")
    assert [(d.prompt, d.text) for d in found] == [
        ("0", "5"), ("1", "5.0"), ("2", "-0.25"), ("5", "5"),
    ]  # fmt: skip
    assert tally.bad == {"a is a boolean": 1, "no a": 1}
    _, tally = read(path, text_field="a")
    assert tally.bad["a is a number"] == 3


def test_requests_of_olmes(tmp_path):
    """The right choice of a question is scored; or the answer that is the only one."""

    def request(task, number, idx, label, context="Q:"):
        return {
            "request_type": "loglikelihood", "task_name": task, "doc_id": number,
            "doc": {"id": "x"}, "native_id": None, "idx": idx, "label": label,
            "request": {"context": context, "continuation": f" {task} {number} {idx}"},
        }  # fmt: skip

    made = {
        "arc/rc_0shot": [
            request("arc", n, i, 2 - n, "Q:" if n < 9 else "Answer:")
            for n in (0, 1, 1_000_000)
            for i in range(3)
        ],
        "gsm8k/gold_bpb_5shot": [request("gsm8k", 0, 0, "18")],
        "humaneval/gold_bpb_0shot": [request("humaneval", 0, 0, None)],
        "squad/bpb_5shot": [request("squad", 0, 0, ["23 years", "23"])],
    }
    for name, lines in made.items():
        folder = tmp_path / name
        folder.mkdir(parents=True)
        with gzip.open(folder / "requests.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        (folder / "config.json").write_text('{"task_name": "x"}')
    found, tally = read(f"{tmp_path}/{{task}}/{{variant}}", reader="olmes")
    assert {d.id: (d.prompt, d.text) for d in found} == {
        "arc/rc_0shot:0": ("Q:", " arc 0 2"),
        "arc/rc_0shot:1": ("Q:", " arc 1 1"),
        "gsm8k/gold_bpb_5shot:0": ("Q:", " gsm8k 0 0"),
        "humaneval/gold_bpb_0shot:0": ("Q:", " humaneval 0 0"),
        "squad/bpb_5shot:0": ("Q:", " squad 0 0"),
    }
    assert tally.dropped == {
        "choice that is not the answer": 4, "request without its prompt": 3,
    }  # fmt: skip
    assert [find(d.fields, "variant") for d in found[:1]] == ["rc_0shot"]
    assert len(texts(tmp_path, reader="olmes")) == 5
