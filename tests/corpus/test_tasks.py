"""Records of prompt and completion: which tokens are scored, after what."""

from pathlib import Path

import numpy as np
import pytest
import tokenizers

from jaxsim.config import SourceConfig
from jaxsim.corpus import Corpus, open_corpus, prepare
from jaxsim.corpus.coverage import Coverage
from jaxsim.corpus.tasks import Completion, encode_records, record_windows
from jaxsim.corpus.tokenizer import END_OF_TEXT, Tokenizer
from jaxsim.errors import UserError

from .builders import config_of, document, write_jsonl, write_partition

BOT, EOT, L = 98, 99, 8


@pytest.fixture(scope="module")
def coverage() -> Coverage:
    """A byte-level BPE that joins letters and the blank before them to one token."""
    words = [" the", " cat", "ab", "'s", "the", "cat", "\n\n"]
    texts = [" ".join(["the cat 's"] * 9), "the cat's ab ab ab\n\nthe cat's\n\n" * 9]
    tokenizer = Tokenizer.train_bpe(texts, 257 + len(words) + 8)
    return Coverage(tokenizer, 0.0)


def encoded(coverage: Coverage, prompt: str, completion: str) -> Completion:
    record = document("1", completion, prompt=prompt)
    (found,) = encode_records("here", [record], coverage)
    return found


def texts(coverage: Coverage, found: Completion) -> tuple[str, str]:
    """What is not scored, and what is."""
    at = len(found.ids) - found.scored
    decode = coverage.tokenizer.decode
    return decode(found.ids[:at]), decode(found.ids[at:])


@pytest.mark.parametrize(
    ("prompt", "completion", "scored"),
    [
        ("the cat", " the cat", " the cat"),
        ("the cat ", "the cat", " the cat"),
        ("the cat\n\n", "the cat", "\n\nthe cat"),
        ("", "the cat", "the cat"),
        ("the", "\u00e9\u4e2d", "\u00e9\u4e2d"),
    ],
    ids=["blank", "blank of the prompt", "line ends", "no prompt", "several bytes"],
)
def test_white_space_before_the_completion_is_scored_with_it(
    coverage, prompt, completion, scored
):
    found = encoded(coverage, prompt, completion)
    assert texts(coverage, found) == ((prompt + completion)[: -len(scored)], scored)
    assert found.bytes == len(scored.encode())
    assert not found.is_separate
    together = coverage.tokenizer.encode_batch([prompt + completion])[0]
    assert found.ids.tolist() == together.tolist()


def test_a_token_across_the_join_does_not_swallow_the_completion(coverage):
    """'ab' is one token, and so is 's: nothing would be left, or less."""
    tokenizer = coverage.tokenizer
    for prompt, completion in (("a", "b"), ("the cat'", "s the")):
        whole, before = tokenizer.encode_batch([prompt + completion, prompt])
        assert tokenizer.decode(whole[len(before) :]) != completion
        found = encoded(coverage, prompt, completion)
        assert found.is_separate
        assert texts(coverage, found) == (prompt, completion)
        assert found.bytes == len(completion)


def test_a_tokenizer_that_changes_text_keeps_the_completion(tmp_path: Path):
    """It drops accents, and marks the first word, so bytes do not add up."""
    bpe = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {
                END_OF_TEXT: 0, "\u2581": 1, "a": 2, "b": 3, "\u2581a": 4, "\u2581b": 5
            },
            [("\u2581", "a"), ("\u2581", "b")],
        )
    )  # fmt: skip
    bpe.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFD(), tokenizers.normalizers.StripAccents()]
    )
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    bpe.decoder = tokenizers.decoders.Metaspace()
    bpe.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    found = encoded(Coverage(tokenizer, 0.0), "a a", " b \u00e1")
    assert found.ids.tolist() == [4, 4, 5, 4]
    assert (found.scored, found.bytes, found.is_separate) == (2, 5, False)


def record(before: int, scored: int, is_separate: bool = False) -> Completion:
    ids = np.arange(before + scored, dtype=np.int32)
    return Completion(ids, scored, 10 * scored, is_separate)


def test_a_record_is_one_window_that_ends_with_its_completion():
    records = [record(2, 3), record(0, 8), record(5, 3), record(6, 3, True)]
    w, counts = record_windows(records, BOT, EOT, L, "abcd")
    assert w.tokens_RL1.tolist() == [
        [BOT, 0, 1, 2, 3, 4, EOT, EOT, EOT],
        [BOT, *range(8)],
        [BOT, *range(8)],
        # Too long: the first tokens are gone, begin-of-text before all others.
        [*range(9)],
    ]
    assert w.length_R.tolist() == [5, 8, 8, 8]
    for row, first, count, each in zip(
        w.tokens_RL1, w.first_R, w.count_R, records, strict=True
    ):
        targets = row[1:][first : first + count]
        assert targets.tolist() == each.ids[-each.scored :].tolist()
    assert w.bytes_R.tolist() == [30, 80, 30, 30]
    assert w.documents == ("a", "b", "c", "d")
    assert w.document_R.tolist() == [0, 1, 2, 3]
    assert counts == {"truncated": 1, "separate": 1, "too_long": 0, "empty": 0}


