"""The documents of an index stream that are on their way, what to send next, and one stream from asyncio.

Rule: the window is pure; the clients move the messages.
Facts: acknowledgements come in any order. A stream can end at any time (a server that drains, a connection closed for
age); what was not acknowledged is then sent again, which is harmless: indexing is idempotent.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sluice.client.answers import Acknowledgement, acknowledgement
from sluice.client.documents import Document, document_proto
from sluice.common.v1 import document_pb2
from sluice.errors import BackendFailed, InvalidRequest
from sluice.search.v1 import search_service_pb2 as pb

MESSAGE_DOCUMENTS: Final = 64
DEFAULT_PATIENCE_S: Final = 600.0
# A message of documents stays well under the 16 MiB that servers take.
MESSAGE_BYTES: Final = 4 * 2**20


@dataclass(frozen=True)
class Chunking:
    """How documents are cut into chunks: by tokens, between words."""

    tokens: int
    """Of a chunk at most, with its title: 16 or more, and not over what the model reads."""
    overlap: int = 0
    """Tokens that a chunk shares with the one before it, up to half of `tokens`."""


def opening(
    collection: str, create: bool, filterable_fields: Mapping[str, str], chunking: Chunking | None = None
) -> pb.IndexRequest:
    """The first message of a stream."""
    fields = [pb.FilterableField(name=name, type=kind) for name, kind in filterable_fields.items()]
    first = pb.IndexRequest(collection=collection, create_collection=create, filterable_fields=fields)
    if chunking is not None:
        first.chunking.token_count = chunking.tokens
        first.chunking.overlap_token_count = chunking.overlap
    return first


class NoAnswer(Exception):
    """No response came in time."""


class Window:
    """Documents taken from the source and not yet acknowledged: at most `limit`, so memory is bounded.

    With `max_bytes` no more are taken while those that are there have as many bytes.

    An id is on its way once at most: an equal one waits for its acknowledgement, so that the later document wins.
    """

    def __init__(self, limit: int, *, max_bytes: float = math.inf) -> None:
        self._limit = max(limit, MESSAGE_DOCUMENTS)
        self._max_bytes = max_bytes
        self.byte_count = 0
        """Bytes of all of them."""
        self._waiting_bytes = 0
        self._waiting: deque[document_pb2.Document] = deque()
        self._sent: dict[str, document_pb2.Document] = {}
        self.stored = 0
        """Documents that the server acknowledged as stored."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    @property
    def is_full(self) -> bool:
        """True when the documents that are still to be sent fill a message."""
        return self._waiting_bytes >= MESSAGE_BYTES

    @property
    def is_waiting(self) -> bool:
        """True when a document that was taken in is still to be sent."""
        return bool(self._waiting)

    def room(self) -> int:
        """How many documents to take from the source now: none, or enough for a whole message."""
        has_room = not self._waiting and len(self._sent) + MESSAGE_DOCUMENTS <= self._limit
        has_room = has_room and self.byte_count < self._max_bytes
        return MESSAGE_DOCUMENTS if has_room else 0

    def add(self, documents: Iterable[Document]) -> Iterator[Acknowledgement]:
        """Take documents in; gives acknowledgements of those that cannot be sent at all."""
        for document in documents:
            try:
                proto = document_proto(document)
                _check_size(proto)
            except InvalidRequest as error:
                yield Acknowledgement(document.document_id, "failed", error.reason_name, error.message)
            else:
                self._waiting.append(proto)
                size = proto.ByteSize()
                self.byte_count += size
                self._waiting_bytes += size

    def messages(self) -> Iterator[pb.IndexRequest]:
        """What can be sent now, in order; noted as sent."""
        while batch := self._batch():
            self._sent.update((document.document_id, document) for document in batch)
            yield pb.IndexRequest(documents=batch)

    def acknowledge(self, response: pb.IndexResponse) -> Iterator[Acknowledgement]:
        """Let go of the documents that a response acknowledges. Raises BackendFailed for one that was not sent."""
        for proto in response.acknowledgements:
            known = self._sent.pop(proto.document_id, None)
            if known is None:
                raise BackendFailed(f"the server acknowledged {proto.document_id!r}, which was not on its way")
            self.stored += proto.outcome != pb.Acknowledgement.OUTCOME_FAILED
            self.byte_count -= known.ByteSize()
            yield acknowledgement(proto)

    def rewind(self) -> None:
        """Forget that documents were sent: they are sent again, first and in order, on the next stream."""
        self._waiting.extendleft(reversed(self._sent.values()))
        self._waiting_bytes = self.byte_count
        self._sent.clear()

    def expect_empty(self) -> None:
        """Raise BackendFailed when the server ended the stream well and left documents without acknowledgement."""
        if len(self):
            raise BackendFailed(f"the server ended the stream and left {len(self)} documents without acknowledgement")

    def _batch(self) -> list[document_pb2.Document]:
        """The next documents for one message: up to the limits of a message, and to the first id on its way."""
        batch: dict[str, document_pb2.Document] = {}
        size = 0
        while self._waiting and len(batch) < MESSAGE_DOCUMENTS:
            document = self._waiting[0]
            size += document.ByteSize()
            on_its_way = document.document_id in self._sent or document.document_id in batch
            if on_its_way or (batch and size > MESSAGE_BYTES):
                break
            batch[document.document_id] = self._waiting.popleft()
            self._waiting_bytes -= document.ByteSize()
        return list(batch.values())


