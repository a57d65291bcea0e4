"""`jaxsim plan`: what it needs, what it prints, and its errors."""

import importlib.util
import re

import jax
import jsonschema
import pytest
from hlo import Module

from jaxsim import cli, plan, results
from jaxsim.devices import known_chip
from jaxsim.errors import UserError
from jaxsim.plan import devices_of, programs, sizes_of
from jaxsim.plan.programs import chip_of, compile_program, train_step

from . import small

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="needs libtpu, the compiler for TPUs: pip install 'jaxsim-mixtures[tpu]'",
)
CONFIG_FILE = """
from jaxsim.config import default_config, source

def get_config(arg=None):
    config = default_config()
    config.corpus.partitions = {"mine": source(reader="records", %s)}
    config.corpus.tokenizer.kind = "bytes"
    config.model.update(length=16, layers=1, dim=32, heads=2, kv_heads=2,
                        mlp_dim=32, vocab_rows=264)
    config.recipe.batch = 8
    config.validate.held_out = 2
    return config
"""


def config_file(folder, source: str) -> str:
    path = folder / "config.py"
    path.write_text(CONFIG_FILE % source)
    return f"--config={path}"


def test_attached_devices_are_planned_for(tmp_path, capsys, monkeypatch):
    """Without text, without a workdir, without a TPU."""
    dates = "by_dates=(('2000', '2001'), ('2002', '2003'))"
    documents = []
    monkeypatch.setattr(cli, "_print_json", documents.append)
    assert cli.main(["plan", config_file(tmp_path, dates), "--json", "--verbose"]) == 0
    jsonschema.validate(documents[0], results.schema("plan"))
    plan.show_plan(documents[0]["result"])
    captured = capsys.readouterr()
    out = captured.out + captured.err
    assert f"{jax.device_count()} x cpu" in out
    assert "2 members" in out
    assert re.search(r"parallel runs over .*: compiled after", out)
    assert "all training" in out
    assert "DOES NOT FIT" not in out


# The program alone needs more than the first, the process more than the second.
@pytest.mark.parametrize("memory", [0.001, 0.05])
def test_a_program_that_does_not_fit_is_no_error(tmp_path, capsys, memory):
    arguments = [config_file(tmp_path, "by_dates=()"), "--members=3"]
    arguments += [f"--config.score.memory={memory}"]
    assert cli.main(["plan", *arguments]) == 0
    out = capsys.readouterr().out
    assert "DOES NOT FIT: scoring" in out
    assert "DOES NOT FIT: train step" not in out  # it is no limit of training
    assert "score.deltas='bfloat16'" in out


def test_members_come_from_a_workdir_a_config_or_a_flag(tmp_path):
    assert sizes_of(small.CONFIG, None, None).members == 2
    assert sizes_of(small.CONFIG, tmp_path, None).members == 2
    assert sizes_of(small.CONFIG, None, 5).members == 5
    unknown = small.changed("corpus", max_units=2)
    with pytest.raises(UserError, match=r"max_units=2.*--members=N"):
        sizes_of(unknown, None, None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "by_field or by_file: .* known only.*--members=N"),
        (["--members=none"], "must be a whole number"),
        (["--members=1000000000"], "must be a whole number, 1 to 100,000"),
        (["--utilization=40"], "must be a share"),
        (
            ["--members=2", "--config.train.data_axis=7"],
            "does not divide the number of dev",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, capsys, arguments, sentence):
    line = [config_file(tmp_path, "by_field='topic'"), *arguments]
    assert cli.main(["plan", *line]) == 2
    error = capsys.readouterr().err
    assert re.search(sentence, error), error


def test_a_missing_compiler_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda name: None)
    line = [config_file(tmp_path, "by_dates=()"), "--topology=v5e:4x4"]
    assert cli.main(["plan", *line]) == 2
    assert "pip install 'jaxsim-mixtures[tpu]'" in capsys.readouterr().err


@needs_compiler
def test_a_topology_compiles_without_a_tpu():
    devices = devices_of("v5e:4x4")
    assert len(devices) == 16
    assert chip_of(devices, attached=False) == known_chip("TPU v5 lite")
    config = small.changed("recipe", batch=48)
    config = small.changed("train", config, data_axis=8, model_axis=2)
    program = train_step(config, small.MODEL, devices)
    assert program.mesh.size == 16
    assert compile_program(program).refused is None
    calls = Module(program.compile().as_text()).collectives()
    assert {call.kind for call in calls} >= {"all-reduce"}


@needs_compiler
def test_an_unknown_topology_is_named():
    with pytest.raises(UserError, match=r"v9:4x4: .*TPU v9.*as in v5e:4x4"):
        devices_of("v9:4x4")
