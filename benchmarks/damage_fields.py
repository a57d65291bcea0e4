"""Changed fields of JSON files, a part of `damage.py`.

Every field of one file of each kind is left out, or replaced by values that are wrong
in some way. A record is tried twice: as it is, when the seal no longer fits, and sealed
again, as somebody would who knows how. Readers are called in forked processes, many
cases each; of what they admit, some cases are also tried on a command.
"""

import hashlib
import json
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from damage import Case, Sweeper

DEEP = 100_000
_MARK = "the place of a raw value"
Field = tuple[str | int, ...]  # keys on the way to a value
Text = tuple[str, str]  # what was changed, and the file that came of it


def sweep(sweeper: "Sweeper", sample: int) -> Iterator["Case"]:
    """All fields of one file of each kind."""
    from damage import FAILURES, Case

    admitted: list[tuple[str, str, str, str]] = []  # kind, path, what, text
    for kind, paths in sweeper.listing().items():
        # What is in an attempt has a digest in its manifest: one bit or many.
        if "attempt-" in kind or not kind.endswith((".json", ".jsonl")):
            continue
        path = paths[0]
        if path not in sweeper.opened:
            continue  # nothing reads it
        texts = list(changes(sweeper.before[path].decode()))
        for (what, text), outcome in zip(
            texts, _read_all(sweeper, path, texts), strict=True
        ):
            word, _, said = outcome.partition(": ")
            if word == "read" and what.endswith("(seal broken)"):
                word = "admitted"
            elif word == "read":
                admitted.append((kind, path, what, text))
            yield Case("fields", kind, f"{path}, {what}", {"reader": word}, said)
    for kind, path, what, text in sweeper.rng.sample(
        admitted, min(sample, len(admitted))
    ):
        names = sweeper.commands_on(path)
        if not names:
            continue
        name = sweeper.rng.choice(names)
        with sweeper.runner.copy() as workdir:
            (workdir / path).write_text(text)
            ended = sweeper.runner.run(sweeper.runner.commands()[name])
        # What changed by design changes results.
        outcome = sweeper.judge(name, ended, path, text.encode())
        if outcome in ("changed", "unnamed"):
            outcome = "read" if outcome == "changed" else "refused"
        said = f"{name}: {ended.stderr[-600:]}" if outcome in FAILURES else ""
        yield Case("fields", kind, f"{path}, {what}", {name: outcome}, said)


def changes(text: str) -> Iterator[Text]:
    """Texts of a file in which one field is changed."""
    first, *rest = text.splitlines() if _is_lines(text) else [text]
    for number, line in enumerate([first, *rest[-1:]]):
        try:
            data = json.loads(line)
        except ValueError:
            return
        sealed = isinstance(data, dict) and "sha256" in data and "record" in data
        for field, old in fields(data):
            for name, new in values(field, old).items():
                what = f"{'.'.join(map(str, field)) or 'all'}: {name}"
                # Whether the seal is looked at does not depend on the value.
                some = name in ("missing", "NaN", "deep", "the other", "another text")
                for again in (False, True) if sealed and some else (sealed,):
                    changed = _changed(data, field, new)
                    if again and not _seal(changed, new):
                        continue
                    made = json.dumps(changed).replace(json.dumps(_MARK), _raw(new))
                    if _is_lines(text):
                        lines = (
                            [made, *rest] if not number else [first, *rest[:-1], made]
                        )
                        made = "\n".join(lines) + "\n"
                    seal = " (sealed)" if again else " (seal broken)" if sealed else ""
                    yield what + seal, made


def _is_lines(text: str) -> bool:
    """Whether a file has JSON in each line."""
    head = text.partition("\n")[0]
    return head.startswith("{") and head.endswith("}") and text.count("\n") > 1


def fields(data: Any, at: Field = ()) -> Iterator[tuple[Field, Any]]:
    """The places of a JSON value; of parts with the same structure the first."""
    yield at, data
    if not isinstance(data, dict | list):
        return
    parts = data.items() if isinstance(data, dict) else enumerate(data)
    seen: set[str] = set()
    for key, part in parts:
        form = _form(part)
        # Keys that are names of data, as those of a vocabulary, are many.
        if isinstance(part, dict | list) or isinstance(data, list) or len(data) > 40:
            if form in seen:
                continue
            seen.add(form)
        yield from fields(part, (*at, key))


def _form(data: Any) -> str:
    """The structure of a value."""
    if isinstance(data, dict):
        return str(sorted((k, _form(v)) for k, v in data.items()))
    if isinstance(data, list):
        return f"[{_form(data[0]) if data else ''}]"
    return type(data).__name__


def values(field: Field, old: Any) -> dict[str, Any]:
    """What to put in the place of a value, by name."""
    found: dict[str, Any] = {
        "null": None,
        "another type": 7 if isinstance(old, str | list | dict) else "seven",
        "another container": [old] if not isinstance(old, list) else {"a": old},
        "NaN": float("nan"),
        "1e308": 1e308,
        "10**30": 10**30,
        "deep": _deep,
        "empty": type(old)() if old is not None else "",
        "long": "x" * 100_000,
    }
    if field:
        found["missing"] = _missing
    if isinstance(old, bool):
        found["the other"] = not old
    elif isinstance(old, int | float):
        found |= {"negative": -abs(old) - 1, "2**40": 2**40, "half": old / 2 + 0.1}
    elif isinstance(old, str):
        found |= {"another text": f"{old}x", "a path": "../../outside"}
    elif isinstance(old, list):
        found |= {"shorter": old[:-1], "longer": [*old, *old[-1:]]}
    else:
        found["one more"] = (old or {}) | {"one more": 1}
    return found


