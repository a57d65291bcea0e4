"""Exported models in other people's tools: the same losses, the same merges?

    python benchmarks/exported.py WORKDIR... [--tokenizers FOLDER...]

Needs the extra `parity`. For each workdir of `jaxsim run` it exports the base model, a
member and the uniform merge, and compares

- the nats of every domain as `jaxsim score` has them, with transformers' on the same
  windows;
- the nats of a few documents by jaxsim, by transformers, and by lm-evaluation-harness
  with the command line that the export's README gives;
- the uniform merge with the one that mergekit makes of the exported members.

For each folder with a tokenizer.json it makes such a workdir first: the quickstart's
small test, with a random Llama for this tokenizer as the imported base model.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
sys.path.append(str(Path(__file__).parent.parent))

import jax
import lm_eval
import machine
import numpy as np
import torch
import transformers
import yaml
from lm_eval.tasks import TaskManager
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge
from safetensors.numpy import load_file

from jaxsim.config import ModelConfig
from jaxsim.corpus.rows import evaluation_rows
from jaxsim.corpus.tokenizer import Tokenizer, special_tokens
from jaxsim.export import export
from jaxsim.model import Execution, LanguageModel
from jaxsim.model.huggingface import open_checkpoint, save_checkpoint
from jaxsim.pool import open_pool
from jaxsim.scoring import Scorer
from jaxsim.scoring.evaluation import EvaluationSet
from jaxsim.scoring.scores import domain_sums

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS, PARTS = 6, 5  # texts to compare, and windows that make one
LOGITS = 2**24  # at once, in float64
CONFIG = """
import runpy

from jaxsim.config import default_config


def get_config(arg=None):
    c = runpy.run_path({quickstart!r})["get_config"]("smoke")
    fresh = default_config()
    c.base, c.model = fresh.base, fresh.model
    c.corpus.tokenizer = fresh.corpus.tokenizer
    c.base.path = {folder!r}
    c.model.length = 64
    c.recipe.learning_rate = 1e-3
    c.score.mixtures = ""
    return c
"""


def workdir_of(tokenizer: Path, place: Path) -> Path:
    """A scored pool whose base model is a random Llama with this tokenizer."""
    folder = place / "llama"
    begin, end = special_tokens(tokenizer)
    found = Tokenizer.from_file(tokenizer / "tokenizer.json", end, begin)
    rows = -(-found.vocab_size // 64) * 64
    # Large weights: losses should depend on the tokens before.
    model = ModelConfig(
        length=256, layers=2, dim=64, heads=4, kv_heads=2, mlp_dim=176,
        vocab_rows=rows, init_std=0.1,
    )  # fmt: skip
    params = LanguageModel(model, found.vocab_size).init(jax.random.key(0))
    host = jax.tree.map(np.array, params)
    save_checkpoint(folder, host, model, found.vocab_size, None, "float32")
    shutil.copy(tokenizer / "tokenizer.json", folder)
    about = tokenizer / "tokenizer_config.json"
    names = {"bos_token": begin, "eos_token": end}
    fields = names | {"tokenizer_class": "PreTrainedTokenizerFast"}
    text = about.read_text() if about.is_file() else json.dumps(fields)
    (folder / about.name).write_text(text)
    config = place / "config.py"
    quickstart = str(ROOT / "configs" / "quickstart.py")
    config.write_text(CONFIG.format(quickstart=quickstart, folder=str(folder)))
    for command in ("prepare", "base", "train", "score"):
        subprocess.run(
            [sys.executable, "-m", "jaxsim", command, f"--config={config}",
             f"--workdir={place / 'work'}"],
            check=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return place / "work"


class Other:
    """An exported folder in transformers."""

    def __init__(self, folder: Path) -> None:
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32
        ).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def nll(self, tokens_RL1: np.ndarray) -> np.ndarray:
        """Nats of the tokens 1 to L, float64 [R, L]."""
        parts = []
        batch = max(1, LOGITS // (tokens_RL1.shape[1] * self.model.config.vocab_size))
        for start in range(0, len(tokens_RL1), batch):
            part = torch.tensor(tokens_RL1[start : start + batch], dtype=torch.long)
            with torch.no_grad():
                logits = self.model(part[:, :-1]).logits.double()
            taken = logits.log_softmax(-1).gather(2, part[:, 1:, None])[..., 0]
            parts.append(-taken.numpy())
        return np.concatenate(parts)

    def document(self, text: str, length: int) -> float:
        """Nats of a text: each token once, with as much context as there is."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        t = self.tokenizer
        first = t.eos_token_id if t.bos_token_id is None else t.bos_token_id
        ids, total = [first, *ids], 0.0
        for done in range(0, len(ids) - 1, length):
            stop = min(done + length, len(ids) - 1)
            start = max(0, stop - length)
            nll_L = self.nll(np.array([ids[start : stop + 1]]))[0]
            total += nll_L[done - start :].sum()
        return float(total)


