"""The report of a workdir: what it says, and what it must never do."""

import base64
import csv
import dataclasses
import hashlib
import html.parser
import json
import re
import shutil

import pytest
import sealing

from jaxsim.config import Config
from jaxsim.corpus import open_corpus
from jaxsim.errors import DamagedError, command_line
from jaxsim.log import MetricsWriter
from jaxsim.pool import Pool
from jaxsim.report import write
from jaxsim.report.data import ReportData
from jaxsim.report.table import csv_text
from jaxsim.report.tables import build, mixtures
from jaxsim.report.write import _proposed, write_report
from jaxsim.scoring.evaluation import gather, text_digest
from jaxsim.scoring.store import ScoreStore
from jaxsim.scoring.table import read_csv
from jaxsim.search.result import load_search, save_search
from jaxsim.validation.diagnostics import Diagnostics

from .workdirs import (
    DRIFT,
    HOSTILE,
    MEMBERS,
    OUTSIDE,
    add_chosen,
    add_diagnostics,
    add_reference,
    add_search,
    add_validation,
    chosen_of,
    config_of,
    found_of,
    reference_scores,
)

COMMANDS = ("prepare", "base", "train", "score", "validate", "search")
ELEMENTS = """
    html head meta title link style body header h1 p ul li nav a section h2 span
    figure div figcaption table thead tr th tbody td caption dl dt dd code
    h3 details summary strong button blockquote footer script
    svg g path defs use text tspan clippath rect
    data input label ol output pre i b small
    """


