"""Unusual documents in index streams, with the real retrieval service: each is stored or rejected on its own."""

from pathlib import Path
from typing import Any, Final

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sluice.common.v1.document_pb2 import Document, MetadataList, MetadataValue
from sluice.search.v1 import search_service_pb2 as pb

from tests.service.orchestrator.test_chunks import CHUNKING, FAILED, INDEXED, UNCHANGED, services_of

CHUNKINGS: Final = pytest.mark.parametrize("chunking", [None, CHUNKING], ids=["whole", "chunks"])


def plain(id_: str, **others: Any) -> Document:
    return Document(document_id=id_, text="a plain text", **others)


def with_value(id_: str, value: MetadataValue) -> Document:
    document = plain(id_)
    document.metadata["odd"].CopyFrom(value)
    return document


@CHUNKINGS
async def test_a_title_alone_is_embedded_stored_and_found(tmp_path: Path, chunking: pb.Chunking | None) -> None:
    async with services_of(tmp_path) as running:
        bare = Document(document_id="bare", title="the sluice gate")
        blank = Document(document_id="blank", title="a water wheel", text=" \n")
        assert await running.index(bare, blank, plain("p"), chunking=chunking) == dict.fromkeys(
            ("bare", "blank", "p"), INDEXED
        )
        embedded = {text for method, one in running.embedder.calls if method == "Embed" for text in one.texts}
        assert embedded == {"the sluice gate", "a water wheel", "a plain text"}
        for pipeline in ("one", "default"):
            found = await running.found("sluice gate", pipeline=pipeline, top_k=1)
            assert found == ["bare" if chunking is None else "bare#0"]
        assert await running.index(bare, blank, chunking=chunking) == {"bare": UNCHANGED, "blank": UNCHANGED}


@CHUNKINGS
@pytest.mark.parametrize(
    "odd",
    [
        Document(document_id="odd"),
        Document(document_id="odd", title=" ", text="\n\t"),
        Document(document_id="odd\0", text="a NUL in the id"),
        Document(document_id="i" * 513, text="a long id"),
        Document(document_id="", text="no id"),
        Document(document_id="odd", title="t" * 5000, text="a long title"),
        Document(document_id="odd", text="x" * 70_000),
        with_value("odd", MetadataValue()),
        with_value("odd", MetadataValue(number_value=float("nan"))),
        with_value("odd", MetadataValue(timestamp_value=Timestamp(seconds=2**62))),
        with_value("odd", MetadataValue(timestamp_value=Timestamp(nanos=-1))),
        with_value("odd", MetadataValue(list_value=MetadataList(values=[MetadataValue()]))),
        with_value("odd", MetadataValue(string_value="x" * 20_000)),
    ],
    ids=str,
)
async def test_only_the_invalid_document_is_rejected(
    tmp_path: Path, odd: Document, chunking: pb.Chunking | None
) -> None:
    async with services_of(tmp_path) as running:
        outcomes = await running.index(plain("before"), odd, plain("after"), chunking=chunking)
        assert outcomes == {"before": INDEXED, odd.document_id: FAILED, "after": INDEXED}


@CHUNKINGS
async def test_only_the_text_that_the_embedding_service_rejects_fails(
    tmp_path: Path, chunking: pb.Chunking | None
) -> None:
    """Here the limit of the embedding service is below that of the orchestrator."""

    async with services_of(tmp_path, max_text_bytes=100_000) as running:
        long = Document(document_id="long", text="x" * 65_540)
        outcomes = await running.index(plain("before"), long, plain("after"), chunking=chunking)
        assert outcomes == {"before": INDEXED, "long": FAILED, "after": INDEXED}
