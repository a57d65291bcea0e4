"""Records of prompt and completion, of which the completion alone is scored.

Tokens are those of lm-evaluation-harness: white space at the end of the prompt goes to
the completion, and both are encoded together. What follows the prompt's own tokens is
scored. Where one token spans the join, that would be the wrong text or none; prompt
and completion are then encoded separately, as OLMES does for every record.

A record is one window. As in both, a prompt that is too long loses its first tokens,
begin-of-text before all others. There is no second window to score a completion of
more than L tokens in: it is left out, and counted.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from jaxsim.corpus.coverage import Coverage
from jaxsim.corpus.documents import Document
from jaxsim.corpus.rows import EvalWindows


class TaskCounts(TypedDict):
    """Records of one split of a domain, by what happened to them."""

    truncated: int  # the prompt lost its first tokens
    separate: int  # prompt and completion were encoded separately
    too_long: int  # left out: a completion of more than L tokens
    empty: int  # left out: a completion without any token


# The same in words, for tables.
CAUSES = {
    "truncated": "prompt cut at its beginning, to fit in a window",
    "separate": "prompt and completion encoded separately",
    "too_long": "left out: completion longer than a window",
    "empty": "left out: no token in the completion",
}


@dataclasses.dataclass(frozen=True)
class Completion:
    """The tokens of a record.

    Attributes:
      ids: int32, of the prompt and then of the completion.
      scored: how many of them, the last ones, are those of the completion.
      bytes: UTF-8 bytes of the completion, with the white space before it.
      is_separate: whether both were encoded separately.
    """

    ids: np.ndarray
    scored: int
    bytes: int
    is_separate: bool

    def fits(self, length: int) -> bool:
        """Whether it can be scored in a window of so many targets."""
        return 0 < self.scored <= length


def encode_records(
    where: str, documents: Sequence[Document], coverage: Coverage
) -> list[Completion]:
    """The tokens of records; `Coverage.check` says what is refused."""
    tokenizer = coverage.tokenizer
    prompts, completions = [], []
    for document in documents:
        prompt, completion = document.parts()
        prompts.append(prompt)
        completions.append(completion)
    texts = [a + b for a, b in zip(prompts, completions, strict=True)]
    found = []
    for completion, ids, before in zip(
        completions,
        coverage.encode_some([where] * len(texts), texts),
        tokenizer.encode_batch(prompts),
        strict=True,
    ):
        size, after = len(completion.encode("utf-8")), ids[len(before) :]
        fits = np.array_equal(ids[: len(before)], before)
        fits = fits or int(tokenizer.byte_lengths(after).sum()) == size
        is_separate = not (fits and len(after))
        if is_separate:
            (after,) = tokenizer.encode_batch([completion])
            ids = np.concatenate([before, after])
        found.append(Completion(ids, len(after), size, is_separate))
    return found


def record_windows(
    records: Sequence[Completion],
    begin: int,
    end: int,
    length: int,
    names: Sequence[str] = (),
) -> tuple[EvalWindows, TaskCounts]:
    """One window for each record that can be scored, see `EvalWindows`.

    Args:
      records: in order.
      begin, end: ids of begin-of-text and end-of-text, which is the padding.
      length: L.
      names: ids of the records.
    """
    counts = TaskCounts(truncated=0, separate=0, too_long=0, empty=0)
    kept, rows = [], []
    for e, record in enumerate(records):
        if not record.fits(length):
            counts["too_long" if record.scored else "empty"] += 1
            continue
        row = np.concatenate([np.array([begin], np.int32), record.ids])
        counts["truncated"] += len(row) > length + 1
        counts["separate"] += record.is_separate
        kept.append(e)
        rows.append(row[-(length + 1) :])
    # Targets are the tokens after the first of a row.
    valid_R = np.array([len(row) - 1 for row in rows], np.int32)
    count_R = np.array([records[e].scored for e in kept], np.int32)
    padded = [
        np.pad(row, (0, length + 1 - len(row)), constant_values=end) for row in rows
    ]
    windows = EvalWindows(
        tokens_RL1=np.array(padded, np.int32).reshape(-1, length + 1),
        first_R=valid_R - count_R,
        count_R=count_R,
        length_R=valid_R,
        document_R=np.arange(len(kept), dtype=np.int32),
        bytes_R=np.array([records[e].bytes for e in kept], np.int64),
        documents=tuple(names[e] for e in kept) if names else (),
    )
    return windows, counts