def by_domain(e: EvaluationSet, nll_RL: np.ndarray) -> dict[tuple[str, str], float]:
    """Nats of every domain and split."""
    position_L = np.arange(nll_RL.shape[1])
    first_R1, count_R1 = e.first_R[:, None], e.count_R[:, None]
    scored = (position_L >= first_R1) & (position_L < first_R1 + count_R1)
    nll_R = (nll_RL * scored).sum(1)
    return {
        (name, split): float(nll_R[(e.domain_R == d) & (e.split_R == h)].sum())
        for d, name in enumerate(e.domains)
        for h, split in enumerate(("dev", "test"))
    }


def texts_of(scorer: Scorer) -> list[str]:
    """Texts of a few windows each, from all over the evaluation set."""
    e, tokenizer = scorer.evaluation, scorer.corpus.tokenizer
    starts = np.linspace(0, len(e) - PARTS, DOCUMENTS).astype(int)
    rows = [e.tokens_RL1[s : s + PARTS, 1:].ravel() for s in starts]
    return [tokenizer.decode(row).replace("\ufffd", "") for row in rows]


def ours(folder: Path, scorer: Scorer, texts: list[str]) -> np.ndarray:
    """Nats of each text by jaxsim, with the parameters in a folder."""
    tokenizer, length = scorer.corpus.tokenizer, scorer.corpus.length
    ids = tokenizer.encode_batch(texts)
    sizes = [tokenizer.token_bytes(t, i) for t, i in zip(texts, ids, strict=True)]
    ends = tokenizer.begin_of_text, tokenizer.end_of_text
    e = evaluation_rows(ids, sizes, *ends, length)
    params = open_checkpoint(folder, length).load()
    model = scorer.pool.model
    nll_RL = np.asarray(model.token_nll(params, e.tokens_RL1, Execution()), np.float64)
    position_L = np.arange(nll_RL.shape[1])
    first_R1, count_R1 = e.first_R[:, None], e.count_R[:, None]
    scored = (position_L >= first_R1) & (position_L < first_R1 + count_R1)
    return np.bincount(e.document_R, (nll_RL * scored).sum(1))


def by_lm_eval(folder: Path, texts: list[str], place: Path) -> np.ndarray:
    """Nats of each text by lm-evaluation-harness, as the export's README says."""
    (line,) = (
        text for text in (folder / "README.md").read_text().splitlines()
        if "lm_eval --model" in text
    )  # fmt: skip
    arguments = line.split("--model_args ")[1].split(" ")[0]
    place.mkdir(exist_ok=True)
    data = place / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    task = {
        "task": "texts",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    (place / "texts.yaml").write_text(yaml.safe_dump(task))
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args=arguments,
        tasks=["texts"],
        task_manager=TaskManager(include_path=str(place), include_defaults=False),
        device="cpu",
        batch_size=1,
        bootstrap_iters=0,
    )
    samples = sorted(found["samples"]["texts"], key=lambda sample: sample["doc_id"])
    return -np.array([np.ravel(sample["resps"])[0] for sample in samples], np.float64)


def merged(workdir: Path, scorer: Scorer, uniform: Path, place: Path) -> dict[str, Any]:
    """How far the uniform merge is from mergekit's, of the exported members."""
    folder, made = place / "members", place / "mergekit"
    for name in scorer.members:
        export(workdir, name, folder / name)
    export(workdir, "uniform", folder, recipe="mergekit")
    config = yaml.safe_load((folder / "mergekit.yaml").read_text())
    run_merge(
        MergeConfiguration.model_validate(config),
        str(made),
        MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False),
    )
    mine, others = load_file(uniform / "model.safetensors"), {}
    for file in made.glob("*.safetensors"):
        others |= load_file(file)
    assert mine.keys() == others.keys()
    off = max(float(np.abs(mine[k] - others[k]).max()) for k in mine)
    pool = open_pool(workdir)
    base, member = pool.base()[1], pool.load(pool.manifest(scorer.members[0]))
    drift = jax.tree.map(lambda m, b: float(np.abs(m - b).max()), member, base)
    return {"members": len(scorer.members), "largest difference": off,
            "largest change of a member": max(jax.tree.leaves(drift))}  # fmt: skip


