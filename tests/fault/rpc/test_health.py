"""Health during faults: a stuck batch, a failed golden check, a disk that rejects writes, and their ends."""

import asyncio
import resource
import shutil
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sluice.client import RetrievalClient
from sluice.common.v1.model_pb2 import TextRole
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.embedding.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from sluice.errors import PreconditionFailed
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb

from services.local.health import health
from tests.support.certificates import Authority
from tests.support.processes import ServerProcess, running
from tests.support.servers import embedding_server
from tests.support.slow_model import SLOW_WORD, with_slow_word
from tests.support.waiting import GUARD_S, until

EMBEDDING = "sluice.embedding.v1.EmbeddingService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def states(channel: grpc.aio.Channel, *names: str) -> list[int]:
    health: Any = health_pb2_grpc.HealthStub(channel)
    return [(await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)).status for name in names]


async def until_ready(channel: grpc.aio.Channel, ready: bool) -> None:
    """Wait, by the stream that load balancers watch."""
    health: Any = health_pb2_grpc.HealthStub(channel)
    async with asyncio.timeout(GUARD_S):
        watching = health.Watch(health_pb2.HealthCheckRequest(service=""))
        async for response in watching:
            if (response.status == SERVING) is ready:
                break
        watching.cancel()


async def test_a_stuck_batch_makes_a_server_unready_but_live_until_it_ends(
    tiny_bi_encoder: Path, tmp_path: Path
) -> None:
    bundle = with_slow_word(tiny_bi_encoder, tmp_path, turns=4_000_000)
    async with embedding_server(bundle, stuck_s=0.2, threads=2, max_deadline_s=3600) as channel:
        stub = EmbeddingServiceStub(channel)
        for words in (1, 4, 16):
            await until_ready(channel, True)
            # No text twice: its vector is kept.
            stuck = asyncio.ensure_future(stub.Embed(request(f"{SLOW_WORD} " * words), timeout=3600))
            unready = asyncio.ensure_future(until_ready(channel, False))
            await asyncio.wait({stuck, unready}, return_when=asyncio.FIRST_COMPLETED)
            seen = await states(channel, EMBEDDING, "startup", "liveness")
            await stub.Embed(request(f"another thread answers {words}"), timeout=GUARD_S)
            if not stuck.done():
                break
            unready.cancel()
            await asyncio.wait({unready})
        assert not stuck.done()
        assert seen == [NOT_SERVING, SERVING, SERVING]
        await unready
        await stuck
        await until_ready(channel, True)
        assert await states(channel, EMBEDDING) == [SERVING]


def request(text: str) -> pb.EmbedRequest:
    return pb.EmbedRequest(texts=[text], role=TextRole.TEXT_ROLE_QUERY, representations=[pb.REPRESENTATION_DENSE])


async def test_a_failed_golden_check_makes_a_server_unready_until_one_passes(
    tiny_bi_encoder: Path, tmp_path: Path
) -> None:
    """The check reads what is expected from the bundle each time, so another expectation is another failure."""
    bundle = Path(shutil.copytree(tiny_bi_encoder, tmp_path / "tiny" / "1"))
    golden = bundle / "golden.npz"
    right = golden.read_bytes()
    async with embedding_server(bundle, golden_check_s=0.01) as channel:
        await until_ready(channel, True)
        with np.load(golden) as file:
            arrays = {name: file[name] for name in file.files}
        np.savez(golden, **(arrays | {"dense": -arrays["dense"]}))
        await until_ready(channel, False)
        assert await states(channel, EMBEDDING, "liveness") == [NOT_SERVING, SERVING]
        golden.write_bytes(right)
        await until_ready(channel, True)


@pytest.mark.slow
def test_a_disk_that_rejects_writes_makes_retrieval_unready_until_it_accepts_them(tmp_path: Path) -> None:
    """A limit on the size of files, which is lifted again. Searches continue meanwhile."""
    with running("services.retrieval", "--data", str(tmp_path)) as server, RetrievalClient(server.address) as client:
        schema = retrieval_pb.Schema(text_fields=[retrieval_pb.TextField(name="text")])
        client.create_collection("before", schema)
        until(lambda: state_of(server) == "SERVING")
        unlimited = resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        with pytest.raises(PreconditionFailed, match="nothing was written"):
            client.create_collection("after", schema)
        until(lambda: state_of(server) == "NOT_SERVING")
        assert [one.name for one in client.collections()] == ["before"]
        assert any("nothing was written" in str(event.get("problems")) for event in server.events())
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)
        until(lambda: state_of(server) == "SERVING")
        client.create_collection("after", schema)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "state"), [([], "NOT_SERVING"), (["--ready-unwritable"], "SERVING")])
def test_low_disk_space_is_a_problem_before_a_write_fails(tmp_path: Path, options: list[str], state: str) -> None:
    much = str(2**62)
    with running("services.retrieval", "--data", str(tmp_path), "--min-free-bytes", much, *options) as server:
        until(lambda: state_of(server) == state)


def state_of(server: ServerProcess) -> str:
    return health("retrieval", server.address, timeout_s=30)


async def test_the_health_port_needs_neither_tls_nor_a_token(tiny_bi_encoder: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    identity = authority.issue()
    (tmp_path / "tokens.yaml").write_text("")
    with running(
        "services.embedding",
        f"--bundles={tiny_bi_encoder}",
        f"--tokens={tmp_path / 'tokens.yaml'}",
        f"--tls-certificate={identity.certificate}",
        f"--tls-key={identity.key}",
        f"--tls-client-ca={authority.ca}",
        "--health-listen=127.0.0.1:0",
    ) as server:
        (address,) = [event["address"] for event in server.events() if event["event"] == "serving health"]
        async with grpc.aio.insecure_channel(address) as door:
            assert await states(door, "", EMBEDDING, "startup", "liveness") == [SERVING] * 4
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await EmbeddingServiceStub(door).ListModels(pb.ListModelsRequest())
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
