"""What every rendered manifest keeps to: the overlays, the jobs, and the parts in every three choices together."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.embedding.settings import EmbeddingSettings
from services.gateway.settings import GatewaySettings
from services.orchestrator.pipelines.loader import load
from services.orchestrator.settings import OrchestratorSettings
from services.reranking.settings import RerankingSettings
from services.retrieval.settings import RetrievalSettings
from services.rpc.settings import ServerSettings, unknown_names
from tests.support.manifests import (
    CHOICES,
    K8S,
    OVERLAYS,
    Object,
    container,
    covering_combinations,
    environment,
    objects,
    of_kind,
    pods,
    render_combinations,
    workloads,
)
from tests.support.processes import ROOT

SERVERS = {"orchestrator": 50050, "embedding": 50051, "retrieval": 50052, "reranking": 50053, "gateway": 8080}
SETTINGS: dict[str, type[ServerSettings]] = {
    "orchestrator": OrchestratorSettings,
    "embedding": EmbeddingSettings,
    "reranking": RerankingSettings,
    "retrieval": RetrievalSettings,
    "gateway": GatewaySettings,
}
FOLDERS = sorted(path.parent for part in ("overlays", "jobs") for path in (K8S / part).glob("*/kustomization.yaml"))
# Kinds that Kubernetes itself does not have: their schemas are not at hand.
CUSTOM = {"Certificate", "Issuer", "ScaledObject"}

# Fields of a spec, or all of it, that are fixed when an object is created.
IMMUTABLE = {
    "PersistentVolumeClaim": ("spec",),
    "Deployment": ("selector",),
    "StatefulSet": ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates"),
    "Service": ("clusterIP",),
}

Case = tuple[str, Sequence[Object]]


def cases() -> Iterator[Case]:
    """Yield a name and the objects of every rendering."""
    for folder in FOLDERS:
        yield str(folder.relative_to(K8S)), objects(folder)
    for parts, found in render_combinations(covering_combinations()).items():
        yield "base + " + ", ".join(parts), found


def servers() -> Iterator[tuple[str, str, Object]]:
    """Yield a label, the name and the workload of every server that differs from earlier ones."""
    seen = set()
    for case, found in cases():
        for name, workload in workloads(found).items():
            if (text := json.dumps(workload, sort_keys=True)) not in seen:
                seen.add(text)
                yield f"{name} of {case}", name, workload


def every_pod() -> Iterator[tuple[str, Object]]:
    """Yield a label and the template of everything that runs and differs from earlier ones."""
    seen = set()
    for case, found in cases():
        for name, template in pods(found):
            if (text := json.dumps(template, sort_keys=True)) not in seen:
                seen.add(text)
                yield f"{name} of {case}", template


def test_every_component_is_among_the_choices_and_every_choice_is_rendered() -> None:
    there = {path.parent.name for path in (K8S / "components").glob("*/kustomization.yaml")}
    offered = {part for choice in CHOICES for alternative in choice for part in alternative}
    assert offered == there
    assert {part for parts in covering_combinations() for part in parts} == there


def test_every_object_keeps_to_its_schema(tmp_path: Path) -> None:
    distinct = {json.dumps(one, sort_keys=True) for _, found in cases() for one in found}
    (tmp_path / "all.yaml").write_text("\n---\n".join(sorted(distinct)))
    command = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict", str(tmp_path / "all.yaml")]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, [line for line in result.stdout.splitlines() if not line.startswith("INFO")]
    assert set(re.findall(r"Couldn't find schema for kind (\w+)", result.stdout)) == CUSTOM


def test_objects_of_other_systems_name_what_there_is() -> None:
    for case, found in cases():
        for scaler in of_kind(found, "ScaledObject").values():
            assert scaler["apiVersion"] == "keda.sh/v1alpha1", case
            assert scaler["spec"]["scaleTargetRef"]["name"] in workloads(found), case
            assert scaler["spec"]["minReplicaCount"] < scaler["spec"]["maxReplicaCount"], case
        secrets = {one["spec"]["secretName"] for one in of_kind(found, "Certificate").values()}
        issuers = of_kind(found, "Issuer")
        for name, certificate in of_kind(found, "Certificate").items():
            assert certificate["spec"]["issuerRef"]["name"] in issuers, case
            assert certificate["spec"].get("isCA") or name in certificate["spec"]["dnsNames"], case
        if secrets:
            assert {one for one in _mounted(found, "secret", "secretName") if one.endswith("-tls")} <= secrets, case


def _mounted(found: Sequence[Object], kind: str, key: str) -> set[str]:
    volumes = [volume for _, template in pods(found) for volume in template["spec"].get("volumes", [])]
    return {volume[kind][key] for volume in volumes if kind in volume}


def test_claims_and_config_maps_that_are_mounted_are_there() -> None:
    for case, found in cases():
        if case.startswith("jobs/"):
            continue  # they mount what an overlay made
        claims = set(of_kind(found, "PersistentVolumeClaim"))
        assert _mounted(found, "persistentVolumeClaim", "claimName") <= claims, case
        assert _mounted(found, "configMap", "name") <= set(of_kind(found, "ConfigMap")), case


def test_a_component_changes_nothing_that_cannot_be_changed() -> None:
    """Kubernetes refuses other values of these fields once an object exists, so adding a component must keep them."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for parts, rendering in render_combinations(((), *covering_combinations())).items():
        for one in rendering:
            for field in IMMUTABLE.get(one["kind"], ()):
                value = json.dumps(one["spec"] if field == "spec" else one["spec"].get(field), sort_keys=True)
                key = one["kind"], one["metadata"]["name"], field
                found.setdefault(key, {}).setdefault(value, "base + " + ", ".join(parts))
    assert {key: values for key, values in found.items() if len(values) > 1} == {}
    assert ("PersistentVolumeClaim", "bundles", "spec") in found


