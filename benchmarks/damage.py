"""Damages every kind of file of a finished workdir, and looks what commands say.

    python benchmarks/damage.py                 # the three sweeps, two hours
    python benchmarks/damage.py --only bits --flips 2

Each sweep starts from a listing of a small workdir that this script makes, so files of
later formats join by themselves. Every case is a private copy with one change:

    bits    one flipped bit of a file; then the commands that open it
    fields  one changed field of a JSON file, with and without a seal that fits; then
            what reads it, and for some cases a command (see `damage_fields.py`)
    links   a file or folder replaced by a link out of the workdir; then the commands
            that touch it

A command may refuse (exit code 2 or 3, and name the file), repair (the results are
those of an undisturbed workdir), or not care (the same). It fails if a number changes
in silence, and with a traceback, a hang, or a file that changes outside.
"""

import collections
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import damage_fields
import machine
from damage_workdir import Ended, Runner, kind_of

FAILURES = (
    "changed", "traceback", "hang", "unnamed", "admitted", "outside", "exit code",
)  # fmt: skip
# Keys of JSON that differ between two undisturbed runs, or follow from those.
VOLATILE = frozenset({
    "provenance", "seconds", "wall_seconds", "device_seconds", "sha256", "attempt",
    "files", "crc32", "tokens_per_second", "flops_per_second", "input_seconds",
})  # fmt: skip
# Of the console: times; lines of plans, which depend on the memory that is free, and of
# progress, which depend on what was kept.
_TIMES = re.compile(r"\d[\d.,]* (s|min|h|tokens/s|TFLOP/s)\b")
_PROGRESS = re.compile(
    r"^(plan of |.* compiled in |(search|scoring [^:\n]+): \d+/\d+ ).*\n", re.M
)
# Parts of paths that name no file.
_COMMON = frozenset({
    "corpus", "pool", "members", "scores", "search", "validation", "metrics", "report",
    "state", "table", "1.0.0", "d",
})  # fmt: skip

Tree = dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Case:
    """One change, and what came of it."""

    sweep: str
    kind: str  # of the file
    what: str  # the change
    outcomes: Mapping[str, str]  # by command, or by reader
    said: str  # of the first failure

    @property
    def outcome(self) -> str:
        """The worst one."""
        order = [*FAILURES, "refused", "repaired", "read", "no effect", "unread"]
        return min(self.outcomes.values(), key=order.index, default="unread")


