"""The windows that a table is scored on, if it is not scored on all."""

import dataclasses

import numpy as np
import pytest

from jaxsim.scoring.evaluation import EvaluationSet


def evaluation_of(counts: list[int]) -> EvaluationSet:
    """One domain whose dev documents have so many windows."""
    document_R = np.repeat(np.arange(len(counts)), counts)
    zero_R = np.zeros(len(document_R), np.int32)
    fields = {
        field.name: zero_R
        for field in dataclasses.fields(EvaluationSet)
        if field.name.endswith("_R")
    }
    return EvaluationSet(
        **(fields | {"document_R": document_R}),
        tokens_RL1=np.zeros((len(document_R), 5), np.int32),
        domains=("one",),
        in_pool=(True,),
        groups=("one",),
        by_document=(False,),
        documents=tuple(str(i) for i in range(len(counts))),
        digest="",
    )


@pytest.mark.parametrize("counts", [[1, 90, 2], [40], [3, 3, 3, 3, 3], [30, 1]])
def test_every_document_has_a_window(counts):
    chosen = evaluation_of(counts).rows("dev", 5)
    document_R = np.repeat(np.arange(len(counts)), counts)
    assert len(chosen) == len(set(chosen.tolist())) == 5
    assert set(document_R[chosen]) == set(range(len(counts)))


def test_more_documents_than_windows_are_taken_evenly():
    chosen = evaluation_of([2] * 20).rows("dev", 4)
    assert np.diff(chosen).tolist() == [10, 10, 10]


def test_the_longer_document_has_more_windows():
    chosen = evaluation_of([10, 90]).rows("dev", 10)
    assert np.count_nonzero(chosen < 10) == 2


def test_few_windows_are_all_taken():
    evaluation = evaluation_of([2, 1])
    assert evaluation.rows("dev", 5).tolist() == [0, 1, 2]
    assert evaluation.rows("dev", 0).tolist() == [0, 1, 2]
    assert evaluation.rows("test", 5).tolist() == []
