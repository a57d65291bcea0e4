"""Tokenizers: bytes add up, and training is deterministic."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import tokenizers

from jaxsim.corpus.coverage import Coverage
from jaxsim.corpus.tokenizer import (
    END_OF_TEXT,
    Tokenizer,
    special_tokens,
    training_sample,
)
from jaxsim.errors import DamagedError, UserError

from .builders import words

TRICKY = [
    "plain", " two  spaces\n\n\ttabs ", "na\u00efve caf\u00e9",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 family", "\u0e01\u0e33",
    "e\u0301 combining", "\u4f60\u597d\uff0c\u4e16\u754c", "a\u00a0b\u2028c",
    f"an {END_OF_TEXT} inside", "\u0627\u0644", "\x01\x02", "\ufb01 \u00c5",
    "\U0010ffff", "don't I'LL 123,456.78",
]  # fmt: skip


def trained():
    rng = random.Random(0)
    return Tokenizer.train_bpe([words(rng, 300), *TRICKY] * 3, 400)


@pytest.fixture(scope="module")
def bpe():
    return trained()


@pytest.mark.parametrize("text", [*TRICKY, "\U0001f600 \u0950 unseen"])
@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_round_trip_and_bytes(kind, text, bpe):
    tokenizer = bpe if kind == "bpe" else Tokenizer.from_bytes()
    (ids,) = tokenizer.encode_batch([text])
    assert ids.dtype == np.int32
    assert tokenizer.end_of_text not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths(ids).sum() == len(text.encode("utf-8"))
    assert (tokenizer.token_bytes(text, ids) > 0).all()
    assert tokenizer.byte_lengths([tokenizer.end_of_text]).tolist() == [0]


def test_training_is_deterministic_across_processes(bpe):
    program = f"from {__name__} import trained; print(trained().digest)"
    for rayon in ("1", "4"):
        other = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True, text=True, check=True,
            env={
                "PYTHONPATH": ":".join(sys.path),
                "RAYON_NUM_THREADS": rayon,
            },
        )  # fmt: skip
        assert other.stdout.strip() == bpe.digest
    rng = random.Random(1)
    assert Tokenizer.train_bpe([words(rng, 300)], 400).digest != bpe.digest


def test_save_and_load(tmp_path, bpe):
    bpe.save(tmp_path / "a")
    loaded = Tokenizer.load(tmp_path / "a", bpe.digest)
    assert loaded.digest == bpe.digest
    one, other = (t.encode_batch([TRICKY[4]])[0] for t in (loaded, bpe))
    assert one.tolist() == other.tolist()
    path = tmp_path / "a" / "tokenizer.json"
    layout = json.loads(path.read_text())
    merges = layout["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    path.write_text(json.dumps(layout))
    with pytest.raises(DamagedError, match="digest"):
        Tokenizer.load(tmp_path / "a", bpe.digest)
    path.unlink()
    with pytest.raises(DamagedError, match="cannot be read"):
        Tokenizer.load(tmp_path / "a", bpe.digest)


@pytest.mark.parametrize("bad", [[-1], [400], [3, 10**6]])
def test_ids_are_range_checked(bpe, bad):
    with pytest.raises(DamagedError, match="outside"):
        bpe.byte_lengths(bad)
    with pytest.raises(DamagedError, match="outside"):
        bpe.decode(bad)


def file_tokenizer(tmp_path, **changes):
    """A tokenizer that normalizes, truncates, pads and adds tokens."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="?"))
    inner.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.NFKC(), tokenizers.normalizers.Lowercase()]
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    inner.train_from_iterator(
        ["some lower case text"] * 9,
        tokenizers.trainers.BpeTrainer(
            vocab_size=60, special_tokens=["?", "</s>"], show_progress=False
        ),
    )
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="</s> $A </s>", special_tokens=[("</s>", 1)]
    )
    inner.enable_truncation(4)
    inner.enable_padding(length=64)
    path = tmp_path / "tokenizer.json"
    inner.save(str(path))
    return path


def test_tokens_of_a_normalizing_tokenizer_share_the_bytes_of_the_text(tmp_path):
    tokenizer = Tokenizer.from_file(file_tokenizer(tmp_path), "</s>")
    for text in [*TRICKY, "SOME \u210cText " * 20]:
        (ids,) = tokenizer.encode_batch([text])
        assert tokenizer.end_of_text not in ids
        if len(ids):
            shared = tokenizer.token_bytes(text, ids)
            assert shared.sum() == len(text.encode("utf-8"))
            assert (shared >= 0).all()
    long, short = tokenizer.encode_batch(["some text " * 99, "some text"])
    assert len(long) > 64
    assert len(short) < 10


