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
    assert tiny.run("prepare", workdir, first, "--dry-run") == 2
    out, error = capfd.readouterr()
    assert "files left out: hidden (2)" in out and "README.md" in out
    assert "no created|added (" in out and "body.question" in out
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
    documents = {name: sum(n.values()) for name, n in summary["documents"].items()}
    assert documents["notes"] == 40
    # Five files of 32 records, less what is left out of training text.
    lost = sum(summary["duplicates"].values()) + sum(
        n["training"] for of in summary["overlap"].values() for n in of.values()
    )
    assert sum(documents[name] for name in PARTITIONS) == 5 * 32 - lost
    assert lost
    found = load_search(workdir)
    assert found.target == {"questions": 1.0}
    assert found.best["weights"].keys() <= corpus.units.keys()
    assert (workdir / "report" / "index.html").is_file()