def test_there_are_the_four_services_and_the_gateway_where_it_is_wanted() -> None:
    for case, found in cases():
        if not case.startswith("jobs/"):
            assert set(workloads(found)) == set(SERVERS) - (set() if "gateway" in case else {"gateway"}), case


def test_a_pod_has_no_service_links_and_no_rights() -> None:
    for label, template in every_pod():
        spec = template["spec"]
        assert spec["enableServiceLinks"] is False, label
        assert spec["automountServiceAccountToken"] is False, label
        assert spec["securityContext"]["runAsNonRoot"] is True, label
        assert spec["securityContext"]["runAsUser"] == 10001, label
        assert spec["securityContext"]["runAsGroup"] == 10001, label
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, label
        assert not any("hostPath" in volume for volume in spec.get("volumes", [])), label
        for one in (*spec["containers"], *spec.get("initContainers", [])):
            context = one["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, label
            assert context["allowPrivilegeEscalation"] is False, label
            assert context["capabilities"] == {"drop": ["ALL"]}, label


def test_a_container_says_what_it_needs_and_its_image_is_one_that_is_built() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    named = {"sluice", "sluice-milvus", "sluice-gpu", "sluice-export", "sluice-bundles", "sluice-loadtest"}
    for label, template in every_pod():
        for one in (*template["spec"]["containers"], *template["spec"].get("initContainers", [])):
            assert {"cpu", "memory"} <= one["resources"]["requests"].keys(), label
            assert "memory" in one["resources"]["limits"], label
            image, _, tag = one["image"].partition(":")
            assert image in named, label
            assert tag == version, label


def test_the_images_are_named_in_one_place() -> None:
    naming = [path for path in K8S.rglob("*.yaml") if re.search(r"newTag|image: *\S+:", path.read_text())]
    assert naming == [K8S / "images" / "kustomization.yaml"]


def test_the_grace_period_is_longer_than_the_drain() -> None:
    for label, name, workload in servers():
        told = environment(workload)
        drain = sum(float(told[f"SLUICE_{name.upper()}_{what}"]) for what in ("DRAIN_DELAY_S", "DRAIN_GRACE_S"))
        assert workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] >= drain + 10, label


def test_ports_and_probes_name_where_it_listens() -> None:
    for label, name, workload in servers():
        told, server = environment(workload), container(workload)
        ports = {one["name"]: one["containerPort"] for one in server["ports"]}
        main = "http" if name == "gateway" else "grpc"
        assert told[f"SLUICE_{name.upper()}_LISTEN"] == f"0.0.0.0:{SERVERS[name]}", label
        assert ports[main] == SERVERS[name], label
        assert told[f"SLUICE_{name.upper()}_METRICS_LISTEN"] == f"0.0.0.0:{ports['metrics']}", label
        if name == "gateway":
            assert server["livenessProbe"]["httpGet"] == {"path": "/health/live", "port": main}, label
            assert server["readinessProbe"]["httpGet"] == {"path": "/health", "port": main}, label
            continue
        # The kubelet speaks no TLS: then a port of its own answers it.
        assert ("health" in ports) == any(variable.endswith("_TLS_KEY") for variable in told), label
        for probe, service in (("startupProbe", "startup"), ("readinessProbe", ""), ("livenessProbe", "liveness")):
            asked = server[probe]["grpc"]
            assert asked["port"] == ports.get("health", ports["grpc"]), label
            assert asked.get("service", "") == service, label


