"""Requests are freed when their call ends, even if it fails, without the garbage collector."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from sluice.errors import SluiceError
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from tests.support.retrieval import channel_to_retrieval
from tests.support.waiting import until

SERVICE = "/sluice.retrieval.v1.RetrievalService/"


@contextmanager
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def alive(*kinds: type) -> int:
    return sum(isinstance(one, kinds) for one in gc.get_objects())


@pytest.mark.parametrize(
    ("method", "request_message"),
    [
        ("CountDocuments", pb.CountDocumentsRequest(collection="none")),
        ("Upsert", pb.UpsertRequest(collection="none")),
        ("DropCollection", pb.DropCollectionRequest(name="b" * 300)),
    ],
)
async def test_a_refused_request_is_freed(tmp_path: Path, method: str, request_message: Message) -> None:
    # What is counted: requests, and what keeps them by a traceback.
    kinds, data = (type(request_message), SluiceError, grpc.aio.AbortError), request_message.SerializeToString()
    async with channel_to_retrieval(tmp_path) as channel:
        with without_collector():
            ask: Any = channel.unary_unary(SERVICE + method)
            before = alive(*kinds)
            for _ in range(20):
                call = ask(data, timeout=300)
                assert await call.code() is not grpc.StatusCode.OK
            await asyncio.to_thread(until, lambda: alive(*kinds) <= before)