def test_bad_tokenizer_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        Tokenizer.from_file(tmp_path / "none", "</s>")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a regular file"):
        Tokenizer.from_file(tmp_path / "pipe", "</s>")
    (tmp_path / "a").write_text("[1]")
    with pytest.raises(UserError, match=r"not a tokenizer\.json"):
        Tokenizer.from_file(tmp_path / "a", "</s>")
    with pytest.raises(UserError, match="end_of_text"):
        Tokenizer.from_file(file_tokenizer(tmp_path), "<eos>")
    with pytest.raises(UserError, match="vocab_size"):
        Tokenizer.train_bpe(["x"], 100)


def word_tokenizer(tmp_path, unknown="?", end="</s>"):
    """Knows the words 'known' and 'well', and nothing else."""
    words = {"known": 0, "well": 1, unknown: 2, end: 3}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=unknown))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "words.json"
    inner.save(str(path))
    return path


def test_unknown_text_is_counted_and_refused(tmp_path):
    tokenizer = Tokenizer.from_file(word_tokenizer(tmp_path), "</s>")
    coverage = Coverage(tokenizer, 0.25)
    ids = coverage.encode("all", ["known  well\n", "well"])
    assert [i.tolist() for i in ids] == [[0, 1], [1]]
    assert coverage.lossy() == {}
    coverage.encode("some", ["known well known odd"])
    assert coverage.lossy() == {
        "some": {"tokens": 4, "unknown": 1, "bytes": 17, "lost": 3, "changed": 0}
    }
    with pytest.raises(UserError, match=r"^most: .*max_unknown") as error:
        coverage.encode("most", ["well odd odd"])
    assert "2 of 3 tokens are unknown, 6 of 10 bytes" in str(error.value)
    # One token may stand for much text.
    with pytest.raises(UserError, match="32 of 47 bytes"):
        coverage.encode("long", ["known known known ww" + "o" * 28 + " xx"])


def test_dropped_text_counts_as_unknown(tmp_path):
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "</s>": 1}, []))
    inner.save(str(tmp_path / "drops.json"))
    tokenizer = Tokenizer.from_file(tmp_path / "drops.json", "</s>")
    coverage = Coverage(tokenizer, 0.3)
    coverage.encode("little", ["aaab"])
    assert coverage.counts["little"]["lost"] == 1
    with pytest.raises(UserError, match="2 of 4 bytes"):
        coverage.encode("split", ["aabb"])


def test_normalizing_and_byte_level_tokenizers_lose_nothing(tmp_path, bpe):
    bpe.save(tmp_path)
    own = Tokenizer.from_file(tmp_path / "tokenizer.json", END_OF_TEXT)
    coverage = Coverage(own, 0.0)
    coverage.encode("tricky", TRICKY)
    letters = {"a": 0, "c": 1, "e": 2, "f": 3, "</s>": 4}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(letters, []))
    inner.normalizer = tokenizers.normalizers.BertNormalizer()
    inner.save(str(tmp_path / "bert.json"))
    bert = Coverage(Tokenizer.from_file(tmp_path / "bert.json", "</s>"), 0.0)
    bert.encode("accents", ["CAF\u00c9\n\nface"])
    assert coverage.lossy() == {}
    # What is only spelled otherwise is allowed, and counted.
    assert bert.counts["accents"]["changed"] == len("CAF\u00c9".encode())
    assert bert.counts["accents"]["lost"] == 0


@pytest.mark.parametrize("pattern", [r"\d", "[a-z]"])
def test_text_that_is_replaced_counts_as_lost(tmp_path, bpe, pattern):
    """As many bytes come back, but other ones."""
    bpe.save(tmp_path)
    inner = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    inner.normalizer = tokenizers.normalizers.Replace(tokenizers.Regex(pattern), "0")
    inner.save(str(tmp_path / "replaces.json"))
    tokenizer = Tokenizer.from_file(tmp_path / "replaces.json", END_OF_TEXT)
    with pytest.raises(UserError, match="10 of 20 bytes are lost"):
        Coverage(tokenizer, 0.1).encode("domain", ["a1b2c3d4e5 f6g7h8i9j1"])


