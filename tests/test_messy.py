"""From a new user's messy folder to a ranked answer, without a converting script."""

import messy
import pytest
from scoring import tiny

from jaxsim.corpus import open_corpus
from jaxsim.search.result import load_search

PARTITIONS = {f"{t},{a}-{b}" for t in messy.TOPICS for a, b in messy.PERIODS}


@pytest.fixture(autouse=True)
def quick_compilation(tmp_path_factory):
    with tiny.quick_compilation(tmp_path_factory.getbasetemp() / "compiled"):
        yield


def test_a_messy_folder_gives_an_answer(tmp_path, capfd):
    messy.make(tmp_path / "data")
    workdir = tmp_path / "work"
    first = messy.config(tmp_path, tmp_path / "data")
    assert tiny.run("prepare", workdir, first, "--dry-run", "--verbose") == 2
    out, error = capfd.readouterr()
    assert "files left out: hidden (2)" in out and "README.md" in out
    assert "no created|added (" in out and "body.question" in out
    assert "WARNING: 41% of the records that pass `where` are left out" in out
    assert "source 'questions'" in error and "set text_field" in error
    second = messy.config(tmp_path, tmp_path / "data", messy.MORE)
    assert tiny.run("prepare", workdir, second, "--dry-run") == 0
    assert not workdir.exists()
    assert tiny.run("run", workdir, second) == 0

    corpus = open_corpus(workdir)
    assert corpus.units.keys() == PARTITIONS | {"notes"}
    assert corpus.domains.keys() == corpus.units.keys() | {"questions"}
    summary = corpus.record.summary
    assert summary["quarantine"]["web"]["bad"] == {"not JSON": 1, "no text": 1}
    assert summary["dropped"]["web"] == {"no topic": 1}
    # Five files of 32 records.
    assert sum(summary["documents"][name]["read"] for name in PARTITIONS) == 5 * 32
    assert summary["documents"]["notes"]["read"] == 40
    # Of twelve copies, others are text for the base model or for evaluation.
    assert 1 <= sum(summary["duplicates"].values()) < 12
    # Of three documents with a question; others are evaluation text themselves.
    with_question = [
        domains["questions"]["training"]
        for domains in summary["overlap"].values()
        if "questions" in domains
    ]
    assert sum(with_question) in (1, 2, 3)
    found = load_search(workdir)
    assert found.target == {"questions": 1.0}
    assert found.best["weights"].keys() <= corpus.units.keys()
    assert (workdir / "report" / "index.html").is_file()
