"""Manifests: valid by Kubernetes' own schemas, and with the properties that the docs promise."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
VERSIONS = ("1.29", "1.37")
FOLDERS = {"/var/lib/autotune", "/var/cache/autotune", "/run/autotune"}


def built(overlay: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed, which builds the overlays")
    command = ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def plain() -> list[dict[str, Any]]:
    """The objects as they are written, for machines without kubectl."""
    files = [*KUBERNETES.glob("base/*.yaml"), KUBERNETES / "examples" / "leased-pod.yaml"]
    found = [one for file in files for one in yaml.safe_load_all(file.read_text())]
    return [one for one in found if one["kind"] != "Kustomization"]


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", []), *spec["containers"]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", ["nvidia", "cpu"])
def test_an_overlay_is_valid(overlay: str, version: str) -> None:
    for manifest in built(overlay):
        validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_written_is_valid(version: str) -> None:
    for manifest in plain():
        if manifest["kind"] != "DaemonSet":  # its selector comes from kustomize
            validate(manifest, version, strict=True)


@pytest.mark.parametrize("overlay", ["nvidia", "cpu"])
def test_the_daemon_has_no_rights_and_mounts_folders(overlay: str) -> None:
    manifests = built(overlay)
    kinds = {manifest["kind"] for manifest in manifests}
    assert {"Namespace", "ConfigMap", "PriorityClass", "DaemonSet"} == kinds
    spec = next(one for one in manifests if one["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in spec
    for container in containers(spec):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert ["ALL"] == context["capabilities"]["drop"]
        assert context["readOnlyRootFilesystem"] is True
        assert not any("subPath" in mount for mount in container["volumeMounts"])
    [daemon] = spec["containers"]
    assert daemon["securityContext"]["runAsNonRoot"] is True
    assert {mount["mountPath"] for mount in daemon["volumeMounts"]} >= FOLDERS
    assert {"DirectoryOrCreate"} == {v["hostPath"]["type"] for v in spec["volumes"] if "hostPath" in v}
    assert "limits" not in daemon["resources"], "a CPU that is throttled measures wrong"


def test_gpus_are_seen_and_none_is_requested() -> None:
    spec = next(one for one in built("nvidia") if one["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    assert "nvidia" == spec["runtimeClassName"]
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"} in spec["containers"][0]["env"]
    assert not any("nvidia.com/gpu" in str(container["resources"]) for container in containers(spec))


def test_a_pod_that_serves_holds_its_lease_as_long_as_it_lives() -> None:
    spec = yaml.safe_load((KUBERNETES / "examples" / "leased-pod.yaml").read_text())["spec"]
    [lease] = spec["initContainers"]
    assert "Always" == lease["restartPolicy"]
    assert ["autotune", "lease"] == lease["command"][:2]
    assert "startupProbe" in lease
    [server] = spec["containers"]
    [state] = [mount for mount in server["volumeMounts"] if mount["name"] == "state"]
    assert {"name": "state", "mountPath": "/var/lib/autotune", "readOnly": True} == state


def test_the_sidecars_shell_says_that_the_lease_is_held_and_ends_when_told(tmp_path: Path) -> None:
    """The probe and the shell that `autotune lease` becomes, without a cluster."""
    spec = yaml.safe_load((KUBERNETES / "examples" / "leased-pod.yaml").read_text())["spec"]
    lease = spec["initContainers"][0]
    command = lease["command"][lease["command"].index("--") + 1 :]
    probe = lease["startupProbe"]["exec"]["command"]
    with subprocess.Popen(command) as shell:
        own = [word.replace("/proc/1/", f"/proc/{shell.pid}/") for word in probe]
        assert 0 == subprocess.run(own, check=False).returncode
        shell.terminate()
        assert 0 == shell.wait(10)


def test_the_image_runs_as_nobody_in_particular_and_pins_its_base() -> None:
    lines = (DEPLOY / "image" / "Dockerfile").read_text().splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    assert ["USER", "10001:10001"] in words
    assert [["FROM", "python:${PYTHON}", "AS", "build"], ["FROM", "python:${PYTHON}"]] == [
        line for line in words if line[0] == "FROM"
    ]
    [base] = [
        line[1].removeprefix("PYTHON=") for line in words if line[:1] == ["ARG"] and "PYTHON=" in line[1]
    ]
    assert "latest" not in base
    assert base.count(".") == 2
    # What an image needs of a checkout is let through, and the rest is not.
    ignored = (DEPLOY / "image" / "Dockerfile.dockerignore").read_text().splitlines()
    root = DEPLOY.parent
    assert "*" == ignored[0]
    assert all((root / line[1:]).exists() for line in ignored if line.startswith("!"))