def edited(tmp_path, bpe, change):
    """The tokenizer `bpe` as a file, with something changed in it."""
    bpe.save(tmp_path)
    layout = json.loads((tmp_path / "tokenizer.json").read_text())
    change(layout)
    (tmp_path / "edited.json").write_text(json.dumps(layout))
    return Tokenizer.from_file(tmp_path / "edited.json", END_OF_TEXT)


@pytest.mark.parametrize(
    "change",
    [
        lambda layout: layout["model"].update(dropout=0.9),
        lambda layout: layout.update(decoder=None),
        lambda layout: layout["added_tokens"][0].update(special=False),
    ],
)
def test_settings_of_a_file_that_would_change_text_are_undone(tmp_path, bpe, change):
    tokenizer = edited(tmp_path, bpe, change)
    texts = [*TRICKY, f"a b {END_OF_TEXT} c " * 9]
    for ids, expected in zip(
        Coverage(tokenizer, 0.0).encode("all", texts),
        bpe.encode_batch(texts),
        strict=True,
    ):
        np.testing.assert_array_equal(ids, expected)
        assert tokenizer.decode(ids) == bpe.decode(ids)


def test_text_that_would_end_a_document_is_refused(tmp_path):
    """A word of a document is the end-of-text token; one in 1,000 is enough."""
    tokenizer = Tokenizer.from_file(word_tokenizer(tmp_path, end="end"), "end")
    with pytest.raises(UserError, match=r"^domain: .* end-of-text token 'end'"):
        Coverage(tokenizer, 1.0).encode("domain", ["known well " * 500 + "end known"])


def test_a_token_for_unknown_text_and_end_of_text_is_refused(tmp_path):
    path = word_tokenizer(tmp_path, "</s>", "other")
    with pytest.raises(UserError, match="unknown text"):
        Tokenizer.from_file(path, "</s>")


