"""TLS and mTLS: admitted and rejected callers, and certificates that change while the server runs."""

import asyncio
import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY
from sluice.client import RetrievalClient, RetryPolicy, tls_credentials
from sluice.common.v1.document_pb2 import Document
from sluice.errors import Unavailable
from sluice.search.v1 import search_service_pb2 as pb

from services.rpc.auth.tls import Certificates, Files, TlsError, of_server
from services.rpc.server.lifecycle import StartFailed
from services.rpc.settings import ServerSettings
from tests.support.background import in_background
from tests.support.certificates import Authority, Identity, settings_of
from tests.support.fake_services import (
    ExactRetrieval,
    HashingEmbedder,
    OverlapReranker,
    embedding_server,
    orchestrator,
    reranking_server,
    retrieval_server,
)
from tests.support.processes import ServerProcess, StartRefused, running, start
from tests.support.servers import retrieval_address
from tests.support.waiting import until

ONCE = RetryPolicy(attempts=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "stranger")


@contextmanager
def serving_tls(tmp_path: Path, authority: Authority, identity: Identity, *, mutual: bool = False) -> Iterator[str]:
    with in_background(
        retrieval_address(tmp_path / "data", **settings_of(authority, identity, mutual=mutual))
    ) as address:
        yield address


def ask(address: str, credentials: grpc.ChannelCredentials | None) -> list[Any]:
    with RetrievalClient(address, credentials=credentials, retry=ONCE, timeout_s=20) as client:
        return client.collections()


def reloads(role: str, outcome: str) -> float:
    return REGISTRY.get_sample_value("sluice_reloads_total", {"role": role, "outcome": outcome}) or 0.0


def test_a_caller_that_trusts_the_authority_is_served_and_plain_text_is_not(
    tmp_path: Path, authority: Authority
) -> None:
    with serving_tls(tmp_path, authority, authority.issue()) as address:
        assert ask(address, authority.credentials()) == []
        with pytest.raises(Unavailable):
            ask(address, None)
        assert ask(address, authority.credentials()) == []


