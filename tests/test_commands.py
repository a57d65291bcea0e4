"""The commands from end to end on a tiny corpus."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from unittest.mock import ANY

import jsonschema
import numpy as np
import pyarrow.parquet
import pytest
from scoring import tiny

from jaxsim import cli, commands, notebook, records, results
from jaxsim.checkpoints import save_params
from jaxsim.config import load_config
from jaxsim.errors import UserError
from jaxsim.model import Execution
from jaxsim.pool import open_pool
from jaxsim.pool.digests import file_digests, params_digest
from jaxsim.report.data import ReportData
from jaxsim.report.headline import headline
from jaxsim.scoring import Scorer, evaluator
from jaxsim.search.result import load_search
from jaxsim.search.ties import AFTER_RUNS, BEFORE_RUNS
from jaxsim.train.runs import REFERENCE_SEED
from jaxsim.validation.measured import TrainedChoice
from jaxsim.validation.validate import GIVEN, load_validation

SOLO = "pool/members/solo"
BY_TABLE = "--config.search.method=table"


@pytest.fixture(scope="module", autouse=True)
def quick_compilation(tmp_path_factory):
    with tiny.quick_compilation(tmp_path_factory.getbasetemp() / "compiled"):
        yield


@pytest.fixture(scope="module")
def project(quick_compilation, tmp_path_factory) -> Path:
    return tiny.project(tmp_path_factory.getbasetemp() / "tiny")


@pytest.fixture
def workdir(project: Path, tmp_path: Path) -> Path:
    """A corpus, a base model and four members."""
    return Path(shutil.copytree(project, tmp_path / "work"))


@pytest.fixture(scope="module")
def complete(project: Path, tmp_path_factory) -> Path:
    """A workdir after `jaxsim run`."""
    folder = tmp_path_factory.mktemp("complete")
    workdir = Path(shutil.copytree(project, folder / "work"))
    assert tiny.run("run", workdir, project.parent / "tiny.py") == 0
    return workdir


@pytest.fixture
def jaxsim(project: Path, workdir: Path, capfd):
    """Runs one command and returns its exit code and stderr."""

    def call(command: str, *rest: str, words: str = "") -> tuple[int, str]:
        config = f"{project.parent / 'tiny.py'}:{words}".rstrip(":")
        given = [f"--workdir={workdir}", *rest]
        if command not in cli.WITHOUT_CONFIG:
            given.append(f"--config={config}")
        capfd.readouterr()
        code = cli.main([command, *given])
        return code, capfd.readouterr().err

    return call


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def work(monkeypatch) -> list[str]:
    """The names of trained runs and scored mixtures."""
    done = []
    train = commands.Trainer.train
    chunks = evaluator.Evaluator.chunks

    def trained(self, runs, *args, **kwargs):
        done.extend(run.name for run in runs)
        return train(self, runs, *args, **kwargs)

    def scored(self, table, *args, **kwargs):
        done.extend(table.names)
        return chunks(self, table, *args, **kwargs)

    monkeypatch.setattr(commands.Trainer, "train", trained)
    monkeypatch.setattr(evaluator.Evaluator, "chunks", scored)
    return done


def test_run_trains_scores_searches_and_reports(complete):
    entries = open_pool(complete).manifests()
    kinds = [manifest.kind for manifest in entries.values()]
    assert sorted(kinds) == ["member"] * 4 + ["reference"] * 3 + ["replicate"]
    found, validation = load_search(complete), load_validation(complete)
    assert found.target == {"outside": 1.0}
    assert found.method == "descend" and found.looked_at == 200
    assert found.table == "subsets-1-2"
    assert found.best["tied"]
    assert validation.reference_runs == [
        n for n in validation.reference_runs if n in entries
    ]
    assert len(validation.reference_runs) == 3
    assert set(validation.ceilings) == set(validation.targets)
    assert "outside" in validation.targets
    assert (complete / "report" / "index.html").is_file()
    assert list((complete / "report").glob("**/*.png"))


def test_one_partition_works_from_prepare_to_report(project, tmp_path, capfd):
    workdir, config = tmp_path / "work", f"{project.parent / 'tiny.py'}:alone"
    bad = "--config.score.mixtures=subsets:2-3"
    assert tiny.run("prepare", workdir, config, bad) == 2
    assert "sizes must lie between 1 and the number" in capfd.readouterr().err
    assert tiny.run("run", workdir, config, BY_TABLE) == 0
    assert "there will be no reference runs" in capfd.readouterr().out
    assert load_search(workdir).best["weights"] == {"solo": 1.0}
    assert (workdir / "report" / "index.html").is_file()
    assert tiny.run("validate", workdir, config) == 2
    assert "add a partition" in capfd.readouterr().err


def test_a_second_run_does_nothing_again(complete, project, work, capfd):
    before = {
        name: snapshot(complete / name)
        for name in ("corpus", "base", "pool", "scores", "search", "validation")
    }
    assert tiny.run("run", complete, project.parent / "tiny.py") == 0
    screen = capfd.readouterr().out.splitlines()
    assert len(screen) <= 24
    assert all(len(x) <= 100 for x in screen if "jaxsim " not in x and "Repo" not in x)
    for line in headline(ReportData(complete), complete).lines():
        assert line.split()[0] in " ".join(screen)
    assert work == []
    for name, files in before.items():
        assert snapshot(complete / name) == files, name


def test_documents_fit_their_schemas(complete, project, capfd):
    answers = set()
    for command in ("prepare", "base", "train", "score", "validate", "search", "run"):
        capfd.readouterr()
        config = project.parent / "tiny.py"
        assert tiny.run(command, complete, config, "--json") == 0
        document = json.loads(capfd.readouterr().out)
        jsonschema.validate(document, results.schema(command))
        assert (document["format"], document["command"]) == (records.VERSION, command)
        answers |= {
            found["answer"]
            for found in (document.get("headline", {}), document["result"])
            if "answer" in found
        }
    assert len(answers) == 1  # wherever it is given
    assert document["result"] == records.plain(headline(ReportData(complete), complete))


def test_states_that_a_kill_left_are_deleted(workdir, jaxsim, monkeypatch, tmp_path):
    """The base model was published, and its states were not yet deleted."""
    shutil.rmtree(workdir / "base")
    states = f"--config.train.state_path={tmp_path}/states"
    with monkeypatch.context() as patch:
        patch.setattr("jaxsim.pool.build.delete_group", lambda folder: None)
        assert jaxsim("base", states, "--config.train.checkpoint_every=1")[0] == 0
    assert list(tmp_path.glob("states/*/base/*/*"))
    assert jaxsim("base", states)[0] == 0
    assert not list(tmp_path.glob("states/*/base"))


def test_the_best_mixture_is_exported_until_the_pool_changes(complete, tmp_path, capfd):
    workdir = Path(shutil.copytree(complete, tmp_path / "work"))

    def export(name: str) -> int:
        given = [f"--workdir={workdir}", "--what=best", f"--to={tmp_path / name}"]
        return cli.main(["export", *given])

    assert export("out") == 0
    weights = load_search(workdir).best["weights"]
    readme = (tmp_path / "out" / "README.md").read_text()
    for name, weight in weights.items():
        assert f"| {name} | {weight:.6g} |" in readme
    shutil.rmtree(workdir / SOLO)
    assert export("later") == 2
    assert "of another pool: member 'solo' is gone" in capfd.readouterr().err


def test_scores_of_reference_runs_come_from_their_parameters(complete):
    scorer = Scorer(complete, load_config(complete / "config.json").score)
    reference_runs = scorer.load("reference-runs")
    e, model = scorer.evaluation, scorer.pool.model
    rows = reference_runs.predictors["reference"].rows
    for m, name in enumerate(reference_runs.table.names):
        params = scorer.pool.load(scorer.pool.manifest(name))
        nll_RL = np.asarray(
            model.token_nll(params, e.tokens_RL1[rows], Execution(unroll=False))
        )
        expected = [
            nll_L[e.first_R[r] : e.first_R[r] + e.count_R[r]].sum()
            for nll_L, r in zip(nll_RL, rows, strict=True)
        ]
        np.testing.assert_allclose(
            reference_runs.predictors["reference"].nll_MR[m], expected, rtol=2e-5
        )


def test_a_new_partition_costs_one_member(complete, workdir, jaxsim, work, monkeypatch):
    """It is smaller than the others, so the common budget must not change."""
    assert load_search(complete).ties["heading"] == AFTER_RUNS
    for folder in ("pool", "scores", "validation"):
        shutil.copytree(complete / folder, workdir / folder, dirs_exist_ok=True)
    before = snapshot(workdir / "pool") | snapshot(workdir / "base")
    for command in ("prepare", "base", "train"):
        assert jaxsim(command, words="small") == (0, ANY)
    assert work == ["small"]
    after = snapshot(workdir / "pool") | snapshot(workdir / "base")
    assert {k: v for k, v in after.items() if k in before} == before
    pool = open_pool(workdir)
    assert set(pool.manifests("member")) == {*tiny.MEMBERS, "small"}
    assert not pool.problems()
    # Old scores are of another pool and other text.
    code, error = jaxsim("search", BY_TABLE, words="small")
    assert code == 2 and "run `jaxsim score --" in error
    assert jaxsim("score", words="small") == (0, ANY)
    assert jaxsim("search", BY_TABLE, words="small") == (0, ANY)
    found = load_search(workdir)
    assert found.searched == 15 + 3  # two of the standard merges are the same
    # The reference runs are compared with other merges.
    assert found.ties["heading"] == BEFORE_RUNS
    said: list[str] = []
    monkeypatch.setattr("jaxsim.commands.say", said.append)
    assert jaxsim("prepare", words="small") == (0, ANY)
    assert not said
    assert jaxsim("prepare") == (0, ANY)  # without it again
    assert "prepare: LEFT OUT: 1 of 5 members are of no unit" in said[0]
    assert "(small); restore their partitions" in said[0]


def test_a_new_domain_costs_no_training(complete, workdir, jaxsim, work):
    shutil.copytree(complete / "scores", workdir / "scores")
    before = snapshot(workdir / "pool")
    for command in ("prepare", "base", "train"):
        assert jaxsim(command, words="later") == (0, ANY)
    assert work == []
    assert snapshot(workdir / "pool") == before
    code, error = jaxsim("search", BY_TABLE, words="later")
    assert code == 2 and "other evaluation text" in error
    for command in ("score", "search"):
        assert jaxsim(command, words="later") == (0, ANY)
    lines = pyarrow.parquet.read_table(
        workdir / "scores" / "standard.parquet"
    ).to_pylist()
    scored = {line["mixture"] for line in lines if line["domain"] == "later"}
    assert {"base", "uniform", *tiny.MEMBERS} <= scored
    assert load_search(workdir).target == {"later": 1.0, "outside": 1.0}


def publish_again(workdir: Path, change, **fields) -> None:
    """Changes member solo, with a manifest that matches its files."""
    pool, entry = open_pool(workdir), workdir / SOLO
    manifest = pool.manifest("solo")
    params = change(pool.load(manifest))
    shutil.rmtree(entry / manifest.attempt)
    save_params(entry / manifest.attempt, params)
    path = entry / "manifest.json"
    found = {
        "files": file_digests(entry / manifest.attempt),
        "params_digest": params_digest(params),
    }
    manifest = dataclasses.replace(manifest, **found | fields)
    path.write_text(records.dump(manifest))


def poisoned(params):
    scale = params["final_norm"]["scale"].copy()
    scale[3] = np.nan
    return params | {"final_norm": {"scale": scale}}


DAMAGE = {
    "flipped bit": lambda w: tiny.flip(tiny.largest_file(w / SOLO)),
    "truncated file": lambda w: truncate(tiny.largest_file(w / SOLO)),
    "missing file": lambda w: tiny.largest_file(w / SOLO).unlink(),
    "NaN leaf": lambda w: publish_again(w, poisoned),
    "another base model": lambda w: publish_again(
        w, lambda params: params, base_digest="5" * 64
    ),
    "other digest": lambda w: publish_again(
        w, lambda params: params, params_digest="5" * 64
    ),
    "cut manifest": lambda w: truncate(w / SOLO / "manifest.json"),
}
SENTENCES = {
    "flipped bit": "was altered",
    "truncated file": "bytes instead of",
    "missing file": "is missing",
    "NaN leaf": "leaf final_norm/scale holds a value that is not finite",
    "another base model": "base_digest: expected",
    "other digest": "do not have the digest of its manifest",
    "cut manifest": "unreadable",
}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_member_gives_no_score(workdir, jaxsim, kind):
    DAMAGE[kind](workdir)
    entries = set(workdir.glob("pool/members/*"))
    for command in ("score", "validate", "verify"):
        code, error = jaxsim(command)
        assert code == 3
        assert "solo" in error and SENTENCES[kind] in error
        assert "Traceback" not in error
    assert not list(workdir.glob("scores/*"))
    assert (
        set(workdir.glob("pool/members/*")) == entries
    )  # no reference run was trained


def test_no_reference_run_is_trained_that_cannot_be_compared(workdir, jaxsim):
    DAMAGE["flipped bit"](workdir)
    code, error = jaxsim("validate", "--override")
    assert code == 3 and "'solo' is damaged: delete" in error
    assert not open_pool(workdir).manifests("reference")


def test_damage_after_scoring_stops_the_search(workdir, jaxsim):
    for command in ("score", "search"):
        assert jaxsim(command) == (0, ANY)
    assert load_search(workdir).ties["heading"] == BEFORE_RUNS
    before = snapshot(workdir / "scores") | snapshot(workdir / "search")
    DAMAGE["flipped bit"](workdir)
    code, error = jaxsim("search")
    assert code == 3 and "solo" in error
    assert snapshot(workdir / "scores") | snapshot(workdir / "search") == before


def test_a_workdir_has_no_part_that_is_not_searched_for_links(complete):
    assert {path.name for path in complete.iterdir()} <= {*records.PARTS}


def test_verify_lists_all_damage(workdir, jaxsim):
    assert jaxsim("verify")[0] == 0
    for name in ("solo", "beta,1900-1909"):
        tiny.flip(tiny.largest_file(workdir / "pool" / "members" / name))
    tiny.flip(tiny.largest_file(workdir / "base"))
    code, error = jaxsim("verify")
    assert code == 3
    assert "3 of the base model and 4 entries damaged" in error
    for name in ("base", "solo", "beta,1900-1909"):
        assert f"\n  {name}: " in error
    folders = ("base", "pool/members/beta,1900-1909", SOLO)
    assert f"delete {' and '.join(str(workdir / f) for f in folders)} and run" in error
    assert error.count("jaxsim run") == 1


def test_an_override_marks_every_result(workdir, jaxsim):
    DAMAGE["flipped bit"](workdir)
    for command in ("score", "search"):
        assert jaxsim(command, "--override") == (0, ANY), command
    assert jaxsim("report") == (0, ANY)
    found = load_search(workdir)
    assert "solo" in found.notes[0]
    assert not any("solo" in row["weights"] for row in found.rows)
    for table in ("standard", "subsets-1-2"):
        record = json.loads((workdir / f"scores/{table}.json").read_text())
        assert "solo" in record["notes"][0]
        schema = pyarrow.parquet.read_schema(workdir / f"scores/{table}.parquet")
        notes = json.loads(schema.metadata[b"jaxsim.notes"])
        assert notes == record["notes"]
        assert not any("solo" in name for name in record["names"])
    assert "was altered" in (workdir / "report" / "index.html").read_text()
    assert "was altered" in (workdir / "report" / "summary.json").read_text()


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("cut,0.5,0.47", "'cut': the weights sum to 0.97"),
        ("zero,0,0", "'zero': all weights are zero"),
        ("wrong,nan,1", "'wrong': the weight of 'solo' is not finite"),
        ("below,-0.5,1.5", "'below': the weight of 'solo' is negative"),
        ("uniform,1,0", "'uniform': two different ones"),
    ],
)
def test_a_bad_weight_row_gives_no_score(workdir, jaxsim, tmp_path, row, sentence):
    csv = tmp_path / "mine.csv"
    csv.write_text(f'name,solo,"beta,1900-1909"\ngood,0.5,0.5\n{row}\n')
    code, error = jaxsim("score", f"--mixtures={csv}")
    assert code == 2
    assert sentence in error and f"{csv}: " in error
    assert not list(workdir.glob("scores/*"))


def test_a_table_from_a_csv_file(workdir, jaxsim, tmp_path):
    csv = tmp_path / "mine.csv"
    csv.write_text('name,solo,"beta,1900-1909"\nhalf,0.5,0.5\n')
    assert jaxsim("score", f"--mixtures={csv}")[0] == 0
    lines = pyarrow.parquet.read_table(
        workdir / "scores" / "csv-mine.parquet"
    ).to_pylist()
    kinds = {line["mixture"]: line["kind"] for line in lines}
    assert kinds["half"] == "given" and "uniform" in kinds
    spec = f"--config.score.mixtures={csv}"
    assert jaxsim("search", spec, BY_TABLE)[0] == 0
    assert "half" in [row["name"] for row in load_search(workdir).rows]
    # After an edit its scores are of other mixtures.
    csv.write_text('name,solo,"beta,1900-1909"\nhalf,0.4,0.6\n')
    code, error = jaxsim("search", spec, BY_TABLE)
    assert code == 2 and "other mixtures" in error
    assert jaxsim("search", spec)[0] == 0  # a descent needs no table
    assert load_search(workdir).table == ""


def test_validate_trains_the_chosen_mixture(complete, workdir, jaxsim, work):
    """And the proportional one, which it is compared with; each with two data seeds."""
    for folder in ("pool", "scores", "validation", "search"):
        shutil.copytree(complete / folder, workdir / folder, dirs_exist_ok=True)
    validation = (workdir / "validation" / "validation.json").read_bytes()
    best = load_search(workdir).best
    option = f"--mixtures={workdir / 'search' / 'best.csv'}"
    seeds = "--config.validate.seeds=2"
    assert jaxsim("validate", option, seeds) == (0, ANY)
    chosen, pool = TrainedChoice.load(workdir), open_pool(workdir)
    assert chosen.labels == [best["name"]] * 2 + ["proportional"] * 2
    assert set(chosen.reference_runs) <= {n for n in work if n.startswith("reference-")}
    mine, again, other, _ = map(pool.manifest, chosen.reference_runs)
    assert mine.mixture == again.mixture == best["weights"]
    assert {mine.data_seed, again.data_seed} == {REFERENCE_SEED, REFERENCE_SEED + 1}
    assert set(other.mixture) == set(chosen.members)
    assert mine.tokens == other.tokens == pool.manifest("solo").tokens
    assert chosen.mixtures[0] == [best["weights"].get(n, 0.0) for n in chosen.members]
    # Of what its few rows realize, nearly the chosen mixture.
    predicted = chosen.points["merge"]["outside"][0]
    assert predicted == pytest.approx(best["test"], rel=1e-3)
    # A chosen mixture does not change agreement.
    assert (workdir / "validation" / "validation.json").read_bytes() == validation
    assert jaxsim("report") == (0, ANY)
    work.clear()
    assert jaxsim("validate", option, seeds) == (0, ANY)
    assert work == []
    # Another file adds to what was trained; nothing of it is forgotten.
    other = workdir / "other.csv"
    other.write_text(f"name,solo\n{best['name']},1\n")
    assert jaxsim("validate", f"--mixtures={other}") == (0, ANY)
    more = TrainedChoice.load(workdir)
    assert set(chosen.reference_runs) < set(more.reference_runs)
    labels = dict(zip(more.reference_runs, more.labels, strict=True))
    assert labels[mine.name] == f"{best['name']} (earlier)"
    assert more.labels.count("proportional") == 2


def test_mixtures_that_cannot_be_trained_are_refused(workdir, jaxsim, tmp_path):
    csv = tmp_path / "mine.csv"
    for text, sentence in (
        ("name,solo,scale\na,1,0.5\n", "row 'a' has scale 0.5"),
        ("name,solo\na,1\nb,1\n", "two rows are the same mixture"),
        ("name,elsewhere\na,1\n", "'elsewhere' is not a member"),
    ):
        csv.write_text(text)
        code, error = jaxsim("validate", f"--mixtures={csv}")
        assert code == 2 and sentence in error
    code, error = jaxsim("validate", "--mixtures=nowhere.csv")
    assert code == 2 and "nowhere.csv" in error


def test_runs_of_the_user(workdir, jaxsim, tmp_path):
    mixtures, metrics = tmp_path / "mixtures.csv", tmp_path / "metrics.csv"
    mixtures.write_text(
        'name,solo,"beta,1900-1909"\na,1,0\nb,0.75,0.25\nc,0.5,0.5\nd,0.25,0.75\n'
    )
    metrics.write_text("name,outside\na,3\nb,2\nc,2.5\nd,4\n")
    option = f"--runs={mixtures},{metrics}"
    assert jaxsim("validate", option)[0] == 0
    validation = load_validation(workdir)
    assert validation.given and validation.targets == ["outside"]
    assert validation.points["reference"]["outside"] == [3, 2, 2.5, 4]
    assert not open_pool(workdir).manifests("reference")
    metrics.write_text("name,nowhere\na,3\n")
    code, error = jaxsim("validate", option)
    assert code == 2 and "'nowhere' is not a domain" in error


def test_runs_of_the_user_beside_trained_reference_runs(
    complete, project, tmp_path, capfd
):
    workdir = Path(shutil.copytree(complete, tmp_path / "copy"))
    trained = (workdir / "validation" / "validation.json").read_bytes()
    mixtures, metrics = tmp_path / "mixtures.csv", tmp_path / "metrics.csv"
    mixtures.write_text('name,solo,"beta,1900-1909"\na,1,0\nb,0.75,0.25\nc,0.5,0.5\n')
    metrics.write_text("name,outside\na,3\nb,2\nc,2.5\n")
    config = f"--config={project.parent / 'tiny.py'}"
    options = [config, f"--workdir={workdir}"]
    reference_runs = f"--runs={mixtures},{metrics}"
    capfd.readouterr()
    assert cli.main(["validate", *options, reference_runs]) == 0
    said = " ".join(capfd.readouterr().out.split())
    assert f"Verdict: {headline(ReportData(workdir), workdir).trust} Next: " in said
    assert (workdir / "validation" / "validation.json").read_bytes() == trained
    assert not load_validation(workdir).given
    given = load_validation(workdir, files=[GIVEN])
    assert given.points["reference"]["outside"] == [3, 2, 2.5]
    assert cli.main(["report", *options]) == 0
    page = (workdir / "report" / "index.html").read_text()
    assert "Your runs" in page
    table = (workdir / "report" / "tables" / "given_points.csv").read_text()
    assert "2.5" in table


def test_a_pool_with_another_budget_than_the_corpus_is_refused(workdir, jaxsim):
    shutil.rmtree(workdir / "pool")
    code, error = jaxsim("train", "--config.recipe.steps=3")
    assert code == 2 and "3 steps of 8 rows" in error
    assert not (workdir / "pool").exists()


def test_a_changed_recipe_is_refused(workdir, jaxsim):
    code, error = jaxsim("train", "--config.recipe.learning_rate=0.02")
    assert code == 2
    assert "recipe.learning_rate: expected 0.03, found 0.02" in error
    code, error = jaxsim("run", "--config.recipe.steps=3")
    assert code == 2
    assert "recipe.steps" in error and "16" in error and "24" in error
    code, error = jaxsim("train", "--config.recipe.decay=0.5")
    assert code == 2 and "recipe.decay" in error and "0.5" in error
    code, error = jaxsim("train", "--config.model.rope.base=5000.0")
    assert code == 2
    assert "model.rope.base: expected 10000.0, found 5000.0" in error


def test_a_changed_base_model_recipe_is_refused(workdir, jaxsim):
    code, error = jaxsim("base", "--config.base.learning_rate=0.5")
    assert code == 2
    assert "base" in error and "learning_rate" in error and "0.5" in error


@pytest.mark.parametrize(
    "key",
    [
        "base.steps=9", "base.seed=3", "recipe.beta1=0.8", "recipe.clip=2.0",
        "recipe.weight_decay_all=True",
    ],
)  # fmt: skip
def test_train_refuses_another_base_model_and_names_its_key(workdir, jaxsim, key):
    code, error = jaxsim("train", f"--config.{key}")
    assert code == 2
    assert f"config.{key.partition('=')[0]}: expected" in error


def test_no_command_ignores_a_config_of_another_workdir(workdir, jaxsim):
    for command in ("base", "train", "score", "validate", "search"):
        for key in (
            "corpus.max_units=2",
            "base.steps=9",
            "recipe.learning_rate=0.02",
            "recipe.warmup=1",
            "model.rope.base=5000.0",
        ):
            code, error = jaxsim(command, f"--config.{key}")
            assert code == 2, (command, key)
            assert f"config.{key.partition('=')[0]}: expected" in error
    code, error = jaxsim("train", words="small")
    assert code == 2 and "config.corpus.partitions.small: expected nothing" in error


@pytest.mark.parametrize("command", ["report", "plan"])
def test_a_config_of_another_workdir_is_named(workdir, project, capfd, command):
    """These two need no pool of it: what they write has no other config."""
    config, other = project.parent / "tiny.py", "--config.recipe.clip=2.0"
    assert tiny.run(command, workdir, config, other) == 0
    assert "config.recipe.clip: expected 1.0, found 2.0" in capfd.readouterr().out
    assert tiny.run(command, workdir, config) == 0
    assert "expected" not in capfd.readouterr().out


def test_text_may_lie_elsewhere_on_another_machine(workdir, project, tmp_path, capfd):
    config, path = project.parent / "tiny.py", tmp_path / "solo.jsonl"
    moved = f"--config.corpus.partitions.solo.path={path}"
    assert tiny.run("train", workdir, config, moved) == 0
    assert f"{path} is not on this machine" in capfd.readouterr().out
    path.write_text("")  # now it could be other text
    assert tiny.run("train", workdir, config, moved) == 2
    assert "config.corpus.partitions.solo.path: expected" in capfd.readouterr().err


def test_prepare_killed_before_it_saved_the_config(workdir, jaxsim, monkeypatch):
    """The corpus knows what it was made from."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commands, "save_config", killed)
        assert jaxsim("prepare", words="small") == (4, ANY)
    code, error = jaxsim("train")
    assert code == 2 and "config.corpus.partitions.small: expected" in error


