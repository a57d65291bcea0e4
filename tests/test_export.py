"""Models and mixtures for other people's tools, from both kinds of base model."""

import fcntl
import json
import os
import re
import shutil
import types
from pathlib import Path

import imported
import jax
import numpy as np
import pytest
import tokenizers
import yaml
from safetensors.numpy import load_file
from scoring import tiny

from jaxsim import cli
from jaxsim.corpus import open_corpus
from jaxsim.corpus.tokenizer import Tokenizer, special_tokens
from jaxsim.export import _write_tokenizer
from jaxsim.model.huggingface import open_checkpoint
from jaxsim.pool import open_pool
from jaxsim.pool.digests import params_digest
from jaxsim.scoring import Scorer


@pytest.fixture(scope="module", autouse=True)
def quick_compilation(tmp_path_factory):
    with tiny.quick_compilation(tmp_path_factory.getbasetemp() / "compiled"):
        yield


@pytest.fixture(scope="module")
def scored(quick_compilation, tmp_path_factory) -> Path:
    """A workdir with an imported base model and members solo and texts."""
    return imported.project(tmp_path_factory.getbasetemp() / "imported")


@pytest.fixture(scope="module")
def trained(quick_compilation, tmp_path_factory) -> Path:
    """A workdir with a base model that was trained there, on bytes."""
    return tiny.project(tmp_path_factory.getbasetemp() / "tiny")


@pytest.fixture
def export(tmp_path, capfd):
    """Exports to a new folder, and returns exit code, output and that folder."""

    def call(workdir: Path, what: str, *flags: str, to: str = "out"):
        folder = tmp_path / to
        given = [f"--workdir={workdir}", f"--what={what}", f"--to={folder}", *flags]
        capfd.readouterr()
        code = cli.main(["export", *given])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, out + err, folder

    return call


def loaded(folder: Path):
    return open_checkpoint(folder, 32).load()


def trees(workdir: Path):
    """The base model, and the members by name."""
    pool = open_pool(workdir)
    members = {n: pool.load(m) for n, m in pool.manifests("member").items()}
    return pool.base()[1], members


def assert_close(found, wanted):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-7), found, wanted
    )


def test_the_base_model_leaves_as_it_came(scored, export):
    source = scored.parent / "llama"
    code, _, folder = export(scored, "base")
    assert code == 0
    for path in source.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_merge_is_what_was_scored(scored, export):
    base, members = trees(scored)
    wanted = jax.tree.map(
        lambda b, *ms: b + np.mean([m - b for m in ms], axis=0), base, *members.values()
    )
    code, _, folder = export(scored, "uniform")
    assert code == 0
    params = loaded(folder)
    assert_close(params, wanted)
    readme = (folder / "README.md").read_text()
    for line in ("| solo | 0.5 |", f"| digest | {params_digest(params)} |"):
        assert line in readme
    assert "max_length=32,add_bos_token=False" in readme
    standard = Scorer(scored).load("standard")
    row = standard.table.names.index("uniform")
    for split in ("dev", "test"):
        bits = standard.bits_per_byte("merge", split)[row]
        for domain, value in zip(standard.evaluation.domains, bits, strict=True):
            assert f"| {domain} | {split} | {value:.5f} |" in readme


def test_rows_of_a_file_and_scales(scored, export, tmp_path):
    base, members = trees(scored)
    path = tmp_path / "mine.csv"
    path.write_text("name,scale,solo,texts\nhalf,0.5,0.25,0.75\nnone,0,1,0\n")
    code, _, folder = export(scored, f"{path}:half")
    assert code == 0
    wanted = jax.tree.map(
        lambda b, s, t: b + 0.5 * (0.25 * (s - b) + 0.75 * (t - b)),
        *(base, members["solo"], members["texts"]),
    )
    assert_close(loaded(folder), wanted)
    readme = (folder / "README.md").read_text()
    assert readme.startswith("# merge mine.csv:half\n")
    assert "Not scored" in readme and "times 0.5" in readme
    assert export(scored, f"{path}:none", to="none")[0] == 0
    jax.tree.map(np.testing.assert_array_equal, loaded(tmp_path / "none"), base)
    code, said, _ = export(scored, f"{path}:quarter", to="quarter")
    assert code == 2 and "no row 'quarter'; there are half, none" in said
    code, said, _ = export(scored, f"{path}:half", "--recipe=json", to="json")
    assert code == 2 and "has scale 0.5" in said


