import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluice.client import Document
from sluice.client.indexing import MESSAGE_BYTES, MESSAGE_DOCUMENTS, Window
from sluice.errors import BackendFailed
from sluice.search.v1 import search_service_pb2 as pb


def documents(*ids: str) -> list[Document]:
    return [Document(id_, "text") for id_ in ids]


def sent(window: Window) -> list[list[str]]:
    return [[document.document_id for document in message.documents] for message in window.messages()]


def acknowledge(window: Window, *ids: str) -> None:
    response = pb.IndexResponse(acknowledgements=[pb.Acknowledgement(document_id=id_) for id_ in ids])
    assert [ack.document_id for ack in window.acknowledge(response)] == list(ids)


def test_messages_are_cut_by_count() -> None:
    window = Window(1000)
    assert not list(window.add(documents(*map(str, range(2 * MESSAGE_DOCUMENTS + 1)))))
    assert list(map(len, sent(window))) == [MESSAGE_DOCUMENTS, MESSAGE_DOCUMENTS, 1]


def test_messages_are_cut_by_size() -> None:
    window = Window(1000)
    large = "x" * (MESSAGE_BYTES // 2 - 100)
    list(window.add([Document(str(number), large) for number in range(5)]))
    assert list(map(len, sent(window))) == [2, 2, 1]


def test_room_is_for_whole_messages_within_the_limit() -> None:
    window = Window(2 * MESSAGE_DOCUMENTS)
    ids = [str(number) for number in range(2 * MESSAGE_DOCUMENTS)]
    assert window.room() == MESSAGE_DOCUMENTS
    list(window.add(documents(*ids)))
    assert window.room() == 0
    sent(window)
    assert window.room() == 0
    acknowledge(window, *ids[: MESSAGE_DOCUMENTS - 1])
    assert window.room() == 0
    acknowledge(window, ids[-1])
    assert window.room() == MESSAGE_DOCUMENTS


def test_the_limit_is_at_least_one_message() -> None:
    assert Window(1).room() == MESSAGE_DOCUMENTS


def test_equal_id_waits_for_its_acknowledgement() -> None:
    window = Window(1000)
    list(window.add(documents("a", "b", "a", "c")))
    assert sent(window) == [["a", "b"]]
    assert window.is_waiting
    assert sent(window) == []
    acknowledge(window, "a")
    assert sent(window) == [["a", "c"]]


def test_rewind_sends_again_in_order_and_first() -> None:
    window = Window(1000)
    list(window.add(documents("a", "b", "c")))
    sent(window)
    acknowledge(window, "b")
    list(window.add(documents("d")))
    window.rewind()
    assert sent(window) == [["a", "c", "d"]]


def test_acknowledgement_of_an_unsent_document_raises_backend_failed() -> None:
    window = Window(1000)
    with pytest.raises(BackendFailed, match="acknowledged 'x', which was not sent"):
        acknowledge(window, "x")


def test_stream_that_ends_with_unacknowledged_documents_raises_backend_failed() -> None:
    window = Window(1000)
    window.expect_empty()
    list(window.add(documents("a")))
    with pytest.raises(BackendFailed, match="without acknowledging 1 documents"):
        window.expect_empty()


@given(st.lists(st.integers(0, 20), max_size=60), st.lists(st.integers(0, 3), max_size=100))
def test_every_document_is_acknowledged_once_whatever_breaks(numbers: list[int], events: list[int]) -> None:
    """Events: 0 breaks the stream, others acknowledge the oldest or newest that was sent."""
    window = Window(1000)
    list(window.add(Document(str(number), f"{position}") for position, number in enumerate(numbers)))
    on_the_server: list[str] = []
    acknowledged: list[str] = []
    for event in [*events, *([1] * len(numbers))]:
        on_the_server += [id_ for message in sent(window) for id_ in message]
        if event == 0:
            window.rewind()
            on_the_server = []
        elif on_the_server:
            id_ = on_the_server.pop(0 if event == 1 else -1)
            acknowledge(window, id_)
            acknowledged.append(id_)
    assert sorted(acknowledged) == sorted(map(str, numbers))
    window.expect_empty()
