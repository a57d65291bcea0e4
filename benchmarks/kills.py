"""Kills jaxsim at every change of a file, and checks that results do not change.

    python benchmarks/kills.py

A tiny project goes through all commands, twice undisturbed: this says what its files
hold, and which changes of files each command makes (`kill_at.c` sees them). Then each
case takes the files as they were before one command, and kills it with SIGKILL before,
after or, if it writes, in the middle of one change. After the kill `doctor`, `verify`,
`report` and `search` must end with an answer or a message; the tables of the report and
the answer of the search must be those of before or after the command. The command is
repeated, and the files must be those of an undisturbed one, in name and content. With
`--rest` some cases go through the other commands, too, and are compared at the end.
"""

import argparse
import collections
import contextlib
import csv
import ctypes
import dataclasses
import hashlib
import importlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import machine

MOMENTS = ("before", "after", "half")  # as in kill_at.c
LIMIT = 300  # seconds of a command
PROBES = ("doctor", "verify", "report", "search")
GROWING = ("train", "validate", "run")  # a report may show a part of the runs
TIMED = ("/cost.csv", "/members.csv")  # tables of the report that hold seconds
# Keys of JSON that differ between two undisturbed runs.
VOLATILE = {"provenance", "seconds", "wall_seconds", "device_seconds", "sha256",
            "attempt", "files", "tokens_per_second", "flops_per_second",
            "input_seconds", "crc32"}  # fmt: skip
_RANDOM = r"(?<=[._-])[0-9a-f]{12,32}\b|incomplete\.\w{6}"  # in names
CONFIG = """
from pathlib import Path

from jaxsim.config import default_config, parse_arg, source

def get_config(arg=None):
    words = parse_arg(arg, "more", "states", "together")
    folder, config = Path(__file__).parent, default_config()
    config.name = "kills"
    config.corpus.partitions = {
        name: source(reader="records", path=str(folder / f"{name}.jsonl"))
        for name in ("abcd" if "more" in words else "abc")
    }
    config.corpus.domains = {
        "e": source(reader="records", path=str(folder / "e.jsonl"))
    }
    config.corpus.tokenizer.kind = "bytes"
    config.corpus.split.dev = config.corpus.split.test = 0.2
    config.model.update(
        dict(length=32, layers=1, dim=16, heads=2, kv_heads=2, mlp_dim=16)
    )
    config.base.update(dict(steps=4, warmup=1, batch=4))
    config.recipe.update(dict(steps=3, warmup=1, batch=4))
    config.train.update(dict(log_every=1, unroll=False))
    if "states" in words:
        config.train.checkpoint_every = 1
    config.train.parallel_runs = 3 if "together" in words else 1
    config.score.update(dict(mixtures="dirichlet:6", windows=4, unroll=False))
    config.validate.update(
        dict(held_out=4, calibration_runs=4, replicates=1, member_replicates=1,
             candidates=50, windows=4)
    )
    config.search.update(dict(candidates=200, evaluations=12))
    return config
"""


