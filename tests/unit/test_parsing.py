"""Bytes of a field in a serialized message, found without parsing it."""

import random

import pytest
from sluice.common.v1 import filter_pb2 as flt
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.retrieval.wire.parsing import field_bytes

NUMBER = pb.RetrieveRequest.DESCRIPTOR.fields_by_name["filter"].number
FILTER = flt.Filter(exists="x" * 300)


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
    assert field_bytes(data, NUMBER) == expected


def test_any_bytes_have_a_size() -> None:
    rng = random.Random(5)
    for _ in range(2000):
        assert field_bytes(rng.randbytes(rng.randrange(40)), NUMBER) >= 0
