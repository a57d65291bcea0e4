"""Prints what `prepare --dry-run` found."""

from collections import Counter
from collections.abc import Iterator

from jaxsim.config import Config, SourceConfig
from jaxsim.corpus import formats
from jaxsim.corpus.preview import (
    EXAMPLES,
    Looked,
    Place,
    Preview,
    epochs,
    evaluation,
    kept,
)
from jaxsim.corpus.split import SPLITS, TRAIN
from jaxsim.log import counted, detail, hidden, is_verbose, say, show_table

_NAMED = 3  # files that are left out, and are named
_MOST_ROWS = 14  # of partitions
_FIELDS = 24  # of a source that are listed
_MUCH_LOST = 0.2  # share of records
_LINE = 60  # characters of a first line
_ID = 40


def show_preview(config: Config, found: Preview) -> None:
    """Prints every source, all partitions and domains, and examples of documents."""
    for source in found.sources:
        _show_source(source)
    is_sample = any(source.share < 1 for source in found.sources)
    note = f"Tokens are counted {found.how}, for some documents of each partition."
    if is_sample:
        note += " Numbers of documents and tokens are estimates."
    note += " Copies and overlap with evaluation text are still among them."
    if partitions := found.places("partitions"):
        show_table(
            "partitions",
            ("partition", "group", "documents", "training tokens", "kept", "epochs"),
            [
                (
                    *(place.name, place.group, _about(place, TRAIN)),
                    f"{place.tokens(TRAIN):,.0f}",
                    f"{kept(config, place):,.0f}",
                    f"{epochs(config, place):.2f}",
                )
                for place in partitions[: None if is_verbose() else _MOST_ROWS]
            ],
            note=hidden(len(partitions), _MOST_ROWS),
            always=True,
        )
    domains = partitions + found.places("domains")
    if domains:
        show_table(
            f"domains ({' / '.join(SPLITS)})",
            ("domain", "in-pool", "documents", "tokens to read"),
            [
                (
                    *(place.name, "yes" if place.in_pool else "no"),
                    " / ".join(_about(place, split) for split in SPLITS),
                    " / ".join(
                        f"{tokens:,}"
                        for tokens, _ in evaluation(config, place).values()
                    ),
                )
                for place in domains
            ],
            note,
        )
        show_table(
            f"the first {counted(EXAMPLES, 'document')} of each",
            ("name", "id", "begins"),
            [row for place in domains for row in _examples(place)],
            left=3,
        )


def _show_source(source: Looked) -> None:
    config, tally, inputs = source.config, source.tally, source.inputs
    kinds = Counter(_ending(file.name) for file in inputs.files)
    size = sum(file.size for file in inputs.files)
    documents = sum(
        len(sizes) for place in source.places.values() for sizes in place.sizes.values()
    )
    say(
        f"{source.where} {source.name!r}, reader {config.reader}: "
        f"{counted(len(inputs.files), 'file')} of {_bytes(size)} "
        f"({', '.join(f'{n:,} {kind}' for kind, n in kinds.most_common())}); "
        f"{counted(documents, 'document')} taken"
    )
    for why, count in Counter(why for _, why in inputs.left_out).most_common():
        names = [name for name, cause in inputs.left_out if cause == why][:_NAMED]
        more = ", ..." if count > _NAMED else ""
        say(f"  files left out: {why} ({count:,}): {', '.join(names)}{more}")
    if source.share < 1:
        detail(
            f"  looked at the first {counted(tally.records, 'record')} of "
            f"{counted(len(source.weights), 'file')}, about "
            f"{100 * source.share:.2g}% of the text"
        )
    else:
        detail(f"  looked at all {counted(tally.records, 'record')}")
    for cause in source.causes():
        say(f"  left out: {cause}")
    wanted = tally.records - tally.filtered
    lost = tally.bad.total() + tally.dropped.total()
    if lost > _MUCH_LOST * wanted:
        say(
            f"  WARNING: {lost / wanted:.0%} of the records that pass `where` are left "
            "out; if that is not meant, look at the fields and at this source's rules"
        )
    for cause, number in tally.repaired.items():
        detail(f"  repaired: {cause} ({number:,})")
    count, first, last = source.dates
    if count:
        detail(f"  dates: {count:,}, from {first} to {last} ({config.date_field})")
    if count or config.by_dates:
        for cause, number in source.no_dates.items():
            say(f"  no date: {source.counted(cause, number)}")
    if config.reader not in ("text", "sotu"):
        uses = dict(_uses(config))
        rows = [
            (name, uses.get(name, uses.get(name.partition(".")[2], "")), example)
            for name, example in tally.fields.items()
            # Of an object that may be empty, its fields are there.
            if example or not any(n.startswith(f"{name}.") for n in tally.fields)
        ]
        rows.sort(key=lambda row: not row[1])
        others = len(rows) - _FIELDS
        show_table(
            f"fields of {source.name!r}",
            ("field", "used as", "example"),
            rows[:_FIELDS],
            f"and {others:,} more fields" if others > 0 else "",
            left=3,
        )


def _uses(config: SourceConfig) -> Iterator[tuple[str, str]]:
    """Names of fields, and what the config uses them for."""
    for use in ("where", "by", "date", "id", "completion", "prompt", "text"):
        if use == "where":
            for name, value in config.where:
                yield name, f"where {value!r}"
            continue
        if use == "text" and config.completion_field:
            continue
        names = getattr(config, f"{use}_field")
        yield from ((name, use) for name in names.split("|") if name)


def _examples(place: Place) -> Iterator[tuple[str, str, str]]:
    name = place.name
    for document in place.examples:
        line = _one_line(document.text, _LINE)
        if document.prompt is not None:
            half = _LINE // 2
            prompt = _one_line(document.prompt, half)
            line = f"{prompt} >>> {_one_line(document.text, half)}"
        yield name, _cut(document.id, _ID), line
        name = ""


def _one_line(text: str, most: int) -> str:
    return _cut(" ".join(text[: 4 * most].split()), most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _ending(name: str) -> str:
    last, compression = formats.endings(name)
    known = (*formats.RECORDS, *formats.TEXTS)
    last = f".{last}" if last in known else "without a known ending"
    return last + (f".{compression}" if compression else "")


def _about(place: Place, split: str) -> str:
    return f"{place.documents(split):,.0f}"


def _bytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.3g} {unit}"
    return f"{count:,.0f} bytes"