@dataclasses.dataclass(frozen=True)
class Step:
    """A command of the project.

    Attributes:
      words: of its config.
      flags: where WORKDIR and FOLDER stand for those of the case and the project.
    """

    name: str
    words: str = ""
    flags: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a forked process ended: its signal or 0, exit codes, what it printed."""

    killed: int
    codes: list[int]
    said: str
    changes: list[tuple[str, str]]  # of files: event, and path below the case


_ELSEWHERE = "--config.train.state_path=WORKDIR/../states"
# Commands, with other ones between them that replace what they left.
PROJECTS = {
    "all commands": (
        Step("prepare"),
        Step("base"),
        Step("train"),
        Step("score"),
        Step("score", flags=("--config.score.windows=3",)),  # the same table again
        Step("search"),
        Step("report"),
        Step("validate"),
        Step("search"),  # now with calibration
        Step("validate", flags=("--mixtures=WORKDIR/search/best.csv",)),
        Step("validate", flags=("--runs=FOLDER/mixtures.csv,FOLDER/metrics.csv",)),
        Step("report"),
        Step("prepare", "more"),
        Step("train", "more"),
        Step("run", "more"),
        Step("prepare", "more", ("--refreeze",)),
    ),
    "states of runs alone, elsewhere": (
        Step("prepare", "states", (_ELSEWHERE,)),
        Step("base", "states", (_ELSEWHERE,)),
        Step("train", "states", (_ELSEWHERE,)),
    ),
    "states of parallel runs": (
        Step("prepare", "states,together"),
        Step("base", "states,together"),
        Step("train", "states,together"),
        Step("run", "states,together"),
    ),
}


class Place:
    """The folder of one workdir and its TMPDIR, and the processes that use them."""

    def __init__(self, folder: Path, library: ctypes.CDLL) -> None:
        self.folder = folder
        self.case = folder / "case"
        self.workdir = self.case / "work"
        self.library = library

    def start(self, state: Path | None) -> None:
        """Copies the files of a case from elsewhere, or begins with none."""
        shutil.rmtree(self.case, ignore_errors=True)
        if state is None:
            (self.case / "tmp").mkdir(parents=True)
        else:
            _copy(state, self.case)

    def keep(self, name: str) -> Path:
        """Copies the files of the case elsewhere."""
        kept = self.folder / name
        shutil.rmtree(kept, ignore_errors=True)
        _copy(self.case, kept)
        return kept

    def arguments(self, step: Step) -> list[str]:
        flags = [f"--config={self.folder}/config.py:{step.words}".rstrip(":")]
        flags = [] if step.name in ("doctor", "verify") else [*flags, *step.flags]
        places = {"WORKDIR": str(self.workdir), "FOLDER": str(self.folder)}
        for name, place in places.items():
            flags = [flag.replace(name, place) for flag in flags]
        return [step.name, f"--workdir={self.workdir}", *flags]

    def run(
        self, steps: Sequence[Step], event: str = "", number: int = 0, moment: str = ""
    ) -> Ended:
        """Runs commands in a forked process, and kills it at a change of files."""
        files = [self.folder / name for name in ("said", "codes", "changes")]
        for path in files:
            path.write_text("")
        sys.stdout.flush()
        with warnings.catch_warnings(action="ignore"):  # JAX has no threads yet
            child = os.fork()
        if not child:
            try:
                said, codes, changes = (
                    os.open(p, os.O_RDWR | os.O_APPEND) for p in files
                )
                os.dup2(said, 1)
                os.dup2(said, 2)
                os.environ["TMPDIR"] = tempfile.tempdir = str(self.case / "tmp")
                root, when = os.fsencode(self.case), MOMENTS.index(moment or "before")
                self.library.watch(root, event.encode(), number, when, changes)
                for step in steps:
                    os.write(codes, f"{_exit_code(self.arguments(step))} ".encode())
                sys.stdout.flush()
            finally:
                os._exit(0)
        deadline = time.monotonic() + LIMIT
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGABRT)
            time.sleep(0.005)
        text, numbers, lines = (path.read_text(errors="replace") for path in files)
        listed = (line.partition("\t") for line in lines.splitlines())
        return Ended(
            os.WTERMSIG(ended[1]) if os.WIFSIGNALED(ended[1]) else 0,
            [int(code) for code in numbers.split()],
            text,
            [(event, path) for event, _, path in listed],
        )

    def finish(self, steps: Sequence[Step]) -> Ended:
        """Runs commands undisturbed."""
        ended = self.run(steps)
        if ended.codes != [0] * len(steps):
            raise SystemExit(f"{steps}: {ended.killed} {ended.codes}\n{ended.said}")
        return ended

    def contents(self) -> dict[str, str]:
        """Names of all files and folders, with what two undisturbed runs agree on."""
        found: dict[str, str] = {}
        for path in sorted(self.case.rglob("*")):
            name = str(path.relative_to(self.case))
            if "attempt-" in name:  # its files have random names, too
                name = re.sub(r"(attempt-)[0-9a-f]{12}(/.*)?", r"\1#\2", name)
                if "/" in name.partition("attempt-")[2]:
                    continue
            while name in found:
                name += " (another)"
            found[name] = "" if path.is_dir() else _content(path)
        return found

    def last_names(self) -> set[str]:
        return {path.name for path in self.case.rglob("*")}

    def search(self) -> Any:
        """The answer that is on disk, or None."""
        path = self.workdir / "search" / "result.json"
        return _stable(json.loads(path.read_text())) if path.exists() else None

    def wrong_best(self) -> str:
        """How best.csv differs from the first row of its record; '' if not at all."""
        best = self.workdir / "search" / "best.csv"
        if not best.exists():
            return ""
        names, values = csv.reader(best.read_text().splitlines())
        if (answer := self.search()) is None:
            return "there is no record"
        record = answer["rows"][0]
        found = {n: float(v) for n, v in zip(names[1:], values[1:], strict=True)}
        same = (values[0], found) == (record["name"], record["weights"])
        return "" if same else f"{values} is not {record['name']} {record['weights']}"


def _copy(folder: Path, to: Path) -> None:
    """Copies a folder; hard links and times stay what they are."""
    subprocess.run(["cp", "-a", str(folder), str(to)], check=True)


def _exit_code(arguments: Sequence[str]) -> int:
    from jaxsim.cli import main

    try:
        return main(arguments)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        return 1


def _content(path: Path) -> str:
    """What a file holds, without what differs between two undisturbed runs."""
    raw = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        with contextlib.suppress(ValueError):
            rows = raw.splitlines() if path.suffix == ".jsonl" else [raw]
            return json.dumps([_stable(json.loads(row)) for row in rows])
    # Rows of a journal are found by their keys, in any order.
    return bytes(sorted(raw) if path.suffix == ".log" else raw).decode("latin-1")


def _marked(table: str) -> str:
    """A table of a report in which all that is out of date is so for one reason."""
    head, *rows = csv.reader(table.encode("latin-1").decode().splitlines())
    if "out_of_date" in head:
        at = head.index("out_of_date")
        rows = [[*r[:at], "yes" if r[at] else "", *r[at + 1 :]] for r in rows]
    return "\n".join(map(str, [head, *rows]))


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _stable(v) for k, v in value.items() if k not in VOLATILE}
    return [_stable(v) for v in value] if isinstance(value, list) else value


def kind_of(event: str) -> str:
    """A change, without names of runs, tables and figures."""
    event = re.sub(r"(work/pool/members|\.locks|work/metrics)/[^/]+", r"\1/*", event)
    event = re.sub(r"(work/state|jaxsim-#)/(?!\.locks)[^/]+", r"\1/*", event)
    event = re.sub(r"/(#|states)/\d+", r"/\1/N", event)  # a step
    event = re.sub(r"report/(tables|figures)/[^/]+", r"report/\1/*", event)
    # A file that is replaced in one step counts by itself only when it is renamed.
    return re.sub(r"/\.[\w.-]+\.#$", "/.*.#", event)


def chosen(
    changes: Sequence[tuple[str, str]], most: int, rng: random.Random
) -> list[tuple[str, int, str]]:
    """Which changes to kill at: each kind once, then again at other moments.

    Returns:
      Event, its number among those of the same name, and the moment.
    """
    kinds: dict[str, list[tuple[str, int]]] = {}
    seen: collections.Counter[str] = collections.Counter()
    for event, _ in changes:
        seen[event] += 1
        kinds.setdefault(kind_of(event), []).append((event, seen[event]))
    rounds = []
    for turn in range(3):
        one = []
        for i, (kind, places) in enumerate(kinds.items()):
            writes = kind.startswith("write ")
            order = ("half", "before", "after") if writes else ("before", "after")
            if turn < len(order):
                moment = order[turn] if writes else order[(i + turn) % 2]
                one.append((*rng.choice(places), moment))
        rounds.append(one)
    # A kill cannot tell what was synced from what was only written.
    last = [case for one in rounds for case in one if case[0].startswith("fsync ")]
    rounds = [[c for c in one if c not in last] for one in rounds]
    cases: list[tuple[str, int, str]] = []
    for one in (*rounds, last):
        room = most - len(cases)
        if room < len(one):  # evenly spaced
            one = [one[i * len(one) // room] for i in range(max(room, 0))]
        cases += one
    return cases


def _digest(i: int, contents: dict[str, str]) -> str:
    """Of the files at step `i`, but for random parts of names."""
    text = re.sub(_RANDOM, "#", json.dumps([i, sorted(contents.items())]))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a report and a search say: tables, and a record without its times."""

    tables: dict[str, str]  # none if there is no report
    search: Any  # None if there is no answer


