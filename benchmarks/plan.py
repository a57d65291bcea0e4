"""Plans the paper's models for TPUs: what fits, and what it costs.

    python benchmarks/plan.py

Needs the extra `tpu` (libtpu, the compiler; no TPU). Each case is a call of
`jaxsim plan`, and compiles only the programs named. Each case is saved as soon
as it is done; --only=NAME,NAME runs some of them.
"""

import dataclasses
import json
import time
from typing import Any

import machine

UTILIZATION = 0.4
_LARGE = (
    "--config=configs/paper.py:1b",
    "--members=32",
    "--config.train.loss_chunk=512",
    "--config.score.model_axis=16",
    "--config.score.chunk=1",
    "--config.score.rows=4",
)
CASES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "1b-v5e-16-paper-batch": ((*_LARGE, "--topology=v5e:4x4"), ("train",)),
    "130m-v5e-16-group": (
        (
            "--config=configs/paper.py",
            "--members=32",
            "--config.recipe.batch=8",
            "--config.train.remat=full",
            "--topology=v5e:4x4",
        ),
        ("group",),
    ),
    "1b-v5e-256-paper-batch": ((*_LARGE, "--topology=v5e:16x16"), ("train", "score")),
    "1b-v5e-16": (
        (*_LARGE, "--config.recipe.batch=128", "--topology=v5e:4x4"),
        ("train", "score"),
    ),
}


def measure(name: str) -> dict[str, Any]:
    """Compiles the programs of a case and reports on them."""
    from jaxsim.cli import parse
    from jaxsim.model import LanguageModel
    from jaxsim.plan import devices_of, sizes_of
    from jaxsim.plan.cost import scoring_costs, training_costs
    from jaxsim.plan.plan import SCORING_SHARE
    from jaxsim.plan.programs import chip_of, compile_program, scoring, train_step

    arguments, programs = CASES[name]
    call = parse(["plan", *arguments])
    assert call.config is not None
    config = call.config
    sizes = sizes_of(config, None, call.options["members"])
    devices = devices_of(call.options["topology"])
    chip = chip_of(devices, attached=False)
    memory = SCORING_SHARE * chip.memory / 1e9
    config = dataclasses.replace(
        config, score=dataclasses.replace(config.score, memory=memory)
    )
    model = LanguageModel(config.model, sizes.vocabulary)
    made: dict[str, Any] = {}
    for which in programs:
        if which in ("train", "group"):
            parallel = which == "group"
            program = train_step(config, model, devices, parallel)
        else:
            program = scoring(config, model, sizes.members, devices)
        made[which] = dataclasses.asdict(compile_program(program))
        print(name, which, json.dumps(made[which]["memory"]), flush=True)
    return {
        "command": " ".join(["jaxsim plan", *arguments]),
        "chip": dataclasses.asdict(chip),
        "devices": len(devices),
        "parameters": model.parameter_count(),
        "vocabulary": sizes.vocabulary,
        "programs": made,
        "costs": [
            dataclasses.asdict(cost) | {"flops": cost.work * model.forward_flops(1)}
            for cost in (
                *training_costs(config, sizes.members),
                *scoring_costs(config, sizes.members, None),
            )
        ],
    }


def table(result: dict[str, Any]) -> str:
    """Formats the result in Markdown."""
    box = result["machine"]
    text = (
        f"Compiled for TPUs with libtpu {box['versions']['libtpu']} on a "
        f"machine without one ({box['cpu']}, jax {box['versions']['jax']}, "
        f"{box['date']}); nothing here was run on a TPU. Bytes are of one "
        "chip in one call. Seconds are model FLOPs at "
        f"{UTILIZATION:.0%} of the peak rate, without waiting for other "
        "chips.\n\n"
        "| case | program | arguments | temporaries | needed, of memory | "
        "TFLOP a chip | seconds |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |\n"
    )
    for name, case in result["cases"].items():
        for report in case["programs"].values():
            text += _row(name, case, report)
    for name, case in result["cases"].items():
        text += f"\n{name}: `{case['command']}`\n"
    text += "\nWhat 32 members and their reference runs cost:\n\n"
    text += "| case | what | number | tokens | chip-hours |\n"
    text += "| --- | --- | ---: | ---: | ---: |\n"
    for name, case in result["cases"].items():
        for cost in case["costs"]:
            hours = cost["flops"] / case["chip"]["rate"] / UTILIZATION / 3600
            text += (
                f"| {name} | {cost['name']} | {cost['count']:,} | "
                f"{cost['tokens']:.3g} | {hours:,.4g} |\n"
            )
    return text


def _row(name: str, case: dict[str, Any], report: dict[str, Any]) -> str:
    chip, memory = case["chip"], report["memory"]
    gib = 2**30
    if memory is None:
        needed, available = report["refused"]
        parts = f"{report['arguments'] / gib:.2f} GiB | ? | does not fit: "
        parts += f"{needed / gib:.1f} of {available / gib:.2f} GiB"
    else:
        needed = memory["arguments"] + memory["temporaries"]
        needed += memory["outputs"] - memory["donated"]
        parts = f"{memory['arguments'] / gib:.2f} GiB | "
        parts += f"{memory['temporaries'] / gib:.2f} GiB | "
        parts += f"{needed / gib:.2f} of {chip['memory'] / gib:.0f} GiB"
    seconds = report["flops"] / chip["rate"] / UTILIZATION
    return (
        f"| {name} | {report['name']} | {parts} | "
        f"{report['flops'] / 1e12:.3g} | {seconds:.3g} |\n"
    )


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--only", default="", help="NAME,NAME: " + ", ".join(CASES))
    args = parser.parse_args()
    path = args.out / "plan.json"
    result: dict[str, Any] = {"utilization": UTILIZATION, "cases": {}}
    if path.exists() and args.only:
        result = json.loads(path.read_text())
    for name in args.only.split(",") if args.only else CASES:
        begin = time.perf_counter()
        case = measure(name)
        case["seconds"] = time.perf_counter() - begin
        result["cases"][name] = case
        result["machine"] = machine.describe(("jax", "jaxlib", "libtpu"))
        machine.save(args.out, "plan", result, table(result))
    print(table(result), end="")


if __name__ == "__main__":
    main()
