"""The same calls for every contender, each in the contender's own API."""

import base64
import json
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Final, Literal

import grpc
import numpy as np
from sluice.cli.console import CommandFailed
from sluice.common.v1.model_pb2 import Lane
from sluice.embedding.v1.embedding_service_pb2 import EmbedResponse
from sluice.errors import from_rpc_error
from sluice.reranking.v1.reranking_service_pb2 import ORDER_REQUEST, RerankRequest, RerankResponse

from loadtest.bench.closed_loop import EMBED, RERANK, Driven, embed_requests, for_seconds
from loadtest.channels import CHANNEL_OPTIONS
from loadtest.load.targets import Texts

Task = Literal["embed", "rerank"]

_DOCUMENTS: Final = 16
_RERANK_CALLS: Final = 200
_TIMEOUT_S: Final = 60.0
Values = Sequence[float]


@dataclass(frozen=True)
class Work:
    """A list of calls, in the format of each contender."""

    task: Task
    grpc_path: str
    grpc: list[bytes]
    rest_path: str
    rest: list[bytes]
    plain: list[Any]
    """A text each, or a query with its documents."""

    def endpoint(self, address: str) -> "Endpoint":
        """Return the Sluice server at an address, by its own API."""
        return Endpoint(address, self.grpc_path, self.grpc, self.grpc_values)

    def grpc_values(self, answer: bytes) -> Values:
        """Return the vector, or the scores in the order of the documents, of Sluice's answer."""
        if self.task == "embed":
            return [float(value) for value in np.frombuffer(EmbedResponse.FromString(answer).dense.data, "<f4")]
        return [result.score for result in RerankResponse.FromString(answer).results]

    def rest_values(self, answer: bytes) -> Values:
        """Return the vector, or the scores in the order of the documents, of Infinity's answer."""
        content = json.loads(answer)
        if self.task == "embed":
            data = base64.b64decode(content["data"][0]["embedding"])
            return list(struct.unpack(f"<{len(data) // 4}f", data))
        results = sorted(content["results"], key=lambda result: int(result["index"]))
        return [float(result["relevance_score"]) for result in results]

    def distance(self, ours: Values, theirs: Values) -> float:
        """Return the distance of two answers: 1 - cosine of vectors, or the largest difference of scores."""
        if self.task == "rerank":
            return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        dot = sum(a * b for a, b in zip(ours, theirs, strict=True))
        return 1 - dot / sqrt(sum(a * a for a in ours) * sum(b * b for b in theirs))


@dataclass(frozen=True)
class Endpoint:
    """A gRPC server at an address, and the same calls in its API."""

    address: str
    path: str
    requests: Sequence[bytes]
    values: Callable[[bytes], Values]
    """Converts an answer to its vector, or to the scores in the order of the documents."""

    def first(self) -> Values:
        """Return the server's answer to the first call. Raises CommandFailed if there is none."""
        with grpc.insecure_channel(self.address, options=CHANNEL_OPTIONS) as channel:
            call: Any = channel.unary_unary(self.path)
            try:
                return self.values(call(self.requests[0], timeout=_TIMEOUT_S))
            except grpc.RpcError as error:
                failure = from_rpc_error(error)
                raise CommandFailed(f"{self.address}{self.path}: {failure.code.name}: {failure.message}") from None

    def drive(self, callers: int, seconds: float) -> Driven:
        """Repeat the calls for so many seconds. Raises CommandFailed if one fails."""
        return for_seconds(self.address, self.path, self.requests, callers, seconds)


def embed_work(texts: Sequence[str]) -> Work:
    """Return work with one text per call. base64 is Infinity's cheapest answer format."""
    shuffled = random.Random(1).sample(list(texts), len(texts))  # noqa: S311
    bodies = [{"model": ".", "input": [text], "encoding_format": "base64"} for text in shuffled]
    requests = embed_requests(shuffled, 1, "interactive")
    return Work("embed", EMBED, requests, "/embeddings", [json.dumps(body).encode() for body in bodies], shuffled)


def rerank_work(texts: Texts) -> Work:
    """Return work with one query and 16 documents per call."""
    chance = random.Random(1)  # noqa: S311
    jobs = [
        (chance.choice(texts.queries), chance.sample(list(texts.passages), min(_DOCUMENTS, len(texts.passages))))
        for _ in range(_RERANK_CALLS)
    ]
    requests = [
        RerankRequest(
            query=query, documents=documents, lane=Lane.LANE_INTERACTIVE, order=ORDER_REQUEST
        ).SerializeToString()
        for query, documents in jobs
    ]
    bodies = [{"model": ".", "query": query, "documents": documents} for query, documents in jobs]
    rest = [json.dumps(body).encode() for body in bodies]
    return Work("rerank", RERANK, requests, "/rerank", rest, [list(job) for job in jobs])
