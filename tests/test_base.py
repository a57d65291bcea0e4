"""An imported base model: out of a folder, through every command, and back."""

import re
import shutil
import signal
from pathlib import Path

import imported
import jax
import numpy as np
import pytest
import tokenizers
from scoring import tiny

from jaxsim import cli
from jaxsim.base import resolved
from jaxsim.config import load_config
from jaxsim.corpus import open_corpus
from jaxsim.model.huggingface import Checkpoint, open_checkpoint
from jaxsim.plan.cost import scoring_costs, training_costs
from jaxsim.plan.plan import sizes_of
from jaxsim.pool import open_pool, publish
from jaxsim.pool.bucket import Bucket, Objects
from jaxsim.pool.manifest import read_manifest
from jaxsim.records import PARTS


@pytest.fixture(scope="module", autouse=True)
def quick_compilation(tmp_path_factory):
    with tiny.quick_compilation(tmp_path_factory.getbasetemp() / "compiled"):
        yield


@pytest.fixture(scope="module")
def project(quick_compilation, tmp_path_factory) -> Path:
    return imported.project(tmp_path_factory.getbasetemp() / "imported")


@pytest.fixture
def home(project: Path, tmp_path: Path) -> Path:
    """Copies of workdir, folder and config; the text stays where it is."""
    text = (project.parent / "imported.py").read_text()
    here = f"HERE = Path({str(project.parent)!r})"
    text = text.replace("HERE = Path(__file__).parent", here)
    folder = f'c.base.path = "{tmp_path}/llama"'
    text = re.sub(r"c\.base\.path = .*", folder, text)
    (tmp_path / "imported.py").write_text(text)
    for name in ("work", "llama"):
        shutil.copytree(project.parent / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def jaxsim(home: Path, capfd, verbose):
    """Runs one command and returns its exit code and what it printed."""

    def call(command: str, *flags: str, work: str = "work") -> tuple[int, str]:
        given = [f"--workdir={home / work}", *flags]
        if command not in cli.WITHOUT_CONFIG:
            given.insert(0, f"--config={home / 'imported.py'}")
        capfd.readouterr()
        code = cli.main([command, *given])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return code, " ".join((out + err).split())

    return call


def base_of(workdir: Path):
    return open_pool(workdir).base()


def test_the_base_model_is_that_of_the_folder(project):
    manifest, params = base_of(project)
    folder = project.parent / "llama"
    wanted = open_checkpoint(folder, 32).load()
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
    assert (manifest.steps, manifest.tokens, manifest.mixture) == (0, 0, {})
    source = manifest.source
    assert (source.name, source.family, source.dtype) == ("llama", "llama", "F32")
    kept = project / "base" / manifest.attempt / "source"
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (kept / name).read_bytes() == (folder / name).read_bytes()
    corpus = open_corpus(project)
    assert corpus.base is None  # nothing is trained on base text
    assert corpus.tokenizer.begin_of_text_token == "<s>"
    assert (corpus.evaluation("outside", "dev").tokens_RL1[:, 0] == 256).any()
    assert set(open_pool(project).manifests("member")) == {*imported.MEMBERS}


def test_later_commands_need_no_folder(home, jaxsim):
    work = home / "work"
    assert jaxsim("prepare")[0] == 0  # writes down where the folder is
    shutil.rmtree(home / "llama")
    config = load_config(work / "config.json")
    assert config.base.path == str(home / "llama")
    assert config.model.dim == 16 and config.corpus.tokenizer.kind == "file"
    for command in ("score", "report"):
        assert cli.main([command, f"--workdir={work}"]) == 0
    text = (work / "report" / "index.html").read_text()
    assert "llama" in text and str(home) not in text
    code, said = jaxsim("train")
    assert code == 2 and f"{home}/llama: no such folder" in said


def test_an_import_is_not_repeated(home, jaxsim):
    path = home / "work" / "base" / "manifest.json"
    before = path.read_bytes()
    code, said = jaxsim("base")
    assert code == 0 and "already imported, skipping" in said
    assert path.read_bytes() == before
    code, said = jaxsim("prepare", work="other")
    assert code == 0
    code, said = jaxsim("base", work="other")
    assert code == 0
    for part in ("llama (llama), 6,576", "parameters in F32", "'<s>' (256)"):
        assert part in said
    assert {path.name for path in (home / "other").iterdir()} <= {*PARTS}
    again = read_manifest(home / "other" / "base")
    assert again.params_digest == read_manifest(home / "work" / "base").params_digest


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("model.layers=3", "config.model.layers=3: the folder config.base.path"),
        ("model.rope.base=5.0", "config.model.rope"),
        ("base.steps=7", "config.base.steps=7"),
        ("corpus.tokenizer.kind=bytes", "config.corpus.tokenizer.kind='bytes'"),
        ("corpus.tokenizer.vocab_size=500", "config.corpus.tokenizer.vocab_size=500"),
        ("base.path=nowhere", "nowhere: no such folder"),
    ],
)
def test_what_the_folder_decides_is_refused(home, jaxsim, flag, says):
    code, said = jaxsim("prepare", f"--config.{flag}")
    assert code == 2 and says in said, said


