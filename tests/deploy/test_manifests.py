"""The manifests in deploy/: Kubernetes and JobSet accept them, and they say what `jaxformers train` needs to know."""

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from jaxformers.cli import parser
from jaxformers.training.distributed import Launch, find_launch
from jaxformers.training.preemption import EXIT_STATUS
from jaxformers.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = sorted((ROOT / "deploy").glob("*.yaml"))
JOBSET = json.loads((Path(__file__).parent / "jobset_v1alpha2.json").read_text())
KUBERNETES = ["1.31", "1.37"]  # podFailurePolicy and the index as a pod's label are settled from 1.31 on


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def jobset(path: Path) -> dict[str, Any]:
    (found,) = (one for one in documents(path) if one["kind"] == "JobSet")
    return found


def job(path: Path) -> dict[str, Any]:
    (replicated,) = jobset(path)["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def container(path: Path) -> dict[str, Any]:
    (one,) = job(path)["template"]["spec"]["containers"]
    return one


def check(path: Path, documents: list[dict[str, Any]], version: str) -> None:
    """Raise unless every document is as the published schemas have it, without a field they do not know."""
    for one in documents:
        if one["kind"] != "JobSet":
            kubernetes_validate.validate(one, version, strict=True)
            continue
        jsonschema.validate(one, JOBSET)
        for replicated in one["spec"]["replicatedJobs"]:
            whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **replicated["template"]}
            kubernetes_validate.validate(whole, version, strict=True)


def test_there_is_one_for_tpus_and_one_for_gpus() -> None:
    assert [next(iter(container(path)["resources"]["limits"])) for path in MANIFESTS] == [
        "nvidia.com/gpu",
        "google.com/tpu",
    ]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_published_schemas(path: Path, version: str) -> None:
    check(path, documents(path), version)


WRONG = {
    "jobset field": (("spec", "failurePolicy"), "maxRestart", 3),
    "jobset value": (("spec", "failurePolicy", "rules", 0), "action", "Restart"),
    "job field": (("spec", "replicatedJobs", 0, "template", "spec"), "backofLimit", 0),
    "pod value": (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec"), "restartPolicy", 1),
    "pod field": (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers", 0), "envs", []),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
def test_the_check_sees_mistakes(wrong: tuple[tuple, str, Any]) -> None:
    where, name, value = wrong
    broken = copy.deepcopy(jobset(MANIFESTS[0]))
    inner = broken
    for step in where:
        inner = inner[step]
    inner[name] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(MANIFESTS[0], [broken], KUBERNETES[-1])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_pod_that_ends_restarts_all(path: Path, tmp_path: Path) -> None:
    """One failed pod fails the job, a failed job restarts the set; being taken away is no failure of the run."""
    spec = job(path)
    assert spec["backoffLimit"] == 0 and spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy needs it"
    rules = spec["podFailurePolicy"]["rules"]
    assert all(rule["action"] == "FailJob" for rule in rules)
    codes = [rule["onExitCodes"] for rule in rules if "onExitCodes" in rule]
    assert codes == [{"containerName": container(path)["name"], "operator": "In", "values": [EXIT_STATUS]}]
    policy = jobset(path)["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    (rule,) = policy["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts" and rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] >= 120
    mounted = {mount["mountPath"] for mount in container(path)["volumeMounts"]}
    assert "/" + recipe(path, tmp_path).training["output_dir"].split("/")[1] in mounted, "checkpoints outlive the pods"


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_the_recipe_is_one(path: Path, tmp_path: Path) -> None:
    """`jaxformers train` reads it, and its mesh has a place for every chip."""
    args = recipe(path, tmp_path).arguments()
    assert args.resume_from_checkpoint == "auto"
    chips = {"nvidia.com/gpu": 64, "google.com/tpu": 256}[next(iter(container(path)["resources"]["limits"]))]
    assert math.prod(args.mesh.values()) == chips
    command = container(path)["command"]
    assert parser().parse_args(command[1:]).config == "/config/run.toml" and command[0] == "jaxformers"
    assert {"name": "config", "mountPath": "/config"} in container(path)["volumeMounts"]


def recipe(path: Path, home: Path) -> Recipe:
    """What the ConfigMap holds."""
    (home / "run.toml").write_text(documents(path)[0]["data"]["run.toml"])
    return Recipe.read(home / "run.toml")


def environment(path: Path, index: int) -> dict[str, str]:
    """What a pod's process finds, as Kubernetes fills it in."""
    whole = jobset(path)
    name, (replicated,) = whole["metadata"]["name"], whole["spec"]["replicatedJobs"]
    notes = {"batch.kubernetes.io/job-completion-index": str(index)}
    if "coordinator" in whole["spec"]:
        of = whole["spec"]["coordinator"]
        assert (
            of["replicatedJob"] == replicated["name"] and of["podIndex"] < replicated["template"]["spec"]["completions"]
        )
        host = f"{name}-{of['replicatedJob']}-{of['jobIndex']}-{of['podIndex']}.{name}"
        assert len(host) <= 63, "JobSet writes it as a label too"
        notes["jobset.sigs.k8s.io/coordinator"] = host
    out: dict[str, str] = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": str(index)}
    for one in container(path)["env"]:
        if "value" in one:
            out[one["name"]] = re.sub(r"\$\((\w+)\)", lambda hole: out[hole[1]], one["value"])
        else:
            out[one["name"]] = notes[
                re.fullmatch(r"metadata\.annotations\['(.+)'\]", one["valueFrom"]["fieldRef"]["fieldPath"])[1]
            ]
    return out


def test_gpu_pods_find_each_other() -> None:
    path = ROOT / "deploy" / "gpu-h100-8x8.yaml"
    launches = [find_launch(environment(path, index)) for index in range(job(path)["completions"])]
    host = "llama-8b-workers-0-0.llama-8b:8476"
    assert launches == [Launch("variables", host, 8, index) for index in range(8)]
    assert {"containerPort": 8476} in container(path)["ports"]
    assert container(path)["resources"]["limits"]["nvidia.com/gpu"] == 8


def test_tpu_pods_find_each_other() -> None:
    """A 16x16 slice of v5e is 64 machines of 4 chips; GKE's webhook sets two variables."""
    path = ROOT / "deploy" / "tpu-v5e-256.yaml"
    assert "hostNetwork" not in job(path)["template"]["spec"] and job(path)["completions"] == 64
    sides = job(path)["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = int(sides[0]) * int(sides[1])
    assert chips == job(path)["completions"] * container(path)["resources"]["limits"]["google.com/tpu"]
    names = ",".join(f"llama-8b-slice-0-{index}.llama-8b" for index in range(64))
    added = {"TPU_WORKER_HOSTNAMES": names, "TPU_WORKER_ID": "5"}
    assert find_launch(environment(path, 5) | added) == Launch("gketpu")
