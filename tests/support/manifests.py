"""The rendered manifests of an overlay."""

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.processes import ROOT

OVERLAYS: Final = ROOT / "k8s" / "overlays"
_BIN: Final = Path(sys.executable).parent


@cache
def rendered(folder: Path) -> str:
    """What `kubectl kustomize` makes of a folder."""
    command = [str(_BIN / "kubectl"), "kustomize", str(folder)]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return str(result.stdout)


def objects(folder: Path) -> list[dict[str, Any]]:
    """Every object of an overlay."""
    return list(yaml.safe_load_all(rendered(folder)))


def workloads(folder: Path) -> dict[str, dict[str, Any]]:
    """Deployments and StatefulSets, by name."""
    return {one["metadata"]["name"]: one for one in objects(folder) if one["kind"] in ("Deployment", "StatefulSet")}


def container(workload: dict[str, Any]) -> dict[str, Any]:
    """The one container of a workload."""
    (only,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(only)


def environment(workload: dict[str, Any]) -> dict[str, str]:
    """What its container is told."""
    return {one["name"]: one["value"] for one in container(workload)["env"]}