class Sweeper:
    """The finished workdir, what undisturbed commands do to it, and the cases."""

    def __init__(
        self, runner: Runner, seed: int, commands: int, kinds: str, twice: bool
    ) -> None:
        self.runner, self.most = runner, commands
        self.asked = re.compile(kinds)
        self.rng = random.Random(seed)
        self.touched: dict[str, frozenset[str]] = {}  # by command
        self.opened: frozenset[str] = frozenset()  # by any
        runner.make()
        self.before = tree(runner.workdir)
        self.usual = self._undisturbed(2 if twice else 1)

    def _undisturbed(self, runs: int) -> dict[str, tuple[Ended, Tree]]:
        """What each command says and leaves on an undisturbed copy, always the same."""
        found: dict[str, tuple[Ended, Tree]] = {}
        for name, arguments in self.runner.commands().items():
            for _ in range(runs):
                with self.runner.copy() as workdir:
                    stamps = _stamps(workdir)
                    ended = self.runner.run(arguments)
                    after, now = tree(workdir), _stamps(workdir)
                if ended.code:
                    raise SystemExit(f"{name}: {ended}")
                usual = found.setdefault(name, (ended, after))
                if other := difference(usual, (ended, after)):
                    raise SystemExit(f"{name}: two runs differ: {other}")
            written = {path for path in now if now[path] != stamps.get(path)}
            self.touched[name] = ended.opened | written
            self.opened |= ended.opened
        return found

    def listing(self) -> dict[str, list[str]]:
        """Files by their kind, of the kinds that were asked for."""
        kinds: dict[str, list[str]] = {}
        for path in sorted(self.before):
            if self.asked.search(kind := kind_of(path)):
                kinds.setdefault(kind, []).append(path)
        return kinds

    def commands_on(self, path: str) -> list[str]:
        """A few commands that touch a file or what is in a folder.

        Libraries open some files outside of Python: for those it is the commands that
        touch something in the same folder, or in the nearest one above.
        """
        place, names = path, list(self.usual)
        while place:
            found = [
                name
                for name in names
                if any(
                    p == place or p.startswith(f"{place}/") for p in self.touched[name]
                )
            ]
            if found or place.count("/") <= 1:
                break
            place = place.rpartition("/")[0]
        chosen = self.rng.sample(found, min(self.most, len(found)))
        return sorted(set(chosen) | ({"verify"} & set(found)))

    def judge(self, name: str, ended: Ended, path: str, changed: bytes) -> str:
        """What a command made of one changed file."""
        if isinstance(ended.code, str):
            return "hang"
        if "Traceback" in ended.stderr or ended.code not in (0, 2, 3):
            return "traceback" if ended.code == 1 else "exit code"
        if ended.code:
            return "refused" if named(ended.stderr, path) else "unnamed"
        after = tree(self.runner.workdir)
        if difference(self.usual[name], (ended, after), [path]):
            return "changed"
        usual, now = self.usual[name][1].get(path), after.get(path)
        if now == changed:
            return "no effect"
        same = _plain(path, now) == _plain(path, usual)
        # The log of a journal is only appended to.
        appended = now is not None and now.startswith(changed)
        return "repaired" if same or appended else "changed"

    def bits(self, flips: int) -> Iterator[Case]:
        """Flipped bits in every kind of file."""
        for kind, paths in self.listing().items():
            used = [p for p in paths if self.before[p]]
            if not used:
                continue
            count = flips if self.commands_on(used[0]) else 1
            places = (0.0, 1.0, *(self.rng.random() for _ in range(count)))
            for i in range(count):
                path = self.rng.choice(used)
                content = bytearray(self.before[path])
                at = round(places[(i + 2) % (count + 2)] * (len(content) - 1))
                bit = self.rng.randrange(8)
                content[at] ^= 1 << bit
                outcomes, said = {}, ""
                for name in self.commands_on(path):
                    with self.runner.copy() as workdir:
                        (workdir / path).write_bytes(content)
                        ended = self.runner.run(self.runner.commands()[name])
                        outcomes[name] = self.judge(name, ended, path, bytes(content))
                        if outcomes[name] in FAILURES:
                            after = tree(workdir)
                            other = difference(self.usual[name], (ended, after), [path])
                            said = said or f"{name}: {other} {ended.stderr[-600:]}"
                yield Case("bits", kind, f"{path}, bit {bit} of {at}", outcomes, said)

    def links(self) -> Iterator[Case]:
        """Links out of the workdir, at every kind of path that there is or will be."""
        made = {p for _, after in self.usual.values() for p in after}
        places: dict[tuple[str, bool], str] = {}
        for path in sorted(made):
            parts = path.split("/")
            for n in range(1, len(parts) + 1):
                place = "/".join(parts[:n])
                is_there = (self.runner.workdir / place).exists()
                places.setdefault((kind_of(place), is_there), place)
        for (kind, _), path in places.items():
            if not self.asked.search(kind):
                continue
            for dangling in (False, True):
                outcomes, said = {}, ""
                for name in self.commands_on(path):
                    outcome, text = self._link(name, path, dangling)
                    outcomes[name] = outcome
                    if outcome in FAILURES:
                        said = said or f"{name}: {text}"
                what = f"{path} -> {'nothing' if dangling else 'a copy'}"
                yield Case("links", kind, what, outcomes, said)

    def _link(self, name: str, path: str, dangling: bool) -> tuple[str, str]:
        """One command on one link; its outcome, and what was said."""
        outside = self.runner.folder / "outside"
        shutil.rmtree(outside, ignore_errors=True)
        outside.mkdir()
        with self.runner.copy() as workdir:
            place, target = workdir / path, outside / "target"
            place.parent.mkdir(parents=True, exist_ok=True)
            after = self.usual[name][1]
            if not dangling and place.is_dir():
                shutil.copytree(place, target, symlinks=True)
            elif not dangling and any(p.startswith(f"{path}/") for p in after):
                target.mkdir()
            elif not dangling:
                target.write_bytes(self.before.get(path, b"kept\n"))
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
            place.symlink_to(target)
            was = _stamps(outside)
            ended = self.runner.run(self.runner.commands()[name])
            now, is_link = _stamps(outside), place.is_symlink()
        said = ended.stderr[-600:]
        if now != was:
            other = sorted(p for p in now.keys() | was if now.get(p) != was.get(p))
            return "outside", f"{other[:3]} {said}"
        if isinstance(ended.code, str):
            return "hang", said
        if "Traceback" in ended.stderr or ended.code not in (0, 2, 3):
            return ("traceback" if ended.code == 1 else "exit code"), said
        if ended.code:
            return "refused", said
        if not is_link:
            return "repaired", said
        entry = path.startswith(("base", "pool")) and not dangling
        if entry and name == "verify":
            return "admitted", said
        return ("no effect" if dangling else "read"), said


