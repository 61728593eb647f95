"""Calls that process tokens, from thousands of empty sequences to the longest allowed."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final

from google.protobuf.message import Message
from sluice.embedding.v1 import embedding_service_pb2 as pb
from sluice.tei.v1 import tei_service_pb2 as tei_pb

from loadtest.attacks import http1
from loadtest.attacks.attack import Result, Step, Target
from loadtest.attacks.calls import call_all, repeated
from loadtest.attacks.verdict import Bounds

_DECODE: Final = "/sluice.embedding.v1.EmbeddingService/Decode"
_TOKENIZE: Final = "/sluice.embedding.v1.EmbeddingService/Tokenize"
_TEI_DECODE: Final = "/tei.v1.Tokenize/Decode"
_MOST_IDS: Final = 262_144
_MOST_SEQUENCES: Final = 256
_VOCABULARY: Final = 1000
_DEADLINE_S: Final = 30.0


@dataclass(frozen=True)
class Decoding:
    """Decoding and tokenizing, at and beyond the limits."""

    name: ClassVar[str] = "decode"
    seed: int = 1
    sequences: int = 3_000
    ids: int = _MOST_IDS
    at_once: int = 4

    def bounds(self, target: Target) -> Bounds:
        """Allow no longer waits, and the memory of the largest requests."""
        return Bounds(growth_mb=200)

    def steps(self, target: Target) -> Iterator[Step]:
        """Yield each shape of request, to each API that takes it."""
        chance = random.Random(self.seed)  # noqa: S311
        ids = [chance.randrange(_VOCABULARY) for _ in range(self.ids)]
        share = len(ids) // _MOST_SEQUENCES
        parts = [pb.TokenIds(ids=ids[start : start + share]) for start in range(0, share * _MOST_SEQUENCES, share)]
        requests: dict[str, tuple[str, Message]] = {
            "empty sequences": (_DECODE, pb.DecodeRequest(sequences=[pb.TokenIds()] * self.sequences)),
            "short sequences": (_DECODE, pb.DecodeRequest(sequences=[pb.TokenIds(ids=[5])] * self.sequences)),
            "largest sequences": (_DECODE, pb.DecodeRequest(sequences=parts)),
            "one large sequence": (_DECODE, pb.DecodeRequest(sequences=[pb.TokenIds(ids=ids)])),
            "a sequence over the limit": (_DECODE, pb.DecodeRequest(sequences=[pb.TokenIds(ids=ids * 12)])),
            "one large sequence by tei.v1": (_TEI_DECODE, tei_pb.DecodeRequest(ids=ids)),
            "a sequence over the limit by tei.v1": (_TEI_DECODE, tei_pb.DecodeRequest(ids=ids * 12)),
            "texts to tokenize": (_TOKENIZE, pb.TokenizeRequest(texts=["a b " * 256] * _MOST_SEQUENCES)),
            "empty texts to tokenize": (_TOKENIZE, pb.TokenizeRequest(texts=[""] * self.sequences)),
        }
        for name, (method, request) in requests.items():
            yield Step(name, partial(self._call, target, method, request))
        body = json.dumps({"ids": [[]] * self.sequences}).encode()
        yield Step("empty sequences over HTTP", partial(self._over_http, target, body))
        body = json.dumps({"ids": [ids] * 4}).encode()
        yield Step("large sequences over HTTP", partial(self._over_http, target, body))

    def _call(self, target: Target, method: str, request: Message) -> Result:
        address = target.address("embedding")
        requests = repeated(request, self.at_once)
        return Result(call_all(address, method, requests, at_once=self.at_once, timeout_s=_DEADLINE_S))

    def _over_http(self, target: Target, body: bytes) -> Result:
        address = target.address("gateway")
        request = http1.head(address, "/decode", len(body), target.token) + body

        def one(_: int) -> str:
            with http1.connect(address) as connection:
                http1.try_send(connection, request)
                return http1.status(connection)

        with ThreadPoolExecutor(self.at_once) as threads:
            return Result(Counter(threads.map(one, range(self.at_once))))
