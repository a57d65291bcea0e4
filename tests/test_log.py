"""Metrics on disk and progress on a stream."""

import io
import json
import math
import subprocess
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxsim
from jaxsim import log
from jaxsim.errors import DamagedError


def rows(path: Path) -> list[dict[str, Any]]:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    lines = path.read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def steps(path: Path) -> list[int]:
    return [row["step"] for row in rows(path)[1:]]


def write(path: Path, *numbers: int, step: int = 0) -> None:
    with log.MetricsWriter(path, {"run": f"from {step}"}, step) as writer:
        for number in numbers:
            writer.write(number, {"loss": 1.0})


def test_the_first_row_has_the_provenance(tmp_path: Path) -> None:
    path = tmp_path / "metrics" / "base.jsonl"
    header = {"config": {"dates": (("1", "2"),), "clip": math.inf}}
    with log.MetricsWriter(path, header):
        pass
    (first,) = rows(path)
    assert first["schema"] == log.SCHEMA
    assert first["config"] == {"dates": [["1", "2"]], "clip": None}
    assert first["versions"]["jaxsim"] == jaxsim.__version__
    assert set(first["versions"]) > {"jax", "flax", "orbax-checkpoint"}
    assert first["git_revision"]
    assert first["device"]["count"] >= 1


def test_rows_are_on_disk_at_once_and_strict(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with log.MetricsWriter(path, {}) as writer:
        values = {"loss": np.float32(0.5), "norm": np.nan, "tokens": np.int64(3)}
        writer.write(8, values)
        row = rows(path)[1]
        assert row.pop("crc32")
        assert row == {"step": 8, "loss": 0.5, "norm": None, "tokens": 3}


def test_resume_neither_doubles_nor_misses_a_step(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, 8, 16, 24)
    write(path, 24, 32, step=16)
    assert steps(path) == [8, 16, 24, 32]
    assert rows(path)[0]["run"] == "from 0"


def test_half_a_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, 8, 16)
    for end in ('{"step": 24', '{"step": 24, "loss": 1.0}', "\0\0\0"):
        with path.open("a") as file:
            file.write(end)
        write(path, step=24)
        assert steps(path) == [8, 16]
    path.write_text(path.read_text()[:20])  # killed in the header
    write(path, 24, step=16)
    assert steps(path) == [24]
    assert rows(path)[0]["run"] == "from 16"


def test_from_step_0_the_file_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    write(path, 8, 16)
    path.write_text(path.read_text() + "not JSON\n")
    write(path, 8)
    assert steps(path) == [8]


@pytest.mark.parametrize("line", ["not JSON", "[1]", '{"loss": 1.0}', "\0\0"])
def test_a_damaged_row_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "m.jsonl"
    write(path, 8)
    path.write_text(path.read_text() + line + "\n")
    before = path.read_bytes()
    with pytest.raises(DamagedError, match=r"m\.jsonl, line 3: "):
        write(path, 16, step=8)
    assert path.read_bytes() == before


@pytest.mark.parametrize("part", ['"loss": 1', '"step": 8', '"schema": 1'])
def test_an_altered_row_is_named(tmp_path: Path, part: str) -> None:
    path = tmp_path / "m.jsonl"
    write(path, 8, 16)
    path.write_text(path.read_text().replace(part, part[:-1] + "7"))
    with pytest.raises(DamagedError, match=r"m\.jsonl, line [12]: .*altered"):
        write(path, 24, step=16)


