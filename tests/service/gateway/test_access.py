"""Tokens and TLS at the gateway."""

import ssl
from pathlib import Path

import httpx
import pytest

from services.gateway.server import serving
from services.gateway.settings import GatewaySettings
from tests.service.rpc.test_tokens import made
from tests.support.certificates import Authority, settings_of
from tests.support.fake_services import HashingEmbedder, embedding_server
from tests.support.gateway import gateway

OPENAI = {"model": "hashing", "input": "some words"}


async def test_a_gateway_with_tokens_requires_one_except_for_probes_and_the_console(tmp_path: Path) -> None:
    token, lines = made("caller", "-c", "*")
    (tmp_path / "tokens.yaml").write_text(lines)
    async with gateway(tokens=tmp_path / "tokens.yaml") as there:
        refused = await there.http.post("/v1/embeddings", json=OPENAI)
        assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert (await there.http.get("/metrics")).status_code == 401
        wrong = await there.http.post("/embed", json={"inputs": "a"}, headers={"authorization": "Bearer nonsense"})
        assert wrong.status_code == 401
        assert not there.embedder.calls
        for path in ("/", "/health", "/health/live", "/console/main.js"):
            assert (await there.http.get(path)).status_code == 200
        let_in = await there.http.post("/v1/embeddings", json=OPENAI, headers={"authorization": f"Bearer {token}"})
        assert let_in.status_code == 200


@pytest.mark.parametrize("mutual", [False, True])
async def test_a_gateway_serves_and_calls_by_tls(tmp_path: Path, mutual: bool) -> None:
    authority = Authority(tmp_path / "ca")
    shown = settings_of(authority, authority.issue(), mutual=mutual)
    async with embedding_server(HashingEmbedder(), **shown) as embedding:
        places = {"listen": "127.0.0.1:0", "embedding": embedding, "inner_routes": "open"}
        settings = GatewaySettings(**places, downstream_tls_ca=authority.ca, **shown)
        trust = ssl.create_default_context(cafile=str(authority.ca))
        async with serving(settings) as served:
            if mutual:
                async with httpx.AsyncClient(verify=trust, trust_env=False) as stranger:
                    with pytest.raises(httpx.TransportError):
                        await stranger.get(f"https://{served.address}/health")
                identity = authority.issue("client")
                trust.load_cert_chain(identity.certificate, identity.key)
            async with httpx.AsyncClient(verify=trust, trust_env=False) as http:
                answer = await http.post(f"https://{served.address}/v1/embeddings", json=OPENAI)
                assert answer.status_code == 200
