"""Records: written in one step, read only if intact; and what results rest on."""

import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import pytest
import sealing

from jaxsim import cli, records
from jaxsim.config import Config
from jaxsim.corpus import Domain, Unit, open_corpus, prepare
from jaxsim.errors import DamagedError, UserError
from jaxsim.pool import open_pool
from jaxsim.records import Basis
from jaxsim.report.data import ReportData
from jaxsim.scoring.evaluation import make_basis
from jaxsim.scoring.store import Journal
from jaxsim.scoring.table import read_csv
from jaxsim.search.result import SearchResult, load_search, save_search


class Part(TypedDict):
    name: str
    value: float | None


@dataclasses.dataclass(frozen=True)
class Sample:
    count: int = 1
    share: float = 0.5
    sure: bool = True
    kind: Literal["one", "two"] = "one"
    names: tuple[str, ...] = ("a", "b")
    pair: tuple[str, int] = ("a", 1)
    table: list[list[float]] = dataclasses.field(default_factory=lambda: [[1.0]])
    maybe: str | None = None
    parts: list[Annotated[dict[str, Any], Part]] = dataclasses.field(
        default_factory=lambda: [{"name": "x", "value": None}]
    )
    row: records.Row = dataclasses.field(default_factory=lambda: {"n": 3, "on": ["a"]})
    inner: dict[str, Basis] = dataclasses.field(
        default_factory=lambda: {"x": Basis("text")}
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "sample.json"
    records.save(path, Sample())
    return path


def load(path: Path) -> Sample:
    return records.load(path, Sample, "do it again")


def test_a_record_is_read_back(path):
    assert load(path) == Sample()
    assert json.loads(path.read_text())["version"] == records.VERSION
    assert [p.name for p in path.parent.iterdir()] == ["sample.json"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("count", 1.0, "count: must be int"),
        ("count", True, "count: must be int"),
        ("share", "0.5", "share: must be float"),
        ("share", None, "share: must be float"),
        ("sure", 1, "sure: must be bool"),
        ("kind", "three", "kind: must be one of one, two"),
        ("names", "ab", "names: must be a tuple"),
        ("names", ["a", 1], r"names\[1\]: must be str"),
        ("pair", ["a"], "pair: must be 2 values"),
        ("table", [[1.0], [None]], r"table\[1\]\[0\]: must be float"),
        ("table", {}, "table: must be a list"),
        ("maybe", 3, "maybe: must be str"),
        ("parts", [{"name": "x"}], r"parts\[0\].value: missing"),
        ("parts", [[]], r"parts\[0\]: must be a group of keys"),
        ("parts", [{"name": "x", "value": 1, "z": 1}], "z: unknown key"),
        ("row", {"n": [[1]]}, "row.n"),
        ("inner", {"x": {"text": "t"}}, "inner.x.corpus: missing"),
        ("inner", [], "inner: must be a dictionary"),
        ("more", 1, "more: unknown key"),
    ],
)
def test_every_field_is_checked(path, key, value, words):
    sealing.edit(path, lambda data: data.update({key: value}))
    with pytest.raises(DamagedError, match=rf"sample.json: .*{words}.*do it again"):
        load(path)


def test_what_could_not_be_read_back_is_not_written(path):
    for bad in ({"share": float("nan")}, {"count": "1"}, {"table": [["x"]]}):
        with pytest.raises(UserError, match=f"Sample.{next(iter(bad))}"):
            records.save(path, Sample(**bad))
    assert load(path) == Sample()


# F11: forgeries that were believed.
@pytest.mark.parametrize("forge", ["no seal", "another value", "another seal"])
def test_a_record_needs_the_seal_of_its_content(path, forge):
    data = json.loads(path.read_text())
    if forge == "no seal":
        del data["sha256"]
    elif forge == "another value":
        data["share"] = 0.25
    else:
        data["sha256"] = "0" * 64
    path.write_text(json.dumps(data))
    with pytest.raises(DamagedError, match=r"altered after .*do it again"):
        load(path)


def test_a_journal_believes_no_nan(tmp_path):
    """Its check is right: whoever wrote it knew how."""
    journal, key = Journal(tmp_path / "x.log", 2), "0" * 64
    journal.append([key], np.array([[1.0, np.nan]]))
    assert journal.read([key])[1].tolist() == [0]


# F12: tracebacks where an error with exit code 3 was promised.
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "unreadable"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "unreadable"),
        ('{"version": 8, "x": ' + "[" * 100_000, "unreadable"),
        ('{"version": NaN}', "format version nan"),
        ('{"version": 8, "record": "Sample", "share": NaN}', "Out of range float"),
        ('{"version": 8, "record": "Sample", "share": 1e999}', "unreadable"),
        ('{"version": 8, "record": "Other"}', "not a record of kind Sample"),
        ('{"format": 2}', "format version None, .* use the version that wrote it, or"),
        (
            '{"version": 99}',
            "format version 99, .* reads 8; use the version that wrote it, .* another "
            "--workdir",
        ),
        (b"\xff\xfe", "unreadable"),
    ],
)
def test_no_content_is_a_traceback(path, text, words):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DamagedError, match=rf"sample.json: .*{words}.*do it again"):
        load(path)


