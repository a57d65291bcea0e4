"""Copies of evaluation text are found, even if they are changed a little."""

import random
import re
import textwrap
import unicodedata

import numpy as np
import pytest

from jaxsim.corpus.duplicates import (
    EvaluationIndex,
    band_hashes,
    band_shape,
    grams_of,
    repeated,
    text_digests,
    word_hashes,
)

from .builders import words

ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
RNG = random.Random(3)
EVALUATION = [words(RNG, 60) for _ in range(4)]
OTHER = words(RNG, 400)
CHINESE = "".join(chr(0x4E00 + RNG.randrange(9000)) for _ in range(60))


def grams(text, n=13):
    return grams_of(*word_hashes([text]), n)[0]


def found(text, evaluation=EVALUATION, n=13, share=0.5):
    index = EvaluationIndex.of([grams(e, n) for e in evaluation])
    alone = index.find(grams(text, n), share).tolist()
    # In a batch it is the same.
    batch = grams_of(*word_hashes([OTHER, text, "!", OTHER]), n)
    assert [e for d, e in index.find_all(*batch, share) if d == 1] == alone
    return alone


def digest(text):
    return text_digests(*word_hashes(["one", text, "?"]))[1]


@pytest.mark.parametrize(
    "copy",
    [
        EVALUATION[2],
        textwrap.fill(EVALUATION[2], 30),
        EVALUATION[2].upper(),
        EVALUATION[2].replace(" ", ", ") + "!",
        OTHER[:1000] + "\n" + EVALUATION[2] + "\n" + OTHER[1000:],
        EVALUATION[2][:150],
        " ".join(EVALUATION[2].split()[20:]) + " " + words(RNG, 10),
    ],
    ids=["exact", "rewrapped", "case", "marks", "embedded", "part", "most"],
)
def test_a_copy_is_found(copy):
    assert found(copy) == [2]


def test_other_text_is_not_found():
    assert found(OTHER) == []
    assert found(" ".join(EVALUATION[2].split()[:20]) + " " + OTHER) == []
    assert found("") == []


def test_short_documents_are_compared_whole():
    evaluation = ["yes of course", EVALUATION[0]]
    assert found("Yes, of COURSE!", evaluation) == [0]
    assert found("yes of", evaluation) == []
    assert found(OTHER + " yes of course", evaluation) == []
    assert found("!!!", ["!!!", "???"]) == [0]


def test_text_without_spaces():
    assert found("\u524d" * 5 + CHINESE + "\u5f8c" * 300, [CHINESE]) == [0]


def test_share_decides():
    split = " ".join(EVALUATION[1].split()[:30]) + " " + words(RNG, 42)
    # 18 of its 60 n-grams, and 18 of the 48 of the evaluation document.
    assert found(split, share=0.3) == [1]
    assert found(split, share=0.4) == []


def test_the_digest_is_of_the_normalized_text():
    assert digest("A  b,c") == digest("a B\nC.")
    assert digest("a bc") != digest("ab c")


def test_hashes_agree_with_a_simple_computation():
    tokens = OTHER.split() + OTHER.split()[:30]
    known = {tuple(tokens[i : i + 13]) for i in range(len(tokens) - 12)}
    hashes = grams(" ".join(tokens))
    assert len(hashes) == len(tokens) - 12
    assert len(set(hashes.tolist())) == len(known) < len(hashes)


def test_words_are_those_of_a_simple_computation():
    rng = random.Random(5)
    word = re.compile(f"[{ALONE}]|[^\\W{ALONE}]+")
    kinds = [(32, 127), (0x80, 0x600), (0x3000, 0x3100), (0x4E00, 0x4E50), (32, 33)]
    for _ in range(100):
        ranges = rng.choices(kinds, k=100)
        text = "".join(chr(rng.randrange(*r)) for r in ranges)
        normal = unicodedata.normalize("NFKC", text).casefold()
        words_W = word.findall(normal) or [normal.strip()]
        hash_W, begin_D = word_hashes(["x", text, "y z"])
        assert begin_D.tolist() == [0, 1, 1 + len(words_W), 3 + len(words_W)]
        alone = [word_hashes([w])[0][0] for w in words_W]
        assert hash_W[1:-2].tolist() == alone
        assert len(set(alone)) == len(set(words_W))


def test_bands_find_pairs_as_often_as_the_curve_says():
    rng, (bands, rows) = np.random.default_rng(0), band_shape(0.75)
    assert (bands, rows) == (12, 10)
    for similarity in (0.65, 0.75, 0.85):
        shared = round(2000 * similarity / (1 + similarity))
        hits = 0
        for _ in range(150):
            raw = rng.integers(0, 2**63, 2000 - shared).astype(np.uint64)
            pair = np.concatenate([raw[:1000], raw[:shared], raw[1000:]])
            hashes = band_hashes(pair, np.array([0, 1000, 2000]), 0.75)
            hits += (hashes[0] == hashes[1]).any()
        expected = 1 - (1 - similarity**rows) ** bands
        assert abs(hits / 150 - expected) < 0.12


def test_all_but_the_first_of_equal_keys_are_repeated():
    keys = np.array([5, 3, 5, 3, 9, 5], np.uint64)
    documents = np.arange(6)
    found = repeated(keys, documents)
    assert found.tolist() == [False, False, True, True, False, True]
    # One document may have several entries.
    documents[2] = 0
    assert not repeated(keys, documents)[2]
    assert repeated(keys, documents)[5]
