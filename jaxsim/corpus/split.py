"""The half of a document: a hash of its split key, never a random draw.

The same document falls in the same half in every run, on every machine, and
whatever other documents come and go.
"""

import hashlib

from jaxsim.config import SplitConfig
from jaxsim.corpus.documents import Document
from jaxsim.errors import UserError

SEED, TRAIN, SELECT, REPORT = "seed", "train", "select", "report"
HALVES = (SELECT, REPORT)


def unit_hash(salt: str, key: str) -> float:
    """A number in [0, 1) that is a function of the two strings."""
    data = f"{salt}\0{key}".encode("utf-8", "surrogatepass")
    # 53 bits: more would round up to 1.0 in a double.
    return (int.from_bytes(hashlib.sha256(data).digest()[:8]) >> 11) / 2**53


def half_of(
    document: Document,
    split: SplitConfig,
    in_pool: bool = True,
    seed_from_partitions: bool = True,
) -> str:
    """'report', 'select', 'seed' or 'train'.

    Args:
      in_pool: a partition's document; one of an out-of-pool domain is never
        trained on, so each of its halves gets half of the documents.
      seed_from_partitions: False if the seed has text of its own: then the
        seed's share of a partition is trained on.

    Raises:
      UserError: the document lacks the metadata field of `split.key`.
    """
    u = unit_hash(split.salt, _split_key(document, split.key))
    if not in_pool:
        return REPORT if u < 0.5 else SELECT
    if u < split.report:
        return REPORT
    if u < split.report + split.select:
        return SELECT
    if u < split.report + split.select + split.seed and seed_from_partitions:
        return SEED
    return TRAIN


def _split_key(document: Document, key: str) -> str:
    if key == "id":
        return document.id
    if key == "file":
        return document.metadata.get("file", document.file)
    if key not in document.metadata:
        raise UserError(
            f"corpus.split.key={key!r}: document {document.id[:200]!r} of "
            f"source {document.source[:200]!r} has no such metadata field"
        )
    return document.metadata[key]
