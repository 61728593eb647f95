"""The gateway's calls by mutual TLS, and settings of security that it does not have."""

import json
import urllib.request
from pathlib import Path

import pytest

from services.gateway.server import serving
from services.gateway.settings import GatewaySettings
from services.rpc.server import StartFailed
from tests.support.background import in_background
from tests.support.certificates import Authority, settings_of
from tests.support.stand_ins import HashingEmbedder, embedding_server


def test_the_gateway_shows_its_certificate_to_the_servers_behind_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    behind = settings_of(authority, authority.issue("service"), mutual=True)
    own = authority.issue("gateway")
    with in_background(embedding_server(HashingEmbedder(), **behind)) as embedding:
        settings = GatewaySettings(
            listen="127.0.0.1:0",
            embedding=embedding,
            downstream_tls_ca=authority.ca,
            tls_certificate=own.certificate,
            tls_key=own.key,
            drain_grace_s=1.0,
        )
        with in_background(serving(settings)) as gateway:
            request = urllib.request.Request(
                f"http://{gateway.address}/v1/embeddings",
                data=json.dumps({"model": "hashing", "input": "one two"}).encode(),
                headers={"content-type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=60) as response:
                assert len(json.load(response)["data"]) == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [("tokens", "give --tokens to the servers behind it"), ("tls_client_ca", "the gateway serves plain HTTP")],
)
async def test_the_gateway_does_not_pass_over_settings_of_security(tmp_path: Path, setting: str, message: str) -> None:
    authority = Authority(tmp_path)
    own = authority.issue()
    given = {"tls_certificate": own.certificate, "tls_key": own.key, setting: authority.ca}
    settings = GatewaySettings(listen="127.0.0.1:0", **given)  # type: ignore[arg-type]
    with pytest.raises(StartFailed, match=message):
        async with serving(settings):
            pass