class Page(html.parser.HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self._open = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"{tag} closes another element"

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    @property
    def text(self):
        shown = (t for tag, t in self.texts if tag not in ("style", "script"))
        return " ".join(" ".join(shown).split())

    def headings(self):
        return [t for tag, t in self.texts if tag == "h2"]


def report_of(workdir, drawn=False):
    """Page and summary; figures take seconds, and few tests are about them."""
    with pytest.MonkeyPatch.context() as patch:
        if not drawn:
            patch.setattr(write, "_draw", lambda *_: {})
        path = write_report(config_of(workdir), workdir)
    page = Page(path.read_text())
    summary = json.loads(
        (workdir / "report" / "summary.json").read_text(),
        parse_constant=lambda name: pytest.fail(f"{name} is not JSON"),
    )
    return page, summary


def table_of(workdir, name):
    """A CSV of the report: cells of text by column."""
    path = workdir / "report" / "tables" / f"{name}.csv"
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def complete(workdir):
    add_diagnostics(workdir)
    add_validation(workdir, reference_runs=12, replicates=12, calibration_runs=6)
    add_chosen(workdir, add_search(workdir, trained=True))
    return workdir


def test_names_are_escaped_everywhere(complete):
    page, _ = report_of(complete, drawn=True)
    assert {tag for tag, _ in page.elements} <= set(ELEMENTS.split())
    for name in (*HOSTILE, OUTSIDE, "a <b>test</b>"):
        assert name in page.text
    assert "14 &" not in page.text  # no name is a template
    for _, attributes in page.elements:
        assert not any(key.startswith("on") for key in attributes)


def test_the_page_loads_nothing(complete):
    page, _ = report_of(complete, drawn=True)
    for tag, attributes in page.elements:
        for key in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(key, "#")
            assert value.startswith(("data:", "#")), (tag, key, value)
        assert not re.search(r"url\((?!#)", " ".join(map(str, attributes.values())))
    styles = "".join(t for tag, t in page.texts if tag == "style")
    assert "@media print" in styles
    assert not re.search(r"url\(|@import|https?:", styles)
    policies = [a["content"] for tag, a in page.elements if "http-equiv" in a]
    assert policies and policies[0].startswith("default-src 'none'")
    # Only a script of this hash runs, and there is no other one.
    scripts = [t for tag, t in page.texts if tag == "script" and not t.startswith("{")]
    digest = base64.b64encode(hashlib.sha256("".join(scripts).encode()).digest())
    assert f"script-src 'sha256-{digest.decode()}'" in policies[0]
    charts = [a for _, a in page.elements if a.get("role") == "img"]
    assert len(charts) == 7
    assert all(a["aria-label"] for a in charts)
    names = [a["id"] for _, a in page.elements if "id" in a]
    assert len(names) == len(set(names))


def test_an_empty_workdir_names_every_command(tmp_path):
    path = write_report(Config(name="nothing"), tmp_path)
    text = Page(path.read_text()).text
    for command in COMMANDS:
        assert f"not done: run jaxsim {command}" in text
    assert "None yet: nothing was searched." in text
    assert not (tmp_path / "report" / "figures").exists()


@pytest.mark.parametrize(
    ("part", "command"),
    [
        ("corpus", "prepare"),
        ("base", "base"),
        ("pool", "train"),
        ("scores", "score"),
        ("validation", "validate"),
        ("search", "search"),
    ],
)
def test_one_missing_part_is_named_and_only_that(complete, part, command):
    shutil.rmtree(complete / part)
    page, summary = report_of(complete)
    assert len(summary["not_done"]) == 1
    assert f"run `{command_line(command, 'DIR')}`" in summary["not_done"][0]
    assert f"not done: run jaxsim {command}" in page.text


def test_a_missing_member_is_counted(complete):
    shutil.rmtree(complete / "pool" / "members" / "alpha")
    _, summary = report_of(complete)
    score = command_line("score", "DIR")
    assert any("1 of 3 units have no member" in x for x in summary["not_done"])
    assert any(f"run `{score}`" in line for line in summary["out_of_date"])


def test_json_and_tables_agree_with_the_scores(complete):
    _, summary = report_of(complete)
    evaluation = gather(open_corpus(complete))
    scores = ScoreStore(complete).load("standard", evaluation)
    gains = {row["member"]: row for row in table_of(complete, "gains")}
    for split in ("dev", "test"):
        bits_MD = scores.bits_per_byte("merge", split)
        for m, name in enumerate(scores.table.names):
            for d, domain in enumerate(scores.evaluation.domains):
                found = summary["bits_per_byte"][split][name][domain]
                assert found == pytest.approx(bits_MD[m, d], abs=1e-12)
                if name in MEMBERS and split == "test":
                    gain = float(gains[name][f"gain on {domain}"])
                    expected = 1 - bits_MD[m, d] / bits_MD[0, d]
                    assert gain == pytest.approx(expected, abs=1e-9)
    assert summary["search"]["rows"][0]["name"] == found_of().best["name"]
    assert summary["digests"]["evaluation"] == scores.evaluation.digest
    assert set(summary["digests"]["entries"]) == set(MEMBERS)


@pytest.mark.parametrize("trained", [False, True])
def test_the_heading_is_that_of_the_search(workdir, trained):
    found = add_search(workdir, trained)
    page, _ = report_of(workdir)
    heading = found.ties["heading"]
    assert f"{heading[0].upper()}{heading[1:]} (2 of 40 mixtures, for" in page.text


@pytest.mark.parametrize(("reference_runs", "shown"), [(11, False), (12, True)])
def test_no_interval_below_twelve_reference_runs(workdir, reference_runs, shown):
    add_validation(workdir, reference_runs)
    page, _ = report_of(workdir)
    intervals = re.findall(r"\[-?[01]\.\d\d, -?[01]\.\d\d\]", page.text)
    assert bool(intervals) == shown
    assert ("reference-10" in page.text) != shown
    assert "Not measured (no replicates)" in page.text


def test_overrides_mark_page_and_json(complete):
    note = "member <i>x</i> does not belong to this pool"
    evaluation = gather(open_corpus(complete))
    ScoreStore(complete).save(reference_scores(evaluation, (note,)))
    page, summary = report_of(complete)
    assert summary["overrides"] == [note]
    assert "Checks were overridden" in page.text and note in page.text


@pytest.mark.parametrize("where", ["diagnostics", "validation", "chosen", "search"])
def test_overrides_of_other_parts_are_found(complete, where):
    assert ReportData(complete).overrides == []
    if where == "validation":
        add_validation(complete, reference_runs=12, notes=("a mark",))
    elif where == "diagnostics":
        diagnostics = Diagnostics.load(complete)
        dataclasses.replace(diagnostics, notes=["a mark"]).save(complete)
    elif where == "chosen":
        chosen = chosen_of(load_search(complete))
        dataclasses.replace(chosen, notes=["a mark"]).save(complete)
    else:
        found = add_search(complete)
        save_search(complete, dataclasses.replace(found, notes=["a mark"]))
    assert ReportData(complete).overrides == ["a mark"]


def test_again_it_writes_the_same_and_reads_no_parameters(complete, monkeypatch):
    report_of(complete, drawn=True)

    def contents():
        return {
            path: path.read_bytes()
            for path in (complete / "report").rglob("*")
            if path.is_file()
        }

    before = contents()
    assert len(before) >= 20
    monkeypatch.setattr(Pool, "load", None)
    report_of(complete, drawn=True)
    assert contents() == before


def test_every_table_carries_the_mark_of_an_override(complete):
    def tables():
        folder = complete / "report" / "tables"
        return {
            path.stem: next(csv.reader(path.open()))
            for path in folder.glob("*.csv")
            if path.stem != "proposed"  # --mixtures reads it
        }

    report_of(complete)
    # The user brought no runs, and the search has no worst case and no limit.
    made = build(ReportData(complete))
    absent = {name for name in made if name.startswith("given_")} | {"objective"}
    assert set(tables()) == made.keys() - absent
    assert not any("override" in names for names in tables().values())
    found = dataclasses.replace(load_search(complete), notes=["a", "b"])
    save_search(complete, found)
    report_of(complete)
    assert all(names[-1] == "override" for names in tables().values())
    text = (complete / "report" / "tables" / "cost.csv").read_text()
    assert all(line.endswith(",a; b") for line in text.splitlines()[1:])


def test_what_the_search_left_is_in_page_and_tables(complete):
    page, summary = report_of(complete)
    found = load_search(complete)
    shown = {row["mixture"]: row for row in table_of(complete, "mixtures")}
    for row in found.rows:
        assert f" {row['dev']:.4f} " in page.text
        gain = -row["difference"] / found.best["dev"]
        if row is not found.best:
            assert float(shown[row["name"]]["gain"]) == pytest.approx(gain)
            assert f" {100 * gain:+.1f} " in page.text
        for key in ("ensemble", "members"):
            assert float(shown[row["name"]][f"dev_{key}"]) == row[key]
    for text in (
        "What the next percent buys",
        found.warnings[0],
        "the best of 5,000 ranked mixtures",
        "It differs from 20 random merges by",
    ):
        assert text in page.text
    assert summary["search"] == dataclasses.asdict(found)
    values = {row["member"]: row for row in table_of(complete, "marginal")}
    for c, member in enumerate(found.marginal["members"]):
        for d, domain in enumerate(found.marginal["domains"]):
            bits = found.marginal["bits_DC"][d][c]
            value = values[member][f"gain on {domain}"]
            assert value == ("" if bits is None else str(-bits))
            if bits is not None:
                assert f"{-1000 * bits:+z.2f}" in page.text
    searching = {line["what"]: line for line in summary["cost"]}["searching"]
    assert searching["tokens"] == found.tokens


def test_trained_mixtures_are_in_page_json_and_tables(complete):
    page, summary = report_of(complete)
    assert "These mixtures were trained because" in page.text
    assert "the best https:evil.example 2.1800 2.1000 2.1100" in page.text
    assert summary["chosen"]["labels"] == ["the best", "even"]
    assert "Trained" in dict(summary["answer"]["evidence"])
    table = table_of(complete, "chosen")
    (row,) = [r for r in table if r["mixture"] == "even" and r["target"] == OUTSIDE]
    assert float(row["reference_bits_per_byte"]) == pytest.approx(2.22)
    assert float(row["merge"]) == pytest.approx(2.14)
    # Single domains of a macro are there, and not on the page.
    assert {*MEMBERS, "macro in-pool"} < {r["target"] for r in table}
    assert f"the best {MEMBERS[1]} 2.2800" not in page.text
    (complete / "validation" / "chosen.json").unlink()
    page, summary = report_of(complete)
    assert "These mixtures were trained because" not in page.text
    assert summary["answer"]["state"] == "not trained"
    assert not (complete / "report" / "tables" / "chosen.csv").exists()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("text", "another", "the evaluation text has changed"),
        ("base", "another", "the base model has changed"),
        ("members", {MEMBERS[0]: "another"}, "member .* is new"),
        ("members", dict.fromkeys([*MEMBERS, "gone"], "x"), "member .* has changed"),
    ],
    ids=["text", "base", "changed", "gone"],
)
@pytest.mark.parametrize("part", ["search", "chosen"])
def test_answers_of_another_pool_or_text_are_out_of_date(
    complete, part, field, value, words
):
    assert ReportData(complete).stale == []
    found = load_search(complete)
    basis = dataclasses.replace(found.basis, **{field: value})
    if part == "search":
        save_search(complete, dataclasses.replace(found, basis=basis))
    else:
        dataclasses.replace(chosen_of(found), basis=basis).save(complete)
    (line,) = ReportData(complete).stale
    assert re.search(words, line)
    command = "search" if part == "search" else "validate --mixtures=FILE.csv"
    assert line.endswith(f"run `jaxsim {command}`")


