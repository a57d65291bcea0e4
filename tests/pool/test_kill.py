"""SIGKILL and SIGTERM of real processes at any moment.

pytest tests/pool/test_kill.py --kills 50
"""

import random
import shutil
import signal
import time
from pathlib import Path

from jaxsim.pool import open_pool

from .launched import LIMIT, assert_sound, assert_whole, digests, snapshot


def test_sigkill_at_any_moment_changes_nothing_in_the_end(
    command, undisturbed, request
):
    want, said = undisturbed
    rng = random.Random(0)
    for kill in range(request.config.getoption("--kills", 2)):
        # After four kills on one workdir, the command must finish.
        workdir = command.folder / f"killed{kill // 4}"
        # Moments are counted in lines: most of the time goes into imports.
        line, delay = rng.randrange(len(said)), rng.uniform(0.0, 0.1)
        code = command.send(workdir, signal.SIGKILL, line, delay)
        where = f"kill {kill} after line {line} and {delay:.3f} s"
        assert code in (-signal.SIGKILL, 0), where
        assert_sound(workdir, want)
        if kill % 4 == 3:
            command.finish(workdir)
            assert_whole(workdir, want)

    command.finish(workdir)
    assert_whole(workdir, want)
    before = snapshot(workdir)
    again = command.finish(workdir)
    assert "pool: 3 runs, nothing to train" in again
    assert snapshot(workdir) == before


def test_sigterm_is_exit_4_and_the_next_start_resumes(command, undisturbed):
    want, said = undisturbed
    workdir = command.folder / "terminated"
    line = next(i for i, text in enumerate(said, 1) if "member b: step 1/" in text)
    assert command.send(workdir, signal.SIGTERM, line, 0.0) == 4
    assert_sound(workdir, want)
    again = command.finish(workdir)
    assert any(
        text.startswith(("member b: resumed after", "member c:")) for text in again
    )
    assert not any("member a" in text and "step" in text for text in again)
    assert_whole(workdir, want)


def test_a_group_that_is_killed_ends_with_the_same_digests(
    command, undisturbed, monkeypatch
):
    monkeypatch.setattr(command, "overrides", ["--config.train.parallel_runs=3"])

    def with_a_base(name: str) -> Path:
        """A workdir whose pool is empty."""
        workdir = command.folder / name
        shutil.copytree(command.folder / "undisturbed", workdir)
        shutil.rmtree(workdir / "pool" / "members")
        for unit in "abc":
            (workdir / "metrics" / f"{unit}.jsonl").unlink()
        return workdir

    workdir = with_a_base("whole-group")
    said = command.finish(workdir)
    want = digests(open_pool(workdir))
    assert_whole(workdir, want)

    workdir = with_a_base("killed-group")
    steps = [i for i, s in enumerate(said, 1) if "3 runs (a, b, c): step" in s]
    assert len(steps) == 6
    # Once between two commits, and once while the runs are published.
    code = command.send(workdir, signal.SIGKILL, steps[4], 0.0)
    assert code == -signal.SIGKILL
    assert_sound(workdir, want)
    again = command.start(workdir)
    heard = []
    for line in again.stdout:
        heard.append(line)
        if "step 6/6" in line and "3 runs" in line:
            break
    first = workdir / "pool" / "members" / "a" / "manifest.json"

    def manifests(workdir: Path) -> dict[str, str]:
        paths = workdir.glob("pool/members/*/manifest.json")
        return {path.parent.name: path.read_text() for path in paths}

    while again.poll() is None and not first.exists():
        time.sleep(0.001)
    again.kill()
    again.communicate(timeout=LIMIT)
    assert any("3 runs (a, b, c): resumed after step" in s for s in heard)
    assert_sound(workdir, want)
    # Of two launchers, one trains the rest of the group, the other nothing.
    before = manifests(workdir)
    assert "a" in before
    both = [command.start(workdir) for _ in range(2)]
    said = [process.communicate(timeout=LIMIT)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    ends = "".join(said).count("3 runs (a, b, c): step 6/6")
    assert ends == (len(before) < 3), said
    assert before.items() <= manifests(workdir).items()
    assert_whole(workdir, want)
    left = {path.name for path in (workdir / "state").iterdir()}
    assert left == {".locks"}
