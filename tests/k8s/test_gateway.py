"""The component gateway as a process: it starts, answers the probes and ends in time."""

from pathlib import Path

import pytest

from tests.support.manifests import container, put_together, workloads
from tests.support.pods import answers, module_of, places, told
from tests.support.processes import running


@pytest.mark.slow
def test_the_gateway_answers_the_probes_and_ends(tmp_path: Path) -> None:
    workload = workloads(put_together((("gateway",),))[("gateway",)])["gateway"]
    described = container(workload)
    ports = {one["name"]: one["containerPort"] for one in described["ports"]}
    here = places(tmp_path, tmp_path, {}) | {"0.0.0.0:8080": "127.0.0.1:0"}
    here |= {f"dns:///{name}": "127.0.0.2" for name in ("orchestrator", "embedding", "retrieval", "reranking")}
    with running(module_of(workload), environment=told("gateway", workload, here)) as server:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert answers(described[probe], ports, {ports["http"]: server.address}), probe
        assert server.terminate() == 0, server.log