def test_drift_is_that_of_the_diagnostics(complete, monkeypatch):
    monkeypatch.setattr(Pool, "load", None)  # no parameters are read
    _, summary = report_of(complete)
    drift = {m["member"]: m["drift"] for m in summary["members"]}
    assert drift == DRIFT
    (complete / "validation" / "diagnostics.json").unlink()
    page, summary = report_of(complete)
    for member in summary["members"]:
        assert member["drift"] is None and member["barrier"] is None
    assert summary["diagnostics"] is None
    assert "Cosine similarity" not in page.text
    assert not (complete / "report" / "figures" / "paths.png").exists()


def test_a_member_without_diagnostics_has_no_drift(complete):
    """A damaged one, under an override."""
    diagnostics = Diagnostics.load(complete)
    members = [n for n in diagnostics.members if n != "alpha"]
    few = {
        of: {n: value for n, value in getattr(diagnostics, of).items() if n != "alpha"}
        for of in ("drift", "lines", "line_barriers")
    }
    kept = [i for i, n in enumerate(diagnostics.members) if n != "alpha"]
    cosines = [[diagnostics.cosines[i][j] for j in kept] for i in kept]
    dataclasses.replace(diagnostics, members=members, cosines=cosines, **few).save(
        complete
    )
    _, summary = report_of(complete)
    drift = {m["member"]: m["drift"] for m in summary["members"]}
    assert drift["alpha"] is None and drift[MEMBERS[-1]] == DRIFT[MEMBERS[-1]]


