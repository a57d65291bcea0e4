"""Reads sources as `prepare` does."""

from collections import Counter

from jaxsim.config import SourceConfig
from jaxsim.corpus.documents import Document, Tally, read_file
from jaxsim.corpus.sources import find_inputs
from jaxsim.corpus.split import places_of


def read(
    path=".", reader="records", also=None, **fields
) -> tuple[list[Document], Tally]:
    """The documents of a source, and the counts of all its files."""
    source = SourceConfig(reader=reader, path=str(path), **fields)
    found, total = [], Tally()
    for file in find_inputs("s", source).files:
        tally = Tally()
        found += read_file(file, source, tally, also)
        total += tally
    return found, total


def texts(path, **fields) -> list[str]:
    return [document.text for document in read(path, **fields)[0]]


def partitions(path, **fields) -> tuple[Counter, Counter]:
    """Documents by partition, and left out by cause."""
    documents, _ = read(path, **fields)
    source = SourceConfig(reader="records", path=str(path), **fields)
    found, dropped = Counter(), Counter()
    for document in documents:
        places = places_of("s", source, document)
        if isinstance(places, str):
            dropped[places] += 1
        else:
            found.update(partition for partition, _ in places)
    return found, dropped