def test_a_pool_that_lacks_a_member(workdir, project, jaxsim, capfd):
    """Scores, answer and report name it; a search needs an override."""
    shutil.rmtree(workdir / SOLO)
    gap = "1 of 4 units have no member (solo)"
    for command in ("search", "validate"):
        code, error = jaxsim(command)
        assert code == 2 and gap in error and "--override" in error
    assert tiny.run("score", workdir, project.parent / "tiny.py") == 0
    assert gap in capfd.readouterr().out
    for table in ("standard", "subsets-1-2"):
        record = json.loads((workdir / f"scores/{table}.json").read_text())
        assert gap in record["notes"][0]
    assert jaxsim("search", "--override") == (0, ANY)
    assert gap in load_search(workdir).notes[0]
    assert jaxsim("report") == (0, ANY)
    assert gap in (workdir / "report" / "index.html").read_text()
    assert gap in (workdir / "report" / "tables" / "mixtures.csv").read_text()


@pytest.mark.parametrize("command", ["score", "search"])
def test_a_pool_without_members_is_named(workdir, jaxsim, command):
    shutil.rmtree(workdir / "pool" / "members")
    code, error = jaxsim(command)
    assert code == 2 and "the pool has no members yet" in error


def test_a_misspelled_target_is_named_before_training(workdir, jaxsim, work):
    shutil.rmtree(workdir / "pool")
    target = '--config.search.target={"outsid": 1.0}'
    code, error = jaxsim("run", target)
    assert code == 2 and "'outsid' is not a domain" in error
    assert not work


