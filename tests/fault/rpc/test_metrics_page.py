"""The metrics page: frequent scrapes, and an address in use."""

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sluice.client import EmbeddingClient

from tests.support.processes import StartRefused, running, start
from tests.support.prometheus import scraping
from tests.support.waiting import until

pytestmark = pytest.mark.slow

CALLERS, CALLS = 4, 200


def test_ten_scrapes_per_second_do_not_disturb_calls(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    options = ["--bundles", str(tiny_bi_encoder), "--metrics-listen", "127.0.0.1:0"]
    with running("services.embedding", *options) as server:
        (ready,) = [event for event in server.events() if event["event"] == "ready"]

        def call(caller: int) -> int:
            with EmbeddingClient(server.address, timeout_s=60) as client:
                return sum(len(client.embed([f"{caller} {n}"], "query").usage) for n in range(CALLS))

        with scraping([ready["metrics"]], tmp_path, every="100ms") as prometheus:
            until(lambda: bool(prometheus.query("up == 1")))
            with ThreadPoolExecutor(CALLERS) as pool:
                assert list(pool.map(call, range(CALLERS))) == [CALLS] * CALLERS
            handled = 'sum(grpc_server_handled_total{grpc_method="Embed", grpc_code="OK"})'
            until(lambda: [one["value"][1] for one in prometheus.query(handled)] == [str(CALLERS * CALLS)])


def test_a_metrics_address_in_use_prevents_the_start(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartRefused, match=f"cannot serve metrics on {where}.*choose another --metrics-listen"):
            start("services.retrieval", "--data", str(tmp_path), "--metrics-listen", where)


def test_an_unknown_variable_prevents_the_start(tmp_path: Path) -> None:
    """Also one that is nearly the name of a setting of security: it must not be passed over."""
    wrong = {"SLUICE_RETRIEVAL_TOKEN": "tokens.yaml"}
    with pytest.raises(StartRefused, match="SLUICE_RETRIEVAL_TOKEN: unknown setting") as caught:
        start("services.retrieval", "--data", str(tmp_path), environment=wrong)
    assert caught.value.status == 2
