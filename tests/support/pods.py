"""Containers of the rendered manifests as local processes, and probes like the kubelet's."""

import http.client
import socket
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.manifests import Object, container, environment
from tests.support.processes import ServerProcess
from tests.support.waiting import GUARD_S

# Each after those that it is told the addresses of.
ORDER: Final = ("embedding", "reranking", "retrieval", "orchestrator")
_PORTS: Final = {"embedding": 50051, "reranking": 50053, "retrieval": 50052, "orchestrator": 50050}


def substitute(value: str, here: Mapping[str, str]) -> str:
    """Replace a manifest's paths and addresses with local ones."""
    for there, ours in here.items():
        value = value.replace(there, ours)
    return value


def local_values(home: Path, bundle: Path, servers: Mapping[str, ServerProcess]) -> dict[str, str]:
    """Return the paths and addresses of the cluster, with their local replacements."""
    here = {f"dns:///{name}:{_PORTS[name]}": server.address for name, server in servers.items()}
    here |= {f"0.0.0.0:{port}": "127.0.0.1:0" for port in (*_PORTS.values(), 9090)}
    return here | {"/bundles/all-MiniLM-L6-v2/1": str(bundle), "/data/": f"{home}/data/", "/pipelines/": f"{home}/"}


def variables_of(name: str, workload: Object, here: Mapping[str, str], found: Sequence[Object] = ()) -> dict[str, str]:
    """Return the environment of a container for this machine, without the delay for load balancers.

    found  what was rendered with it: ConfigMaps are read
    """
    values = {key: substitute(value, here) for key, value in environment(workload, found).items()}
    return values | {f"SLUICE_{name.upper()}_DRAIN_DELAY_S": "0"}


def module_of(workload: Object) -> str:
    """Return the module that a container's command runs."""
    python, flag, module = container(workload)["command"]
    assert (python, flag) == ("python", "-m")
    return str(module)


def probe_succeeds(probe: Mapping[str, Any], ports: Mapping[str, int], where: Mapping[int, str]) -> bool:
    """Return whether a probe succeeds. `where` maps each port of the container to a local address."""
    timeout_s = GUARD_S  # this machine may be busier than a kubelet allows
    if "grpc" in probe:
        request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
        with grpc.insecure_channel(where[probe["grpc"]["port"]]) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            return bool(health.Check(request, timeout=timeout_s).status == health_pb2.HealthCheckResponse.SERVING)
    kind = "httpGet" if "httpGet" in probe else "tcpSocket"
    port = probe[kind]["port"]
    host, _, number = where[ports.get(port, port)].rpartition(":")
    if kind == "tcpSocket":
        with socket.create_connection((host, int(number)), timeout_s):
            return True
    with closing(http.client.HTTPConnection(host, int(number), timeout=timeout_s)) as connection:
        connection.request("GET", probe["httpGet"]["path"])
        return 200 <= connection.getresponse().status < 400
