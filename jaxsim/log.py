"""Logging: sentences and tables on stdout, progress on stderr, metrics as JSON Lines.

What `detail` and most tables say is only shown on request, see `showing_details`.

A metrics file has every step exactly once, even after a kill and a resume: rows that
were logged after the checkpoint that a run resumes from are cut.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import math
import platform
import re
import shutil
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, Self, TypedDict

import rich.box
import rich.console
import rich.progress
import rich.table

import jaxsim
from jaxsim.errors import DamagedError, pasteable
from jaxsim.records import plain, write

SCHEMA = 1
WIDTH = 100  # columns of what is always shown
INTERVAL = 30.0  # seconds between two lines of a loop
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


_verbose = False


@contextlib.contextmanager
def showing_details(wanted: bool = True) -> Iterator[None]:
    """Within it, if `wanted`, `detail` and `show_table` print; else they do not."""
    global _verbose
    before, _verbose = _verbose, _verbose or wanted
    try:
        yield
    finally:
        _verbose = before


def is_verbose() -> bool:
    """Whether details are shown."""
    return _verbose


def say(text: str) -> None:
    """Prints one line; the commands in it can be pasted."""
    print(pasteable(text), flush=True)


def wrapped(text: str, width: int = WIDTH) -> str:
    """A paragraph in lines of so many columns; commands stay whole."""
    kept = re.sub("`[^`]+`", lambda found: found[0].replace(" ", "\0"), pasteable(text))
    lines = textwrap.wrap(
        kept, width, subsequent_indent="  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return "\n".join(lines).replace("\0", " ")


def say_wrapped(text: str) -> None:
    """Prints a paragraph in lines of at most `WIDTH` columns; commands stay whole."""
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    print(wrapped(text, width), flush=True)


def detail(text: str) -> None:
    """Prints one line of what `--verbose` shows."""
    if _verbose:
        say(text)


def counted(amount: int, singular: str, plural: str = "") -> str:
    """'1 run', '12 runs'."""
    return f"{amount:,} {singular if amount == 1 else plural or singular + 's'}"


def hidden(rows: int, shown: int) -> str:
    """What to know of a table that is cut unless details are shown."""
    return "" if _verbose or rows <= shown else f"{rows - shown:,} more with --verbose"


class _Console(rich.console.Console):
    """A console that leaves a broken pipe to the command line (rich exits with 1)."""

    def on_broken_pipe(self) -> None:
        raise


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    note: str = "",
    left: int = 1,
    always: bool = False,
) -> None:
    """Prints a table of details, or one that is `always` shown.

    The first `left` columns are left-aligned.
    """
    if not (always or _verbose):
        return
    table = rich.table.Table(
        title=title, title_justify="left", box=rich.box.SIMPLE_HEAD
    )
    for i, column in enumerate(columns):
        table.add_column(
            column, justify="right" if i >= left else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    # A log file has no width; the default of 80 columns would fold the numbers.
    width = None if sys.stdout.isatty() else 140 if _verbose else WIDTH
    _Console(width=width, markup=False, emoji=False, highlight=False).print(table)
    if note:
        say_wrapped(note) if always else say(note)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of jaxsim, Python and the libraries that affect results."""
    return {
        "jaxsim": jaxsim.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
    }


