"""Many concurrent gRPC calls, made by threads."""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.message import Message

from loadtest.channels import CHANNEL_OPTIONS

Metadata = tuple[tuple[str, str], ...]


def call_all(
    address: str, method: str, requests: Iterable[Message | bytes], *, at_once: int, timeout_s: float,
    metadata: Metadata = (),
) -> Counter[str]:  # fmt: skip
    """Make unary calls on one connection, a fixed number at once. Return how often each code was received."""
    with (
        grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel,
        ThreadPoolExecutor(at_once) as threads,
    ):
        call: Any = channel.unary_unary(method)

        def one(request: Message | bytes) -> str:
            data = request if isinstance(request, bytes) else request.SerializeToString()
            return code_of(call, data, timeout_s, metadata)

        return Counter(threads.map(one, requests))


def code_of(call: Any, request: bytes, timeout_s: float, metadata: Metadata = ()) -> str:
    """Return the name of the code of one call."""
    try:
        call(request, timeout=timeout_s, metadata=metadata)
    except grpc.RpcError as error:
        failed: Any = error
        return str(failed.code().name)
    return "OK"


def repeated(request: Message, count: int) -> Sequence[bytes]:
    """Return the same request the given number of times, serialized once."""
    return [request.SerializeToString()] * count