class Project:
    """The undisturbed run of one project, and the cases that disturb it."""

    def __init__(self, name: str, place: Place) -> None:
        self.name, self.place = name, place
        self.steps = PROJECTS[name]
        self.states: list[Path | None] = [None]
        self.want: list[dict[str, str]] = [{"tmp": ""}]
        self.changes: list[list[tuple[str, str]]] = []
        self.by_name: set[str] = set()  # files whose content is not compared
        self.answers: dict[int, Answer] = {}
        self.left: set[str] = set()  # the files after kills, and after none

    def undisturbed(self) -> None:
        place = self.place
        for turn in range(2):
            place.start(None)
            for i, step in enumerate(self.steps):
                before = place.last_names()
                changes = place.finish([step]).changes
                found = place.contents()
                if turn:
                    self.by_name |= {
                        name
                        for name in found
                        if found[name] != self.want[i + 1].get(name)
                    }
                    continue
                # Of a folder that is renamed in place, its files are seen before.
                seen = {Path(path).name for _, path in changes}
                if unseen := place.last_names() - before - seen:
                    raise SystemExit(f"{step}: kill_at.c does not see {unseen}")
                self.changes.append(changes)
                self.want.append(found)
                self.left |= {_digest(i, self.want[at]) for at in (i, i + 1)}
                self.states.append(place.keep(f"{self.name}{i + 1}"))
                print(
                    f"{self.name}, {i}: {step.name}: {len(changes)} changes of "
                    f"{len({kind_of(e) for e, _ in changes})} kinds",
                    flush=True,
                )

    def answer(self, i: int) -> Answer:
        """What a report and a search say after the first `i` steps."""
        if i not in self.answers:
            self.place.start(self.states[i])
            words = self.steps[max(i - 1, 0)].words
            ended = self.place.run([Step("report", words), Step("search", words)])
            self.answers[i] = self.read(ended)
        return self.answers[i]

    def read(self, ended: Ended) -> Answer:
        """What is on disk after a report and a search."""
        tables = {
            name: _marked(content)
            for name, content in self.place.contents().items()
            if "report/tables/" in name and not name.endswith(TIMED)
        }
        *_, reported, searched = ended.codes
        return Answer(
            {} if reported else tables, None if searched else self.place.search()
        )

    def case(
        self, i: int, event: str, number: int, moment: str, rest: bool
    ) -> tuple[str, list[tuple[str, str]]]:
        """Kills step `i`.

        Returns:
          'ended' if it was not killed, 'same' if an earlier kill of this step, or none,
          leaves the same files, 'new' otherwise; and kinds of failures with texts.
        """
        place, step, failures = self.place, self.steps[i], []
        place.start(self.states[i])
        ended = place.run([step], event, number, moment)
        if ended.killed != signal.SIGKILL:
            return "ended", [("exit", ended.said[-1500:])] if any(ended.codes) else []
        left = _digest(i, place.contents())
        if left in self.left and not rest:
            return "same", []
        self.left.add(left)
        killed = place.keep("killed")
        answers = [self.answer(i), self.answer(i + 1)]
        place.start(killed)
        if wrong := place.wrong_best():
            failures.append(("after the kill: best.csv", wrong))
        ended = place.run([Step(name, step.words) for name in PROBES])
        said = ended.said[-1500:]
        for name, code in itertools.zip_longest(PROBES, ended.codes):
            if code not in (0, 2, 3):
                failures.append((f"after the kill: {name}: exit code {code}", said))
        found = self.read(ended)
        known = [answer.search for answer in answers]
        # Between its commands `run` passes through other answers.
        if found.search and step.name != "run" and found.search not in known:
            failures.append(("after the kill: search: another answer", said))
        if step.name not in GROWING:
            for name, table in found.tables.items():
                if table not in [a.tables.get(name) for a in answers]:
                    failures.append((f"after the kill: report: another {name}", table))
        place.start(killed)
        ended = place.run([step])
        if ended.codes != [0]:
            return "new", [*failures, ("repeat: exit code", ended.said[-1500:])]
        failures += self.differences(i + 1, "repeat")
        if rest and self.steps[i + 1 :]:
            place.finish(self.steps[i + 1 :])
            failures += self.differences(len(self.steps), "rest")
        return "new", failures

    def differences(self, i: int, when: str) -> Iterator[tuple[str, str]]:
        """What is not as after `i` undisturbed steps."""
        found, want = self.place.contents(), self.want[i]
        for name in sorted(found.keys() - want):
            if str(Path(name).parent) not in found.keys() - want:
                yield f"{when}: left: {re.sub(_RANDOM, '#', kind_of(name))}", name
        for name in sorted(want.keys() - found):
            yield f"{when}: missing", name
        for name in sorted(want.keys() & found.keys() - self.by_name):
            if found[name] != want[name]:
                yield f"{when}: other content", name
        if wrong := self.place.wrong_best():
            yield f"{when}: best.csv", wrong