@functools.cache
def git_revision() -> str:
    """The git commit of this checkout, `-dirty` if changed, or 'unknown'."""
    root = Path(jaxsim.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return "unknown"  # installed; a repository around it is not ours
    command = ["git", "-C", str(root), "describe"]
    command += ["--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


class Device(TypedDict):
    """What a program ran on."""

    kind: str
    count: int


class Provenance(TypedDict):
    """What produced a number; `group` is the parallel runs that a run was one of."""

    versions: dict[str, str]
    git_revision: str
    device: Device
    group: NotRequired[dict[str, Any]]


def provenance() -> dict[str, Any]:
    """Versions, commit and device: what produced a number."""
    import jax  # processes that prepare text do without

    devices = jax.devices()
    return {
        "versions": versions(),
        "git_revision": git_revision(),
        "device": {"kind": devices[0].device_kind, "count": len(devices)},
    }


class MetricsWriter(contextlib.AbstractContextManager["MetricsWriter"]):
    """Appends one JSON row for each logged step, and flushes it.

    The first row is `header` with schema and provenance; `crc32` in each row is the
    CRC-32 of the rest. A run that resumes from step `step` cuts later rows; step 0
    starts a new file. One process writes.

    Attributes:
      kept: the last row that was kept, or the header.

    Raises:
      DamagedError: a row other than a partly written last one is unreadable or altered.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], step: int = 0) -> None:
        kept = _rows_until(path, step) if step and path.exists() else []
        if not kept:
            kept = [_dump({"schema": SCHEMA, **provenance(), **header}).encode()]
        # Replaced whole: a kill here leaves the old file.
        write(path, b"".join(kept))
        self.kept: dict[str, Any] = json.loads(kept[-1])
        self._file = path.open("a")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds a row; numbers that are not finite become null."""
        self._file.write(_dump({"step": step, **values}))
        self._file.flush()

    def __exit__(self, *exception: object) -> None:
        self._file.close()


@dataclasses.dataclass
class Progress(contextlib.AbstractContextManager["Progress"]):
    """Loss and speed of a training run, as rows every `every` steps.

    A bar on a terminal; elsewhere at most one line every `INTERVAL` seconds, and one
    at the end. Among details every row is a line.
    """

    label: str  # what runs, as in 'member 1790-1809'
    steps: int  # of the whole run
    tokens: int  # of one step
    every: int  # steps between two rows; the last step always has one
    start: int = 0  # the step it resumes from
    flops: float = 0.0  # model FLOPs of one step, on all devices
    peak: float = 0.0  # FLOP/s of all devices; 0 if unknown

    def __post_init__(self) -> None:
        self._waited, self._text = 0.0, self.label
        self._begin = self._last = self._said = time.monotonic()
        self._last_step = self.start
        self._open = contextlib.ExitStack()
        self._move: Callable[[int, str], None] | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            bar = _bar(self.label, self.steps, self.start)
            self._move = self._open.enter_context(bar)
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def reached(self, step: int) -> bool:
        """Moves the bar to a step (from 1), and says whether it gets a row."""
        if self._move is not None:
            self._move(step, self._text)
        return step % self.every == 0 or step == self.steps

    def waited(self, seconds: float) -> None:
        """Adds seconds in which the devices waited for input."""
        self._waited += seconds

    def report(self, step: int, loss: float) -> dict[str, float]:
        """Returns the row for a `MetricsWriter`, and shows where the run is.

        Speed and waiting time count from the last row.
        """
        now = time.monotonic()
        rate = (step - self._last_step) / max(now - self._last, 1e-9)
        left = (self.steps - step) / rate if rate else math.inf
        self._last, self._last_step = now, step
        flops = rate * self.flops
        row = {
            "loss": loss,
            "tokens_per_second": rate * self.tokens,
            "flops_per_second": flops,
            "input_seconds": self._waited,
            "seconds": now - self._begin,
        }
        computed = f"{flops / 1e12:.3g} TFLOP/s"
        if self.peak:
            row["utilisation"] = flops / self.peak
            computed += f" ({flops / self.peak:.1%} of the peak)"
        self._text = f"{self.label}, loss {loss:.4f}"
        if self._move is not None:
            self._move(step, self._text)
        elif _verbose or step == self.steps or now - self._said >= INTERVAL:
            self._said = now
            print(
                f"{self.label}: step {step}/{self.steps}, loss {loss:.4f}, "
                f"{rate * self.tokens:,.0f} tokens/s, {computed}, "
                f"{self._waited:.1f} s waited for input, {_duration(left)} left",
                file=sys.stderr,
                flush=True,
            )
        self._waited = 0.0
        return row


def step(number: int, count: int, what: str) -> None:
    """Says which step of several begins: '3/8 train: 12 members'."""
    print(f"{number}/{count} {what}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(total: int, label: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Progress of a loop: `with progress(n, 'search', 'steps') as advance: advance(1)`.

    A bar on a terminal; elsewhere at most one line every `INTERVAL` seconds, and one
    at the end.
    """
    done, begin = 0, time.monotonic()
    if not total:
        yield lambda _: None
        return
    if sys.stderr.isatty():
        with _bar(label, total) as move:

            def moved(n: int) -> None:
                nonlocal done
                done += n
                move(done, label)

            yield moved
        return
    last = begin

    def advance(n: int) -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= INTERVAL and 0 < done < total:
            last = now
            left = _duration((now - begin) / done * (total - done))
            print(f"{label}: {done}/{total} {unit}, {left} left", file=sys.stderr)

    yield advance
    took = _duration(time.monotonic() - begin)
    print(f"{label}: {done}/{total} {unit} in {took}", file=sys.stderr)


_line: rich.progress.Progress | None = None  # the one that moves on the terminal


@contextlib.contextmanager
def _bar(label: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """A bar that goes when it is done; of nested ones, the terminal shows the inner."""
    global _line
    with contextlib.ExitStack() as stack:
        outer = _line
        if _line is None:
            _line = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}", markup=False),
                rich.progress.BarColumn(20),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TimeRemainingColumn(),
                console=rich.console.Console(file=sys.stderr),
                transient=True,
                # What is printed goes above the line, or where it was sent.
                redirect_stdout=sys.stdout.isatty(),
            )
            stack.enter_context(_line)
        line = _line
        hidden = [task.id for task in line.tasks if task.visible]
        for other in hidden:
            line.update(other, visible=False)
        task = line.add_task(label, total=total, completed=done)
        try:
            yield lambda n, text: line.update(task, completed=n, description=text)
        finally:
            line.remove_task(task)
            for other in hidden:
                line.update(other, visible=True)
            _line = outer


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of metrics, without its header.

    Raises:
      DamagedError: a row other than a partly written last one is unreadable or altered.
    """
    return [json.loads(line) for line in _rows_until(path, sys.maxsize)[1:]]


def _rows_until(path: Path, step: int) -> list[bytes]:
    """The lines of a file up to `step`, header first; empty without a header."""
    kept = []
    *lines, _ = path.read_bytes().split(b"\n")  # the last was partly written
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if row.pop("crc32") != _check(row):
                raise ValueError("its check fails")
            late = number > 1 and row["step"] > step
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(
                f"{path}, line {number}: not a row of metrics, or altered since; move "
                "the file away to continue without it"
            ) from error
        if not late:
            kept.append(line + b"\n")
    return kept


def _dump(row: Mapping[str, Any]) -> str:
    values = plain(row)
    return json.dumps(values | {"crc32": _check(values)}, allow_nan=False) + "\n"


def _check(row: Mapping[str, Any]) -> int:
    """The CRC-32 of the rest of a row."""
    return zlib.crc32(json.dumps(row, allow_nan=False).encode())


def _duration(seconds: float) -> str:
    """'8 s', '12 min' or '3.4 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
