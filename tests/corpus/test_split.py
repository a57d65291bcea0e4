"""Rules that make partitions and splits."""

from collections import Counter

import pytest

from jaxsim.config import CorpusConfig, SourceConfig, SplitConfig
from jaxsim.corpus.split import check_sources, collect_places, places_of, split_of
from jaxsim.errors import UserError

from .builders import document


def partitioned(source, documents):
    """Documents by partition, groups of partitions, and counts of what is dropped."""
    found, groups, dropped = {}, {}, Counter()
    for each in documents:
        places = places_of("s", source, each)
        if isinstance(places, str):
            dropped[places] += 1
            continue
        for name, group in places:
            found.setdefault(name, []).append(each)
            groups[name] = group
    return found, groups, dropped


def test_partitions_by_field_and_dates():
    source = SourceConfig(
        by_field="f", by_dates=(("1900", "1909"), ("1910", "1910-06"))
    )
    made = [
        document("1", date="1909-12-31", fields={"f": "a"}),
        document("2", date="1910-06-30", fields={"f": "a"}),
        document("3", date="1910-07-01", fields={"f": "a"}),
        document("4", date="1900", fields={"f": "b"}),
        document("5", date="", fields={"f": "b"}),
        document("6", date="1900", fields={}),
    ]
    found, groups, dropped = partitioned(source, made)
    assert {k: [d.id for d in v] for k, v in found.items()} == {
        "a,1900-1909": ["1"], "a,1910-1910-06": ["2"], "b,1900-1909": ["4"],
    }  # fmt: skip
    assert groups == {
        "a,1900-1909": "a", "a,1910-1910-06": "a", "b,1900-1909": "b",
    }  # fmt: skip
    assert dropped == {
        "outside every range of by_dates": 1, "no created|added": 1, "no f": 1,
    }  # fmt: skip


def test_partitions_by_file_and_by_source():
    made = [document("1", file="x/physics.jsonl.gz"), document("2", file="m.md")]
    found, groups, _ = partitioned(SourceConfig(by_file=True), made)
    assert set(found) == {"m", "physics"}
    assert set(groups.values()) == {"s"}
    found, groups, _ = partitioned(SourceConfig(), made)
    assert list(found) == ["s"]
    assert groups == {"s": "s"}


@pytest.mark.parametrize(
    "ranges",
    [
        (("1900", "1910"), ("1910", "1920")),
        (("1900", "1910"), ("1910-12", "1920")),
        (("1905", "1906"), ("1900", "1920")),
        (("1910", "1900"),),
        (("19xx", "1920"),),
    ],
)
def test_bad_ranges_are_refused(ranges):
    with pytest.raises(UserError, match=r"must be ISO|starts after|overlaps"):
        check_sources(CorpusConfig(partitions={"s": SourceConfig(by_dates=ranges)}))


def test_a_range_without_documents_is_named():
    source = SourceConfig(by_dates=(("1900", "1909"), ("1950", "1959")))
    found = [("partitions", "s", [("1900-1909", "s")])]
    with pytest.raises(UserError, match="'1950-1959'"):
        collect_places(CorpusConfig(partitions={"s": source}), found)


def test_a_hostile_field_value_is_refused():
    with pytest.raises(UserError, match=r"'\.\./x'"):
        places_of("s", SourceConfig(by_field="f"), document("1", fields={"f": "../x"}))


def test_splits_have_their_shares_and_depend_only_on_the_salt():
    split = SplitConfig(salt="a", base=0.3, dev=0.1, test=0.2)
    made = [document(str(i)) for i in range(4000)]
    splits = [split_of(d, split) for d in made]
    counts = Counter(splits)
    wanted = {"test": 0.2, "dev": 0.1, "base": 0.3, "train": 0.4}
    for name, share in wanted.items():
        assert abs(counts[name] / 4000 - share) < 0.03
    assert splits[::-7] == [split_of(d, split) for d in made[::-7]]
    own = [split_of(d, split, base_from_partitions=False) for d in made]
    assert own == ["train" if name == "base" else name for name in splits]
    out = Counter(split_of(d, split, in_pool=False) for d in made)
    assert set(out) == {"dev", "test"}
    assert abs(out["dev"] - 2000) < 130
    other = SplitConfig(salt="b", base=0.3, dev=0.1, test=0.2)
    assert splits != [split_of(d, other) for d in made]


def test_the_split_key_keeps_documents_of_one_file_together():
    split = SplitConfig(key="source_file")
    made = [document(str(i), fields={"source_file": str(i % 20)}) for i in range(200)]
    splits = [split_of(d, split) for d in made]
    assert splits[:20] * 10 == splits
    assert len(set(splits)) > 1
    with pytest.raises(UserError, match="source_file"):
        split_of(document("x"), split)
