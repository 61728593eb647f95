"""The manifests are true: the processes that they describe start, answer the kubelet's probes and end in time."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from sluice.client import Document, SearchClient

from tests.support.manifests import K8S, OVERLAYS, container, objects, of_kind, pods, render_combinations, workloads
from tests.support.pods import ORDER, local_values, module_of, probe_succeeds, variables_of
from tests.support.processes import ROOT, ServerProcess, StartRefused, running, start
from tests.support.waiting import GUARD_S

FOLDERS = sorted(path for path in OVERLAYS.iterdir() if path.is_dir())

System = tuple[Path, dict[str, ServerProcess]]


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def system(
    request: pytest.FixtureRequest, tiny_bi_encoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """The processes of an overlay, told what is there; only ports, paths, names and the drain delay are ours.

    All must end with status 0 after SIGTERM.
    """
    home, servers = tmp_path_factory.mktemp("pods"), dict[str, ServerProcess]()
    for one in of_kind(objects(request.param), "ConfigMap").values():
        for name, text in one["data"].items():
            (home / name).write_text(text)
    with ExitStack() as stack:
        for name in ORDER:
            workload = workloads(objects(request.param))[name]
            variables = variables_of(name, workload, local_values(home, tiny_bi_encoder, servers))
            servers[name] = stack.enter_context(running(module_of(workload), environment=variables))
        yield request.param, servers
        # That their settings leave time for it within the grace period is a test of the manifests.
        for server in reversed(servers.values()):
            assert server.terminate() == 0, server.log


@pytest.mark.slow
def test_the_processes_answer_the_probes_and_prometheus(system: System) -> None:
    folder, servers = system
    for name, server in servers.items():
        workload = workloads(objects(folder))[name]
        described = container(workload)
        ports = {one["name"]: one["containerPort"] for one in described["ports"]}
        (ready,) = (one for one in server.events() if one["event"] == "ready")
        where = {ports["grpc"]: server.address, ports["metrics"]: ready["metrics"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert probe_succeeds(described[probe], ports, where), (name, probe)
        annotations = workload["spec"]["template"]["metadata"].get("annotations", {})
        port = int(annotations.get("prometheus.io/port", ports["metrics"]))
        assert probe_succeeds({"httpGet": {"path": "/metrics", "port": port}}, ports, where), name


@pytest.mark.slow
@pytest.mark.parametrize("system", [OVERLAYS / "local"], indirect=True, ids=["local"])
def test_the_load_job_runs_its_scenario_and_leaves_a_report(system: System, tmp_path: Path) -> None:
    _, servers = system
    (tmp_path / "collection").mkdir()
    (tmp_path / "collection" / "corpus.jsonl").write_text('{"_id": "a", "title": "", "text": "ore is washed"}\n')
    (tmp_path / "collection" / "queries.jsonl").write_text('{"_id": "q", "text": "washing ore"}\n')
    with SearchClient(servers["orchestrator"].address) as client:
        assert list(client.index("docs", [Document("a", text="ore is washed")], create=True))
    ((_, template),) = pods(objects(K8S / "jobs" / "load"))
    (job,) = template["spec"]["containers"]
    here = {"python": sys.executable, "dns:///orchestrator:50050": servers["orchestrator"].address}
    command = [here.get(word, word).replace("/loadtest", str(tmp_path)) for word in job["command"] + job["args"]]
    ran = subprocess.run([*command, "--quick"], check=False, cwd=ROOT, capture_output=True, text=True, timeout=GUARD_S)
    # On a machine that is busy with other tests the generator may send late, and calls may miss their deadline: then
    # there are the raw data, and no report.
    record = json.loads((tmp_path / "steady" / "run.json").read_text())
    assert (ran.returncode == 0) == (not record["failed"]), ran.stderr
    assert (tmp_path / "steady" / "report.html").is_file() == (ran.returncode == 0)
    (summary,) = record["summaries"]
    assert sum(summary["codes"].values()) == summary["offered"] > 0
    assert {code.partition("/")[0] for code in summary["codes"]} <= {"OK", "DEADLINE_EXCEEDED", "UNAVAILABLE"}


@pytest.mark.slow
def test_a_variable_that_is_no_setting_is_named_and_the_pod_does_not_start(tmp_path: Path) -> None:
    workload = workloads(objects(FOLDERS[0]))["retrieval"]
    variables = variables_of("retrieval", workload, local_values(tmp_path, tmp_path, {})) | {
        "SLUICE_RETRIEVAL_SERCH_THREADS": "2"
    }
    with pytest.raises(StartRefused) as refused:
        start(module_of(workload), environment=variables)
    assert refused.value.status == 2
    assert "SLUICE_RETRIEVAL_SERCH_THREADS: unknown setting" in refused.value.log[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rerank": [{"name": "rerank", "dept": 5}]}, "default.rerank.0"),
        ({"retrieve": [{"name": "dense", "kind": "magic", "depth": 50}]}, "magic"),
    ],
)
def test_pipelines_that_are_wrong_are_named_and_the_pod_does_not_start(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    found = objects(OVERLAYS / "production")
    (config,) = (one for name, one in of_kind(found, "ConfigMap").items() if name.startswith("pipelines-"))
    pipelines = yaml.safe_load(config["data"]["pipelines.yaml"])
    pipelines["default"] |= change
    (tmp_path / "pipelines.yaml").write_text(yaml.safe_dump(pipelines))
    workload = workloads(found)["orchestrator"]
    with pytest.raises(StartRefused) as refused:
        start(
            module_of(workload),
            environment=variables_of("orchestrator", workload, local_values(tmp_path, tmp_path, {})),
        )
    assert refused.value.status == 1
    assert "pipelines.yaml" in refused.value.log[-1]
    assert said in refused.value.log[-1]
    assert "Traceback" not in "\n".join(refused.value.log)


@pytest.mark.slow
def test_the_init_container_delivers_bundles_whole(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    template = workloads(objects(OVERLAYS / "local"))["embedding"]["spec"]["template"]
    (delivery,) = template["spec"]["initContainers"]
    bundles = tiny_bi_encoder.parents[1]
    here = {"/bundles": str(bundles), "/delivered": str(tmp_path / "delivered")}
    subprocess.run([here.get(word, word) for word in delivery["command"]], check=True)
    name, version = tiny_bi_encoder.parts[-2:]
    delivered = tmp_path / "delivered" / name / version
    with running("services.embedding", "--bundles", str(delivered)):
        pass
    (delivered / "golden.npz").write_bytes(b"damaged")
    with pytest.raises(StartRefused) as refused:
        start("services.embedding", "--bundles", str(delivered))
    assert "golden.npz" in refused.value.log[-1]


@pytest.mark.slow
def test_retrieval_over_milvus_starts_as_the_manifest_says(tmp_path: Path) -> None:
    """With Milvus Lite in the place of the Milvus of a cluster."""
    workload = workloads(render_combinations((("milvus",),))[("milvus",)])["retrieval"]
    here = local_values(tmp_path, tmp_path, {}) | {"http://milvus.milvus:19530": str(tmp_path / "milvus.db")}
    with running(module_of(workload), environment=variables_of("retrieval", workload, here)) as server:
        assert probe_succeeds(container(workload)["readinessProbe"], {}, {50052: server.address})
        assert server.terminate() == 0, server.log
