"""What every rendered manifest keeps to, and that its processes start, answer probes and end in time."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.orchestrator.pipelines import load
from tests.support.manifests import OVERLAYS, container, environment, objects, rendered, workloads
from tests.support.processes import ServerProcess, running

SERVICES = {"embedding": 50051, "reranking": 50053, "retrieval": 50052, "orchestrator": 50050}
FOLDERS = sorted(path for path in OVERLAYS.iterdir() if path.is_dir())
CASES = [(folder, name) for folder in FOLDERS for name in SERVICES]
each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
each_workload = pytest.mark.parametrize(("folder", "name"), CASES, ids=lambda part: getattr(part, "name", part))


def pod(folder: Path, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = workloads(folder)[name]["spec"]["template"]["spec"]
    return spec


@each_folder
def test_an_overlay_keeps_to_the_schemas(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(rendered(folder))
    command = [str(Path(sys.executable).with_name("kubernetes-validate")), "--strict", str(tmp_path / "all.yaml")]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


@each_folder
def test_there_are_the_four_services_and_no_other(folder: Path) -> None:
    assert set(workloads(folder)) == set(SERVICES)


@each_workload
def test_a_pod_has_no_service_links_and_no_rights(folder: Path, name: str) -> None:
    spec, server = pod(folder, name), container(workloads(folder)[name])
    assert spec["enableServiceLinks"] is False
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    context = server["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}


@each_workload
def test_the_grace_period_is_longer_than_the_drain(folder: Path, name: str) -> None:
    told = environment(workloads(folder)[name])
    drain = sum(float(told[f"SLUICE_{name.upper()}_{what}"]) for what in ("DRAIN_DELAY_S", "DRAIN_GRACE_S"))
    assert pod(folder, name)["terminationGracePeriodSeconds"] >= drain + 10


@each_workload
def test_ports_probes_and_services_name_where_it_listens(folder: Path, name: str) -> None:
    server, port = container(workloads(folder)[name]), SERVICES[name]
    told = environment(workloads(folder)[name])
    assert told[f"SLUICE_{name.upper()}_LISTEN"] == f"0.0.0.0:{port}"
    assert {one["name"]: one["containerPort"] for one in server["ports"]} == {"grpc": port, "metrics": 9090}
    assert [server[probe]["grpc"]["port"] for probe in ("startupProbe", "readinessProbe")] == [port, port]
    assert server["livenessProbe"]["tcpSocket"] == {"port": "grpc"}
    (service,) = (one for one in objects(folder) if one["kind"] == "Service" and one["metadata"]["name"] == name)
    assert service["spec"]["clusterIP"] == "None"
    assert [one["port"] for one in service["spec"]["ports"]] == [port]


@each_folder
def test_the_orchestrator_calls_the_services_by_name(folder: Path) -> None:
    told = environment(workloads(folder)["orchestrator"])
    called = {name: told[f"SLUICE_ORCHESTRATOR_{name.upper()}"] for name in SERVICES if name != "orchestrator"}
    assert called == {name: f"dns:///{name}:{SERVICES[name]}" for name in called}


@each_folder
def test_retrieval_is_one_process_with_a_disk_and_is_never_scaled(folder: Path) -> None:
    retrieval = workloads(folder)["retrieval"]
    assert (retrieval["kind"], retrieval["spec"]["replicas"]) == ("StatefulSet", 1)
    data = environment(retrieval)["SLUICE_RETRIEVAL_DATA"]
    mounts = {one["name"]: one["mountPath"] for one in container(retrieval)["volumeMounts"]}
    assert data.startswith(mounts["data"])
    scaled = {
        one["spec"]["scaleTargetRef"]["name"] for one in objects(folder) if one["kind"] == "HorizontalPodAutoscaler"
    }
    assert scaled <= {"embedding", "reranking"}
    assert all("replicas" not in workloads(folder)[name]["spec"] for name in scaled)


@each_folder
def test_every_pod_refuses_what_no_policy_allows(folder: Path) -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in objects(folder) if one["kind"] == "NetworkPolicy"}
    assert policies["nothing-else"].keys() == {"podSelector", "policyTypes"}
    for name in ("embedding", "retrieval", "reranking"):
        (rule,) = policies[name]["ingress"]
        (source,) = rule["from"]
        assert source["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "orchestrator"


@each_folder
def test_pipelines_of_an_overlay_are_right(folder: Path, tmp_path: Path) -> None:
    for one in objects(folder):
        for name, text in one.get("data", {}).items() if one["kind"] == "ConfigMap" else ():
            if name == "pipelines.yaml":
                (tmp_path / name).write_text(text)
                assert load(tmp_path / name)
            elif name.endswith(".yaml"):
                assert yaml.safe_load(text)


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def started(
    request: pytest.FixtureRequest, tiny_bi_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, ServerProcess]]:
    """The processes of an overlay, told what is there; only ports, paths, names and the drain delay are ours."""
    home, servers = tmp_path_factory.mktemp("pods"), dict[str, ServerProcess]()
    for one in objects(request.param):
        for name, text in one.get("data", {}).items() if one["kind"] == "ConfigMap" else ():
            (home / name).write_text(text)
    with ExitStack() as stack:
        for name, port in SERVICES.items():
            workload = workloads(request.param)[name]
            python, flag, module = container(workload)["command"]
            assert (python, flag) == ("python", "-m")
            here = {f"dns:///{other}:{SERVICES[other]}": server.address for other, server in servers.items()}
            here |= {f"0.0.0.0:{port}": "127.0.0.1:0", "0.0.0.0:9090": "127.0.0.1:0", "/data/": f"{home}/data/"}
            here |= {"/bundles/all-MiniLM-L6-v2/1": str(tiny_bi_encoder), "/pipelines/": f"{home}/"}
            told = {key: replaced(value, here) for key, value in environment(workload).items()}
            told[f"SLUICE_{name.upper()}_DRAIN_DELAY_S"] = "0"
            servers[name] = stack.enter_context(running(module, environment=told))
        yield servers


def replaced(value: str, here: dict[str, str]) -> str:
    for there, ours in here.items():
        value = value.replace(there, ours)
    return value


@pytest.mark.slow
def test_the_processes_answer_the_probes_and_end_within_the_grace_period(started: dict[str, ServerProcess]) -> None:
    for server in started.values():
        with grpc.insecure_channel(server.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    for name, server in reversed(started.items()):
        begun = time.monotonic()
        assert server.terminate() == 0, server.log
        assert time.monotonic() - begun < pod(FOLDERS[0], name)["terminationGracePeriodSeconds"]