def _missing() -> None:
    """Stands for no value."""


def _deep() -> None:
    """Stands for a value that is nested too deeply for Python's own writer."""


def _raw(value: Any) -> str:
    """The JSON of the new value."""
    if value is _deep:
        return "[" * DEEP + "]" * DEEP
    return "" if value is _missing else json.dumps(value)


def _changed(data: Any, field: Field, new: Any) -> Any:
    """A copy with a mark in the place of a field, or without the field."""
    if not field:
        return _MARK
    head, *rest = field
    copy = dict(data) if isinstance(data, dict) else list(data)
    if rest or new is not _missing:
        copy[head] = _changed(copy[head], tuple(rest), new)
    else:
        del copy[head]
    return copy


def _seal(changed: Any, new: Any) -> bool:
    """Seals a record that has a mark; false where no seal can be made."""
    if not isinstance(changed, dict) or new is _deep or new != new:
        return False
    changed.pop("sha256", None)
    text = json.dumps(changed).replace(json.dumps(_MARK), _raw(new))
    content = json.dumps(json.loads(text), sort_keys=True)
    changed["sha256"] = hashlib.sha256(content.encode()).hexdigest()
    return True


def _read_all(sweeper: "Sweeper", path: str, texts: list[Text]) -> list[str]:
    """The outcome of each text in the place of a file: 'WORD: what was said'."""
    runner, found = sweeper.runner, []
    results = runner.folder / "outcomes"
    read = reader_of(path)
    while len(found) < len(texts):
        start = len(found)
        results.unlink(missing_ok=True)

        def action(start: int = start) -> int:
            with results.open("a") as file:
                for _, text in texts[start:]:
                    (runner.workdir / path).write_text(text)
                    line = " ".join(_outcome(read, runner.workdir, path).split())
                    file.write(f"{line}\n")
                    file.flush()
            return 0

        with runner.copy():
            ended = runner.fork(action, lambda: results.stat().st_size)
        lines = results.read_text().splitlines() if results.exists() else []
        found += lines
        if len(found) < len(texts):  # the process ended within a case
            word = "hang" if ended.code == "hang" else "traceback"
            found.append(f"{word}: {ended.code} {ended.stderr[-300:]}")
    return found


def _outcome(read: Callable[[Path, str], None], workdir: Path, path: str) -> str:
    from jaxsim.errors import JaxsimError

    try:
        read(workdir, path)
    except JaxsimError as error:
        if error.exit_code in (2, 3):
            return "refused"
        return f"exit code: {error}"
    except BaseException as error:  # noqa: BLE001
        frames = traceback.extract_tb(error.__traceback__)
        own = [f"{Path(f.filename).name}:{f.lineno}" for f in frames[-4:]]
        return f"traceback: {' > '.join(own)}: {type(error).__name__}: {error}"[:600]
    return "read"


def reader_of(path: str) -> Callable[[Path, str], None]:
    """What reads a file, by the folder it is in."""
    special = {
        "config.json": _config,
        "corpus": _corpus,
        "base": _pool,
        "pool": _pool,
        "scores": _scores,
        "metrics": _metrics,
        "search": _record,
        "validation": _record,
    }
    return special.get(path.partition("/")[0], _report)


def _config(workdir: Path, path: str) -> None:
    from jaxsim.cli import parse

    parse(["report", f"--workdir={workdir}"])


def _record(workdir: Path, path: str) -> None:
    from jaxsim.search.result import load_search
    from jaxsim.validation.diagnostics import Diagnostics
    from jaxsim.validation.measured import TrainedChoice
    from jaxsim.validation.validate import load_validation

    if path.startswith("search"):
        load_search(workdir)
    elif path == Diagnostics.FILE:
        Diagnostics.load(workdir)
    elif path == TrainedChoice.FILE:
        TrainedChoice.load(workdir)
    else:
        load_validation(workdir, files=[path])
    _report(workdir, path)


def _corpus(workdir: Path, path: str) -> None:
    from jaxsim.corpus import open_corpus
    from jaxsim.scoring.evaluation import gather

    corpus = open_corpus(workdir)
    for name in ("base", *corpus.units):
        corpus.rows(name)
    evaluation = gather(corpus)
    for split in ("dev", "test", None):
        evaluation.rows(split, 2)
    _report(workdir, path)


def _pool(workdir: Path, path: str) -> None:
    from jaxsim.errors import DamagedError
    from jaxsim.pool import open_pool
    from jaxsim.pool.manifest import read_manifest

    if path.endswith("manifest.json"):
        read_manifest((workdir / path).parent)
    if problems := open_pool(workdir).problems():
        raise DamagedError(str(problems))
    _report(workdir, path)


def _scores(workdir: Path, path: str) -> None:
    from jaxsim.corpus import open_corpus
    from jaxsim.scoring.evaluation import gather
    from jaxsim.scoring.scores import as_arrow
    from jaxsim.scoring.store import ScoreStore

    store, name = ScoreStore(workdir), Path(path).stem
    store.record(name)
    store.arrow(name)
    as_arrow(store.load(name, gather(open_corpus(workdir))))
    _report(workdir, path)


def _metrics(workdir: Path, path: str) -> None:
    from jaxsim.log import MetricsWriter

    with MetricsWriter(workdir / path, {}, 4) as writer:
        writer.write(5, {"loss": 1.0})


def _report(workdir: Path, path: str) -> None:
    from jaxsim.config import Config
    from jaxsim.report import write

    # Figures take seconds; commands draw them.
    write._draw = lambda *_: {}  # type: ignore[assignment]
    write.write_report(Config(), workdir)
