"""The decisions of an index stream's reader: tables."""

import pytest
from sluice.common.v1.document_pb2 import Document, MetadataValue
from sluice.errors import Unavailable

from services.orchestrator.chunks import Chunking
from services.orchestrator.documents import DocumentLimits
from services.orchestrator.indexing.reader import IdleTimer, limits_for, screen

LIMITS = DocumentLimits(max_text_bytes=20)


@pytest.mark.parametrize(
    ("now", "pending", "left", "busy_at"),
    [(100.0, 0, 60.0, 100.0), (159.0, 0, 1.0, 100.0), (159.0, 1, 60.0, 159.0), (500.0, 3, 60.0, 500.0)],
    ids=["new", "almost idle", "busy", "busy for long"],
)
def test_a_stream_is_idle_after_the_timeout_unless_documents_are_pending(
    now: float, pending: int, left: float, busy_at: float
) -> None:
    timer = IdleTimer(60.0, busy_at=100.0)
    assert timer.left_s(now, pending=pending) == left
    assert timer.busy_at == busy_at


def test_an_idle_stream_is_unavailable_and_arriving_documents_restart_the_timer() -> None:
    timer = IdleTimer(60.0, busy_at=100.0)
    timer.record_busy(150.0)
    assert timer.left_s(209.0, pending=0) == 1.0
    with pytest.raises(Unavailable, match="no document arrived for 60 s") as caught:
        timer.left_s(210.0, pending=0)
    assert caught.value.reason_name == "STREAM_IDLE"


def test_screening_separates_invalid_documents_and_repeated_ids() -> None:
    documents = [
        Document(document_id="a", text="first"),
        Document(document_id="", text="no id"),
        Document(document_id="a", text="again"),
        Document(document_id="b", text="x" * 21),
        Document(document_id="b", text="short"),
    ]
    valid, failed = screen(documents, LIMITS)
    assert [(one.document_id, one.text) for one in valid] == [("a", "first"), ("b", "short")]
    assert [(one.document_id, one.outcome, one.reason) for one in failed] == [
        ("", "failed", "INVALID_REQUEST"),
        ("a", "failed", "INVALID_REQUEST"),
        ("b", "failed", "INVALID_REQUEST"),
    ]
    assert [one.message.partition(":")[0] for one in failed] == [
        "documents[1].document_id",
        "documents[2].document_id",
        "documents[3].text",
    ]


def test_chunks_reserve_a_part_of_the_id_and_names_of_metadata() -> None:
    assert limits_for(LIMITS, None) is LIMITS
    chunked = limits_for(LIMITS, Chunking(200, 20))
    taken = Document(document_id="a", text="text")
    taken.metadata["chunk"].CopyFrom(MetadataValue(number_value=1))
    _, failed = screen([taken, Document(document_id="i" * 501, text="text")], chunked)
    assert [one.message.partition(": expected")[0] for one in failed] == [
        "documents[0].metadata.chunk",
        "documents[1].document_id",
    ]
