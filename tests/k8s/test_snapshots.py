"""What the component snapshots and the Job that restores say, done: a real server, the commands of the manifests."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

from tests.support.manifests import K8S, objects, pods, render_combinations, workloads
from tests.support.pods import local_values, module_of, substitute, variables_of
from tests.support.processes import ROOT, running
from tests.support.retrieval import document, new_collection, upsert

PARTS = ("snapshots",)


def ran(container: dict[str, Any], here: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a container's command on this machine."""
    words = [substitute(word, here) for word in [*container["command"], *container.get("args", [])]]
    program = {"python": sys.executable, "sluice": str(Path(sys.executable).with_name("sluice"))}
    command = [program.get(words[0], words[0]), *words[1:]]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)


def documents(stub: Any) -> list[str]:
    """Return the ids of all documents."""
    listed = stub.ListDocuments(pb.ListDocumentsRequest(collection="books", page_size=100), timeout=30)
    return [one.document_id for one in listed.documents]


@pytest.mark.slow
def test_what_the_cron_job_took_the_restore_job_brings_back(tmp_path: Path) -> None:
    found = render_combinations((PARTS,))[PARTS]
    server = workloads(found)["retrieval"]
    jobs = {name: template["spec"] for name, template in (*pods(found), *pods(objects(K8S / "jobs" / "restore")))}
    here = local_values(tmp_path, tmp_path, {}) | {
        "/data/": f"{tmp_path}/data/",
        "/snapshots/": f"{tmp_path}/snapshots/",
    }
    variables = variables_of("retrieval", server, here)
    with (
        running(module_of(server), environment=variables) as process,
        grpc.insecure_channel(process.address) as channel,
    ):
        stub: Any = RetrievalServiceStub(channel)
        stub.CreateCollection(new_collection(), timeout=30)
        stub.Upsert(upsert([document("kept", "ore")], [[1, 0, 0, 0]]), timeout=30)
        (snapshots,) = jobs["snapshots"]["containers"]
        taken = ran(snapshots, {"dns:///retrieval:50052": process.address})
        assert taken.returncode == 0, taken.stderr
        stub.Upsert(upsert([document("later", "gold")], [[0, 1, 0, 0]]), timeout=30)
        assert documents(stub) == ["kept", "later"]

    (name,) = (path.parent.name for path in (tmp_path / "snapshots" / "retrieval").glob("*/manifest.json"))
    here |= {"SNAPSHOT": name}
    (move_away,), (restore,) = jobs["restore"]["initContainers"], jobs["restore"]["containers"]
    for container in (move_away, restore):
        done = ran(container, here)
        assert done.returncode == 0, done.stderr
    assert "books: 1 documents" in done.stdout
    assert len(list((tmp_path / "data").glob("retrieval.*"))) == 1, "what was there is kept"
    with (
        running(module_of(server), environment=variables) as process,
        grpc.insecure_channel(process.address) as channel,
    ):
        assert documents(RetrievalServiceStub(channel)) == ["kept"]
    refused = ran(restore, here)
    assert refused.returncode == 1, "data that are there are never written over"
    assert "expected an empty or missing folder" in refused.stderr


@pytest.mark.slow
def test_a_cron_job_that_cannot_take_one_fails(tmp_path: Path) -> None:
    found = render_combinations((PARTS,))[PARTS]
    (snapshots,) = next(template["spec"]["containers"] for name, template in pods(found) if name == "snapshots")
    with running("services.retrieval", "--data", str(tmp_path / "data")) as process:
        failed = ran(snapshots, {"dns:///retrieval:50052": process.address})
    assert failed.returncode == 1
    assert "--snapshots" in failed.stderr
