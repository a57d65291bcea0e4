"""launch/kubernetes.sh, with a stand-in for kubectl: what would be applied."""

import copy
from typing import Any

import jsonschema
import pytest
import yaml

from jaxsim.errors import DamagedError, Preempted, UserError
from tests.launch.conftest import ARGUMENTS, Launch, with_stand_ins
from tests.launch.manifests import check_jobset

CLUSTER = {"IMAGE": "registry/jaxsim:1", "CLAIM": "shared", "NODES": "2"}
TPU = {"ACCELERATOR": "tpu", "TPU_TYPE": "tpu-v5-lite-podslice", "TPU_TOPOLOGY": "4x4"}


def _apply(launch: Launch, *argv: str, **variables: str) -> dict[str, Any]:
    """The manifest that kubectl gets, checked by its schemas."""
    done = launch("kubernetes", *argv, **CLUSTER | variables)
    assert done.returncode == 0, done.stderr
    assert launch.log[-1] == "kubectl [apply] [-f] [-]"
    manifest = yaml.safe_load(launch.applied)
    check_jobset(manifest)
    return manifest


def _job(manifest: dict[str, Any]) -> dict[str, Any]:
    (replicated,) = manifest["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def _pod(manifest: dict[str, Any]) -> dict[str, Any]:
    return _job(manifest)["template"]["spec"]


def _container(manifest: dict[str, Any]) -> dict[str, Any]:
    (container,) = _pod(manifest)["containers"]
    return container


def _variables(manifest: dict[str, Any]) -> dict[str, Any]:
    return {v["name"]: v.get("value") for v in _container(manifest)["env"]}


def test_a_jobset_of_gpus(launch: Launch) -> None:
    hostile = '--config.name=a"b: $HOME\\'
    manifest = _apply(launch, "train", *ARGUMENTS, hostile, ACCELERATOR="gpu")
    container = _container(manifest)
    assert container["args"] == [
        "train",
        "--coordinator=jaxsim-train-workers-0-0.jaxsim-train:12345",
        "--processes=2",
        "--process=$(PROCESS)",
        *ARGUMENTS,
        hostile,
    ]
    assert _variables(manifest).keys() == {"PROCESS", "JAX_PLATFORMS"}
    assert _variables(manifest)["JAX_PLATFORMS"] == "cuda"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert container["image"] == "registry/jaxsim:1"
    job = _job(manifest)
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == 2


def test_a_jobset_of_tpus(launch: Launch) -> None:
    manifest = _apply(launch, "base", *ARGUMENTS, **TPU)
    container = _container(manifest)
    assert container["args"] == ["base", "--distributed=auto", *ARGUMENTS]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert _variables(manifest)["JAX_PLATFORMS"] == "tpu,cpu"
    assert _pod(manifest)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert manifest["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": ("cloud.google.com/gke-nodepool")
    }


def test_one_node_is_one_process_and_prepare_needs_no_accelerator(
    launch: Launch,
) -> None:
    manifest = _apply(launch, "prepare", *ARGUMENTS, ACCELERATOR="cpu", NODES="1")
    container = _container(manifest)
    assert container["args"] == ["prepare", *ARGUMENTS]
    assert container["resources"]["limits"] == {"cpu": 4}
    assert _variables(manifest)["JAX_PLATFORMS"] == "cpu"


def test_pods_fit_the_nodes(launch: Launch) -> None:
    """A taint of GPU nodes is tolerated; NCCL has its shared memory."""
    pod = _pod(_apply(launch, "train", ACCELERATOR="gpu"))
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {
        mount["mountPath"]: volumes[mount["name"]]
        for mount in pod["containers"][0]["volumeMounts"]
    }
    assert len(mounts) == len(volumes)
    assert mounts["/data"]["persistentVolumeClaim"] == {"claimName": "shared"}
    assert mounts["/dev/shm"]["emptyDir"] == {"medium": "Memory"}


def test_only_what_a_restart_mends_is_restarted(launch: Launch) -> None:
    manifest = _apply(launch, "train", ACCELERATOR="gpu")
    job = _job(manifest)
    actions = {
        code: rule["action"]
        for rule in job["podFailurePolicy"]["rules"]
        for code in rule["onExitCodes"]["values"]
    }
    assert actions == {
        UserError.exit_code: "FailJob",
        DamagedError.exit_code: "FailJob",
        Preempted.exit_code: "Ignore",
    }
    for rule in job["podFailurePolicy"]["rules"]:
        name = rule["onExitCodes"]["containerName"]
        assert name == _container(manifest)["name"]
    # Kubernetes admits a podFailurePolicy only with this one.
    assert _pod(manifest)["restartPolicy"] == "Never"
    assert job["backoffLimit"] == 0
    policy = manifest["spec"]["failurePolicy"]
    (rule,) = policy["rules"]
    assert rule["action"] == "FailJobSet"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert policy["maxRestarts"] == 20


@pytest.fixture(scope="module")
def manifest(root, tmp_path_factory) -> dict[str, Any]:
    launch = with_stand_ins(root, tmp_path_factory.mktemp("tools"))
    return _apply(launch, "train", ACCELERATOR="gpu")


SPEC = ("spec",)
REPLICATED = (*SPEC, "replicatedJobs", 0)
JOB = (*REPLICATED, "template", "spec")
POD = (*JOB, "template", "spec")
CONTAINER = (*POD, "containers", 0)


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ((), "Spec", {}),
        ((), "apiVersion", "jobset.x-k8s.io/v1"),
        (("metadata",), "annotation", {}),
        (SPEC, "replicas", 1),
        ((*SPEC, "failurePolicy"), "maxRestart", 20),
        ((*SPEC, "failurePolicy"), "maxRestarts", "20"),
        ((*SPEC, "failurePolicy", "rules", 0), "action", "FailJob"),
        ((*SPEC, "failurePolicy", "rules", 0), "onExitCodes", [2]),
        ((*SPEC, "failurePolicy", "rules", 0), "name", "no-dashes"),
        ((*SPEC, "network"), "enableDnsHostnames", True),
        (REPLICATED, "completions", 2),
        ((*REPLICATED, "template"), "template", {}),
        (JOB, "replicas", 1),
        (JOB, "parallelism", "two"),
        ((*JOB, "podFailurePolicy", "rules", 0), "onExitCode", {}),
        ((*JOB, "template"), "restartPolicy", "Never"),
        (POD, "restartPolicies", "Never"),
        (POD, "nodeSelectors", {}),
        ((*POD, "volumes", 0), "persistentVolumeClaims", {}),
        ((*POD, "tolerations", 0), "operators", "Exists"),
        (CONTAINER, "arguments", []),
        (CONTAINER, "args", ["--processes", 2]),
        ((*CONTAINER, "resources"), "limit", {}),
        ((*CONTAINER, "env", 0, "valueFrom"), "field", {}),
        ((*CONTAINER, "volumeMounts", 0), "path", "/data"),
    ],
)
def test_what_the_api_does_not_know_is_refused(manifest, where, key, value) -> None:
    """The check of the tests above is one: it finds a slip at every level."""
    node = changed = copy.deepcopy(manifest)
    for step in where:
        node = node[step]
    node[key] = value
    with pytest.raises(jsonschema.ValidationError):
        check_jobset(changed)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"IMAGE": ""}, "IMAGE is not set"),
        ({"ACCELERATOR": "npu"}, "must be gpu, tpu or cpu"),
        ({"ACCELERATOR": "tpu"}, "TPU_TYPE and TPU_TOPOLOGY"),
    ],
)
def test_what_is_missing_is_named(launch: Launch, variables, message) -> None:
    given = CLUSTER | {"ACCELERATOR": "gpu"} | variables
    done = launch("kubernetes", "train", **given)
    assert done.returncode == 2
    assert message in done.stderr
    assert not launch.log
