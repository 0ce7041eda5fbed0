"""What Kubernetes and Docker are handed: valid by published schemas, locked down, without secrets."""

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
ROOT = DEPLOY.parent

RAY_JOB = {
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint",
    "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata",
    "preRunningDeadlineSeconds", "rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes",
    "submissionMode", "submitterConfig", "submitterPodTemplate", "suspend", "ttlSecondsAfterFinished",
}  # fmt: skip
RAY_CLUSTER = {
    "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions",
    "headGroupSpec", "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "upgradeStrategy",
    "workerGroupSpecs",
}  # fmt: skip
HEAD = {"enableIngress", "headService", "labels", "rayStartParams", "resources", "serviceType", "template"}
WORKERS = {
    "groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts",
    "rayStartParams", "replicas", "resources", "scaleStrategy", "suspend", "template",
}  # fmt: skip
"""The fields of KubeRay's ray.io/v1, whose schema is in no package."""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def validate(resource: dict[str, Any]) -> None:
    """Raise for what Kubernetes' own schema has not."""
    kubernetes_validate.validate(resource, "1.31", strict=True)


def pod_of(template: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", **template}


def job() -> dict[str, Any]:
    found = next(document for document in documents("rayjob.yaml") if document["kind"] == "RayJob")
    return found


def pods() -> list[dict[str, Any]]:
    """The specs of all pods."""
    cluster = job()["spec"]["rayClusterSpec"]
    server = next(document for document in documents("mlflow.yaml") if document["kind"] == "Deployment")
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"], server["spec"]]
    return [group["template"]["spec"] for group in groups]


def test_what_kubernetes_defines_is_valid_by_its_schemas() -> None:
    resources = [*documents("mlflow.yaml"), *documents("rayjob.yaml")]
    for resource in resources:
        if resource["apiVersion"] != "ray.io/v1":
            validate(resource)
    assert len(resources) == 5


def test_the_ray_job_has_the_fields_of_kuberay_and_valid_pods() -> None:
    found = job()
    assert found["apiVersion"] == "ray.io/v1"
    assert found.keys() == {"apiVersion", "kind", "metadata", "spec"}
    cluster = found["spec"]["rayClusterSpec"]
    groups = cluster["workerGroupSpecs"]
    assert found["spec"].keys() <= RAY_JOB
    assert cluster.keys() <= RAY_CLUSTER
    assert cluster["headGroupSpec"].keys() <= HEAD
    assert all(group.keys() <= WORKERS for group in groups)
    for group in (cluster["headGroupSpec"], *groups):
        validate(pod_of(group["template"]))
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in groups)
    assert cluster["authOptions"] == {"mode": "token"}


def test_a_pod_with_a_field_that_kubernetes_has_not_is_refused() -> None:
    broken = pod_of(job()["spec"]["rayClusterSpec"]["headGroupSpec"]["template"])
    broken["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(broken)


def test_no_pod_runs_as_root_and_all_have_time_for_their_checkpoints() -> None:
    for spec in pods():
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not container["image"].endswith(":latest")
            for variable in container.get("env", []):
                secret = re.search("KEY|TOKEN|PASSWORD|SECRET|BACKEND_STORE", variable["name"])
                assert "value" not in variable or not secret
    head, *_ = pods()
    wait = next(v for v in head["containers"][0]["env"] if v["name"] == "RAY_JOB_STOP_WAIT_TIME_S")
    assert 20 < int(wait["value"]) < head["terminationGracePeriodSeconds"]


def test_the_image_runs_as_a_plain_user_and_holds_what_is_named_alone() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    orders = [line.split(maxsplit=1) for line in lines if re.match(r"[A-Z]+ ", line)]
    users = [rest for order, rest in orders if order == "USER"]
    assert users == ["1000:1000"]
    assert {rest for order, rest in orders if order == "FROM"} == {"${BASE} AS build", "${BASE}"}
    named = [rest for order, rest in orders if order in {"ARG", "ENV"}]
    assert not re.search("KEY|TOKEN|PASSWORD|SECRET", " ".join(named))
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    assert ignored[1] == "*"
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in allowed)
    links = {path.name for path in (ROOT / "pareto_amb").iterdir() if path.is_symlink()}
    assert links | {"pareto_amb", "pyproject.toml", "README.md", "LICENSE", "deploy/sweep.sh"} == allowed


@pytest.mark.parametrize("script", ["sweep.sh", "sweep.sbatch"])
def test_the_scripts_are_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(DEPLOY / script)], check=True)