def test_bfloat16_is_half_as_large_and_says_what_it_costs(scored, export):
    code, _, folder = export(scored, "solo", "--dtype=bfloat16")
    assert code == 0
    assert "about 3 %" in (folder / "README.md").read_text()
    found = load_file(folder / "model.safetensors").values()
    assert {str(tensor.dtype) for tensor in found} == {"bfloat16"}
    member = trees(scored)[1]["solo"]
    params = loaded(folder)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2**-8), params, member
    )
    readme = (folder / "README.md").read_text()
    assert f"| digest | {params_digest(params)} |" in readme
    assert f"| digest before rounding | {params_digest(member)} |" in readme
    assert "## Evaluation, before rounding" in readme


def test_a_base_model_trained_here_is_a_llama(trained, export):
    code, said, folder = export(trained, "solo")
    assert code == 0, said
    jax.tree.map(
        np.testing.assert_array_equal, loaded(folder), trees(trained)[1]["solo"]
    )
    assert special_tokens(folder) == ("<|endoftext|>", "<|endoftext|>")
    bpe = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "".join(map(chr, range(0x20, 0x250))) + "\n\t\0 \U0001f600"
    assert bpe.encode(text).ids == list(text.encode())
    assert bpe.decode(list(text.encode())) == text
    assert (
        bpe.token_to_id("<|endoftext|>") == open_corpus(trained).tokenizer.end_of_text
    )


def test_what_a_kill_left_goes_and_nothing_else_does(scored, export, tmp_path):
    stays = {f".out.part-{'1' * 12}", ".out.part", ".out.part-of-mine", "out.old"}
    for name in (f".out.part-{'0' * 12}", *stays):
        (tmp_path / name).mkdir()
    written = os.open(tmp_path / f".out.part-{'1' * 12}", os.O_RDONLY)
    fcntl.flock(written, fcntl.LOCK_EX)  # as another export does
    assert export(scored, "solo")[0] == 0
    os.close(written)
    assert {p.name for p in tmp_path.iterdir()} == {"out", *stays}


@pytest.mark.parametrize("about", ['{"bos_token": "<s>", "x": 1}', None])
def test_an_export_names_the_tokens_that_were_used(tmp_path, about):
    """Other tools begin documents with what tokenizer_config.json names."""
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.add_special_tokens(["<s>", "</s>"])
    bpe.save(str(tmp_path / "tokenizer.json"))
    if about:
        (tmp_path / "tokenizer_config.json").write_text(about)
    used = Tokenizer.from_file(tmp_path / "tokenizer.json", "</s>", "</s>")
    _write_tokenizer(tmp_path, types.SimpleNamespace(tokenizer=used, length=8))
    assert special_tokens(tmp_path) == ("</s>", "</s>")
    found = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert ("x" in found) == bool(about)


