"""Scripts and manifests for clusters: what they would do, and in which form.

Slurm, gcloud and kubectl are stand-ins that write down how they were called.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ARGUMENTS = ("--config=configs/a.py", "--workdir=/data/a b")
CLUSTER = {"IMAGE": "registry/jaxsim:1", "CLAIM": "shared", "NODES": "2"}
SCRIPTS = ("slurm", "slurm_array", "tpu", "kubernetes")

STAND_IN = """\
#!/usr/bin/env bash
printf '%s' "$(basename "$0")" >>"$LOG"
printf ' [%s]' "$@" >>"$LOG"
echo >>"$LOG"
case "$*" in
    "apply -f -") cat >"$LOG.yaml" ;;
    *" jaxsim $FAIL"*) exit "$CODE" ;;
esac
"""


@pytest.fixture
def launch(root: Path, tmp_path: Path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("srun", "scontrol", "gcloud", "kubectl"):
        (tools / name).write_text(STAND_IN)
        (tools / name).chmod(0o755)

    def run(script: str, *argv: str, **variables: str):
        environment = {
            **os.environ,
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "LOG": str(tmp_path / "log"),
            "FAIL": "nothing",
            "SLURM_SUBMIT_DIR": str(root),
            "SLURM_JOB_ID": "17",
            **variables,
        }
        return subprocess.run(
            [str(root / "launch" / f"{script}.sh"), *argv],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
        )

    return run


def _log(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS)
def test_syntax(root: Path, script: str) -> None:
    path = root / "launch" / f"{script}.sh"
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize(
    ("script", "argv", "expected"),
    [
        ("slurm_array", (), ["srun", "jaxsim train --shard=slurm --config=c"]),
        (
            "slurm",
            (),
            [
                "--nodes=1 --ntasks=1 .venv/bin/python -m jaxsim prepare --con",
                "jaxsim seed --distributed=auto --config=c",
                "jaxsim train --distributed=auto --config=c",
            ],
        ),
        (
            "tpu",
            ("slice", "zone", "train"),
            ["ssh slice --zone=zone --worker=all", "train --distributed=auto"],
        ),
        ("kubernetes", ("train",), ["kubectl apply", '"train", "--coord']),
    ],
)
def test_dry_run_does_nothing(launch, tmp_path, script, argv, expected) -> None:
    done = launch(
        script, "--dry-run", *argv, *ARGUMENTS, **CLUSTER, ACCELERATOR="gpu"
    )
    assert done.returncode == 0, done.stderr
    assert "would run" in done.stdout
    for text in expected:
        assert text in done.stdout
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("script", ["slurm", "slurm_array"])
@pytest.mark.parametrize("code", [0, 1, 4])
def test_what_is_resumable_is_requeued(launch, tmp_path, script, code) -> None:
    done = launch(script, *ARGUMENTS, FAIL="train", CODE=str(code))
    assert done.returncode == code, done.stderr
    *_, train = [line for line in _log(tmp_path) if "[train]" in line]
    assert train.endswith(" [--workdir=/data/a b]")
    requeued = "scontrol [requeue] [17]" in _log(tmp_path)
    assert requeued == (code == 4)


def test_steps_after_a_failed_one_are_not_begun(launch, tmp_path) -> None:
    assert launch("slurm", FAIL="seed", CODE="2").returncode == 2
    assert "[prepare]" in _log(tmp_path)[0]
    assert len(_log(tmp_path)) == 2


@pytest.mark.parametrize("script", ["slurm", "slurm_array"])
def test_slurm_signals_early_and_requeues(root: Path, script: str) -> None:
    text = (root / "launch" / f"{script}.sh").read_text()
    options = [
        line.removeprefix("#SBATCH ")
        for line in text.splitlines()
        if line.startswith("#SBATCH ")
    ]
    assert {"--requeue", "--signal=TERM@120"} <= set(options)
    # Slurm stops reading options at the first command.
    assert text.index("set -euo") > text.rindex("#SBATCH")


def test_tpu_workers_get_quoted_arguments(launch, tmp_path) -> None:
    assert launch("tpu", "s", "z", "seed", *ARGUMENTS).returncode == 0
    (line,) = _log(tmp_path)
    assert "[--worker=all]" in line and "'--workdir=/data/a b']" in line
    assert launch("tpu", "s", "z", "prepare", *ARGUMENTS).returncode == 0
    assert "[--worker=0]" in _log(tmp_path)[1]
    assert launch("tpu", "s").returncode == 2


def _keys(node, *required: str, optional: tuple[str, ...] = ()) -> None:
    """The keys that the API has there, as far as they are used here."""
    assert set(required) <= node.keys() <= {*required, *optional}


def _check_jobset(manifest: dict) -> dict:
    """Fields of jobset.x-k8s.io/v1alpha2; returns the only container."""
    _keys(manifest, "apiVersion", "kind", "metadata", "spec")
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert manifest["kind"] == "JobSet"
    spec = manifest["spec"]
    _keys(spec, "replicatedJobs", optional=("failurePolicy", "network"))
    assert isinstance(spec["failurePolicy"]["maxRestarts"], int)
    assert spec["network"] == {"enableDNSHostnames": True}
    (replicated,) = spec["replicatedJobs"]
    _keys(replicated, "name", "template", optional=("replicas",))
    job = replicated["template"]["spec"]  # a JobTemplateSpec of batch/v1
    _keys(job, "completionMode", "parallelism", "completions", "backoffLimit",
          "template")  # fmt: skip
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    assert isinstance(job["completions"], int)
    pod = job["template"]["spec"]
    _keys(pod, "restartPolicy", "terminationGracePeriodSeconds", "containers",
          "volumes", "nodeSelector")  # fmt: skip
    assert pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    _keys(container, "name", "image", "args", "env", "resources",
          "volumeMounts")  # fmt: skip
    assert all(isinstance(a, str) for a in container["args"])
    assert {v["name"] for v in pod["volumes"]} == {
        mount["name"] for mount in container["volumeMounts"]
    }
    return container


def _apply(launch, tmp_path, *argv: str, **variables: str) -> dict:
    done = launch("kubernetes", *argv, **CLUSTER | variables)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load((tmp_path / "log.yaml").read_text())


def test_a_jobset_of_gpus(launch, tmp_path) -> None:
    hostile = '--config.name=a"b: $HOME\\'
    manifest = _apply(
        launch, tmp_path, "train", *ARGUMENTS, hostile, ACCELERATOR="gpu"
    )
    container = _check_jobset(manifest)
    assert container["args"] == [
        "train",
        "--coordinator=jaxsim-train-workers-0-0.jaxsim-train:12345",
        "--processes=2",
        "--process=$(PROCESS)",
        *ARGUMENTS,
        hostile,
    ]
    assert container["env"][0]["name"] == "PROCESS"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert container["image"] == "registry/jaxsim:1"
    (replicated,) = manifest["spec"]["replicatedJobs"]
    assert replicated["template"]["spec"]["completions"] == 2


def test_a_jobset_of_tpus(launch, tmp_path) -> None:
    variables = {
        "ACCELERATOR": "tpu",
        "TPU_TYPE": "tpu-v5-lite-podslice",
        "TPU_TOPOLOGY": "4x4",
    }
    manifest = _apply(launch, tmp_path, "seed", *ARGUMENTS, **variables)
    container = _check_jobset(manifest)
    assert container["args"] == ["seed", "--distributed=auto", *ARGUMENTS]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    (replicated,) = manifest["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }


def test_one_node_is_one_process(launch, tmp_path) -> None:
    manifest = _apply(
        launch, tmp_path, "prepare", *ARGUMENTS, ACCELERATOR="gpu", NODES="1"
    )
    assert _check_jobset(manifest)["args"] == ["prepare", *ARGUMENTS]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"IMAGE": ""}, "IMAGE is not set"),
        ({"ACCELERATOR": "cpu"}, "must be gpu or tpu"),
        ({"ACCELERATOR": "tpu"}, "TPU_TYPE and TPU_TOPOLOGY"),
    ],
)
def test_what_is_missing_is_named(launch, variables, message) -> None:
    given = CLUSTER | {"ACCELERATOR": "gpu"} | variables
    done = launch("kubernetes", "train", **given)
    assert done.returncode == 2
    assert message in done.stderr


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