def difference(
    usual: tuple[Ended, Tree], found: tuple[Ended, Tree], but: Iterable[str] = ()
) -> str:
    """The first thing that differs from an undisturbed command; '' if nothing."""
    then_said, now_said = usual[0].stdout, found[0].stdout
    if _steady(then_said) != _steady(now_said):
        return f"console: {_first_other(then_said, now_said)}"
    for path in sorted((usual[1].keys() | found[1].keys()) - set(but)):
        then, now = usual[1].get(path), found[1].get(path)
        if then != now and _plain(path, then) != _plain(path, now):
            return f"{path}: {'is gone' if now is None else 'differs'}"
    return ""


def tree(workdir: Path) -> Tree:
    """Contents by path."""
    found = {}
    for folder, _, files in os.walk(workdir):
        for name in files:
            path = Path(folder, name)
            key = str(path.relative_to(workdir))
            with_content = path.is_file() and not path.is_symlink()
            found[key] = path.read_bytes() if with_content else b"a link"
    return found


def _stamps(folder: Path) -> dict[str, Any]:
    """What changes when a file or folder is written, by path."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        about = path.lstat()
        content = ""
        if path.is_file() and not path.is_symlink():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        key = str(path.relative_to(folder))
        found[key] = (about.st_ino, about.st_mtime_ns, about.st_mode, content)
    return found


def _steady(text: str) -> str:
    return _TIMES.sub("...", _PROGRESS.sub("", text))


def _first_other(usual: str, found: str) -> str:
    lines = zip(_steady(usual).splitlines(), _steady(found).splitlines(), strict=False)
    return next((f"{b!r}, not {a!r}" for a, b in lines if a != b), "lines")


def _plain(path: str, content: bytes | None) -> Any:
    """What of a file must be the same in two runs of one command."""
    # A new attempt has a random name, and files of random names; its manifest says
    # what it holds.
    if "/attempt-" in path or path.startswith(("state/", "base/attempt-")):
        return None
    if content is not None and path.endswith((".json", ".jsonl")):
        try:
            lines = content.splitlines() if path.endswith("l") else [content]
            return [_stable(json.loads(line)) for line in lines]
        except (ValueError, RecursionError):
            pass
    return content


def _stable(value: Any) -> Any:
    """JSON data without what differs between two undisturbed runs."""
    if isinstance(value, dict):
        return {k: _stable(v) for k, v in value.items() if k not in VOLATILE}
    return [_stable(v) for v in value] if isinstance(value, list) else value


def named(message: str, path: str) -> bool:
    """Whether a message names a file, its entry, or its digest."""
    for part in path.split("/"):
        digest = re.search(r"[0-9a-f]{16}", part)
        if part not in _COMMON and (
            part in message or (digest and digest[0] in message)
        ):
            return True
    # A unit or a domain goes by its name.
    return path.startswith("corpus/") and any(
        f"{what} '" in message for what in ("unit", "domain", "tokenizer")
    )


def summary(cases: Sequence[Case]) -> str:
    """Markdown: outcomes by sweep and kind of file."""
    lines = []
    for sweep in dict.fromkeys(case.sweep for case in cases):
        of_sweep = [case for case in cases if case.sweep == sweep]
        names = sorted({case.outcome for case in of_sweep})
        lines += [
            f"## {sweep}: {len(of_sweep):,} cases",
            "",
            f"| kind of file | {' | '.join(names)} |",
            f"| --- {'| ---: ' * len(names)}|",
        ]
        kinds: dict[str, collections.Counter[str]] = {}
        for case in of_sweep:
            kinds.setdefault(case.kind, collections.Counter())[case.outcome] += 1
        total = sum(kinds.values(), collections.Counter())
        for kind, counts in {**kinds, "**all**": total}.items():
            cells = " | ".join(str(counts[name] or "") for name in names)
            lines.append(f"| {kind} | {cells} |")
        lines.append("")
    failed = [case for case in cases if case.outcome in FAILURES]
    lines += ["## Failures", "", "none" if not failed else ""]
    for case in failed:
        said = " ".join(case.said.split())[-300:]
        lines.append(f"- {case.sweep}, {case.what}: {dict(case.outcomes)}: {said}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--workdir", type=Path, help="folder to work in, kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flips", type=int, default=2, help="of each kind of file")
    parser.add_argument("--commands", type=int, default=2, help="tried on a case")
    parser.add_argument("--sample", type=int, default=200, help="fields tried on one")
    parser.add_argument("--only", choices=("bits", "fields", "links"))
    parser.add_argument("--kinds", default="", help="of files: a regular expression")
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent.parent))
    # Imported once, before all forks; no device is looked at.
    import jaxsim.cli
    import jaxsim.commands  # noqa: F401

    os.nice(5)
    begin, cases, took = time.monotonic(), [], {}
    with tempfile.TemporaryDirectory() as made:
        folder = args.workdir or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        sweeper = Sweeper(
            Runner(folder), args.seed, args.commands, args.kinds, args.only != "fields"
        )
        sweeps = {
            "bits": lambda: sweeper.bits(args.flips),
            "fields": lambda: damage_fields.sweep(sweeper, args.sample),
            "links": sweeper.links,
        }
        for name, sweep in sweeps.items():
            if args.only in (None, name):
                for case in sweep():
                    cases.append(case)
                    if case.outcome in FAILURES:
                        print(case, flush=True)
                now = time.monotonic()
                took[name], begin = round(now - begin), now
                print(f"{name}: {took[name]} s", flush=True)
    fields: dict[str, collections.Counter[str]] = {}
    for case in cases:
        if case.sweep == "fields":
            counts = fields.setdefault(case.kind, collections.Counter())
            counts[case.outcome] += 1
    # Of fields there are too many cases to keep those that passed.
    kept = [c for c in cases if c.sweep != "fields" or c.outcome in FAILURES]
    result = machine.describe(("jax", "orbax-checkpoint", "tensorflow-datasets")) | {
        "seed": args.seed,
        "seconds": took,
        "cases": [dataclasses.asdict(c) | {"outcome": c.outcome} for c in kept],
        "fields": fields,
    }
    text = summary(cases)
    machine.save(args.out, "damage", result, f"# Damage\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