def _check_size(document: document_pb2.Document) -> None:
    size = document.ByteSize()
    if size > MESSAGE_BYTES:
        raise InvalidRequest(f"document: expected at most {MESSAGE_BYTES:,} bytes, got {size:,}")


async def index_stream(
    call: Any,
    first: pb.IndexRequest,
    window: Window,
    source: AsyncIterator[Document],
    progressed: Callable[[int], None] = lambda documents: None,
    ends_at: Callable[[], float | None] = lambda: None,
) -> AsyncGenerator[Acknowledgement]:
    """The acknowledgements of one stream, to the end of the source.

    Raises grpc.RpcError when the stream breaks, and NoAnswer when no response comes in time.

    call        the stub's `Index`
    first       what opens the stream
    progressed  called with how many documents were taken from the source, or acknowledged
    ends_at     when to stop waiting for the next answer, on the event loop's clock; None waits without limit
    """
    outgoing: asyncio.Queue[pb.IndexRequest | None] = asyncio.Queue()
    responses = call(_drained(outgoing))
    try:
        outgoing.put_nowait(first)
        ended = False
        while True:
            _send(window, outgoing)
            while not ended and window.room():
                unfit, ended = await _take(window, source, progressed)
                for refused in unfit:
                    yield refused
                _send(window, outgoing)
            if ended and not window.is_waiting:
                outgoing.put_nowait(None)
            try:
                async with asyncio.timeout_at(ends_at()):
                    response = await responses.read()
            except TimeoutError:
                raise NoAnswer from None
            if not isinstance(response, pb.IndexResponse):
                break
            progressed(len(response.acknowledgements))
            for acknowledgement in window.acknowledge(response):
                yield acknowledgement
            progressed(len(response.acknowledgements))  # again: whoever takes them may take their time
        window.expect_empty()
    finally:
        responses.cancel()


def _send(window: Window, outgoing: "asyncio.Queue[pb.IndexRequest | None]") -> None:
    """Queue what the window has to send; its limit bounds the queue."""
    for message in window.messages():
        outgoing.put_nowait(message)


async def _drained(queue: "asyncio.Queue[pb.IndexRequest | None]") -> AsyncIterator[pb.IndexRequest]:
    while (message := await queue.get()) is not None:
        yield message


async def _take(
    window: Window, source: AsyncIterator[Document], progressed: Callable[[int], None]
) -> tuple[list[Acknowledgement], bool]:
    """Take documents until they fill a message; return those that cannot be sent, and whether the source has ended."""
    unfit: list[Acknowledgement] = []
    for _ in range(window.room()):
        document = await anext(source, None)
        if document is None:
            return unfit, True
        unfit += window.add([document])
        progressed(1)
        if window.is_full:
            break
    return unfit, False
