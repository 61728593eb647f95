"""Sizes of fields in serialized messages, found without parsing them."""

import random

import pytest
from sluice.common.v1 import filter_pb2 as flt
from sluice.common.v1.document_pb2 import Document
from sluice.errors import InvalidRequest
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.search.v1 import search_service_pb2 as search

from services.rpc.server.sizing import FIELDS_MAX, FILTER_BYTES_MAX, check_message, field_bytes

NUMBER = pb.RetrieveRequest.DESCRIPTOR.fields_by_name["filter"].number
FILTER = flt.Filter(exists="x" * 300)
LARGE = flt.Filter(exists="x" * FILTER_BYTES_MAX)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (pb.RetrieveRequest(collection="books", exact=True).SerializeToString(), 0),
        (pb.RetrieveRequest(collection="books", filter=FILTER, exact=True).SerializeToString(), FILTER.ByteSize()),
        (pb.RetrieveRequest(filter=FILTER).SerializeToString() * 3, 3 * FILTER.ByteSize()),
        # Fixed numbers of 8 and 4 bytes, which no field has, are passed over.
        (b"\xf9\x07" + bytes(8) + b"\xfd\x07" + bytes(4) + pb.RetrieveRequest(filter=FILTER).SerializeToString(), 303),
        # What does not parse is left to the parser.
        (b"\xff" * 20, 0),
        (b"\x0b\x0c", 0),
        (pb.RetrieveRequest(filter=FILTER).SerializeToString()[:-5], 303),
    ],
)
def test_bytes_of_a_field(data: bytes, expected: int) -> None:
    assert field_bytes(data)[0].get(NUMBER, 0) == expected


def test_any_bytes_have_a_size() -> None:
    rng = random.Random(5)
    for _ in range(2000):
        assert all(size >= 0 for size in field_bytes(rng.randbytes(rng.randrange(40)))[0].values())


@pytest.mark.parametrize(
    "message",
    [
        search.SearchRequest(filter=LARGE),
        search.DeleteRequest(filter=LARGE),
        pb.RetrieveRequest(filter=LARGE),
        pb.CountDocumentsRequest(filter=LARGE),
    ],
    ids=lambda message: message.DESCRIPTOR.name,
)
def test_a_large_filter_of_any_message_is_refused(message: search.SearchRequest) -> None:
    with pytest.raises(InvalidRequest, match="filter: expected 0 to 1,048,576 bytes of filter, got 1,048,5"):
        check_message(message.SerializeToString(), message.DESCRIPTOR)


def test_a_filter_behind_many_fields_is_refused() -> None:
    many = search.SearchRequest(more_queries=["x"] * FIELDS_MAX)
    data = many.SerializeToString() + search.SearchRequest(filter=LARGE).SerializeToString()
    with pytest.raises(InvalidRequest, match="expected 0 to 131,072 fields and items of lists, got 131,073"):
        check_message(data, many.DESCRIPTOR)


def test_a_large_message_of_few_fields_may_be_parsed() -> None:
    document = Document(text="x" * 2 * FILTER_BYTES_MAX)
    message = search.IndexRequest(documents=[document] * 2)
    check_message(message.SerializeToString(), message.DESCRIPTOR)