def compare(workdir: Path, place: Path) -> dict[str, Any]:
    """All comparisons for one workdir."""
    scorer = Scorer(workdir)
    standard, e = scorer.load("standard"), scorer.evaluation
    sums = {
        split: domain_sums(e, standard.predictors["merge"], split)
        for split in ("dev", "test")
    }
    texts = texts_of(scorer)
    rows = []
    for what in ("base", scorer.members[0], "uniform"):
        folder = place / what
        export(workdir, what, folder)
        other = Other(folder)
        row = standard.table.names.index(what)
        theirs = by_domain(e, other.nll(e.tokens_RL1))
        domains = max(
            abs(nats / sums[split][e.domains.index(name)].nll_M[row] - 1)
            for (name, split), nats in theirs.items()
        )
        nats = {
            "jaxsim": ours(folder, scorer, texts),
            "transformers": np.array(
                [other.document(t, scorer.corpus.length) for t in texts]
            ),
            "lm_eval": by_lm_eval(folder, texts, place / "task"),
        }
        off = {
            name: float(np.abs(found / nats["jaxsim"] - 1).max())
            for name, found in nats.items()
        }
        size = sum(len(text.encode()) for text in texts)
        tokens = sum(map(len, scorer.corpus.tokenizer.encode_batch(texts)))
        rows.append(
            {
                "model": what,
                "domains": len(theirs),
                "scored tokens": int(e.count_R.sum()),
                "worst domain": domains,
                "documents": len(texts),
                "bytes": size,
                "perplexity": {
                    name: float(np.exp(found.sum() / tokens))
                    for name, found in nats.items()
                },
                "worst document": off,
            }
        )
    return {
        "kind": scorer.corpus.tokenizer.kind,
        "entries": scorer.corpus.tokenizer.vocab_size,
        "begin_of_text": scorer.corpus.tokenizer.begin_of_text_token,
        "end_of_text": scorer.corpus.tokenizer.end_of_text_token,
        "models": rows,
        "mergekit": merged(workdir, scorer, place / "uniform", place),
    }


def markdown(results: dict[str, Any]) -> str:
    lines = [
        "# Exported models in other tools",
        "",
        "Relative differences of nats from jaxsim's: the worst domain and split by",
        "transformers, on the windows of `jaxsim score`; the worst of a few documents",
        "by transformers and by lm-evaluation-harness.",
        "",
        "| tokenizer | model | tokens of domains | transformers, domains | perplexity "
        "of documents | transformers | lm_eval |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in results["workdirs"].items():
        for row in found["models"]:
            off = row["worst document"]
            lines.append(
                f"| {name} ({found['entries']:,}) | {row['model']} | "
                f"{row['scored tokens']:,} | {row['worst domain']:.1e} | "
                f"{row['perplexity']['jaxsim']:.4f} | {off['transformers']:.1e} | "
                f"{off['lm_eval']:.1e} |"
            )
    lines += [
        "",
        "The uniform merge, against mergekit's linear merge of the exported members:",
        "",
        "| tokenizer | members | largest difference | largest change of a member |",
        "| --- | --- | --- | --- |",
    ]
    for name, found in results["workdirs"].items():
        values = found["mergekit"]
        lines.append(
            f"| {name} | {values['members']} | {values['largest difference']:.1e} | "
            f"{values['largest change of a member']:.1e} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("workdirs", type=Path, nargs="*", help="of `jaxsim run`")
    parser.add_argument(
        "--tokenizers", type=Path, nargs="*", default=[], metavar="NAME",
        help="folders, named after their tokenizers, with a tokenizer.json",
    )  # fmt: skip
    arguments: argparse.Namespace = parser.parse_args()
    results: dict[str, Any] = {
        "machine": machine.describe(
            ("jax", "torch", "transformers", "lm_eval", "mergekit", "tokenizers")
        ),
        "workdirs": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        todo = {path.name: path for path in arguments.workdirs}
        for tokenizer in arguments.tokenizers:
            place = Path(temporary) / f"made-{tokenizer.name}"
            place.mkdir()
            todo[tokenizer.name] = workdir_of(tokenizer, place)
        for name, workdir in todo.items():
            place = Path(temporary) / name
            place.mkdir()
            results["workdirs"][name] = compare(workdir, place)
            text = markdown(results)
            machine.save(arguments.out, "exported", results, text)
    print(text)


if __name__ == "__main__":
    main()