def test_diagnostics_of_another_pool_are_out_of_date(complete):
    diagnostics = Diagnostics.load(complete)
    for name, what in (("alpha", "has changed"), ("gone", "is gone")):
        members = diagnostics.basis.members | {name: "another"}
        basis = dataclasses.replace(diagnostics.basis, members=members)
        dataclasses.replace(diagnostics, basis=basis).save(complete)
        (line,) = ReportData(complete).stale
        assert line == f"diagnostics: member {name!r} {what}: run `jaxsim validate`"


@pytest.mark.parametrize(
    "path",
    ["validation/diagnostics.json", "validation/validation.json",
     "validation/chosen.json", "search/result.json", "scores/standard.parquet"],
)  # fmt: skip
def test_a_damaged_result_is_an_error_that_names_it(complete, path):
    (complete / path).write_bytes(b"{")
    with pytest.raises(DamagedError, match=path):
        report_of(complete)


def test_scores_of_a_retrained_member_are_out_of_date(complete):
    store = ScoreStore(complete)
    scores = store.load("standard", gather(open_corpus(complete)))
    members = scores.basis.members | {MEMBERS[0]: "another"}
    basis = dataclasses.replace(scores.basis, members=members)
    store.save(dataclasses.replace(scores, basis=basis))
    (line,) = ReportData(complete).stale
    assert line == f"scores: member {MEMBERS[0]!r} has changed: run `jaxsim score`"


def test_a_retrained_member_marks_everything_that_rests_on_it(complete):
    """The answer, every section and every table: each of them travels alone."""
    manifest = complete / "pool" / "members" / MEMBERS[0] / "manifest.json"
    sealing.edit(manifest, lambda d: d.update(params_digest="another"))
    _, summary = report_of(complete)
    parts = (
        "scores", "reference runs and agreement", "search", "diagnostics",
        "outcome of chosen mixtures",
    )  # fmt: skip
    changed = f"member {MEMBERS[0]!r} has changed"
    for part, line in zip(parts, summary["out_of_date"], strict=True):
        assert line.startswith(f"{part}: {changed}: run `jaxsim ")
        assert line in summary["answer"]["first"]
    html = (complete / "report" / "index.html").read_text()
    for section in ("sure", "sources", "mixtures", "trust", "training"):
        start = html.index(f'<section id="{section}">')
        inside = html[start : html.index("</section>", start)]
        assert "<strong>Out of date.</strong>" in inside, section
    for table in ("gains", "mixtures", "agreement", "members", "chosen"):
        for row in table_of(complete, table):
            assert changed in row["out_of_date"], table


