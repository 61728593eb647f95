"""The component gateway as a process: it starts, answers the probes and ends in time."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.service.rpc.test_tokens import made
from tests.support.gateway_routes import OPEN, inner_routes, request_of
from tests.support.manifests import Object, container, render_combinations, workloads
from tests.support.pods import local_values, module_of, probe_succeeds, variables_of
from tests.support.processes import running


@pytest.mark.slow
def test_the_gateway_answers_the_probes_and_ends(tmp_path: Path) -> None:
    workload = workloads(render_combinations((("gateway",),))[("gateway",)])["gateway"]
    described = container(workload)
    ports = {one["name"]: one["containerPort"] for one in described["ports"]}
    with running(module_of(workload), environment=variables_of("gateway", workload, elsewhere(tmp_path))) as server:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert probe_succeeds(described[probe], ports, {ports["http"]: server.address}), probe
        assert server.terminate() == 0, server.log


@pytest.mark.slow
@pytest.mark.parametrize("parts", [("gateway", "tokens"), ("tokens", "gateway")])
def test_with_tokens_nothing_passes_the_gateway_without_one(tmp_path: Path, parts: tuple[str, ...]) -> None:
    """In whichever order the components are listed. No service is there: a call that passed would be a 503."""
    token, lines = made("caller", "--admin")
    (tmp_path / "tokens.yaml").write_text(lines)
    found = render_combinations((parts,))[parts]
    workload = workloads(found)["gateway"]
    assert mounted(workload) >= {"/tokens"}
    with running(
        module_of(workload), environment=variables_of("gateway", workload, elsewhere(tmp_path), found)
    ) as server:
        base = f"http://{server.address}"
        with httpx.Client(base_url=base, timeout=60, trust_env=False) as http:
            for method, path in asyncio.run(inner_routes()):
                assert http.request(**request_of(method, path)).status_code == 401, (method, path)
            for path in (path for path in OPEN if "{" not in path):
                assert http.get(path).status_code == 200, path
            answer = http.get("/collections", headers={"authorization": f"Bearer {token}", "x-deadline-ms": "500"})
            assert answer.status_code in (503, 504)


@pytest.mark.slow
def test_a_gateway_without_tokens_of_its_own_opens_no_inner_route_before_the_orchestrator_did(tmp_path: Path) -> None:
    found = render_combinations((("gateway",),))[("gateway",)]
    workload = workloads(found)["gateway"]
    variables = variables_of("gateway", workload, elsewhere(tmp_path), found)
    assert "SLUICE_GATEWAY_TOKENS" not in variables
    with running(module_of(workload), environment=variables) as server:
        answer = httpx.post(f"http://{server.address}/embed", json={"inputs": "a"}, timeout=60, trust_env=False)
        assert answer.status_code == 503
        assert "--inner-routes" in answer.json()["error"]


def elsewhere(home: Path) -> dict[str, str]:
    """Return local values for the cluster's: files are in `home`, and no server listens."""
    here = local_values(home, home, {}) | {"0.0.0.0:8080": "127.0.0.1:0", "/tokens/": f"{home}/"}
    return here | {f"dns:///{name}": "127.0.0.2" for name in ("orchestrator", "embedding", "retrieval", "reranking")}


def mounted(workload: Object) -> set[str]:
    """Where the container of a workload finds volumes."""
    volumes = {one["name"] for one in workload["spec"]["template"]["spec"]["volumes"]}
    return {one["mountPath"] for one in container(workload)["volumeMounts"] if one["name"] in volumes}