def test_a_record_has_a_largest_size(path, monkeypatch):
    monkeypatch.setattr(records, "LARGEST", 10)
    with pytest.raises(DamagedError, match=r"bytes are too many.*do it again"):
        load(path)


def test_a_failed_write_leaves_the_old_file_and_no_other(path, monkeypatch):
    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    for name in ("os.fsync", "os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(name, killed)
            with pytest.raises(KeyboardInterrupt):
                records.save(path, Sample(count=2))
    assert load(path) == Sample()
    assert [p.name for p in path.parent.iterdir()] == ["sample.json"]


KILLED = """
import os, signal, sys
from pathlib import Path
from jaxsim import records
os.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
records.write(Path(sys.argv[1]), "the next one")
"""


def test_a_kill_before_the_replacement_leaves_the_old_file(path):
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(path)]
    assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    assert load(path) == Sample()
    (part,) = (p for p in path.parent.iterdir() if p != path)
    assert part.name.startswith(".") and part.read_text() == "the next one"
    assert list(path.parent.glob("*.json")) == [path]  # no table is called so
    # A writer that is alive keeps its part.
    other = path.with_name(f".{path.name}.0123456789ab")
    with other.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        records.save(path, Sample(count=2))
        assert {p.name for p in path.parent.iterdir()} == {path.name, other.name}
    records.save(path, Sample(count=3))
    assert load(path).count == 3
    assert list(path.parent.iterdir()) == [path]


def test_a_part_that_is_deleted_meanwhile_is_written_again(path):
    """By another machine, which the lock does not reach."""
    asked = []

    def content(file):
        asked.append(file.name)
        if len(asked) == 1:
            os.unlink(file.name)
        file.write(records.dump(Sample(count=2)).encode())

    records.write(path, content)
    assert len(asked) == 2 and load(path).count == 2
    assert list(path.parent.iterdir()) == [path]


def search_result(**weights: float) -> SearchResult:
    row = {
        "name": "best", "kind": "subset", "weights": weights, "scale": 1.0,
        "dev": 2.0, "test": None, "shift": 0.0, "test_shift": None, "quadratic": None,
        "ensemble": None, "members": None, "difference": 0.0, "error": 0.0,
        "limit": 0.0, "tied": True, "group": 0,
    }  # fmt: skip
    ties = {"heading": "", "resampled": "", "level": 0.9, "min_effect": 0, "count": 1}
    return SearchResult({"a": 1.0}, {"a": 1.0}, "", 1, 1, 1, ties, [row])


def test_a_field_of_a_row_may_be_absent(tmp_path):
    """Only domains with a regression limit have one."""
    domains = {"a": {"best": 1.0, "base": 2.0, "limit": 1.5}, "b": {"best": 1.0}}
    found = dataclasses.replace(search_result(a=1.0), domains=domains)
    with pytest.raises(UserError, match=r"domains.b.base: missing"):
        save_search(tmp_path, found)
    domains["b"]["base"] = 2.0
    save_search(tmp_path, found)
    assert load_search(tmp_path).domains == domains


