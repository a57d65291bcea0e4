"""Copies of evaluation text are found, even if they are changed a little."""

import random
import textwrap

import numpy as np
import pytest

from jaxsim.corpus.decontaminate import EvaluationIndex, fingerprint

from .builders import words

RNG = random.Random(3)
EVALUATION = [words(RNG, 60) for _ in range(4)]
OTHER = words(RNG, 400)
CHINESE = "".join(chr(0x4E00 + RNG.randrange(9000)) for _ in range(60))


def found(text, evaluation=EVALUATION, n=13, share=0.5):
    index = EvaluationIndex([fingerprint(e, n)[1] for e in evaluation])
    return index.find(fingerprint(text, n)[1], share).tolist()


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
    assert fingerprint("A  b,c", 13)[0] == fingerprint("a B\nC.", 13)[0]
    assert fingerprint("a bc", 13)[0] != fingerprint("ab c", 13)[0]


def test_hashes_agree_with_a_simple_computation():
    tokens = OTHER.split() + OTHER.split()[:30]
    grams = {tuple(tokens[i : i + 13]) for i in range(len(tokens) - 12)}
    _, hashes = fingerprint(" ".join(tokens), 13)
    assert len(hashes) == len(grams) < len(tokens) - 12
    assert (np.diff(hashes.astype(object)) > 0).all()
