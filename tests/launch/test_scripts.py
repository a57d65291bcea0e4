"""What all launch scripts have in common, and the image they run in."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.launch.conftest import ARGUMENTS, Launch

SCRIPTS = (".ci/run", *(f"launch/{name}.sh" for name in (
    "docs", "kubernetes", "package", "quickstart", "slurm", "slurm_array", "test", "tpu"
)))  # fmt: skip
CLUSTER = {
    "IMAGE": "registry/jaxsim:1",
    "CLAIM": "shared",
    "NODES": "2",
    "ACCELERATOR": "gpu",
}


def test_every_script_parses(root: Path) -> None:
    paths = [*root.glob("launch/*.sh"), root / ".ci/run"]
    assert {str(path.relative_to(root)) for path in paths} > set(SCRIPTS)
    for path in paths:
        subprocess.run(["bash", "-n", str(path)], check=True)
        by_itself = str(path.relative_to(root)) in SCRIPTS
        assert os.access(path, os.X_OK) == by_itself, path


@pytest.mark.parametrize(
    ("script", "argv", "expected"),
    [
        (
            "slurm_array",
            (),
            ["srun --ntasks=1 .venv/bin/python -m jaxsim train --shard=slurm "],
        ),
        (
            "slurm",
            (),
            [
                "srun --nodes=1 --ntasks=1 --cpu-bind=none .venv/bin/python "
                "-m jaxsim prepare --con",
                "jaxsim base --distributed=auto --config=c",
                "jaxsim train --distributed=auto --config=c",
            ],
        ),
        (
            "tpu",
            ("slice", "zone", "train"),
            ["ssh slice --zone=zone --worker=all", "train --distributed=auto"],
        ),
        ("tpu", ("slice", "zone", "install"), ["git archive", " scp ", " ssh "]),
        ("kubernetes", ("train",), ["kubectl apply", '"train", "--coord']),
    ],
)
def test_dry_run_does_nothing(launch: Launch, script, argv, expected) -> None:
    done = launch(
        script, "--dry-run", *argv, *ARGUMENTS, **CLUSTER, SLURM_SUBMIT_DIR=""
    )
    assert done.returncode == 0, done.stderr
    assert "would run" in done.stdout
    for text in expected:
        assert text in done.stdout
    assert not launch.log


def test_a_dry_run_may_be_asked_for_anywhere(launch: Launch) -> None:
    """What would be run otherwise costs money."""
    done = launch("tpu", "slice", "zone", "train", *ARGUMENTS, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "would run" in done.stdout
    assert not launch.log


def test_nodes_that_are_no_number_are_refused(launch: Launch) -> None:
    done = launch("kubernetes", "train", **CLUSTER | {"NODES": "two"})
    assert done.returncode == 2
    assert "NODES=two must be a number" in done.stderr


def test_freed_memory_is_kept_wherever_it_is_launched(
    launch: Launch, root: Path
) -> None:
    command = ". launch/environment.sh; echo $malloc; env"
    words, *environment = subprocess.run(
        ["bash", "-c", command], cwd=root, capture_output=True, text=True
    ).stdout.splitlines()
    assert len(words.split()) == 3
    assert set(words.split()) <= set(environment)
    assert f"ENV {words}" in (root / "launch" / "Dockerfile").read_text()
    for name in ("quickstart", "test", "slurm_step"):
        assert (
            "\n. launch/environment.sh\n"
            in (root / "launch" / f"{name}.sh").read_text()
        )
    launch("tpu", "slice", "zone", "train")
    assert f" env {words} JAX_PLATFORMS=" in launch.log[0].replace("\\", "")


def test_the_image_holds_what_the_package_needs(root: Path) -> None:
    """What is copied is there, and is let through to the builder."""
    folder = root / "launch"
    lines = (folder / "Dockerfile").read_text().splitlines()
    copied = [
        source
        for line in lines
        if line.startswith("COPY ")
        for source in line.split()[1:-1]
    ]
    allowed = (folder / "Dockerfile.dockerignore").read_text().splitlines()
    assert {"pyproject.toml", "jaxsim", "configs"} <= set(copied)
    for source in copied:
        assert (root / source).exists() and f"!{source}" in allowed
    assert 'ENTRYPOINT ["python", "-m", "jaxsim"]' in lines
