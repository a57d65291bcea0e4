"""A small finished workdir with every kind of file, and commands in forked processes.

A part of `damage.py`. The workdir has three partitions, held-out and calibration runs,
replicates, the runs of a "user", a chosen mixture, a search and a report; one more run
was killed in the middle, and left a training state.
"""

import contextlib
import csv
import dataclasses
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CONFIG = """\
from pathlib import Path

from jaxsim.config import default_config, source

TEXT = Path({text!r})


def get_config(arg=None):
    config = default_config()
    config.name = "damage"
    for path in sorted(TEXT.glob("*.jsonl")):
        entry = source(reader="records", path=str(path))
        inside = path.stem != "outside"
        place = config.corpus.partitions if inside else config.corpus.domains
        with place.unlocked():
            place[path.stem] = entry
    config.corpus.tokenizer.kind = "bpe"
    config.corpus.tokenizer.vocab_size = 300
    config.corpus.split.dev = config.corpus.split.test = 0.25
    config.corpus.max_bad = 0.1
    config.model.update(length=16, layers=1, dim=16, heads=2, kv_heads=2, mlp_dim=32)
    config.base.update(steps=4, batch=4, warmup=1)
    config.recipe.update(steps=6, batch=2, warmup=2)
    config.train.update(checkpoint_every=2, log_every=2)
    config.score.update(mixtures="subsets:1-2", windows=2)
    config.validate.update(
        held_out=12, calibration_runs=3, replicates=3, member_replicates=2,
        candidates=100, windows=2,
    )
    config.search.update(candidates=200, evaluations=20, windows=2)
    return config
"""
PARTITIONS = ("fields", "rivers", "towns")
MEMORY = 12 << 30  # bytes of address space of a command
_DIGEST = re.compile(r"[0-9a-f]{8,}")


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended; 'hang' and 'killed' have no exit code."""

    code: int | str
    stdout: str
    stderr: str
    opened: frozenset[str]  # by Python, as paths in the workdir


class Runner:
    """Runs commands of jaxsim on one workdir, each in a fork of this process."""

    def __init__(self, folder: Path, seconds: float = 120.0) -> None:
        self.folder, self.seconds = folder.resolve(), seconds
        self.config = self.folder / "config.py"
        self.workdir = self.folder / "workdir"
        cache = self.folder / "compiled"
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

    def commands(self) -> dict[str, list[str]]:
        """What is run on the finished workdir, by name; `resume` ends a killed run."""
        w, config = str(self.workdir), f"--config={self.config}"
        best = f"--mixtures={w}/search/best.csv"
        own = f"--runs={self.folder}/mixtures.csv,{self.folder}/metrics.csv"
        return {
            name: [words[0], f"--workdir={w}", *words[1:]]
            for name, words in {
                "verify": ["verify"],
                "prepare": ["prepare", config],
                "base": ["base", config],
                "train": ["train", config],
                "score": ["score"],
                "score best": ["score", best],
                "validate": ["validate"],
                "validate own": ["validate", own],
                "validate best": ["validate", best],
                "resume": ["validate", f"--mixtures={self.folder}/killed.csv"],
                "search": ["search"],
                "report": ["report"],
            }.items()
        }

    def run(self, arguments: Sequence[str], kill_at_save: int = 0) -> Ended:
        """Runs one command; a positive `kill_at_save` kills it at that checkpoint."""

        def action() -> int:
            if kill_at_save:
                _die_at_save(kill_at_save)
            from jaxsim.cli import main

            return main(list(arguments))

        return self.fork(action)

    def fork(
        self, action: Callable[[], int], moves: Callable[[], object] | None = None
    ) -> Ended:
        """Calls `action` in a process of its own, which has limits.

        Its time begins again whenever `moves` returns something else.
        """
        place = self.folder / "ended"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        child = os.fork()
        if not child:
            _act(action, place, self.workdir)
        code = _wait(child, self.seconds, moves)
        read = [
            (place / name).read_text(errors="replace")
            if (place / name).exists()
            else ""
            for name in ("stdout", "stderr", "opened")
        ]
        return Ended(code, read[0], read[1], frozenset(read[2].splitlines()))

    def make(self) -> None:
        """Makes the workdir, unless it is there."""
        done = self.folder / "made"
        if done.exists():
            return
        shutil.rmtree(self.workdir, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write_inputs()
        commands = self.commands()
        order = ("prepare", "base", "train", "score", "validate", "validate own")
        for name in (*order, "search", "validate best", "score best"):
            self._must(name, commands[name])
        found = self.run(commands["resume"], kill_at_save=2)
        if found.code != "killed":
            raise SystemExit(f"the run was not killed: {found}")
        self._must("report", commands["report"])
        done.touch()

    def _must(self, name: str, arguments: Sequence[str]) -> None:
        found = self.run(arguments)
        if found.code:
            raise SystemExit(f"{name}: {found.code}\n{found.stdout}\n{found.stderr}")

    def _write_inputs(self) -> None:
        """Text of three partitions and of a domain, the config, and mixtures."""
        text = self.folder / "text"
        text.mkdir(exist_ok=True)
        for name in (*PARTITIONS, "outside"):
            rng = random.Random(name)
            letters = rng.sample("abcdefghijklmnopqrstuvwxyz", 8)
            lines = [
                json.dumps(
                    {
                        "id": f"{name}/{i}",
                        "text": " ".join(
                            "".join(rng.choices(letters, k=3)) for _ in range(40)
                        ),
                    }
                )
                for i in range(40)
            ]
            if name == PARTITIONS[0]:
                lines.append("no record")  # for the quarantine
            (text / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        self.config.write_text(CONFIG.format(text=str(text)))
        tables = {
            "killed": [["name", *PARTITIONS], ["killed", 0.2, 0.3, 0.5]],
            "mixtures": [
                ["name", *PARTITIONS],
                *(["own1", 0.5, 0.5, 0], ["own2", 0.2, 0.2, 0.6]),
                *(["own3", 0, 0.5, 0.5], ["own4", 0.7, 0.1, 0.2]),
            ],
            "metrics": [
                ["name", *PARTITIONS, "outside"],
                *([f"own{i}", 5.1, 5 + i / 10, 5.2, 4.9 + i / 7] for i in range(1, 5)),
            ],
        }
        for name, rows in tables.items():
            with (self.folder / f"{name}.csv").open("w", newline="") as file:
                csv.writer(file).writerows(rows)

    @contextlib.contextmanager
    def copy(self) -> Iterator[Path]:
        """A private copy of the finished workdir, at its path."""
        kept = self.folder / "kept"
        if not kept.exists():
            shutil.copytree(self.workdir, kept, symlinks=True)
        _restore(kept, self.workdir)
        yield self.workdir
        _restore(kept, self.workdir)


def _restore(source: Path, target: Path) -> None:
    if target.is_symlink():
        target.unlink()
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)


def kind_of(path: str) -> str:
    """A path with names, digests and numbers replaced."""
    parts = path.split("/")
    if parts[0] in ("metrics", "state", "pool"):
        i = 2 if parts[:2] in (["state", ".locks"], ["pool", "members"]) else 1
        if len(parts) > i and parts[i] not in (".locks", "pool.json", "members"):
            parts[i] = "NAME.jsonl" if parts[0] == "metrics" else "NAME"
    return re.sub(r"\d+", "N", _DIGEST.sub("DIGEST", "/".join(parts)))


def _act(action: Callable[[], int], place: Path, workdir: Path) -> None:
    """The child: runs `action` with its output in `place`, and ends."""
    os.setsid()
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT), number)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    root, opened = f"{workdir}/", set()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path.startswith(root):
                opened.add(path.removeprefix(root))

    sys.addaudithook(hook)
    code = 1
    try:
        code = action()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    (place / "opened").write_text("\n".join(sorted(opened)))
    os._exit(code)


def _wait(child: int, seconds: float, moves: Callable[[], object] | None) -> int | str:
    """Waits for a child; kills it after its time."""
    end, pause, place = time.monotonic() + seconds, 0.01, None
    while time.monotonic() < end:
        if moves is not None:
            with contextlib.suppress(OSError):
                place, last = moves(), place
                if place != last:
                    end = time.monotonic() + seconds
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else "killed"
        time.sleep(pause)
        pause = min(0.1, pause * 1.2)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hang"


def _die_at_save(number: int) -> None:
    """Makes this process kill itself when it saves for the `number`-th time."""
    from jaxsim.checkpoints import TrainingCheckpoints

    save, count = TrainingCheckpoints.save, 0

    def saved(self: TrainingCheckpoints, *arguments: object) -> None:
        nonlocal count
        count += 1
        if count == number:
            self._wait()
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, *arguments)

    TrainingCheckpoints.save = saved  # type: ignore[method-assign]