@dataclasses.dataclass
class Row:
    """What the kills of one command showed."""

    project: str
    command: str
    changes: int  # of files, by an undisturbed command
    kinds: int
    kills: int = 0
    same: int = 0  # left the files of an earlier kill, or of none
    ended: int = 0  # the command ended without that change
    failures: dict[str, int] = dataclasses.field(default_factory=dict)


def disturb(project: Project, args: argparse.Namespace, end: float) -> list[Row]:
    """Kills the commands of a project in turns; prints each case and its failures."""
    rows, cases = [], []
    for i, step in enumerate(project.steps):
        if args.steps and i not in args.steps:
            continue
        changes = project.changes[i]
        command = " ".join([step.name, step.words and f":{step.words}", *step.flags])
        kinds = len({kind_of(event) for event, _ in changes})
        rows.append(Row(project.name, " ".join(command.split()), len(changes), kinds))
        rng = random.Random(f"{args.seed} {project.name} {i}")
        some = chosen(changes, args.most, rng)
        rng.shuffle(some)
        rests = [j < args.rest for j in range(len(some))]
        cases.append([(i, rows[-1], *case) for case in zip(some, rests, strict=True)])
    for one in itertools.zip_longest(*cases):
        for i, row, (event, number, moment), rest in filter(None, one):
            begin = time.monotonic()
            if begin > end:
                return rows
            how, failures = project.case(i, event, number, moment, rest)
            row.kills += how != "ended"
            row.same += how == "same"
            row.ended += how == "ended"
            took = time.monotonic() - begin
            print(f"{row.command}: {moment} {event} ({number}): {how}, {took:.0f} s")
            for kind, text in failures:
                print(f"  {kind}: {text}", flush=True)
                row.failures[kind] = row.failures.get(kind, 0) + 1
    return rows