def with_borders(tmp_path):
    """A byte-level BPE as a file, with <s> (id 0) and </s> (id 1)."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<|im_end|>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(TRICKY * 3, trainer)
    inner.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_begin_of_text_token(tmp_path):
    path = with_borders(tmp_path)
    tokenizer = Tokenizer.from_file(path, "</s>", "<s>")
    assert (tokenizer.begin_of_text, tokenizer.end_of_text) == (0, 1)
    (ids,) = tokenizer.encode_batch(["a <s> b </s>"])
    assert not np.isin(ids, (0, 1)).any()
    assert tokenizer.decode([0, *ids, 1, 0, *ids, 1]) == "a <s> b </s>" * 2
    assert tokenizer.byte_lengths([0, 1]).tolist() == [0, 0]
    tokenizer.save(tmp_path / "saved")
    loaded = Tokenizer.load(tmp_path / "saved", tokenizer.digest)
    assert (loaded.begin_of_text, loaded.begin_of_text_token) == (0, "<s>")
    one = Tokenizer.from_file(path, "</s>")
    assert (one.begin_of_text, one.begin_of_text_token) == (1, "</s>")
    assert one.digest == Tokenizer.from_file(path, "</s>", "</s>").digest
    others = [
        Tokenizer.from_file(path, "<s>"),
        Tokenizer.from_file(path, "<s>", "</s>"),
    ]
    assert len({t.digest for t in (tokenizer, one, *others)}) == 4


def test_tokenizers_of_one_border_keep_their_digests(tmp_path):
    """Corpora and pools that exist are named after them."""
    words = Tokenizer.from_file(word_tokenizer(tmp_path), "</s>").digest
    assert Tokenizer.from_bytes().digest[:16] == "77b3888836188863"
    assert words[:16] == "6e588e3826ffe5e4"


def test_text_that_would_begin_a_document_is_refused(tmp_path):
    tokenizer = Tokenizer.from_file(word_tokenizer(tmp_path), "</s>", "well")
    with pytest.raises(UserError, match="begin-of-text token 'well'"):
        Coverage(tokenizer, 1.0).encode("domain", ["known well"])


@pytest.mark.parametrize("key", ["begin_of_text", "end_of_text"])
def test_a_name_of_no_token_is_refused_with_those_there_are(tmp_path, key):
    names = {"end_of_text": "</s>", key: "<eot>"}
    with pytest.raises(
        UserError, match=f"{key}: '<eot>' .*'<s>', '</s>', '<|im_end|>'"
    ):
        Tokenizer.from_file(with_borders(tmp_path), **names)
    with pytest.raises(UserError, match=r"special tokens are '</s>'$"):
        Tokenizer.from_file(word_tokenizer(tmp_path), **names)


def test_an_end_that_may_be_that_of_a_turn(tmp_path):
    path = with_borders(tmp_path)
    odd = Tokenizer.from_file(path, "<|im_end|>").odd_borders()
    assert odd == [("end_of_text", "<|im_end|>", "</s>")]
    odd = Tokenizer.from_file(path, "</s>", "<|im_end|>").odd_borders()
    assert ("begin_of_text", "<|im_end|>", "<s>") in odd
    assert {key for key, *_ in odd} == {"begin_of_text"}
    assert Tokenizer.from_file(path, "</s>", "<s>").odd_borders() == []


def in_content(name):
    return {"__type": "AddedToken", "content": name, "special": True}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"tokenizer_config": {"bos_token": "<s>", "eos_token": in_content("</s>")},
             "config": {"bos_token_id": 2, "eos_token_id": 2}},
            ("<s>", "</s>"),
        ),
        # A null is an answer, and an absent key is none.
        ({"tokenizer_config": {"bos_token": None, "eos_token": "</s>"},
          "config": {"bos_token_id": 0}}, ("</s>", "</s>")),
        ({"tokenizer_config": {"eos_token": "</s>"},
          "config": {"bos_token_id": 0, "eos_token_id": [1, 2]}}, ("<s>", "</s>")),
        ({"tokenizer_config": {},
          "special_tokens_map": {"bos_token": in_content("<s>"), "eos_token": "</s>"}},
         ("<s>", "</s>")),
        ({"config": {"bos_token_id": None, "eos_token_id": 1}}, ("</s>", "</s>")),
        ({"config": {"eos_token_id": [1, 2]}},
         r"eos_token_id is several tokens: '</s>' \(1\), '<\|im_end\|>' \(2\); set "
         r"config\.corpus\.tokenizer\.end_of_text"),
        ({"config": {"eos_token_id": 17}},
         r"17 is no special token.* set config\.corpus\.tokenizer\.end_of_text"),
        ({"config": {}}, "no file says .* one of '<s>', '</s>'"),
        ({"tokenizer_config": {"eos_token": 1}}, "eos_token is 1, which is no name"),
        ({"tokenizer_config": [1]}, r"tokenizer_config\.json: cannot be read"),
    ],
)  # fmt: skip
def test_names_in_a_hugging_face_folder(tmp_path, files, expected):
    with_borders(tmp_path)
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            special_tokens(tmp_path)
        if "eos_token_id" in expected:  # what the message advises
            assert special_tokens(tmp_path, end="</s>") == ("</s>", "</s>")
    else:
        assert special_tokens(tmp_path) == expected
        assert special_tokens(tmp_path, "<|im_end|>")[0] == "<|im_end|>"


@pytest.mark.parametrize("file", ["tokenizer.model", "merges.txt", "config.json"])
def test_a_folder_without_tokenizer_json(tmp_path, file):
    (tmp_path / file).touch()
    advice = "copy it" if file == "config.json" else "make it with: python -c '"
    with pytest.raises(UserError, match=f"has no tokenizer.json; {advice}"):
        special_tokens(tmp_path)


def test_large_gaps_in_token_ids_are_refused(tmp_path):
    path = word_tokenizer(tmp_path)
    layout = json.loads(path.read_text())
    layout["model"]["vocab"]["well"] = 4_000_000_000
    path.write_text(json.dumps(layout))
    with pytest.raises(UserError, match="4000000000"):
        Tokenizer.from_file(path, "</s>")


def test_text_that_cannot_be_encoded_is_a_user_error(tmp_path):
    path = word_tokenizer(tmp_path)
    layout = json.loads(path.read_text())
    layout["model"]["unk_token"] = "missing"
    path.write_text(json.dumps(layout))
    tokenizer = Tokenizer.from_file(path, "</s>")
    with pytest.raises(UserError, match=r"^domain 'x': .*UNK"):
        Coverage(tokenizer, 1.0).encode("domain 'x'", ["odd"])


def test_a_training_sample_takes_turns_up_to_its_bytes():
    groups = [["aa", "bb", "cc"], ["d"], ["ee", "ff"]]
    assert training_sample(groups, 100) == ["aa", "d", "ee", "bb", "ff", "cc"]
    assert training_sample(groups, 6) == ["aa", "d", "ee", "b"]
    assert training_sample([["\u00e9\u00e9"]], 3) == ["\u00e9"]
    assert training_sample([], 9) == []