def test_what_cannot_be_exported(scored, export, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    for what, to, says in (
        ("solo", "full", "exists; choose a new folder"),
        ("solo", "full/notes.txt/below", "cannot be made: "),
        ("nobody", "out", "no model 'nobody'; there are base, best, uniform"),
    ):
        code, said, folder = export(scored, what, to=to)
        assert code == 2 and says in said
    assert not folder.exists() and len(list(tmp_path.iterdir())) == 1
    code, said, _ = export(scored, "solo", "--dtype=float16")
    assert code == 2 and "must be one of float32, bfloat16" in said


def test_nothing_of_a_damaged_member_is_exported(scored, export, tmp_path):
    workdir = Path(shutil.copytree(scored, tmp_path / "work"))
    tiny.flip(tiny.largest_file(workdir / "pool" / "members" / "solo"))
    for flags in ((), ("--override",)):
        for what in ("solo", "uniform"):
            code, said, folder = export(workdir, what, *flags)
            assert code == 3 and "member solo: file" in said
            assert not folder.exists()
    assert export(workdir, "texts")[0] == 0


def test_mergekit_makes_the_same_merge(scored, export, tmp_path):
    code, said, _ = export(scored, "uniform", "--recipe=mergekit", to="members")
    assert code == 2 and "run `jaxsim export --workdir" in said
    for name in imported.MEMBERS:
        assert export(scored, name, to=f"members/{name}")[0] == 0
    code, _, folder = export(scored, "uniform", "--recipe=mergekit", to="members")
    assert code == 0
    (folder / "solo").rename(tmp_path / "kept")
    assert export(scored, "uniform", to="members/solo")[0] == 0
    code, said, _ = export(scored, "uniform", "--recipe=mergekit", to="members")
    assert code == 2 and "members/solo: is not this model in float32" in said
    shutil.rmtree(folder / "solo")
    (tmp_path / "kept").rename(folder / "solo")
    recipe = yaml.safe_load((folder / "mergekit.yaml").read_text())
    assert (recipe["merge_method"], recipe["dtype"]) == ("linear", "float32")
    assert export(scored, "uniform")[0] == 0
    merged = load_file(tmp_path / "out" / "model.safetensors")
    parts = [
        (each["parameters"]["weight"], load_file(f"{each['model']}/model.safetensors"))
        for each in recipe["models"]
    ]
    for key, tensor in merged.items():
        found = sum(weight * part[key] for weight, part in parts)
        np.testing.assert_allclose(found, tensor, rtol=0, atol=2e-7)


def test_shares_of_partitions_and_their_paths(scored, export, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("name,solo,texts\nmine,0.00001,0.99999\n")
    shares = {"solo": 1e-5, "texts": 0.99999}
    paths = {n: [str(scored.parent / f"{n}.jsonl")] for n in shares}

    def read(recipe: str, file: str) -> str:
        code, said, folder = export(scored, f"{path}:mine", f"--recipe={recipe}")
        assert code == 0, said
        return (folder / file).read_text()

    plain = json.loads(read("json", "shares.json"))
    assert plain["shares"] == shares and plain["replay"] == 0
    sources = yaml.safe_load(read("olmo-core", "olmo-core.yaml"))["sources"]
    assert [
        {"source_name": n, "target_ratio": shares[n], "paths": paths[n]} for n in shares
    ] == sources
    drawn = json.loads(read("datasets", "datasets.json"))
    assert dict(zip(drawn["names"], drawn["paths"], strict=True)) == paths
    moved = Path(paths["solo"][0]).rename(tmp_path / "moved.jsonl")
    code, said, _ = export(scored, f"{path}:mine", "--recipe=datasets", to="no")
    moved.rename(paths["solo"][0])
    assert code == 2 and "partitions.solo.path=" in said and "nothing at path" in said
    # As many tokens of each as asked for: documents are drawn, and differ in length.
    corpus = open_corpus(scored)
    documents = corpus.record.summary["documents"]
    tokens = [
        p * corpus.units[n].tokens / documents[n]["train"]
        for n, p in zip(drawn["names"], drawn["probabilities"], strict=True)
    ]
    assert sum(drawn["probabilities"]) == pytest.approx(1)
    np.testing.assert_allclose(np.divide(tokens, sum(tokens)), [1e-5, 0.99999])


def test_a_partition_without_files_of_its_own(trained, export):
    code, said, _ = export(trained, "alpha,1900-1909", "--recipe=olmo-core")
    assert code == 2 and "partition 'alpha,1900-1909' has no file" in said
    code, said, folder = export(trained, "uniform", "--recipe=json")
    assert code == 0
    shares = json.loads((folder / "shares.json").read_text())["shares"]
    assert shares == dict.fromkeys(tiny.MEMBERS, 0.25)
    code, said, _ = export(trained, "base", "--recipe=json")
    assert code == 2 and re.search("is no mixture", said)
