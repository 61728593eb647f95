"""Every RPC of every server under random requests: each is answered or refused clearly, and the server goes on.

The methods and their messages come from the server's reflection, so a new RPC is fuzzed without being named here.
`FUZZ_SEED` and `FUZZ_CALLS` (per server) change a run; the seed is part of every failure.
"""

import asyncio
import logging
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from prometheus_client import REGISTRY

from services.embedding import server as embedding
from services.embedding.settings import EmbeddingSettings
from services.orchestrator.server import build as orchestrator
from services.orchestrator.settings import OrchestratorSettings
from services.reranking import server as reranking
from services.reranking.settings import RerankingSettings
from services.retrieval.server import build
from services.retrieval.settings import RetrievalSettings
from services.rpc.server.lifecycle import serving
from tests.support.example_requests import RESTORING, WORDS, examples_of
from tests.support.fake_services import PIPELINES
from tests.support.reflection import Method, list_methods
from tests.support.request_mutation import Mutator, smaller
from tests.support.waiting import until

SEED: Final = int(os.environ.get("FUZZ_SEED", "12"))
CALLS: Final = int(os.environ.get("FUZZ_CALLS", "4500"))
# Calls between two restorations of what random calls may have deleted or unloaded.
ROUND: Final = 250
AT_ONCE: Final = 16
# A guard against hanging, not a bound on speed.
TIMEOUT_S: Final = 120.0
FAULTS: Final = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED})
# What a grpc.aio client makes of a stream that ends while it writes; the server's own status is lost then.
ENDED_UNDER_A_WRITE: Final = "Internal error from Core"


@dataclass(frozen=True)
class Call:
    """One call: its method and the bytes of its messages."""

    method: Method
    messages: tuple[bytes, ...]

    def __str__(self) -> str:
        return f"{self.method.name} {[_readable(self.method, one) for one in self.messages]}"


def _readable(method: Method, payload: bytes) -> str:
    try:
        message = GetMessageClass(method.given).FromString(payload)
    except DecodeError:
        return payload[:100].hex()
    return text_format.MessageToString(message, as_one_line=True)[:2000] or "empty"


@asynccontextmanager
async def served(folder: Path, encoder: Path, scorer: Path) -> AsyncIterator[dict[str, str]]:
    """All four servers; their addresses by name."""
    shared: dict[str, Any] = {"listen": "127.0.0.1:0", "max_watch_s": 0.05}
    models = {**shared, "max_text_bytes": 4096, "threads": 1}
    embed = EmbeddingSettings(bundles=[encoder], repository=encoder.parents[1], **models)
    rerank = RerankingSettings(bundles=[encoder, scorer], repository=scorer.parents[1], **models)
    retrieve = RetrievalSettings(data=folder / "data", snapshots=folder / "snapshots", **shared)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        addresses = {
            "embedding": (await enter(serving(embed, lambda: embedding.build(embed)))).address,
            "reranking": (await enter(serving(rerank, lambda: reranking.build(rerank)))).address,
            "retrieval": (await enter(serving(retrieve, partial(build, retrieve)))).address,
        }
        search = OrchestratorSettings(**{**shared, **addresses, "pipelines": PIPELINES, "max_text_bytes": 4096})
        addresses["orchestrator"] = (await enter(serving(search, lambda: orchestrator(search)))).address
        yield addresses


async def ended(channel: Any, call: Call) -> tuple[grpc.StatusCode, str]:
    """How a call ends: its code and its message."""
    sent: Any
    if len(call.messages) == 1 and call.method.is_unary:
        sent = channel.unary_unary(call.method.name)(call.messages[0], timeout=TIMEOUT_S)
        code, details = await sent.code(), await sent.details()
    else:
        sent = channel.stream_stream(call.method.name)(iter(call.messages), timeout=TIMEOUT_S)
        try:
            async for _ in sent:
                pass
            code, details = await sent.code(), await sent.details()
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
    if details == ENDED_UNDER_A_WRITE:
        code = grpc.StatusCode.UNAVAILABLE
    return code, details or ""


async def restore(channel: Any, server: str) -> None:
    """Make again what the examples ask for. What is there already, or in the way, is no failure."""
    for method, request in RESTORING[server]:
        call = Call(Method(method, None, None, is_unary=False), (request.SerializeToString(),))
        code, details = await ended(channel, call)
        assert code not in FAULTS, (method, code, details)