def test_a_kill_while_cutting_rows_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.jsonl"
    write(path, 8, 16)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write(path, step=8)
    assert steps(path) == [8, 16]
    write(path, 16, step=8)
    assert steps(path) == [8, 16]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Seconds that pass only when the test says so."""
    clock = types.SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(log, "time", clock)
    return clock


def test_progress_of_a_run(clock: Any, capsys: Any) -> None:
    shown = log.Progress("base", 10, 64, 4, 2, flops=1e12)
    assert [s for s in range(3, 11) if shown.reached(s)] == [4, 8, 10]
    clock.now += 20  # compiling
    shown.waited(3.0)
    shown.report(4, 2.0)
    clock.now += 2
    for _ in range(4):
        shown.waited(0.125)
    row = shown.report(8, 1.5)
    assert row == {
        "loss": 1.5,
        "tokens_per_second": 128.0,
        "flops_per_second": 2e12,
        "input_seconds": 0.5,
        "seconds": 22.0,
    }
    clock.now += 8  # half a minute after the run began
    shown.report(9, 1.25)
    clock.now += 1
    shown.report(10, 1.0)
    assert capsys.readouterr().err.splitlines() == [
        "base: step 9/10, loss 1.2500, 8 tokens/s, 0.125 TFLOP/s, "
        "0.0 s waited for input, 8 s left",
        "base: step 10/10, loss 1.0000, 64 tokens/s, 1 TFLOP/s, "
        "0.0 s waited for input, 0 s left",
    ]


def test_utilisation_is_shown_if_the_peak_is_known(clock: Any, capsys: Any) -> None:
    shown = log.Progress("base", 1, 64, 1, flops=1e12, peak=4e12)
    clock.now += 0.5
    assert shown.report(1, 1.0)["utilisation"] == 0.5
    assert "2 TFLOP/s (50.0% of the peak)" in capsys.readouterr().err


def test_progress_of_a_loop_is_sparse(clock: Any, capsys: Any) -> None:
    with log.progress(200, "scoring", "mixtures") as advance:
        for _ in range(20):
            clock.now += 4
            advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "scoring: 80/200 mixtures, 48 s left",
        "scoring: 160/200 mixtures, 16 s left",
        "scoring: 200/200 mixtures in 80 s",
    ]


def test_a_loop_that_fails_does_not_tell_that_it_ended(capsys: Any) -> None:
    with pytest.raises(ZeroDivisionError), log.progress(2, "a", "b") as advance:
        advance(1)
        raise ZeroDivisionError
    assert not capsys.readouterr().err


def test_a_terminal_shows_one_line_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a loop in a loop, it is the inner one."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", stream)

    def now() -> str:
        assert log._line is not None
        stream.seek(0)
        stream.truncate()
        log._line.refresh()
        return stream.getvalue()

    with log.progress(4, "scoring", "mixtures") as advance:
        advance(3)
        assert "scoring" in now() and "3/4" in now() and "\n" not in now()
        with log.Progress("member a", 8, 64, 4) as run:
            run.reached(3)
            assert "member a " in now() and "3/8" in now()
            run.report(4, 2.5)
            assert "member a, loss 2.5000" in now() and "4/8" in now()
            assert "scoring" not in now() and "\n" not in now()
        shown = now()
        assert "scoring" in shown
    assert stream.getvalue().removeprefix(shown).count("\x1b[2K")  # erased
    assert log._line is None


def test_git_revision_is_of_this_repository_or_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def revision() -> str:
        log.git_revision.cache_clear()
        return log.git_revision()

    def git(*command: str) -> str:
        name = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", *name, *command],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    package = tmp_path / "package" / "__init__.py"
    package.parent.mkdir()
    package.touch()
    monkeypatch.setattr(jaxsim, "__file__", str(package))
    assert revision() == "unknown"
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    git("tag", "-a", "v1", "-m", "v1")
    assert revision() == git("rev-parse", "HEAD")
    package.write_text("changed")
    assert revision() == git("rev-parse", "HEAD") + "-dirty"
    # Installed below another project's repository: that one says nothing.
    inner = tmp_path / "venv" / "package" / "__init__.py"
    inner.parent.mkdir(parents=True)
    monkeypatch.setattr(jaxsim, "__file__", str(inner))
    assert revision() == "unknown"
    monkeypatch.setattr(jaxsim, "__file__", str(package))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision() == "unknown"
    log.git_revision.cache_clear()


def test_paragraphs_are_wrapped_and_commands_are_not(capsys: Any) -> None:
    command = "`jaxsim search " + "--config.search.evaluations=200 " * 4 + "`"
    log.say_wrapped("word " * 40 + command + " word" * 40)
    *lines, last = capsys.readouterr().out.splitlines()
    assert any(line.strip() == command for line in lines)
    assert all(len(line) <= 100 or command in line for line in lines)
    assert last.startswith("  word")


def test_a_table_into_a_closed_pipe_is_a_broken_pipe(monkeypatch: Any) -> None:
    """Not rich's own exit with 1: the command line decides how to end."""

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    with pytest.raises(BrokenPipeError):
        log.show_table("", ["a"], [["1"]], always=True)


def test_a_cell_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    log.show_table("[b]t", ["a[/]", ":one:"], [["[red]x", ":smile:"]], always=True)
    out = capsys.readouterr().out
    for cell in ("[b]t", "a[/]", ":one:", "[red]x", ":smile:"):
        assert cell in out
