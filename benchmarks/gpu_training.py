"""Training on one GPU: what share of a matrix product's speed it reaches.

    python benchmarks/gpu_training.py            # one H100 or H200, under ten minutes
    python benchmarks/gpu_training.py --smoke    # a tiny shape on anything

The trainer's own step of the paper's 1B shape, in bfloat16 with float32
parameters, with each kind of rematerialization. Large programs compile slowly, so the
step of 8 rows is compiled first, and what it needs says how many rows fit: memory
beyond the arguments is taken as proportional to rows. Model FLOPs (backward as two
forward passes, nothing for what is computed again) are given as a share of a product
of two 8192 x 8192 bfloat16 matrices that is measured in the same run, before and
after. Many small models at once are measured by `groups.py --precision=bfloat16
--attention=cudnn`.

Every case is saved when it is done. A smoke run shows that every line works, and saves
nothing.
"""

import dataclasses
import json
from typing import Any

import jax
import machine
from gpu_pieces import product_flops
from groups import stepper

from jaxsim.config import Config, ModelConfig
from jaxsim.devices import TooLarge, memory_of, usable_memory
from jaxsim.mesh import training_mesh
from jaxsim.model import LanguageModel, preset
from jaxsim.train import recipe_trainer

TARGET = 0.50
VOCAB = 50_280  # of the paper's tokenizer
BLOCKS, STEPS = 3, 3
FEW = 8  # rows that are compiled first


@dataclasses.dataclass(frozen=True)
class Size:
    """What is run: the real thing, or a tiny one of the same kind."""

    model: ModelConfig
    vocab: int
    product: int  # width of the reference product
    most: int  # rows, a power of two


FULL = Size(preset("paper-1b"), VOCAB, 8192, 32)
SMOKE = Size(
    dataclasses.replace(
        preset("paper-1b"),
        length=64, layers=2, dim=64, heads=4, kv_heads=4, mlp_dim=96,
        vocab_rows=0,
    ),
    300, 128, 16,
)  # fmt: skip


def program(size: Size, remat: str, rows: int) -> Any:
    """The trainer's step on one device."""
    config = Config(model=size.model)
    config = dataclasses.replace(
        config,
        recipe=dataclasses.replace(
            config.recipe, batch=rows, precision="bfloat16", tail=0.0
        ),
        train=dataclasses.replace(
            config.train,
            remat=remat,
            unroll=False,
            loss_chunk=min(512, size.model.length),
        ),
    )
    return recipe_trainer(
        LanguageModel(size.model, size.vocab),
        config,
        training_mesh(1, 1, jax.devices()[:1]),
    ).program()


def measure(size: Size, remat: str) -> dict[str, Any]:
    """Rates of as many rows as fit, from what a few need."""
    step = program(size, remat, FEW)
    try:
        memory = memory_of(step.compiled)
    # XLA gives up on a program that cannot fit, and does not say how.
    except (TooLarge, jax.errors.JaxRuntimeError) as error:
        return {"remat": remat, "rows": 0, "refused": str(error).splitlines()[0][:200]}
    limit, rows = usable_memory(step.mesh), size.most
    grows = (memory.total - memory.arguments) / FEW
    while limit and rows > FEW and memory.arguments + rows * grows > limit:
        rows //= 2
    if limit and rows == FEW and memory.total > limit:
        return {"remat": remat, "rows": 0, "refused": f"needs {memory.total} bytes"}
    if rows > FEW:
        step = program(size, remat, rows)
    tokens, run = rows * size.model.length, stepper(step)
    run(2)
    seconds = [run(STEPS) / STEPS for _ in range(BLOCKS)]
    flops = 3 * step.model.forward_flops(tokens)
    return {
        "remat": remat,
        "rows": rows,
        "parameters": step.model.parameter_count(),
        "needed": step.needed(),
        "needed_of_few": memory.total,
        "tokens_per_second": sorted(tokens / s for s in seconds),
        "flops_per_second": sorted(flops / s for s in seconds),
    }


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    box, reference = result["machine"], result["product"]
    text = (
        f"{box['device']}, jax {box['versions']['jax']}, {box['date']}. The "
        f"product of two {result['width']} x {result['width']} bfloat16 "
        f"matrices ran at {reference / 1e12:.0f} TFLOP/s. Target: {TARGET:.0%} "
        "of it.\n\n"
        "| rematerialized | rows | GB | tokens/s | TFLOP/s | of the product |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    for case in result["cases"]:
        text += f"| {case['remat']} | {case['rows'] or 'none fits'} | "
        if not case["rows"]:
            text += "| | | |\n"
            continue
        rate = case["tokens_per_second"][BLOCKS // 2]
        flops = case["flops_per_second"][BLOCKS // 2]
        text += (
            f"{case['needed'] / 1e9:.1f} | {rate:,.0f} | {flops / 1e12:.0f} | "
            f"{flops / reference:.1%} |\n"
        )
    return text


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny")
    args = parser.parse_args()
    size = SMOKE if args.smoke else FULL
    before, cases = product_flops(size.product), list[dict[str, Any]]()
    for remat in ("none", "dots", "full"):
        cases.append(measure(size, remat))
        print(json.dumps(cases[-1]), flush=True)
        after = product_flops(size.product)
        result = {
            "product": max(before, after),
            "products": [before, after],
            "width": size.product,
            "machine": machine.describe(("jax", "jaxlib", "flax", "optax"))
            | {"device": jax.devices()[0].device_kind},
            "cases": cases,
        }
        if not args.smoke:
            machine.save(args.out, "gpu_training", result, table(result))
    print(table(result), end="")


if __name__ == "__main__":
    main()