def random_calls(methods: Sequence[Method], mutator: Mutator, rng: random.Random, count: int) -> list[Call]:
    calls = []
    for _ in range(count):
        method = rng.choice(methods)
        others = [one.given for one in methods]
        most = 1 if method.is_unary and rng.random() < 0.97 else rng.choice((0, 1, 2, 3))
        calls.append(Call(method, tuple(mutator.payload(method.given, others) for _ in range(most))))
    return calls


async def smallest(channel: grpc.aio.Channel, call: Call) -> Call:
    """The call with everything left out that its failure does not need; as it is when it does not fail again."""
    shrinking = True
    while shrinking:
        shrinking = False
        for smaller_call in _smaller(call):
            if (await ended(channel, smaller_call))[0] in FAULTS:
                call, shrinking = smaller_call, True
                break
    return call


def _smaller(call: Call) -> list[Call]:
    found = [Call(call.method, (one,)) for one in call.messages if len(call.messages) > 1]
    if len(call.messages) == 1:
        try:
            message = GetMessageClass(call.method.given).FromString(call.messages[0])
        except DecodeError:
            return []
        found += [Call(call.method, (one.SerializeToString(),)) for one in smaller(message)]
    return [one for one in found if one.messages != call.messages]


@pytest.mark.parametrize("server", sorted(RESTORING))
async def test_no_request_causes_a_defect(
    server: str, tmp_path: Path, tiny_bi_encoder: Path, tiny_cross_encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = random.Random(f"{SEED} {server}")
    mutator = Mutator(rng, WORDS, examples_of(server))
    codes: Counter[str] = Counter()
    async with (
        served(tmp_path, tiny_bi_encoder, tiny_cross_encoder) as addresses,
        grpc.aio.insecure_channel(addresses[server]) as channel,
    ):
        methods = await asyncio.to_thread(list_methods, addresses[server])
        for first in range(0, CALLS, ROUND):
            await restore(channel, server)
            calls = random_calls(methods, mutator, rng, min(ROUND, CALLS - first))
            await _check(channel, calls, codes)
            assert not (logged := [_told(one) for one in caplog.records if _is_error(one)]), (
                f"FUZZ_SEED={SEED}: an error in the log of {server}: {logged}"
            )
            caplog.clear()
    assert codes["OK"] > CALLS // 20, f"too few requests are answered for this to test much: {codes}"


def _is_error(record: logging.LogRecord) -> bool:
    """Tell whether a log line reports a defect. gRPC's own of a call whose caller has gone before the end does not."""
    return record.levelno >= logging.ERROR and "ExecuteBatchError" not in record.getMessage()


async def _check(channel: grpc.aio.Channel, calls: Sequence[Call], codes: Counter[str]) -> None:
    for first in range(0, len(calls), AT_ONCE):
        some = calls[first : first + AT_ONCE]
        outcomes = await asyncio.gather(*(ended(channel, one) for one in some))
        for call, (code, details) in zip(some, outcomes, strict=True):
            codes[code.name] += 1
            if code in FAULTS:
                small = await smallest(channel, call)
                pytest.fail(f"FUZZ_SEED={SEED}: {code.name} {details!r} for {small}")


def _told(record: logging.LogRecord) -> str:
    return f"{record.name}: {record.getMessage()} {vars(record).get('method', '')} {record.exc_text or ''}"


async def test_malformed_messages_are_rejected_and_counted_for_every_rpc(
    tmp_path: Path, tiny_bi_encoder: Path, tiny_cross_encoder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path, tiny_bi_encoder, tiny_cross_encoder) as addresses:
        for address in addresses.values():
            methods = await asyncio.to_thread(list_methods, address)
            async with grpc.aio.insecure_channel(address) as channel:
                for method in methods:
                    before = handled(method)
                    code, details = await ended(channel, Call(method, (b"\x0a",)))
                    assert code is grpc.StatusCode.INVALID_ARGUMENT, (method.name, details)
                    assert "expected a serialized " in details or "in the call's metadata" in details
                    await asyncio.to_thread(until, partial(is_counted, method, before))
    assert not [record for record in caplog.records if record.exc_info]


def is_counted(method: Method, before: float) -> bool:
    """Whether the call is counted, which it is some time after its caller has the status."""
    return handled(method) > before


def handled(method: Method) -> float:
    service, name = method.name.removeprefix("/").split("/")
    labels = {"grpc_service": service, "grpc_method": name, "grpc_code": "INVALID_ARGUMENT"}
    return REGISTRY.get_sample_value("grpc_server_handled_total", labels) or 0.0
