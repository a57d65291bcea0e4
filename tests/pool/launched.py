"""Real launchers on a tiny project, and checks of its workdir."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from train import tiny

from jaxsim.pool import Pool, open_pool
from jaxsim.train.program import TrainProgram

LIMIT = 600  # seconds, on a machine that does much else
_CONFIG = """
from jaxsim.config import default_config, source

def get_config(arg=None):
    config = default_config()
    config.corpus.partitions = {{
        name: source(reader="records", path={folder!r} + f"/{{name}}.jsonl")
        for name in "abc"
    }}
    config.corpus.tokenizer.kind = "bytes"
    config.corpus.split.dev = config.corpus.split.test = 0.2
    config.model.update(
        dict(length=32, layers=1, dim=16, heads=2, kv_heads=2, mlp_dim=16,
             vocab_rows=258)
    )
    config.base.update(dict(steps=6, warmup=2, batch=4))
    config.recipe.update(dict(steps=6, warmup=3, batch=4))
    config.train.update(
        dict(checkpoint_every=2, log_every=1, unroll=False)
    )
    return config
"""


class Command:
    """Starts drivers with one config; they share compiled programs."""

    def __init__(self, root: Path, folder: Path) -> None:
        tiny.write_texts(folder)
        self.root = root
        self.folder = folder
        self.config = folder / "config.py"
        self.config.write_text(_CONFIG.format(folder=str(folder)))
        self.overrides: list[str] = []
        self.driver = "pool/driver.py"
        self.environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles faster
            "PYTHONPATH": str(root),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, workdir: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [
                *(sys.executable, str(self.root / "tests" / self.driver)),
                *(str(self.config), str(workdir)),
                *self.overrides,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            text=True,
        )

    def finish(self, workdir: Path) -> list[str]:
        """Runs a driver to its end; the lines that it printed."""
        process = self.start(workdir)
        said, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, said
        return said.splitlines()

    def send(self, workdir: Path, number: int, line: int, delay: float) -> int:
        """Sends a signal `delay` seconds after a line of output; the return code."""
        process = self.start(workdir)
        for _ in range(line):
            process.stdout.readline()
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        process.communicate(timeout=LIMIT)
        return process.returncode


def digests(pool: Pool) -> dict[str, str]:
    manifests = {"base": pool.base()[0], **pool.manifests()}
    return {name: m.params_digest for name, m in manifests.items()}


def assert_sound(workdir: Path, want: dict[str, str]) -> None:
    """Published entries verify and have the digests they should have."""
    if not (workdir / "pool" / "pool.json").exists():
        return
    pool = open_pool(workdir)
    assert pool.problems() == {}
    assert digests(pool).items() <= want.items()
    for name in pool.names():
        assert pool.load(pool.manifest(name))


def assert_whole(workdir: Path, want: dict[str, str]) -> None:
    assert digests(open_pool(workdir)) == want
    assert_sound(workdir, want)
    for name in want:
        entry = workdir / "base" if name == "base" else (
            workdir / "pool" / "members" / name
        )  # fmt: skip
        attempts = list(entry.glob("*attempt-*"))
        assert len(attempts) == 1, f"{name}: leftovers {attempts}"
        rows = tiny.rows_of_metrics(workdir / "metrics" / f"{name}.jsonl")
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6], name


def snapshot(workdir: Path) -> dict[Path, int]:
    folders = (workdir / "base", workdir / "pool", workdir / "metrics")
    return {
        path: path.stat().st_mtime_ns
        for folder in folders
        for path in folder.rglob("*")
    }


def terminate_at(monkeypatch, step):
    """Sends SIGTERM to this process when `step` steps are done."""
    call, done = TrainProgram.__call__, []

    def terminated(*args):
        done.append(1)
        if len(done) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return call(*args)

    monkeypatch.setattr(TrainProgram, "__call__", terminated)