def markdown(result: dict[str, Any]) -> str:
    lines = [
        "# Kills at changes of files",
        "",
        f"`python benchmarks/kills.py --most={result['most']}`: {result['kills']} "
        f"kills, {result['failures']} failures, in {result['minutes']:.0f} minutes "
        f"(seed {result['seed']}, {result['machine']['date']}, "
        f"{result['machine']['cores_used']} core of {result['machine']['cpu']}).",
        "",
        "Changes are calls that change a file or a folder below the workdir or TMPDIR, "
        "in an undisturbed command; kinds are those that differ by more than the name "
        "of a run, a table or a figure. A kill that leaves the same files as an "
        "earlier one, or as none, is not examined again.",
        "",
        "| project | command | changes | kinds | kills | as earlier | failures |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["commands"]:
        failures = "; ".join(f"{k} ({n})" for k, n in row["failures"].items())
        lines.append(
            f"| {row['project']} | `{row['command']}` | {row['changes']} | "
            f"{row['kinds']} | {row['kills']} | {row['same']} | {failures or 'none'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = machine.parser(__doc__, threads=1)
    parser.add_argument("--most", type=int, default=30, help="kills of a command")
    parser.add_argument("--minutes", type=float, default=30, help="of all, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--rest", type=int, default=1, help="cases of a command that go to the end"
    )
    parser.add_argument("--projects", nargs="*", choices=PROJECTS, default=PROJECTS)
    parser.add_argument("--steps", type=int, nargs="*", help="only these, by number")
    args = parser.parse_args()
    if "KILL_AT" not in os.environ:
        source = str(Path(__file__).with_name("kill_at.c"))
        library = f"{tempfile.mkdtemp()}/kill_at.so"
        flags = ["-O1", "-shared", "-fPIC", "-ldl"]
        subprocess.run(["cc", source, "-o", library, *flags], check=True)
        os.environ |= {"KILL_AT": library, "LD_PRELOAD": library}
        os.execv(sys.executable, sys.orig_argv)
    loaded = ctypes.CDLL(os.environ["KILL_AT"])
    del os.environ["LD_PRELOAD"]  # only this process and its forks
    shutil.rmtree(Path(os.environ["KILL_AT"]).parent)
    machine.pin(args.threads)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        # Read when JAX is imported.
        os.environ |= {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "JAX_PLATFORMS": "cpu",
        }
        importlib.import_module("jaxsim.commands")
        importlib.import_module("jaxsim.doctor")
        (folder / "config.py").write_text(CONFIG)
        write_texts(folder)
        place = Place(folder, loaded)
        rows: list[Row] = []
        by_name: set[str] = set()
        for turn, name in enumerate(args.projects):
            left = args.minutes * 60 - (time.monotonic() - begin)
            end = time.monotonic() + left / (len(args.projects) - turn)
            project = Project(name, place)
            project.undisturbed()
            by_name |= {kind_of(each) for each in project.by_name}
            rows += disturb(project, args, end)
    result = {
        "machine": machine.describe(("jax", "orbax-checkpoint", "pyarrow")),
        "seed": args.seed,
        "most": args.most,
        "minutes": (time.monotonic() - begin) / 60,
        "kills": sum(row.kills for row in rows),
        "as_earlier": sum(row.same for row in rows),
        "failures": sum(sum(row.failures.values()) for row in rows),
        "compared_by_name_only": sorted(by_name),
        "commands": [dataclasses.asdict(row) for row in rows],
    }
    machine.save(args.out, "kills", result, markdown(result))
    print(markdown(result))
    if result["failures"]:
        sys.exit(1)


def write_texts(folder: Path) -> None:
    """Words of a few letters that differ by partition, and runs of the user's own."""
    for name in "abcde":
        rng = random.Random(name)
        letters = rng.sample("abcdefghijklmnop", 8)
        with (folder / f"{name}.jsonl").open("w") as file:
            for i in range(40):
                words = ["".join(rng.choices(letters, k=4)) for _ in range(30)]
                record = {"id": f"{name}/{i}", "text": " ".join(words)}
                file.write(json.dumps(record) + "\n")
    rows = [(f"r{i}", i / 4, (4 - i) / 4, 5 - i / 9) for i in range(5)]
    for name, header, columns in (
        ("mixtures", "name,a,b", (0, 1, 2)),
        ("metrics", "name,e", (0, 3)),
    ):
        lines = [",".join(str(row[c]) for c in columns) for row in rows]
        (folder / f"{name}.csv").write_text("\n".join([header, *lines]) + "\n")


if __name__ == "__main__":
    main()
