"""Runs that were stopped, killed or damaged, and resumed."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from jaxsim.errors import DamagedError, Preempted
from jaxsim.pool.digests import params_digest
from jaxsim.signals import stop_requested

from . import tiny
from .tiny import stop_after


def _assert_whole(folder, result, trained):
    assert params_digest(result.params) == params_digest(trained[0].params)
    rows = tiny.rows_of_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    whole = tiny.rows_of_metrics(trained[1] / "metrics.jsonl")
    for key in ("loss", "gradient_norm"):
        assert [r[key] for r in rows] == [r[key] for r in whole]


def test_a_stopped_run_resumes_bit_for_bit(setting, trained, tmp_path):
    with pytest.raises(Preempted, match="member a: stopped after step 3,"):
        setting.train(tmp_path, stop=stop_after(3))
    rows = tiny.rows_of_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    _assert_whole(tmp_path, setting.train(tmp_path), trained)


def test_a_crash_resumes_from_the_last_checkpoint(
    setting, trained, tmp_path, monkeypatch
):
    # Saves after 3, dies after 5: the row of step 4 is cut and written again.
    execution = dataclasses.replace(setting.config.train, checkpoint_every=3)
    monkeypatch.setattr(setting.trainer, "_config", execution)
    with pytest.raises(KeyboardInterrupt):
        setting.train(tmp_path, stop=stop_after(5, KeyboardInterrupt))
    rows = tiny.rows_of_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    with pytest.raises(Preempted, match="after step 4,"):
        setting.train(tmp_path, stop=stop_after(1))  # it resumed after 3
    _assert_whole(tmp_path, setting.train(tmp_path), trained)


def test_a_crash_before_the_first_checkpoint_starts_again(setting, trained, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        setting.train(tmp_path, stop=stop_after(2, KeyboardInterrupt))
    _assert_whole(tmp_path, setting.train(tmp_path), trained)


def test_a_request_at_the_last_step_finishes_the_run(setting, trained, tmp_path):
    # No step is left to stop before.
    result = setting.train(tmp_path, stop=stop_after(6))
    _assert_whole(tmp_path, result, trained)


def test_a_damaged_state_says_what_to_delete(setting, tmp_path):
    with pytest.raises(Preempted):
        setting.train(tmp_path, stop=stop_after(2))
    files = (tmp_path / "scratch").rglob("*")
    largest = max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    with pytest.raises(DamagedError, match=r"scratch.*delete that folder"):
        setting.train(tmp_path)
    shutil.rmtree(tmp_path / "scratch")
    assert setting.train(tmp_path).final_loss > 0


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_a_flipped_bit_in_a_state_is_found(setting, tmp_path, place):
    """Orbax restores it without a word, and the run would become another member."""
    with pytest.raises(Preempted):
        setting.train(tmp_path, stop=stop_after(2))
    files = (tmp_path / "scratch").rglob("*")
    largest = max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[int(place * len(content))] ^= 1
    largest.write_bytes(content)
    with pytest.raises(DamagedError, match=r"scratch.*delete that folder"):
        setting.train(tmp_path)


def test_two_sigterms_at_once_are_one_request():
    """Slurm sends two when it preempts; the checkpoint is saved after both."""
    before = signal.getsignal(signal.SIGTERM)
    with stop_requested() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop(), "the answer is lost at the end"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_later_sigterm_ends_the_process(root):
    code = """
import os, signal
from jaxsim import signals
with signals.stop_requested() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    print(stop(), flush=True)
    signals.SAME_REQUEST = 0.0
    os.kill(os.getpid(), signal.SIGTERM)
    print("goes on", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "True\n")


def test_two_sigterms_outside_training_are_one_interrupt(root):
    code = """
import os, signal
from jaxsim import signals
signals.interrupt_on_sigterm()
try:
    os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGTERM)
    print("what is held is given back", flush=True)
signals.SAME_REQUEST = 0.0
try:
    os.kill(os.getpid(), signal.SIGTERM)
except KeyboardInterrupt:
    print("again", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
    )
    said = "what is held is given back\nagain\n"
    assert (done.returncode, done.stdout) == (0, said), done.stderr


def test_sigterm_is_not_handled_outside_the_main_thread():
    answers = []

    def work():
        with stop_requested() as stop:
            answers.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]