def test_services_are_headless_and_name_the_port() -> None:
    for case, found in cases():
        for name, service in of_kind(found, "Service").items():
            spec = service["spec"]
            assert [one["port"] for one in spec["ports"]] == [SERVERS[name]], case
            assert spec["selector"] == {"app.kubernetes.io/component": name}, case
            assert spec.get("clusterIP") == (None if name == "gateway" else "None"), case
        assert set(of_kind(found, "Service")) == set(workloads(found)), case


def test_callers_name_the_services() -> None:
    for label, name, workload in servers():
        for other in ("embedding", "retrieval", "reranking", "orchestrator"):
            if (variable := f"SLUICE_{name.upper()}_{other.upper()}") in environment(workload):
                assert environment(workload)[variable] == f"dns:///{other}:{SERVERS[other]}", label


def test_embedded_retrieval_is_one_process_with_a_disk_and_is_never_scaled() -> None:
    for case, found in cases():
        retrieval = workloads(found).get("retrieval")
        if retrieval is None or "milvus" in case:
            continue
        assert (retrieval["kind"], retrieval["spec"]["replicas"]) == ("StatefulSet", 1), case
        data = environment(retrieval)["SLUICE_RETRIEVAL_DATA"]
        mounts = {one["name"]: one["mountPath"] for one in container(retrieval)["volumeMounts"]}
        assert data.startswith(mounts["data"]), case
        (claim,) = retrieval["spec"]["volumeClaimTemplates"]
        assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"], case
        assert "retrieval" not in _scaled(found), case


def _scaled(found: Sequence[Object]) -> set[str]:
    scalers = of_kind(found, "HorizontalPodAutoscaler", "ScaledObject").values()
    return {one["spec"]["scaleTargetRef"]["name"] for one in scalers}


def test_what_is_scaled_is_a_deployment_without_a_number_of_replicas() -> None:
    for case, found in cases():
        for name in _scaled(found):
            assert workloads(found)[name]["kind"] == "Deployment", case
            assert "replicas" not in workloads(found)[name]["spec"], case
        if "milvus" in case:
            assert "retrieval" in _scaled(found), case


def test_deployments_are_spread_and_disturbed_one_at_a_time() -> None:
    for case, found in cases():
        budgets = of_kind(found, "PodDisruptionBudget")
        for name, deployment in of_kind(found, "Deployment").items():
            assert budgets[name]["spec"]["maxUnavailable"] == 1, case
            assert budgets[name]["spec"]["selector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"]
            spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
            assert [one["topologyKey"].rpartition("/")[2] for one in spread] == ["hostname", "zone"], case
        assert set(budgets) == set(of_kind(found, "Deployment")), case


def test_labels_of_pods_are_what_selectors_ask_for() -> None:
    for label, name, workload in servers():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert labels == {"app.kubernetes.io/component": name, "app.kubernetes.io/name": "sluice"}, label
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items(), label


def test_every_variable_is_a_setting() -> None:
    unknown = set()
    for _, name, workload in servers():
        names = {one["name"]: "" for one in container(workload)["env"]}
        unknown |= {text.partition(":")[0] for text in unknown_names(SETTINGS[name], names)}
    assert unknown == set()


def test_pipelines_of_an_overlay_are_right_and_a_change_rolls_the_pods(tmp_path: Path) -> None:
    found = objects(OVERLAYS / "production")
    (name,) = (name for name in of_kind(found, "ConfigMap") if name.startswith("pipelines-"))
    assert re.fullmatch(r"pipelines-[a-z0-9]{10}", name), "named by the hash of its content"
    volumes: list[dict[str, Any]] = workloads(found)["orchestrator"]["spec"]["template"]["spec"]["volumes"]
    assert {"name": "pipelines", "configMap": {"name": name}} in volumes
    (tmp_path / "pipelines.yaml").write_text(of_kind(found, "ConfigMap")[name]["data"]["pipelines.yaml"])
    assert load(tmp_path / "pipelines.yaml")


@pytest.mark.parametrize(("part", "resource"), [("gpu", "nvidia.com/gpu")])
def test_models_on_gpus_have_one_each(part: str, resource: str) -> None:
    for case, found in cases():
        for name in ("embedding", "reranking") if part in case else ():
            workload = workloads(found)[name]
            assert container(workload)["resources"]["limits"][resource] == 1, case
            assert container(workload)["image"].startswith("sluice-gpu:"), case
            assert workload["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0, case