def test_a_learning_rate_has_no_default(home, jaxsim):
    path = home / "imported.py"
    path.write_text(re.sub(r" *c\.recipe\.learning_rate.*\n", "", path.read_text()))
    code, said = jaxsim("plan", "--members=2")
    assert code == 2 and "config.recipe.learning_rate: has no default" in said
    assert "the last rate of the base model's own schedule" in said
    assert "two members" in said


def test_a_plan_needs_no_workdir(home):
    config = cli.parse(["plan", f"--config={home / 'imported.py'}"]).config
    sizes = sizes_of(config, None, None)
    assert (sizes.members, sizes.vocabulary) == (2, 258)
    costs = [*training_costs(config, 2), *scoring_costs(config, 2, None)]
    assert [cost.name for cost in costs if "scoring" not in cost.name] == [
        "members", "a closed form's gradient", "a closed form's checks",
    ]  # fmt: skip


def test_the_folder_may_move_but_not_change(home, jaxsim):
    moved = home / "moved"
    (home / "llama").rename(moved)
    there = f"--config.base.path={moved}"
    for command in ("base", "train", "prepare"):
        code, said = jaxsim(command, there)
        assert code == 0, said
    other = imported.write_folder(home / "other", seed=1)
    shutil.copyfile(other / "model.safetensors", moved / "model.safetensors")
    for command in ("base", "train", "score"):
        code, said = jaxsim(command, there)
        assert code == 2 and f"{moved}/model.safetensors was altered" in said, said


def test_a_tokenizer_that_changed_after_prepare_is_refused(home, jaxsim):
    assert jaxsim("prepare", work="new")[0] == 0
    path = home / "llama" / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.add_tokens(["solo"])
    tokenizer.save(str(path))
    code, said = jaxsim("base", work="new")
    assert code == 2 and "was prepared with another tokenizer" in said
    assert not (home / "new" / "base").exists()


def test_verify_covers_the_files_of_the_folder(home, jaxsim):
    assert jaxsim("verify")[0] == 0
    (path,) = home.glob("work/base/attempt-*/source/tokenizer.json")
    path.write_text(path.read_text() + " ")
    code, said = jaxsim("verify")
    assert code == 3 and "source/tokenizer.json" in said
    code, said = jaxsim("export", "--what=solo", f"--to={home}/solo")
    assert code == 3 and "source/tokenizer.json" in said
    assert not (home / "solo").exists()


def test_an_import_that_is_stopped_leaves_nothing(home, jaxsim, monkeypatch):
    assert jaxsim("prepare", work="new")[0] == 0
    load, save = Checkpoint.load, publish.save_params

    def stopped(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return (save if len(arguments) == 2 else load)(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "load", stopped)
        assert jaxsim("base", work="new")[0] == 4
    assert not list((home / "new").glob("base/**/*"))
    # What is being saved is finished.
    monkeypatch.setattr(publish, "save_params", stopped)
    monkeypatch.setattr("jaxsim.signals.SAME_REQUEST", 0)
    code, said = jaxsim("base", work="new")
    assert code == 4 and "imported; repeat the same command" in said
    code, said = jaxsim("base", work="new")
    assert code == 0 and "already imported" in said


def test_an_export_can_be_imported_again(home, jaxsim):
    folder = home / "merge"
    assert jaxsim("export", "--what=uniform", f"--to={folder}")[0] == 0
    digest = re.search(r"\| digest \| (\w+)", (folder / "README.md").read_text())[1]
    there = f"--config.base.path={folder}"
    for command in ("prepare", "base"):
        assert jaxsim(command, there, work="next")[0] == 0
    assert read_manifest(home / "next" / "base").params_digest == digest


def test_a_snapshot_of_the_hub_is_links_and_has_a_name(home, jaxsim):
    model = home / "hub" / "models--jax--tiny-sim"
    snapshot = model / "snapshots" / "0123456789abcdef"
    shutil.copytree(home / "llama", model / "blobs")
    snapshot.mkdir(parents=True)
    for path in (model / "blobs").iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    there = f"--config.base.path={snapshot}"
    for command in ("prepare", "base", "train"):
        assert jaxsim(command, there, work="new")[0] == 0
    made = read_manifest(home / "new" / "base")
    assert made.source.name == "jax/tiny-sim 01234567"
    assert made.params_digest == read_manifest(home / "work" / "base").params_digest


def test_one_machine_imports_and_others_fetch(home, jaxsim, monkeypatch):
    """The other one has the folder, too, but does not read its weights."""
    objects = Objects(f"memory://{home.name}")
    monkeypatch.setattr(
        "jaxsim.base.open_bucket", lambda url, workdir: Bucket(objects, workdir)
    )
    assert jaxsim("prepare", work="first")[0] == 0
    assert jaxsim("base", work="first")[0] == 0
    monkeypatch.setattr(Checkpoint, "load", None)
    code, said = jaxsim("base", work="second")
    assert code == 0 and "base model: fetched from" in said
    first, second = (read_manifest(home / w / "base") for w in ("first", "second"))
    assert first == second and any("source/" in name for name in second.files)


def test_resolved_is_idempotent(project):
    config = load_config(project / "config.json")
    assert resolved(config) == config
