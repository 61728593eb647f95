"""The window of unacknowledged documents of an index stream, and the stream itself for asyncio.

Rule: the window is pure; the clients send and receive the messages.
Facts: acknowledgements arrive in any order. A stream can end at any time, for example because the server drains.
Documents that were not acknowledged are then sent again, which is harmless because indexing is idempotent.
"""

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Final

from sluice.client.answers import Acknowledgement, acknowledgement
from sluice.client.documents import Document, document_proto
from sluice.common.v1 import document_pb2
from sluice.errors import BackendFailed, InvalidRequest
from sluice.search.v1 import search_service_pb2 as pb

MESSAGE_DOCUMENTS: Final = 64
DEFAULT_PATIENCE_S: Final = 600.0
# Well below the 16 MiB that servers accept.
MESSAGE_BYTES: Final = 4 * 2**20


class NoAnswer(Exception):
    """Raised if no response arrives in time."""


class Window:
    """The documents that were taken from the source and are not acknowledged yet.

    An id is sent only once at a time. An equal id waits for the acknowledgement, so that the later document wins.

    limit      most documents; at least those of one message
    max_bytes  no more documents are taken while the window has this many bytes
    """

    def __init__(self, limit: int, *, max_bytes: float = math.inf) -> None:
        self._limit = max(limit, MESSAGE_DOCUMENTS)
        self._max_bytes = max_bytes
        self.byte_count = 0
        """Bytes of all documents in the window."""
        self._waiting_bytes = 0
        self._waiting: deque[document_pb2.Document] = deque()
        self._sent: dict[str, document_pb2.Document] = {}
        self.stored = 0
        """Number of documents that the server acknowledged as stored."""

    def __len__(self) -> int:
        return len(self._waiting) + len(self._sent)

    @property
    def is_full(self) -> bool:
        """Whether the documents that are not sent yet fill a message."""
        return self._waiting_bytes >= MESSAGE_BYTES

    @property
    def is_waiting(self) -> bool:
        """Whether a document of the window is not sent yet."""
        return bool(self._waiting)

    def room(self) -> int:
        """Return the number of documents to take from the source now: 0, or enough for a whole message."""
        has_room = not self._waiting and len(self._sent) + MESSAGE_DOCUMENTS <= self._limit
        has_room = has_room and self.byte_count < self._max_bytes
        return MESSAGE_DOCUMENTS if has_room else 0

    def add(self, documents: Iterable[Document]) -> Iterator[Acknowledgement]:
        """Add documents. Yield the acknowledgements of documents that cannot be sent."""
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
        """Yield the messages that can be sent now, and mark their documents as sent."""
        while batch := self._batch():
            self._sent.update((document.document_id, document) for document in batch)
            yield pb.IndexRequest(documents=batch)

    def acknowledge(self, response: pb.IndexResponse) -> Iterator[Acknowledgement]:
        """Remove the acknowledged documents and yield their acknowledgements.

        Raises BackendFailed for a document that was not sent.
        """
        for proto in response.acknowledgements:
            known = self._sent.pop(proto.document_id, None)
            if known is None:
                raise BackendFailed(f"the server acknowledged {proto.document_id!r}, which was not sent")
            self.stored += proto.outcome != pb.Acknowledgement.OUTCOME_FAILED
            self.byte_count -= known.ByteSize()
            yield acknowledgement(proto)

    def rewind(self) -> None:
        """Mark all documents as not sent, so that the next stream sends them first and in order."""
        self._waiting.extendleft(reversed(self._sent.values()))
        self._waiting_bytes = self.byte_count
        self._sent.clear()

    def expect_empty(self) -> None:
        """Raise BackendFailed if the server ended the stream without an error and did not acknowledge all documents."""
        if len(self):
            raise BackendFailed(f"the server ended the stream without acknowledging {len(self)} documents")

    def _batch(self) -> list[document_pb2.Document]:
        """Return the documents of the next message: up to its limits, and up to the first id that is sent already."""
        batch: dict[str, document_pb2.Document] = {}
        size = 0
        while self._waiting and len(batch) < MESSAGE_DOCUMENTS:
            document = self._waiting[0]
            size += document.ByteSize()
            is_sent = document.document_id in self._sent or document.document_id in batch
            if is_sent or (batch and size > MESSAGE_BYTES):
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
    """Yield the acknowledgements of one stream, to the end of the source.

    call        the method `Index` of the stub
    first       first message of the stream
    progressed  called with the number of documents that were taken from the source, or acknowledged
    ends_at     returns when to stop waiting for the next response, on the event loop's clock; None waits without limit

    Raises grpc.RpcError if the stream breaks, and NoAnswer if no response arrives in time.
    """
    outgoing: asyncio.Queue[pb.IndexRequest | None] = asyncio.Queue()
    responses = call(_messages(outgoing))
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
            progressed(
                len(response.acknowledgements)
            )  # Again, because the caller may take long to process the acknowledgements.
        window.expect_empty()
    finally:
        responses.cancel()


def _send(window: Window, outgoing: "asyncio.Queue[pb.IndexRequest | None]") -> None:
    """Queue the messages that the window can send. The limit of the window also limits the queue."""
    for message in window.messages():
        outgoing.put_nowait(message)


async def _messages(queue: "asyncio.Queue[pb.IndexRequest | None]") -> AsyncIterator[pb.IndexRequest]:
    while (message := await queue.get()) is not None:
        yield message


async def _take(
    window: Window, source: AsyncIterator[Document], progressed: Callable[[int], None]
) -> tuple[list[Acknowledgement], bool]:
    """Take documents until they fill a message.

    Returns the acknowledgements of documents that cannot be sent, and whether the source has ended.
    """
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
