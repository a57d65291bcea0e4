"""Evaluation text and losses with known means."""

import dataclasses

import numpy as np

from jaxsim.scoring.evaluation import EvaluationSet
from jaxsim.search.objective import Objective

BYTES = 100


def text(
    documents: int, windows: int | list[int] = 1, domains: int = 1
) -> EvaluationSet:
    """Dev text only: documents and windows per document, for each domain."""
    count_E = np.broadcast_to(windows, documents)
    document_R = np.repeat(np.arange(documents * domains), np.tile(count_E, domains))
    ones_R = np.ones(len(document_R), np.int32)
    return EvaluationSet(
        tokens_RL1=np.zeros((len(ones_R), 2), np.int32),
        first_R=0 * ones_R,
        count_R=ones_R,
        length_R=ones_R,
        domain_R=document_R // documents,
        split_R=0 * ones_R,
        document_R=document_R,
        bytes_R=BYTES * ones_R,
        domains=tuple(f"d{d}" for d in range(domains)),
        in_pool=(False,) * domains,
        groups=tuple(f"d{d}" for d in range(domains)),
        by_document=(False,) * domains,
        documents=tuple(map(str, range(documents * domains))),
        digest="x",
    )


def objective(weights=(1.0,), kind: str = "mean", base=None) -> Objective:
    weights_D = np.array(weights, float)
    return Objective.of_domains(
        domains=tuple(f"d{d}" for d in range(len(weights_D))),
        weights_D=weights_D / weights_D.sum(),
        kind=kind,
        base_D=np.full(len(weights_D), 3.0) if base is None else base,
        max_regression_D=np.full(len(weights_D), np.inf),
    )


def nats(bits_MR: np.ndarray) -> np.ndarray:
    """Nats of windows of `BYTES` bytes with these bits per byte."""
    return (bits_MR * BYTES * np.log(2)).astype(np.float32)


def losses(
    generator: np.random.Generator, e: EvaluationSet, mean_M, noise
) -> np.ndarray:
    """Nats around 2 + `mean_M` bits, with shared and separate noise of documents."""
    documents = len(e.documents)
    shared_R = generator.normal(0, 0.3, documents)[e.document_R]
    own_ME = generator.normal(0, 1, (len(mean_M), documents))
    own_ME *= np.broadcast_to(noise, len(mean_M))[:, None]
    return nats(2 + mean_M[:, None] + shared_R + own_ME[:, e.document_R])


def skewed(generator: np.random.Generator, shape) -> np.ndarray:
    """Lognormal with mean 0 and standard deviation 1."""
    draws = generator.lognormal(0, 1, shape)
    return (draws - np.exp(0.5)) / np.sqrt(np.exp(1) * (np.exp(1) - 1))


def splits(e: EvaluationSet) -> EvaluationSet:
    """Moves every other window to the test split."""
    return dataclasses.replace(e, split_R=np.arange(len(e)) % 2)