def test_a_completion_that_fits_no_window_is_left_out_and_counted():
    records = [record(2, 9), record(3, 8), record(2, 0), record(2, 2)]
    w, counts = record_windows(records, BOT, EOT, L, "abcd")
    assert w.documents == ("b", "d")
    assert w.document_R.tolist() == [0, 1]
    # One token is left to predict the first one from.
    assert w.tokens_RL1[0].tolist() == [2, *range(3, 11)]
    assert counts == {"truncated": 1, "separate": 0, "too_long": 1, "empty": 1}
    nothing, _ = record_windows(records[:1], BOT, EOT, L, "a")
    assert len(nothing) == 0
    assert nothing.tokens_RL1.shape == (0, L + 1)


def source_of(path: Path, **fields) -> SourceConfig:
    fields = {"prompt_field": "q", "completion_field": "a.text"} | fields
    return SourceConfig(reader="records", path=str(path), **fields)


def records(lengths: list[int], **fields) -> list[dict]:
    """Records whose answers have so many bytes."""
    return [
        {"id": f"{i}", "q": f"What is {i}?", "a": {"text": " " + "x" * (n - 1)}}
        | fields
        for i, n in enumerate(lengths)
    ]


@pytest.fixture
def prepared(tmp_path: Path):
    """A corpus of bytes with a task, by its records; the windows have 32 tokens."""

    def build(found: list[dict], **fields) -> Corpus:
        path = write_jsonl(tmp_path / "task.jsonl", found)
        domains = {"task": source_of(path, **fields)}
        config = config_of(
            {"a": write_partition(tmp_path / "texts", "a")}, domains=domains
        )
        return prepare(config, tmp_path / "work")

    return build


def test_what_does_not_fit_is_named_and_counted(prepared, capsys, verbose):
    corpus = prepared(records([4, 40, 5, 6, 33, 32, 7, 8]))
    domain = corpus.domains["task"]
    assert domain.by_document
    assert sum(counts["too_long"] for counts in domain.tasks.values()) == 2
    assert sum(domain.documents.values()) == 6
    scored = []
    for split in ("dev", "test"):
        windows = corpus.evaluation("task", split)
        assert windows.count_R.tolist() == windows.bytes_R.tolist()
        scored += windows.documents
    assert sorted(scored) == ["0", "2", "3", "5", "6", "7"]
    said = " ".join(capsys.readouterr().out.split())
    assert "completion longer than a window" in said
    assert "more than config.model.length=32 tokens, or none: " in said


def test_a_part_of_a_task_has_the_tokens_that_were_asked_for(tmp_path):
    """Whatever is cut from prompts, and however many records are left out."""
    long = [r | {"q": f"{r['q']} " * 60} for r in records([4] * 300)]
    crowd = records([900, 4] * 150)
    for i, found in enumerate((long, crowd)):
        path = write_jsonl(tmp_path / f"{i}.jsonl", found)
        config = config_of(
            {"a": write_partition(tmp_path / "texts", "a")},
            domains={"task": source_of(path)},
            evaluation_tokens=1000,
        )
        corpus = prepare(config, tmp_path / f"work{i}")
        for split in ("dev", "test"):
            read = corpus.evaluation("task", split).length_R
            assert 1000 <= read.sum() < 1000 + 32


def test_a_task_of_which_nothing_fits_is_refused(prepared):
    with pytest.raises(
        UserError, match=r"'task'.* every completion has more than .*=32"
    ):
        prepared(records([40] * 8))


def test_a_rule_cuts_a_source_in_domains_of_its_group(prepared):
    found = records([4, 5] * 12)
    for i, record in enumerate(found):
        record["meta"] = {"subject": "art" if i % 3 else "law"}
    corpus = prepared(found, by_field="meta.subject")
    assert [d for d in corpus.domains if d != "a"] == ["task/art", "task/law"]
    assert {d.group for d in corpus.domains.values()} == {"a", "task"}
    assert not corpus.domains["a"].by_document
    # Reading it again is no damage: names of two levels are not paths.
    assert open_corpus(corpus.workdir).domains == corpus.domains


@pytest.mark.parametrize("value", ["a/b", "..", "x\ny"])
def test_a_value_that_is_no_name_is_refused(prepared, value):
    with pytest.raises(UserError, match="the name"):
        prepared(records([4] * 8, subject=value), by_field="subject")


def test_a_task_does_not_take_the_name_of_a_partition(tmp_path):
    path = write_jsonl(tmp_path / "task.jsonl", records([4] * 8, subject="b"))
    config = config_of(
        {"a": write_partition(tmp_path / "texts", "a")},
        domains={"a": source_of(path, by_field="subject")},
    )
    with pytest.raises(UserError, match="'a' is the name of a partition or of a group"):
        prepare(config, tmp_path / "work")