@pytest.fixture
def fresh(tmp_path: Path, project: Path, capfd):
    """Runs `prepare` in a new workdir with changed texts."""

    def call(name: str, text: str, *rest: str) -> tuple[int, str]:
        folder = tmp_path / "fresh"
        folder.mkdir()
        tiny.write_sources(folder)
        before = (folder / name).read_text() if text else ""
        (folder / name).write_text(before + text)
        capfd.readouterr()
        code = tiny.run("prepare", folder / "work", folder / "tiny.py", *rest)
        return code, capfd.readouterr().err

    return call


def test_a_hostile_partition_name_is_refused(fresh, tmp_path):
    record = {"id": "x", "text": "some", "created": "1905", "topic": "../x"}
    code, error = fresh("texts.jsonl", json.dumps(record))
    assert code == 2
    assert "../x" in error and "path separator" in error
    assert not (tmp_path / "fresh" / "work" / "corpus" / "corpus.json").exists()


def test_an_empty_partition_is_refused(fresh):
    code, error = fresh("solo.jsonl", "")
    assert code == 2
    assert "source 'solo': no documents left" in error


def test_lines_that_are_not_objects_are_quarantined(fresh, tmp_path):
    code, error = fresh("solo.jsonl", "[1, 2]\n")
    assert code == 2
    assert "source 'solo': 1 of 17 records" in error
    assert "1 not a JSON object" in error and "max_bad=0.001" in error
    shutil.rmtree(tmp_path / "fresh")
    code, error = fresh("solo.jsonl", "[1, 2]\n", "--config.corpus.max_bad=0.1")
    assert code == 0
    corpus = tmp_path / "fresh" / "work" / "corpus"
    (line,) = (corpus / "quarantine.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["source"], entry["line"]) == ("solo", 17)
    assert entry["cause"] == "not a JSON object"
    summary = json.loads((corpus / "corpus.json").read_text())["summary"]
    assert summary["quarantine"]["solo"]["bad"] == {"not a JSON object": 1}


def test_a_notebook_searches_with_other_settings_and_prints_nothing(
    complete, tmp_path, capsys
):
    work = notebook.open(shutil.copytree(complete, tmp_path / "work"))
    limited = work.search("outside", max_weight={"solo": 0.1})
    assert limited.target == {"outside": 1.0}
    assert limited.best["weights"].get("solo", 0.0) <= 0.1 + 1e-9
    assert load_search(work.path).best == limited.best
    assert not work.config.search.max_weight
    assert not capsys.readouterr().out
    with pytest.raises(UserError, match=r"config\.search\.max_wait: unknown key"):
        work.search(max_wait={})


def test_a_notebook_scores_trains_and_exports_mixtures_of_its_own(complete, tmp_path):
    pandas = pytest.importorskip("pandas")
    work = notebook.open(shutil.copytree(complete, tmp_path / "work"))
    halves = {"solo": 0.5, "beta,1900-1909": 0.5}
    scored = work.score(pandas.DataFrame([halves, {"solo": 1.0}], ["halves", "one"]))
    frame = scored.to_pandas()
    assert set(frame.mixture) >= {"halves", "one", "uniform"}
    assert list(frame.filter(like="weight:")) == [f"weight:{n}" for n in tiny.MEMBERS]
    np.testing.assert_allclose(frame.filter(like="weight:").sum(axis=1), 1)
    again = work.score(frame.groupby("mixture").first().filter(like="weight:")[:2])
    assert again.table.names[:2] == tuple(sorted(set(frame.mixture)))[:2]
    one = frame.query("predictor == 'merge' and domain == 'outside' and split == 'dev'")
    d = scored.evaluation.domains.index("outside")
    bits_M = scored.bits_per_byte("merge", "dev")[:, d]
    np.testing.assert_allclose(one.bits_per_byte, bits_M)
    assert len(repr(scored).splitlines()) <= 10
    trained = work.validate({"halves": halves}, seeds=1)
    assert "halves" in trained.labels
    assert work.trained.labels == trained.labels
    path = work.export(work.path / "out", halves, recipe="json")
    assert json.loads(path.read_text())["shares"] == halves
