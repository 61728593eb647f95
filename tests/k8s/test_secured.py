"""The components tls, tokens and tracing as processes: every hop by TLS, probes beside it, a collector that is away."""

import re
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sluice.cli.app import app
from sluice.client import Document, SearchClient, tls_credentials
from sluice.errors import Unauthenticated
from typer.testing import CliRunner

from tests.support.certificates import Authority, Identity
from tests.support.manifests import container, render_combinations, workloads
from tests.support.pods import ORDER, local_values, module_of, probe_succeeds, variables_of
from tests.support.processes import ServerProcess, running

PARTS = ("tls", "tokens", "tracing", "monitoring")


class Secured:
    """A running system with all of its hops secured."""

    def __init__(self, home: Path) -> None:
        self.servers: dict[str, ServerProcess] = {}
        self.health: dict[str, str] = {}
        self.authority = Authority(home / "authority")
        self.mine: Identity = self.authority.issue("mine")
        made = CliRunner().invoke(app, ["token", "tests", "--admin"], catch_exceptions=False)
        self.token = made.stdout.strip()
        (home / "tokens.yaml").write_text(made.stderr)

    def start(self, name: str, home: Path, bundle: Path, stack: ExitStack) -> None:
        """Start one as its manifest says, with the files that its Secret would bring."""
        workload = workloads(render_combinations((PARTS,))[PARTS])[name]
        identity, folder = self.authority.issue(name), home / f"tls-{name}"
        folder.mkdir()
        for target, source in (
            ("tls.crt", identity.certificate),
            ("tls.key", identity.key),
            ("ca.crt", self.authority.ca),
        ):
            (folder / target).write_bytes(source.read_bytes())
        here = local_values(home, bundle, self.servers) | {"/tls/": f"{folder}/", "/tokens/": f"{home}/"}
        self.health[name] = f"127.0.0.1:{free_port()}"
        here |= {"0.0.0.0:9091": self.health[name], "collector.observability:4317": f"127.0.0.1:{free_port()}"}
        variables = variables_of(name, workload, here)
        assert f"SLUICE_{name.upper()}_OTLP_ENDPOINT" in variables
        self.servers[name] = stack.enter_context(running(module_of(workload), environment=variables))

    def client(self, token: str | None) -> SearchClient:
        """Open a client of the orchestrator that trusts the authority."""
        return SearchClient(
            self.servers["orchestrator"].address, token=token, credentials=tls_credentials(self.authority.ca)
        )


def free_port() -> int:
    """A port that is free now: servers do not tell the one that they took for health."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def secured(tiny_bi_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    home = tmp_path_factory.mktemp("secured")
    system = Secured(home)
    with ExitStack() as stack:
        for name in ORDER:
            system.start(name, home, tiny_bi_encoder, stack)
        yield system


@pytest.mark.slow
def test_searches_go_through_by_tls_and_token(secured: Secured) -> None:
    with secured.client(secured.token) as client:
        assert list(client.index("docs", [Document("a", text="ore is washed")], create=True))
        assert [one.document.document_id for one in client.search("docs", "ore", timeout_s=30).results] == ["a"]
    with secured.client(None) as client, pytest.raises(Unauthenticated):
        client.search("docs", "ore", timeout_s=30)


@pytest.mark.slow
def test_a_server_behind_the_orchestrator_lets_in_nobody_without_a_certificate(secured: Secured) -> None:
    for name in ("embedding", "retrieval", "reranking"):
        address = secured.servers[name].address
        with pytest.raises(grpc.RpcError) as refused:
            checked(address, secured.authority.credentials())
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert checked(address, secured.authority.credentials(secured.mine))


def checked(address: str, credentials: grpc.ChannelCredentials) -> bool:
    """Ask a server for its health where it serves."""
    with grpc.secure_channel(address, credentials) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=30)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@pytest.mark.slow
def test_probes_are_answered_in_plain_text_and_metrics_by_tls(secured: Secured) -> None:
    for name, server in secured.servers.items():
        workload = workloads(render_combinations((PARTS,))[PARTS])[name]
        described = container(workload)
        ports = {one["name"]: one["containerPort"] for one in described["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert probe_succeeds(described[probe], ports, {ports["health"]: secured.health[name]}), (name, probe)
        assert workload["spec"]["template"]["metadata"]["annotations"]["prometheus.io/scheme"] == "https"
        (ready,) = (one for one in server.events() if one["event"] == "ready")
        trusted = ssl.create_default_context(cafile=str(secured.authority.ca))
        trusted.load_cert_chain(secured.mine.certificate, secured.mine.key)
        with urllib.request.urlopen(f"https://{ready['metrics']}/metrics", context=trusted, timeout=30) as page:
            assert re.search(r"^sluice_ready 1", page.read().decode(), re.MULTILINE)
