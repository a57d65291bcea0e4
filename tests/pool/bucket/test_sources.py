"""Text in an object store."""

import gzip

import fsspec
import pytest

from jaxsim.config import SourceConfig
from jaxsim.corpus.documents import Tally, read_file
from jaxsim.corpus.sources import find_inputs
from jaxsim.errors import UserError


def test_text_is_read_from_an_object_store(url):
    store = fsspec.filesystem("s3")
    line = b'{"text": "words"}\n'
    store.pipe_file(f"{url}/web/a.jsonl", line)
    store.pipe_file(f"{url}/web/.hidden/b.jsonl", line)
    store.pipe_file(f"{url}/code/c.jsonl.gz", gzip.compress(line * 3))
    source = SourceConfig("records", f"{url}/{{set}}/**")
    found = find_inputs("s", source)
    assert [(f.name, f.parts["set"]) for f in found.files] == [
        ("code/c.jsonl.gz", "code"), ("web/a.jsonl", "web"),
    ]  # fmt: skip
    assert found.left_out == [("web/.hidden/", "hidden")]
    texts = [len(list(read_file(f, source, Tally()))) for f in found.files]
    assert texts == [3, 1]
    # An object that was replaced has another stamp.
    store.pipe_file(f"{url}/web/a.jsonl", line.upper())
    assert find_inputs("s", source).files[1].stamp != found.files[1].stamp
    store.rm_file(f"{url}/web/a.jsonl")
    with pytest.raises(UserError, match=r"cannot read 's3://.*a\.jsonl'"):
        list(read_file(found.files[1], source, Tally()))
    with pytest.raises(UserError, match=r"source 's'.*s3://nobody"):
        find_inputs("s", SourceConfig("records", "s3://nobody-has-this/x"))
