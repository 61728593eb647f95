"""Cuts documents into chunks by the tokens of the embedding service."""

from collections.abc import Mapping, Sequence
from typing import Final

from sluice.common.v1.document_pb2 import Document
from sluice.errors import InvalidRequest

from services.core.batching import BatchLimits, batches
from services.orchestrator.chunks import Span, chunk_id, chunks_of
from services.orchestrator.downstream.services import Services
from services.orchestrator.indexing.target import Target
from services.rpc.deadline import Deadline

# Most texts of one Tokenize call, and most bytes of them.
_CALL: Final = BatchLimits(256, 262_144)

Chunks = dict[str, list[Document]]
"""The chunks of each document, by its id."""


async def chunk_documents(
    services: Services, target: Target, documents: Sequence[Document], deadline: Deadline
) -> tuple[Chunks, dict[str, str]]:
    """Return the chunks of documents, and the reasons why others were rejected, by their ids.

    If the service rejects the documents together, each is sent alone to find the invalid ones.
    """
    try:
        return await _cut(services, target, documents, deadline), {}
    except InvalidRequest as error:
        if len(documents) == 1:
            return {}, {documents[0].document_id: error.message}
    chunks: Chunks = {}
    rejected: dict[str, str] = {}
    for document in documents:
        own, reason = await chunk_documents(services, target, [document], deadline)
        chunks |= own
        rejected |= reason
    return chunks, rejected


async def stored_surplus(
    services: Services, collection: str, chunks: Mapping[str, Sequence[Document]], deadline: Deadline
) -> dict[str, int]:
    """Return the number of chunks, by id, of each document that has more chunks stored."""
    if not chunks:
        return {}
    following = {chunk_id(id_, len(own)): id_ for id_, own in chunks.items()}
    stored = await services.retrieval.content_hashes(collection, list(following), deadline)
    return {following[id_]: len(chunks[following[id_]]) for id_ in stored}


async def _cut(services: Services, target: Target, documents: Sequence[Document], deadline: Deadline) -> Chunks:
    """Return the chunks of documents. Raises InvalidRequest if the service rejects a text."""
    assert target.chunking is not None
    texts = {text for document in documents for text in (document.title, document.text) if text.strip()}
    found: list[list[Span]] = []
    for batch in batches(texts, _CALL, lambda text: len(text.encode())):
        found += await services.embedding.token_spans(batch, model=target.counting_model, deadline=deadline)
    spans = dict(zip(texts, found, strict=True))
    added = target.added_tokens
    return {
        one.document_id: chunks_of(one, spans.get(one.text, []), len(spans.get(one.title, ())) + added, target.chunking)
        for one in documents
    }