@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_a_flipped_bit_in_a_table_of_scores_is_noticed(complete, at):
    path = complete / "scores" / "standard.parquet"
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=r"not the file that standard\.json was"):
        ReportData(complete)


def test_scores_of_other_text_are_out_of_date(complete):
    corpus = complete / "corpus" / "corpus.json"

    def swap(record):
        for splits in record["domains"][OUTSIDE].values():
            if isinstance(splits, dict) and splits:
                splits["dev"], splits["test"] = splits["test"], splits["dev"]

    sealing.edit(corpus, swap)
    page, summary = report_of(complete)
    assert any(f"domain {OUTSIDE}" in line for line in summary["out_of_date"])
    assert "Out of date" in page.text


@pytest.mark.parametrize("gone", ["corpus/corpus.json", "pool/pool.json"])
def test_results_of_what_is_gone_are_out_of_date(complete, gone):
    (complete / gone).unlink()
    page, summary = report_of(complete)
    assert any(line.startswith("search: the corpus") for line in summary["out_of_date"])
    assert "Out of date" in page.text


def test_proposed_mixtures_can_be_scored_again(complete):
    report_of(complete)
    table = read_csv(MEMBERS, complete / "report" / "tables" / "proposed.csv")
    found = found_of()
    assert list(table.names) == [row["name"] for row in found.rows]
    assert table.parts(0) == found.best["weights"]


def test_what_is_gone_leaves_the_report_but_not_the_users_files(complete):
    report_of(complete, drawn=True)
    tables = complete / "report" / "tables"
    (tables / "mine.csv").write_text("kept")
    shutil.rmtree(complete / "validation")
    report_of(complete, drawn=True)
    assert not (tables / "agreement.csv").exists()
    assert not (complete / "report" / "figures" / "scatter.png").exists()
    assert (tables / "mine.csv").exists()
    assert (tables / "mixtures.csv").exists()


def test_the_page_shows_the_targets_text_and_what_became_of_documents(complete):
    page, _ = report_of(complete)
    corpus = open_corpus(complete)
    windows = corpus.evaluation(OUTSIDE, "dev")
    start = corpus.tokenizer.decode(windows.tokens_RL1[0])[:20]
    quoted = [t for tag, t in page.texts if tag == "p" and t.startswith(start)]
    assert quoted and all(len(text) <= 301 for text in quoted)
    documents = corpus.record.summary["documents"][MEMBERS[0]]
    assert f"{MEMBERS[0]} {documents['read']} " in page.text
    assert "held out: for the base model" in page.text


def test_learning_curves_are_those_of_the_metrics(complete):
    assert ReportData(complete).curves == []
    for name, rows in (("base", {1: 3.0, 2: 2.5}), (MEMBERS[0], {1: float("nan")}),
                       (MEMBERS[1], {1: 2.0}), ("gone", {1: 1.0})):  # fmt: skip
        with MetricsWriter(complete / "metrics" / f"{name}.jsonl", {}) as writer:
            for step, loss in rows.items():
                writer.write(step, {"loss": loss})
    assert ReportData(complete).curves == [
        ("base model", [1, 2], [3.0, 2.5]),
        ("members", [1], [2.0]),
    ]


def test_cost_adds_up(complete):
    add_reference(complete, tokens=256)
    add_reference(complete, tokens=768)
    _, summary = report_of(complete)
    cost = {line["what"]: line for line in summary["cost"]}
    assert cost["members"]["tokens"] == 3 * 256
    assert cost["all training"]["runs"] == 1 + 3 + 2
    assert cost["all training"]["flops"] == pytest.approx(6e9)
    assert cost["reference runs"]["tokens"] == 256 + 768
    assert cost["scoring"]["seconds"] is None
    windows = len(gather(open_corpus(complete)))
    assert cost["scoring"]["tokens"] == 6 * windows * 32


def test_the_token_multiplier_is_read_from_the_reference_runs(complete):
    add_reference(complete, tokens=512)
    page, _ = report_of(complete)
    assert "--config.validate.token_multiplier=2" in page.text


