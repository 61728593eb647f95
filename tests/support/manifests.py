"""The rendered Kubernetes manifests: of an overlay, and of combinations of components."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain, combinations, product
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Final

import yaml

from tests.support.processes import ROOT

K8S: Final = ROOT / "k8s"
OVERLAYS: Final = K8S / "overlays"
_BIN: Final = Path(sys.executable).parent

Object = dict[str, Any]
Parts = tuple[str, ...]

# What may be chosen, each line apart from the others; components are listed in this order.
CHOICES: Final[Sequence[Sequence[Parts]]] = (
    ((), ("snapshots",), ("milvus",)),
    ((), ("gateway",)),
    ((), ("bundles-image",), ("gpu",)),
    ((), ("tls",), ("tls", "cert-manager")),
    ((), ("tokens",)),
    ((), ("tracing",)),
    ((), ("monitoring",)),
    ((), ("autoscaling",), ("keda",)),
)


def rendered(folder: Path) -> str:
    """Return the output of `kubectl kustomize` for a folder."""
    command = [str(_BIN / "kubectl"), "kustomize", str(folder)]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return str(result.stdout)


@cache
def objects(folder: Path) -> list[Object]:
    """Return every object of an overlay, or of another folder of the repository."""
    return _parsed(rendered(folder))


def _parsed(text: str) -> list[Object]:
    return list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


@cache
def render_combinations(wanted: tuple[Parts, ...]) -> dict[Parts, list[Object]]:
    """Return the objects of the base with several sets of components, rendered in one call to save time."""
    found: dict[Parts, list[Object]] = {parts: [] for parts in wanted}
    with TemporaryDirectory(prefix="combinations-") as name:
        for number, parts in enumerate(wanted):
            folder = Path(name) / f"c{number}"
            folder.mkdir()
            (folder / "kustomization.yaml").write_text(yaml.safe_dump(_kustomization(parts, f"c{number}", folder)))
        (Path(name) / "kustomization.yaml").write_text(
            yaml.safe_dump({"resources": [f"c{number}" for number in range(len(wanted))]})
        )
        for one in _parsed(rendered(Path(name))):
            found[wanted[int(one["metadata"].pop("namespace")[1:])]].append(one)
    return found


def _kustomization(parts: Parts, namespace: str, folder: Path) -> Object:
    up = Path(*[".."] * len(folder.resolve().parts[1:])) / K8S.relative_to("/")
    components = [f"{up}/components/{part}" for part in parts] + [f"{up}/images"]
    return {"namespace": namespace, "resources": [f"{up}/base"], "components": components}


def covering_combinations() -> tuple[Parts, ...]:
    """Return sets of components that contain every possible combination of three choices."""
    missing = {
        (positions, tuple(CHOICES[position][one] for position, one in zip(positions, picks, strict=True)))
        for positions in combinations(range(len(CHOICES)), 3)
        for picks in product(*(range(len(CHOICES[position])) for position in positions))
    }
    everything, random, found = list(product(*CHOICES)), Random(0), list[Parts]()
    while missing:
        best = max(random.sample(everything, 50), key=lambda one: len(missing & _threes(one)))
        if done := missing & _threes(best):
            missing -= done
            found.append(tuple(chain.from_iterable(best)))
    return tuple(found)


def _threes(one: tuple[Parts, ...]) -> set[tuple[tuple[int, ...], tuple[Parts, ...]]]:
    return {(at, tuple(one[position] for position in at)) for at in combinations(range(len(CHOICES)), 3)}


def of_kind(found: Sequence[Object], *kinds: str) -> dict[str, Object]:
    """Return the objects of some kinds, by name."""
    return {one["metadata"]["name"]: one for one in found if one["kind"] in kinds}


def workloads(found: Sequence[Object]) -> dict[str, Object]:
    """Return the servers, which are Deployments and StatefulSets, by name."""
    return of_kind(found, "Deployment", "StatefulSet")


def pods(found: Sequence[Object]) -> Iterator[tuple[str, Object]]:
    """Yield the name and template of everything that runs: servers and jobs."""
    for one in found:
        spec = one.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec and one["kind"] in ("Deployment", "StatefulSet", "Job", "CronJob"):
            yield one["metadata"]["name"], spec["template"]


def container(workload: Object) -> Object:
    """Return the only container of a workload."""
    (only,) = workload["spec"]["template"]["spec"]["containers"]
    return dict(only)


def environment(workload: Object, found: Sequence[Object] = ()) -> dict[str, str]:
    """Return a container's variables, including those from ConfigMaps in `found` but not from Secrets."""
    held = {name: one.get("data", {}) for name, one in of_kind(found, "ConfigMap").items()}
    told: dict[str, str] = {}
    for one in container(workload).get("env", []):
        key = one.get("valueFrom", {}).get("configMapKeyRef", {})
        value = one.get("value", held.get(key.get("name"), {}).get(key.get("key")))
        if value is not None:
            told[one["name"]] = value
    return told
