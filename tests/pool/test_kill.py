"""SIGKILL and SIGTERM at any moment, of real processes.

pytest tests/pool/test_kill.py --kills 50
"""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from train import tiny

from jaxsim.pool import Pool, open_pool

_CONFIG = """
from jaxsim.config import default_config, source

def get_config(arg=None):
    config = default_config()
    config.corpus.partitions = {{
        name: source(reader="jsonl", path={folder!r} + f"/{{name}}.jsonl")
        for name in "abc"
    }}
    config.corpus.tokenizer.kind = "bytes"
    config.corpus.split.select = config.corpus.split.report = 0.2
    config.model.update(
        dict(length=32, layers=1, dim=16, heads=2, kv_heads=2, mlp_dim=16)
    )
    config.seed.update(dict(steps=6, warmup=2, batch=4))
    config.recipe.update(dict(steps=6, batch=4))
    config.train.update(
        dict(checkpoint_every=2, log_every=1, unroll=False)
    )
    return config
"""


class Command:
    """Starts drivers on one config, with programs compiled once for all."""

    def __init__(self, root: Path, folder: Path) -> None:
        tiny.write_texts(folder)
        self.root = root
        self.folder = folder
        self.config = folder / "config.py"
        self.config.write_text(_CONFIG.format(folder=str(folder)))
        self.environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": str(root),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, workdir: Path) -> subprocess.Popen:
        driver = self.root / "tests" / "pool" / "driver.py"
        return subprocess.Popen(
            [sys.executable, str(driver), str(self.config), str(workdir)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            text=True,
        )

    def finish(self, workdir: Path) -> list[str]:
        """Runs to the end; the lines that it said."""
        process = self.start(workdir)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 0, said
        return said.splitlines()

    def send(self, workdir: Path, number: int, line: int, delay: float) -> int:
        """Sends a signal `delay` seconds after a line; the return code."""
        process = self.start(workdir)
        for _ in range(line):
            process.stdout.readline()
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        process.communicate(timeout=120)
        return process.returncode


@pytest.fixture(scope="module")
def command(root, tmp_path_factory) -> Command:
    return Command(root, tmp_path_factory.mktemp("kill"))


@pytest.fixture(scope="module")
def undisturbed(command) -> tuple[dict[str, str], list[str]]:
    """Digests of seed and members, and what was said on the way."""
    workdir = command.folder / "undisturbed"
    said = command.finish(workdir)
    return _digests(open_pool(workdir)), said


def _digests(pool: Pool) -> dict[str, str]:
    manifests = {"seed": pool.seed()[0], **pool.manifests()}
    return {name: m.params_digest for name, m in manifests.items()}


def _assert_sound(workdir: Path, want: dict[str, str]) -> None:
    """What is listed verifies and is what it should be; the rest is unread."""
    if not (workdir / "pool" / "pool.json").exists():
        return
    pool = open_pool(workdir)
    assert pool.problems() == {}
    assert _digests(pool).items() <= want.items()
    for name in pool.names():
        assert pool.load(pool.manifest(name))


def _assert_whole(workdir: Path, want: dict[str, str]) -> None:
    assert _digests(open_pool(workdir)) == want
    _assert_sound(workdir, want)
    for name in want:
        entry = workdir / "seed" if name == "seed" else (
            workdir / "pool" / "members" / name
        )  # fmt: skip
        attempts = list(entry.glob("*attempt-*"))
        assert len(attempts) == 1, f"{name}: leftovers {attempts}"
        rows = tiny.rows_of_metrics(workdir / "metrics" / f"{name}.jsonl")
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6], name


def _snapshot(workdir: Path) -> dict[Path, int]:
    folders = (workdir / "seed", workdir / "pool", workdir / "metrics")
    return {
        path: path.stat().st_mtime_ns
        for folder in folders
        for path in folder.rglob("*")
    }


def test_sigkill_at_any_moment_changes_nothing_in_the_end(
    command, undisturbed, request
):
    want, said = undisturbed
    rng = random.Random(0)
    for kill in range(request.config.getoption("--kills", 2)):
        # Four kills of one workdir, then it has to come to its end.
        workdir = command.folder / f"killed{kill // 4}"
        # Moments are counted in lines: most of the time goes into imports.
        line, delay = rng.randrange(len(said)), rng.uniform(0.0, 0.1)
        code = command.send(workdir, signal.SIGKILL, line, delay)
        where = f"kill {kill} after line {line} and {delay:.3f} s"
        assert code in (-signal.SIGKILL, 0), where
        _assert_sound(workdir, want)
        if kill % 4 == 3:
            command.finish(workdir)
            _assert_whole(workdir, want)

    command.finish(workdir)
    _assert_whole(workdir, want)
    before = _snapshot(workdir)
    again = command.finish(workdir)
    assert "pool: all 3 runs are there" in again
    assert _snapshot(workdir) == before


def test_sigterm_is_exit_4_and_the_next_start_resumes(command, undisturbed):
    want, said = undisturbed
    workdir = command.folder / "terminated"
    line = next(
        i for i, text in enumerate(said, 1) if "member b: step 1/" in text
    )
    assert command.send(workdir, signal.SIGTERM, line, 0.0) == 4
    _assert_sound(workdir, want)
    again = command.finish(workdir)
    assert any(
        text.startswith(("member b: resumed after", "member c:"))
        for text in again
    )
    assert not any("member a" in text and "step" in text for text in again)
    _assert_whole(workdir, want)