# F8: the report named one mixture, and its command trained another.
@pytest.mark.parametrize("moment", range(4))
def test_a_kill_leaves_no_other_best_mixture(tmp_path, monkeypatch, moment):
    save_search(tmp_path, search_result(a=0.25, b=0.75))
    left = moment

    def until(call):
        def wrapped(*args, **kwargs):
            nonlocal left
            if not left:
                raise KeyboardInterrupt
            left -= 1
            return call(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", until(os.replace))
        patch.setattr(Path, "unlink", until(Path.unlink))
        with pytest.raises(KeyboardInterrupt):
            save_search(tmp_path, search_result(a=0.5, b=0.5))
    best = tmp_path / "search" / "best.csv"
    weights = load_search(tmp_path).best["weights"]
    assert not best.exists() or read_csv(("a", "b"), best).parts(0) == weights


NOW = Basis("text", {"unit a": "1"}, "base", {"a": "x", "b": "y"}, {"r": "z", "s": "w"})


# F4: a retrained member's old scores were shown, as names had not changed.
@pytest.mark.parametrize(
    ("then", "words"),
    [
        ({}, ""),
        ({"others": {}}, ""),
        ({"others": {"r": "z"}}, ""),
        ({"members": {}}, ""),
        ({"members": {"a": "x", "b": "older"}}, "member 'b' has changed"),
        ({"members": {"a": "x"}}, "member 'b' is new"),
        ({"members": {"a": "x", "b": "y", "c": "z"}}, "member 'c' is gone"),
        ({"others": {"r": "older"}}, "run 'r' has changed"),
        ({"others": {"t": "z"}}, "run 't' is gone"),
        ({"base": "older"}, "the base model has changed"),
        ({"text": "older"}, "the evaluation text has changed"),
        ({"corpus": {"unit a": "2"}}, "the corpus: 'unit a' has changed"),
        ({"corpus": {"unit b": "1"}}, "the corpus: 'unit b' is gone"),
    ],
)
def test_a_result_holds_while_nothing_it_rests_on_changes(then, words):
    assert dataclasses.replace(NOW, **then).difference(NOW) == words


def test_two_results_of_the_same_pool_may_use_other_runs():
    other = dataclasses.replace(NOW, others={"t": "v"})
    assert NOW.same_pool(other) and other.same_pool(NOW)
    assert not NOW.same_pool(dataclasses.replace(NOW, base="x"))


# F6: what corpus.json says changed answers, and nobody noticed.
@pytest.mark.parametrize(
    "change", ["tokens", "group", "split", "in_pool", "domain", "nothing"]
)
def test_a_result_remembers_what_the_corpus_said(change):
    unit = Unit("a", "a", "g", "d1", 4, 100, 7, 100)
    domain = Domain("a", True, "g", {"dev": "1", "test": "2"}, {}, {}, {}, {}, {})
    then = SimpleNamespace(units={"a": unit}, domains={"a": domain})
    swapped = dataclasses.replace(domain, digests={"dev": "2", "test": "1"})
    second = dataclasses.replace(domain, name="b")
    after = {
        "tokens": {"units": {"a": dataclasses.replace(unit, tokens=50)}},
        "group": {"units": {"a": dataclasses.replace(unit, group="h")}},
        "split": {"domains": {"a": swapped}},
        "in_pool": {"domains": {"a": dataclasses.replace(domain, in_pool=False)}},
        "domain": {"domains": {"a": domain, "b": second}},
        "nothing": {"units": {"a": unit, "b": unit}},  # no member was trained on it
    }[change]  # fmt: skip
    now = SimpleNamespace(**{**vars(then), **after})
    found = make_basis(then, "base", {"a": "x"}).difference(
        make_basis(now, "base", {"a": "x"})
    )
    assert bool(found) == (change != "nothing"), found


# F3: links planted in a received workdir, of which 7 of 12 were written through.
OUTSIDE = "somebody else's\n"


def plant(workdir: Path, place: str) -> Path:
    """Makes a link in the workdir to a file or folder outside, which it returns."""
    outside = workdir.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text(OUTSIDE)
    link = workdir / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside / "file" if link.suffix or "." in place else outside)
    return outside


@pytest.mark.parametrize("place", ["corpus/.lock", "report", "state/.locks/a"])
@pytest.mark.parametrize("command", sorted({*cli.COMMANDS} - {"doctor", "plan"}))
def test_no_command_follows_a_link_out_of_the_workdir(
    command, place, root, tmp_path, capsys
):
    workdir = tmp_path / "work"
    outside = plant(workdir, place)
    config = [f"--config={root}/configs/quickstart.py:smoke"]
    given = [] if command in cli.WITHOUT_CONFIG else config
    if command == "export":
        given = ["--what=base", f"--to={tmp_path / 'base'}"]
    assert cli.main([command, *given, f"--workdir={workdir}"]) == 3
    assert f"{workdir / place}: is a symbolic link" in capsys.readouterr().err
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == OUTSIDE


@pytest.mark.parametrize(
    "opened", [open_corpus, open_pool, ReportData, lambda w: prepare(Config(), w)]
)
def test_a_notebook_does_not_follow_links_either(opened, tmp_path):
    plant(tmp_path / "work", "metrics/a.jsonl")
    with pytest.raises(DamagedError, match=r"a.jsonl: is a symbolic link"):
        opened(tmp_path / "work")


def test_a_pipe_is_refused_and_what_is_not_ours_is_not_looked_at(tmp_path):
    workdir = tmp_path / "work"
    workdir.mkdir()
    (tmp_path / "link").symlink_to(workdir)
    (workdir / ".venv").symlink_to(tmp_path)
    records.check_tree(tmp_path / "link")
    os.mkfifo(workdir / "config.json")
    with pytest.raises(DamagedError, match=r"config.json: is no regular"):
        records.check_tree(workdir)
    with pytest.raises(DamagedError, match="no regular file"):  # and does not hang
        load(workdir / "config.json")


def test_what_is_there_already_needs_no_permission(tmp_path: Path) -> None:
    """In a read-only folder; and the error of a full disk names the file."""
    code = """if True:
        import os, resource
        from pathlib import Path
        from jaxsim import records

        path = Path("a")
        records.write(path, "same")
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        try:
            records.write(path, "a" * 11)
        except OSError as error:
            assert error.filename == "a", error
        os.chmod(".", 0o555)
        if not os.getuid():
            os.setuid(65534)  # root may write anywhere
        records.write(path, "same")
        records.write(path, lambda file: file.write(b"same"))
        try:
            records.write(path, "other")
        except PermissionError as error:
            assert error.filename == "a", error
            print(os.listdir())
    """
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(records.__file__).parent.parent)},
    )
    assert (done.stdout, done.stderr) == ("['a']\n", "")
