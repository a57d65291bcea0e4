"""The corpus of a bucket: made on one machine, the same on all."""

import json
import os
import shutil
import uuid
from collections.abc import Callable
from typing import Any

from jaxsim.corpus.store import (
    TEMPORARY,
    Corpus,
    folder_of,
    open_corpus,
    write_record,
)
from jaxsim.errors import DamagedError, UserError
from jaxsim.log import say
from jaxsim.pool.bucket.bucket import Bucket
from jaxsim.pool.claims import Watch, holding, patiently
from jaxsim.pool.digests import differences, files_below

_NAME = ".corpus"  # of the claim; no run's name begins with a dot
_KEY = "corpus/corpus.json"


def share_corpus(bucket: Bucket) -> None:
    """Fetches the corpus, or sends the one that only the workdir has.

    Raises:
      UserError: the corpus of the workdir is not that of the bucket.
    """
    shared, here = _records(bucket)
    if shared is None and here is None:
        return
    if shared is None:
        prepare_for_all(bucket, lambda: open_corpus(bucket.workdir), False)
    elif here is None:
        say(f"corpus: fetched from {bucket}")
        _fetch(bucket, shared)
        write_record(bucket.workdir, shared)
    elif lines := differences(_content(shared), _content(here)):
        raise UserError(
            f"{bucket} holds another corpus than {bucket.workdir}: "
            f"{'; '.join(lines[:5])}. Run `jaxsim prepare` here to send this "
            f"one, or delete {bucket.workdir / 'corpus'} to fetch the other"
        )


def prepare_for_all(
    bucket: Bucket, make: Callable[[], Corpus], refreeze: bool
) -> Corpus:
    """Makes the corpus of the bucket, while no other machine does.

    Args:
      make: prepares the workdir's, and conforms to what is frozen there.
      refreeze: forget what was frozen for the bucket, too.

    Raises:
      UserError: the workdir has frozen something else than the bucket.
    """

    def attempt(watch: Watch) -> Corpus:
        lock = bucket.workdir / "training" / ".locks" / _NAME
        with (
            holding(lock, "the corpus", watch),
            bucket.holding(_NAME, "the corpus", watch),
        ):
            if not refreeze:
                _agree(bucket)
            corpus = make()
            _send(bucket)
            return corpus

    return patiently(attempt)


def _agree(bucket: Bucket) -> None:
    shared, here = _records(bucket)
    if here is None:
        share_corpus(bucket)
    elif shared is not None and (
        lines := differences(shared["frozen"], here["frozen"])
    ):
        raise UserError(
            f"{bucket} has frozen another corpus than {bucket.workdir}: "
            f"{'; '.join(lines[:5])}. Use another --workdir to get that one, "
            "or another bucket for this one"
        )


def _send(bucket: Bucket) -> None:
    """Makes the corpus of the workdir that of the bucket."""
    shared, here = _records(bucket)
    assert here is not None
    root = bucket.workdir / "corpus"
    there = bucket.objects.list("corpus")
    if shared is None or differences(_content(shared), _content(here)):
        say(f"corpus: sent to {bucket}")
    for folder in _folders(bucket, here):  # also to mend what is lost there
        for name, size in files_below(root / folder).items():
            key = f"{folder}/{name}"
            if there.get(key) != size:
                bucket.objects.send(root / key, f"corpus/{key}")
    # Last: until then nothing has changed.
    bucket.objects.write(_KEY, json.dumps(here, indent=1).encode())


def _fetch(bucket: Bucket, record: dict[str, Any]) -> None:
    """Folders appear complete; their digests are checked when opened."""
    root = bucket.workdir / "corpus"
    for folder in _folders(bucket, record):
        if (root / folder).exists():
            continue
        names = bucket.objects.list(f"corpus/{folder}")
        if not names:
            raise DamagedError(
                f"{bucket}/corpus/{folder}: is not there, and corpus.json "
                "names it; run `jaxsim prepare` where the corpus is"
            )
        part = root / f"{TEMPORARY}{uuid.uuid4().hex}"
        for name in names:
            bucket.objects.fetch(f"corpus/{folder}/{name}", part / name)
        try:
            os.rename(part, root / folder)
        except OSError:
            if not (root / folder).exists():
                raise
            shutil.rmtree(part)  # another launcher here was quicker


def _folders(bucket: Bucket, record: dict[str, Any]) -> list[str]:
    """Of the data sets and the tokenizer that a record is about.

    Raises:
      DamagedError: it is no such record.
    """
    try:
        frozen = record["frozen"]
        digests = [("tokenizer", frozen["tokenizer_digest"])]
        units = [frozen["seed"], *record["units"].values()]
        digests += [("unit", unit["digest"]) for unit in units]
        digests += [
            ("domain", digest)
            for domain in record["domains"].values()
            for digest in domain["digests"].values()
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{bucket}/{_KEY}: lacks {error}") from error
    names = [folder_of(bucket.workdir, *pair).name for pair in digests]
    return list(dict.fromkeys(names))


def _records(
    bucket: Bucket,
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """corpus.json in the bucket, and in the workdir."""
    there = (bucket.workdir / "corpus" / "corpus.json").exists()
    return (
        bucket.objects.read_json(_KEY),
        open_corpus(bucket.workdir).record if there else None,
    )


def _content(record: dict[str, Any]) -> dict[str, Any]:
    """All but what differs between machines: paths and times of files."""
    return {
        key: record.get(key)
        for key in ("format", "frozen", "units", "domains", "generations")
    }
