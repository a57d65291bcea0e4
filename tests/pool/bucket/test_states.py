"""States of unfinished runs on their way to a bucket."""

import json
import shutil

from jaxsim.pool.bucket import Bucket
from jaxsim.pool.bucket.objects import StoreError
from jaxsim.pool.bucket.states import _Sender, drop_state, fetch_state


def _commit(folder, step, content="x"):
    path = folder / "abc" / str(step) / "state" / "d"
    path.parent.mkdir(parents=True)
    path.write_text(f"{content}{step}")


def _sent(objects):
    return json.loads(objects.read("training/a/state.json"))["step"]


def test_a_state_comes_back_and_only_the_latest_is_kept(in_memory, tmp_path):
    here = Bucket(in_memory, tmp_path / "here")
    folder = here.workdir / "training" / "a"
    sender = _Sender(here, folder, ["a"])
    for step in (2, 4):
        _commit(folder, step)
        sender.look()
    assert in_memory.list("training/a").keys() == {
        "state.json",
        "abc/4/state/d",
    }
    there = Bucket(in_memory, tmp_path / "there")
    fetched = there.workdir / "training" / "a"
    fetch_state(there, fetched, ["a"])
    assert (fetched / "abc" / "4" / "state" / "d").read_text() == "x4"
    drop_state(here, folder)
    assert in_memory.list("training") == {}


def test_a_state_that_is_replaced_while_it_is_sent_arrives(
    in_memory, tmp_path, monkeypatch
):
    """As of checkpoints that come faster than they can be sent."""
    bucket = Bucket(in_memory, tmp_path)
    folder = tmp_path / "training" / "a"
    _commit(folder, 2)
    send = in_memory.send

    def slow(path, key):
        shutil.rmtree(folder / "abc" / "2", ignore_errors=True)
        send(path, key)

    monkeypatch.setattr(in_memory, "send", slow)
    _Sender(bucket, folder, ["a"]).look()
    assert _sent(in_memory) == 2
    assert in_memory.read("training/a/abc/2/state/d") == b"x2"
    assert [p.name for p in (tmp_path / "training").iterdir()] == ["a"]


def test_a_state_that_vanishes_or_cannot_be_sent_is_sent_later(
    in_memory, tmp_path, monkeypatch, capsys
):
    bucket = Bucket(in_memory, tmp_path)
    folder = tmp_path / "training" / "a"
    sender = _Sender(bucket, folder, ["a"])
    _commit(folder, 2)
    with monkeypatch.context() as patch:
        patch.setattr(
            shutil, "copytree", lambda *a, **k: (folder / "gone").read_text()
        )
        sender.look()
    with monkeypatch.context() as patch:

        def cut(path, key):
            raise StoreError("no route to host")

        patch.setattr(in_memory, "send", cut)
        sender.look()
    assert "a: state after step 2: no route" in capsys.readouterr().out
    assert in_memory.list("training") == {}
    sender.look()
    assert _sent(in_memory) == 2
