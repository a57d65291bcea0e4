"""States of unfinished runs on their way to a bucket."""

import json
import shutil

import pytest

from jaxsim.errors import DamagedError
from jaxsim.pool.bucket import Bucket
from jaxsim.pool.bucket.objects import StoreError
from jaxsim.pool.bucket.states import (
    _Sender,
    drop_state,
    fetch_begun,
    fetch_state,
)

STATES = "0123456789abcdef"


def _commit(folder, step, content="x"):
    path = folder / STATES / str(step) / "state" / "d"
    path.parent.mkdir(parents=True)
    path.write_text(f"{content}{step}")


def _sent(objects):
    return json.loads(objects.read("training/a/state.json"))["step"]


def _files(objects):
    """Names below a state's own folder."""
    keys = objects.list("training/a")
    return sorted(k.split("/", 2)[2] for k in keys if k != "state.json")


def test_a_state_comes_back_and_only_the_latest_is_kept(in_memory, tmp_path):
    here = Bucket(in_memory, tmp_path / "here")
    folder = here.workdir / "training" / "a"
    sender = _Sender(here, folder, ["a"])
    for step in (2, 4):
        _commit(folder, step)
        sender.look()
    assert _files(in_memory) == ["state/d"]
    there = Bucket(in_memory, tmp_path / "there")
    fetched = there.workdir / "training" / "a"
    fetch_state(there, fetched, ["a"])
    assert (fetched / STATES / "4" / "state" / "d").read_text() == "x4"
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
        shutil.rmtree(folder / STATES / "2", ignore_errors=True)
        send(path, key)

    monkeypatch.setattr(in_memory, "send", slow)
    _Sender(bucket, folder, ["a"]).look()
    assert _sent(in_memory) == 2
    assert _files(in_memory) == ["state/d"]
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


def test_what_a_dead_machine_sent_of_a_step_spoils_nothing(in_memory, tmp_path):
    in_memory.write(f"training/a/{STATES}/4-00000000/state/other", b"half")
    here = Bucket(in_memory, tmp_path / "here")
    folder = here.workdir / "training" / "a"
    _commit(folder, 4)
    _Sender(here, folder, ["a"]).look()
    assert _files(in_memory) == ["state/d"]
    there = Bucket(in_memory, tmp_path / "there")
    fetch_state(there, there.workdir / "training" / "a", ["a"])
    state = there.workdir / "training" / "a" / STATES / "4"
    assert [p.name for p in (state / "state").iterdir()] == ["d"]


def test_a_state_that_was_altered_is_refused(in_memory, tmp_path):
    here = Bucket(in_memory, tmp_path / "here")
    _commit(here.workdir / "training" / "a", 4)
    _Sender(here, here.workdir / "training" / "a", ["a"]).look()
    (key,) = (k for k in in_memory.list("training/a") if k.endswith("d"))
    in_memory.write(f"training/a/{key}", b"y4")
    there = Bucket(in_memory, tmp_path / "there")
    with pytest.raises(DamagedError, match="not the state that was sent"):
        fetch_state(there, there.workdir / "training" / "a", ["a"])


@pytest.mark.parametrize(
    "change",
    [
        {"states": "/tmp/elsewhere"},
        {"states": "../../elsewhere"},
        {"states": None},
        {"step": "../"},
        {"step": -1},
        {"at": "7-../../../x"},
        {"at": "8-00000000"},
        {"files": {}},
        {"files": None},
        {"files": {"../x": ["0", 1]}},
        {"files": {"/x": ["0", 1]}},
        {"files": {"x": 1}},
    ],
)
def test_a_record_that_leads_outside_is_refused(in_memory, tmp_path, change):
    record = {
        "states": STATES,
        "step": 7,
        "at": "7-00000000",
        "files": {"x": ["0", 1]},
    }
    in_memory.write(
        "training/a/state.json", json.dumps(record | change).encode()
    )
    bucket = Bucket(in_memory, tmp_path / "here")
    with pytest.raises(DamagedError, match=r"training/a/state\.json"):
        fetch_state(bucket, bucket.workdir / "training" / "a", ["a"])
    assert list(tmp_path.rglob("x")) == []


@pytest.mark.parametrize("runs", ["[]", '[{"name": "../x"}]', "{"])
def test_a_damaged_group_is_left_out(in_memory, tmp_path, runs, capsys):
    text = '{"format": 1, "slots": 2, "runs": ' + runs + "}"
    in_memory.write("training/.group-0/group.json", text.encode())
    bucket = Bucket(in_memory, tmp_path)
    fetch_begun(bucket, tmp_path / "training")
    assert list((tmp_path / "training").glob(".group*")) == []
    assert "training/.group-0/group.json" in capsys.readouterr().out