def test_a_caller_that_does_not_trust_the_authority_gets_an_error(
    tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    with serving_tls(tmp_path, authority, authority.issue()) as address:
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            ask(address, stranger.credentials())
        assert ask(address, authority.credentials()) == []


def test_mutual_tls_admits_only_callers_with_a_certificate(
    tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    caller, foreign = authority.issue("caller"), stranger.issue("caller")
    with serving_tls(tmp_path, authority, authority.issue(), mutual=True) as address:
        assert ask(address, authority.credentials(caller)) == []
        with pytest.raises(Unavailable):
            ask(address, authority.credentials())
        with pytest.raises(Unavailable):
            ask(address, tls_credentials(authority.ca, foreign.certificate, foreign.key))
        assert ask(address, authority.credentials(caller)) == []


def test_an_expired_certificate_of_a_caller_is_refused(tmp_path: Path, authority: Authority) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    late = authority.issue("late", not_after=yesterday)
    with serving_tls(tmp_path, authority, authority.issue(), mutual=True) as address:
        with pytest.raises(Unavailable):
            ask(address, authority.credentials(late))
        assert ask(address, authority.credentials(authority.issue("caller"))) == []


async def test_an_expired_certificate_of_a_server_is_named_to_its_caller(tmp_path: Path, authority: Authority) -> None:
    """Our own servers do not start with one; it may expire while they run, as this one did."""
    late = authority.issue("late", not_after=datetime.now(UTC) - timedelta(days=1))

    server = grpc.aio.server()
    pair = (late.key.read_bytes(), late.certificate.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    with pytest.raises(Unavailable, match="certificate has expired"):
        await asyncio.to_thread(ask, f"127.0.0.1:{port}", authority.credentials())
    await server.stop(None)


def test_new_certificates_apply_to_new_connections_and_close_none(
    tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    identity = authority.issue()
    with (
        serving_tls(tmp_path, authority, identity) as address,
        RetrievalClient(address, credentials=authority.credentials()) as old,
    ):
        assert old.collections() == []
        taken = reloads("server", "taken")
        renewed = stranger.issue()
        identity.key.write_bytes(renewed.key.read_bytes())
        identity.certificate.write_bytes(renewed.certificate.read_bytes())
        until(lambda: reloads("server", "taken") > taken)
        assert ask(address, stranger.credentials()) == []
        assert old.collections() == []
        with pytest.raises(Unavailable):
            ask(address, authority.credentials())


def test_invalid_new_certificates_change_nothing_and_are_counted(tmp_path: Path, authority: Authority) -> None:
    identity = authority.issue()
    with serving_tls(tmp_path, authority, identity) as address:
        refused = reloads("server", "refused")
        identity.certificate.write_text("not a certificate")
        until(lambda: reloads("server", "refused") > refused)
        assert ask(address, authority.credentials()) == []


def test_a_key_is_in_no_repr(authority: Authority) -> None:
    identity = authority.issue()
    certificates = Certificates("server", Files(identity.certificate, identity.key, None))
    assert identity.key.read_text().splitlines()[1] not in repr(vars(certificates))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda identity: identity.certificate.unlink(), "No such file"),
        (lambda identity: identity.key.write_text(""), "expected a certificate and its key"),
        (lambda identity: identity.certificate.write_text("nonsense"), "expected a certificate and its key"),
    ],
)
def test_invalid_files_are_reported(authority: Authority, spoil: Any, message: str) -> None:
    identity = authority.issue()
    spoil(identity)
    with pytest.raises(TlsError, match=message):
        of_server(ServerSettings(**settings_of(authority, identity)))


def test_a_key_of_another_certificate_is_reported(authority: Authority) -> None:
    one, other = authority.issue("one"), authority.issue("other")
    with pytest.raises(TlsError, match=r"one\.pem, .*other\.key: expected a certificate and its key"):
        Certificates("server", Files(one.certificate, other.key, None))


def test_an_expired_certificate_keeps_a_server_from_starting(tmp_path: Path, authority: Authority) -> None:
    late = authority.issue(not_after=datetime(2020, 1, 2, tzinfo=UTC))
    with (
        pytest.raises(StartFailed, match="the certificate expired at 2020-01-02 00:00 UTC"),
        in_background(retrieval_address(tmp_path / "data", **settings_of(authority, late))),
    ):
        pass


@pytest.mark.slow
def test_a_wrong_certificate_keeps_the_process_from_starting(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match=r"invalid certificates: .*No such file"):
        start("services.orchestrator", "--tls-certificate", str(tmp_path / "no.pem"), "--tls-key", str(tmp_path / "no"))


@pytest.mark.slow
def test_the_page_of_metrics_shows_the_servers_certificate_and_the_next_one(
    tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    identity = authority.issue()
    arguments = ["--tls-certificate", str(identity.certificate), "--tls-key", str(identity.key)]
    with running("services.orchestrator", "--metrics-listen", "127.0.0.1:0", *arguments) as server:
        url = f"https://{ready(server)['metrics']}/metrics"
        assert b"sluice_certificate_expiry_timestamp_seconds 0.0" not in page(url, authority)
        renewed = stranger.issue()
        identity.key.write_bytes(renewed.key.read_bytes())
        identity.certificate.write_bytes(renewed.certificate.read_bytes())
        assert b"sluice_ready 1.0" in page(url, stranger)


@pytest.mark.slow
def test_the_command_line_shows_a_certificate_and_a_token(tmp_path: Path, authority: Authority) -> None:
    identity, caller = authority.issue(), authority.issue("caller")
    command = [sys.executable, "-m", "sluice"]
    made = subprocess.run([*command, "token", "me"], check=True, capture_output=True, text=True)
    (tmp_path / "tokens.yaml").write_text(made.stderr)
    shown = {
        "SLUICE_TOKEN": made.stdout.strip(),
        "SLUICE_TLS_CA": str(authority.ca),
        "SLUICE_TLS_CERTIFICATE": str(caller.certificate),
        "SLUICE_TLS_KEY": str(caller.key),
    }
    asked = {"tls-certificate": identity.certificate, "tls-key": identity.key, "tls-client-ca": authority.ca}
    options = [f"--{name}={path}" for name, path in asked.items()]
    with running("services.retrieval", f"--data={tmp_path}/data", f"--tokens={tmp_path}/tokens.yaml", *options) as one:
        listing = [*command, "collections", "list", "--retrieval", one.address]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
        for missing in (None, *shown):
            given = {name: value for name, value in shown.items() if name != missing}
            ran = subprocess.run(listing, check=False, capture_output=True, text=True, env=environment | given)
            assert (ran.returncode == 0) == (missing is None), (missing, ran.stderr)
            assert shown["SLUICE_TOKEN"] not in ran.stdout + ran.stderr


def ready(server: ServerProcess) -> dict[str, Any]:
    return next(event for event in server.events() if event["event"] == "ready")


def page(url: str, authority: Authority) -> bytes:
    context = ssl.create_default_context(cafile=authority.ca)
    with urllib.request.urlopen(url, context=context, timeout=30) as response:
        return bytes(response.read())


def test_a_certificate_without_its_key_is_an_invalid_setting() -> None:
    with pytest.raises(ValueError, match="--tls-certificate and --tls-key together"):
        ServerSettings(tls_certificate=Path("a.pem"))
    with pytest.raises(ValueError, match="together with --tls-client-ca"):
        ServerSettings(tls_client_ca=Path("ca.pem"))


async def test_every_hop_is_mutual_and_follows_its_files(tmp_path: Path, authority: Authority) -> None:
    """The orchestrator shows its certificate to the services, and a new one after it changed."""
    service, face = authority.issue("service"), authority.issue("face")
    behind = settings_of(authority, service, mutual=True)
    async with (
        embedding_server(HashingEmbedder(), **behind) as embedding,
        retrieval_server(ExactRetrieval(), **behind) as retrieval,
        reranking_server(OverlapReranker(), **behind) as reranking,
        orchestrator(
            listen="127.0.0.1:0",
            embedding=embedding,
            retrieval=retrieval,
            reranking=reranking,
            downstream_tls_ca=authority.ca,
            tls_certificate=face.certificate,
            tls_key=face.key,
            reload_s=0.02,
            drain_grace_s=0.0,
            credentials=authority.credentials(),
        ) as (search, _),
    ):
        await indexed(search)
        taken = reloads("downstream", "taken")
        authority.issue("face")
        await asyncio.to_thread(until, lambda: reloads("downstream", "taken") > taken)
        for _ in range(3):
            answer = await search.Search(pb.SearchRequest(collection="books", query="one"), timeout=30)
            assert [result.document.document_id for result in answer.results] == ["a"]


async def test_a_service_with_a_foreign_certificate_is_not_called(
    tmp_path: Path, authority: Authority, stranger: Authority
) -> None:
    async with (
        embedding_server(HashingEmbedder(), **settings_of(stranger, stranger.issue())) as embedding,
        orchestrator(listen="127.0.0.1:0", embedding=embedding, downstream_tls_ca=authority.ca, drain_grace_s=0.0) as (
            search,
            _,
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await search.Search(pb.SearchRequest(collection="books", query="one"), timeout=2)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def indexed(search: Any) -> None:
    async def requests() -> Any:
        document = Document(document_id="a", text="one two")
        yield pb.IndexRequest(collection="books", create_collection=True, documents=[document])

    async for _ in search.Index(requests(), timeout=30):
        pass
