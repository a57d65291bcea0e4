"""Two real processes train together: one run, or parallel runs."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxsim.config import load_config
from jaxsim.pool import open_pool
from jaxsim.scoring.scorer import Scorer
from jaxsim.scoring.store import ScoreStore

from .joined import BOUND, Together, train_alone
from .launched import LIMIT, assert_whole, digests


@pytest.fixture(scope="module")
def made_by_two(command, with_base, tmp_path_factory) -> tuple[Path, Together]:
    """A complete pool, and the processes that made it."""
    workdir = with_base(tmp_path_factory.mktemp("made") / "work")
    with Together(command, workdir) as both:
        assert both.codes() == [0, 0], both.all_said()
    return workdir, both


def test_two_processes_make_what_two_devices_make(command, made_by_two, want):
    workdir, both = made_by_two
    assert_whole(workdir, want)
    said = "".join(both.said[1])
    assert "member" not in said and "pool" not in said, "process 1 speaks"
    with Together(command, workdir) as again:
        assert again.codes() == [0, 0], again.all_said()
    assert "pool: 3 runs, nothing to train" in "".join(again.said[0])


def test_a_pool_of_two_processes_has_the_same_scores_on_other_devices(
    command, made_by_two, tmp_path
):
    here, there = (shutil.copytree(made_by_two[0], tmp_path / name) for name in "ab")
    done = subprocess.run(
        [sys.executable, "-m", "jaxsim", "score", f"--workdir={there}"],
        env=command.environment | {"JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    axes = min(2, jax.device_count())
    config = load_config(here / "config.json").score
    scorer = Scorer(here, dataclasses.replace(config, model_axis=axes))
    want = scorer.standard()
    got = ScoreStore(there).load("standard", scorer.evaluation)
    assert got.table.names == want.table.names
    assert got.basis == want.basis
    for name, predictor in want.predictors.items():
        # Float32 sums in another order, as in tests/scoring/test_layouts.py.
        np.testing.assert_allclose(
            got.predictors[name].nll_MR, predictor.nll_MR, rtol=5e-6
        )


def test_sigterm_to_one_stops_both_and_one_process_resumes(command, workdir, want):
    with Together(command, workdir) as both:
        both.wait_for("member b: step 1/")
        both.processes[1].send_signal(signal.SIGTERM)
        assert both.codes() == [4, 4], both.all_said()
    stops = [
        line for lines in both.said for line in lines if "stopped after step" in line
    ]
    assert len(stops) == 2 and stops[0] == stops[1], both.all_said()
    assert "resumed after step" in train_alone(command, workdir)
    assert_whole(workdir, want)


def test_parallel_runs_span_processes(command, workdir, with_base, tmp_path):
    flag = "--config.train.parallel_runs=2"
    with Together(command, workdir, flag) as both:
        both.wait_for("2 runs (a, b): step 1/")
        both.processes[1].send_signal(signal.SIGTERM)
        assert both.codes() == [4, 4], both.all_said()
    with Together(command, workdir, flag) as both:
        assert both.codes() == [0, 0], both.all_said()
    assert "2 runs (a, b): resumed after step" in "".join(both.said[0])
    alone = with_base(tmp_path / "alone")
    train_alone(command, alone, flag)
    assert_whole(workdir, digests(open_pool(alone)))


def test_when_one_is_killed_the_other_ends(command, workdir, want):
    with Together(command, workdir) as both:
        both.wait_for("member b: step 1/")
        both.processes[1].kill()
        code, _ = both.codes(BOUND)
        assert code != 0, both.all_said()
    assert set(open_pool(workdir).names()) <= set(want)
    assert open_pool(workdir).problems() == {}
    train_alone(command, workdir)
    assert_whole(workdir, want)


@pytest.mark.parametrize(
    ("place", "last", "frame"),
    [("step", "[12]", "in _loop"), ("results", "6", "in to_host")],
)
def test_when_one_hangs_both_end_and_say_where(command, workdir, place, last, frame):
    limit = "--config.train.step_limit=15"
    with Together(command, workdir, limit, fault=f"1 {place} pause") as both:
        # Each process has a watchdog.
        assert both.codes() == [5, 5], both.all_said()
    for lines in both.said:
        said = "".join(lines)
        assert "member a: no step was finished in 15 s" in said
        assert re.search(f"the last one was {last};", said), said
    for lines, stack in zip(both.said, (frame, "in pause"), strict=True):
        assert stack in "".join(lines), "no stacks"


def test_a_process_that_is_missing_at_a_barrier_is_named(command, workdir):
    limit = "--config.train.step_limit=5"
    with Together(command, workdir, limit) as both:
        both.wait_for("runs to train")
        os.kill(both.processes[1].pid, signal.SIGSTOP)
        assert both.processes[0].wait(BOUND) == 5, both.all_said()
    assert "missing: process 1." in "".join(both.said[0])


def test_processes_that_do_not_join_are_an_error(command, workdir):
    script = f"""
import sys
from jaxsim import distributed
from jaxsim.cli import main
distributed.JOIN = 3
sys.exit(main(["train", "--config={command.config}", "--workdir={workdir}",
    "--coordinator=localhost:1", "--processes=2", "--process=1"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=command.environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 1, done.stderr
    assert "could not join the others at localhost:1 within 3 s" in done.stderr
    assert "process 1 of 2" in done.stderr
    assert "a different --process" in done.stderr