def test_the_headline_is_in_the_page_and_names_no_place(complete):
    corpus = complete / "corpus" / "corpus.json"
    path = str(complete / "tokenizer.json")
    sealing.edit(corpus, lambda r: r["frozen"]["tokenizer"].update(path=path))
    page, summary = report_of(complete)
    said = summary["answer"]
    texts = [said["answer"], *said["first"], *(text for _, text in said["evidence"])]
    for text in [*texts, said["trust"].partition(". ")[2], said["command"]]:
        assert text.replace("`", "") in page.text
    assert texts and said["command"]
    everything = (complete / "report" / "index.html").read_text()
    assert str(complete) not in everything + json.dumps(summary)


def test_the_evaluation_digest_needs_no_window(scored):
    corpus = open_corpus(scored)
    assert text_digest(corpus) == gather(corpus).digest


@pytest.mark.parametrize(("reference_runs", "tested"), [(11, False), (12, True)])
def test_few_reference_runs_claim_nothing_over_baselines(
    workdir, reference_runs, tested
):
    add_validation(workdir, reference_runs)
    page, _ = report_of(workdir)
    untested = "not tested (needs 12 runs)"
    assert (untested in page.text) != tested
    words = {"better", "worse", "not distinguishable"} if tested else {untested}
    assert {row["meaning"] for row in table_of(workdir, "claims")} <= words


def test_the_verdict_is_on_the_page_and_in_json(complete):
    page, summary = report_of(complete)
    assert summary["verdict"]["word"] in page.text
    assert summary["diagnostics"]["verdict"] == "trust"
    add_diagnostics(complete, "do not trust")
    page, summary = report_of(complete)
    assert summary["verdict"]["word"] == "do not trust"
    assert "do not trust Predictions are not reliable" in page.text
    assert "The reason for 'do not trust'." in page.text


def test_what_reference_runs_left_is_in_the_tables(complete):
    _, summary = report_of(complete)
    validation = summary["validation"]

    claimed = {(r["kind"], r["predictor"]): r for r in table_of(complete, "claims")}
    for claim in validation["claims"]:
        row = claimed[claim["kind"], claim["predictor"]]
        assert float(row["gain"]) == claim["gain"]
        bounds = [float(row["gain_low"]), float(row["gain_high"])]
        assert bounds == claim["gain_interval"]
    checked = {r["target"]: r for r in table_of(complete, "calibration_check")}
    for target, check in validation["check"].items():
        assert float(checked[target]["merge_error"]) == check["merge"]
        assert float(checked[target]["calibrated_error"]) == check["calibrated"]
    assert [float(r["error"]) for r in table_of(complete, "learning")] == [
        r["error"] for r in validation["learning"]
    ]
    ends = [r for r in table_of(complete, "diagnostics") if r["line"] == "uniform"]
    bits = [float(r["bits_per_byte"]) for r in ends]
    assert bits == [3, 2.88, 2.78, 2.7, 2.64, 2.6]
    agreement = table_of(complete, "agreement")
    for name in validation["targets"]:
        (replicates,) = [
            r
            for r in agreement
            if r["predictor"] == "replicate" and r["on"].endswith(name)
        ]
        assert (
            float(replicates["spearman"])
            == (validation["replicate_agreement"][name]["spearman"])
        )


def test_no_cell_of_a_csv_is_a_formula(complete):
    """Names of members and mixtures come from other people's data."""
    found = load_search(complete)
    names = ["=1+1", "+a", "-b", "@c", "'=d", "plain"]
    rows = [{**found.rows[0], "name": name, "weights": {"=m": 1.0}} for name in names]
    shown = dataclasses.replace(found, rows=rows)
    text = csv_text(mixtures(shown), {"override": "=2+2"})
    lines = list(csv.reader(text.splitlines()))
    cells = [cell for line in lines for cell in line]
    assert not any(
        cell.startswith(("=", "+", "-", "@")) and not is_number(cell) for cell in cells
    )
    column = lines[0].index("mixture")
    assert [line[column] for line in lines[1:]] == [
        "'=1+1", "'+a", "'-b", "'@c", "''=d", "plain"
    ]  # fmt: skip
    assert any(is_number(cell) for cell in lines[1])
    # What is read again is what it was.
    path = complete / "proposed.csv"
    path.write_text(_proposed(shown, ["=m", "other"]))
    assert path.read_text().splitlines()[0] == "name,'=m,other"
    table = read_csv(("=m", "other"), path)
    assert list(table.names) == names
    assert table.parts(0) == {"=m": 1.0}


def is_number(cell):
    try:
        float(cell)
    except ValueError:
        return False
    return True
