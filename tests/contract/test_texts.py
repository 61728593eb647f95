"""Which fields of each request count as texts for quotas."""

from collections.abc import Iterator
from typing import Any, Final

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor as F
from sluice.common.v1.document_pb2 import Document
from sluice.embedding.v1 import embedding_service_pb2 as embedding
from sluice.kserve.v2 import inference_service_pb2 as kserve
from sluice.reranking.v1 import reranking_service_pb2 as reranking
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval
from sluice.search.v1 import search_service_pb2 as search
from sluice.tei.v1 import tei_service_pb2 as tei

from services.rpc.auth.text_counts import text_count

FILES: Final[tuple[Any, ...]] = (embedding, kserve, reranking, retrieval, search, tei)
# Fields of requests that hold strings, bytes, lists or messages and no texts: names, ids, filters, vectors, options.
NOT_TEXTS: Final = {
    "alias", "chunking", "collection", "content_hashes", "dense", "document_ids", "field", "filter",
    "filterable_fields", "fusion", "grouping", "id", "model", "model_name", "model_version", "multi_vectors", "name",
    "outputs", "page_token", "parameters", "pipeline", "prompt_name", "raw_input_contents", "repository_name",
    "representations", "schema", "sparse", "version", "windows",
}  # fmt: skip
NO_TEXTS_IN_A_QUERY: Final = {"dense", "feedback", "field", "model_digest", "multi_vector", "sparse"}


def requests() -> Iterator[Any]:
    """Yield the request message of each method of each service once, and `FieldQuery`."""
    services = [service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]
    found = {method.input_type.full_name: method.input_type for service in services for method in service.methods}
    yield from found.values()
    yield retrieval.FieldQuery.DESCRIPTOR


def fields() -> Iterator[tuple[Any, Any]]:
    for message in requests():
        for field in message.fields:
            if field.is_repeated or field.type in (F.TYPE_STRING, F.TYPE_BYTES, F.TYPE_MESSAGE):
                yield message, field


@pytest.mark.parametrize(("message", "field"), list(fields()), ids=lambda one: one.full_name)
def test_a_field_is_counted_or_listed_as_having_no_texts(message: Any, field: Any) -> None:
    """A new field of a request fails this test until it is counted or added to NOT_TEXTS."""
    request = message_factory.GetMessageClass(message)()
    others = NO_TEXTS_IN_A_QUERY if message is retrieval.FieldQuery.DESCRIPTOR else NOT_TEXTS
    if field.name in others:
        fill(request, field)
        assert text_count(request) == 0
    else:
        fill(request, field)
        assert text_count(request) == (2 if is_list_of_texts(field) else 1)


def is_list_of_texts(field: Any) -> bool:
    return bool(field.is_repeated) and field.name not in ("ids", "queries", "among")


def fill(request: Any, field: Any) -> None:
    """Fill a field: a list with two elements, any other with one. Two tensors have two rows each, which count once."""
    value = getattr(request, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value["a"].SetInParent()
    elif field.message_type is kserve.ModelInferRequest.InferInputTensor.DESCRIPTOR:
        value.add(shape=[2, 1], contents=kserve.InferTensorContents(bytes_contents=[b"a", b"b"]))
    elif field.message_type is retrieval.FieldQuery.DESCRIPTOR:
        value.add(text="a")
        value.add()
    elif field.is_repeated and field.message_type is not None:
        value.add()
        value.add()
    elif field.is_repeated:
        value.extend([{F.TYPE_STRING: "a", F.TYPE_BYTES: b"a"}.get(field.type, 1)] * 2)
    elif field.message_type is not None:
        value.SetInParent()
    else:
        setattr(request, field.name, "a" if field.type == F.TYPE_STRING else b"a")


@pytest.mark.parametrize(
    ("request_", "texts"),
    [
        (search.SearchRequest(collection="docs", query="x", more_queries=["y", "z"]), 3),
        (search.IndexRequest(documents=[Document(), Document()]), 2),
        (search.ListPipelinesRequest(), 0),
        (embedding.DecodeRequest(sequences=[embedding.TokenIds()] * 4), 4),
        (tei.DecodeRequest(ids=[1, 2, 3]), 1),
        (tei.RerankRequest(query="q", texts=["a", "b"]), 3),
        (tei.PredictPairRequest(inputs=["a", "b"]), 2),
        (
            retrieval.RetrieveRequest(
                queries=[retrieval.FieldQuery(text="a", among=[retrieval.FieldQuery(text="b")]), retrieval.FieldQuery()]
            ),
            2,
        ),
    ],
    ids=lambda one: type(one).__name__,
)
def test_texts_are_counted_wherever_they_are(request_: Any, texts: int) -> None:
    assert text_count(request_) == texts


@pytest.mark.parametrize("shape", [[2**62, 1], [2**63 - 1], [-1, 5], [], [0], [2**32, 2**32]])
@pytest.mark.parametrize("raw", [(), (b"\1\0\0\0a",)], ids=["typed", "raw"])
def test_the_count_is_limited_by_the_bytes_of_the_request(shape: list[int], raw: tuple[bytes, ...]) -> None:
    contents = kserve.InferTensorContents(bytes_contents=[b"a"]) if not raw else None
    tensor = kserve.ModelInferRequest.InferInputTensor(shape=shape, contents=contents)
    request = kserve.ModelInferRequest(inputs=[tensor, tensor], raw_input_contents=raw)
    assert 1 <= text_count(request) <= request.ByteSize()


def test_rows_of_tensors_side_by_side_count_once() -> None:
    contents = kserve.InferTensorContents(bytes_contents=[b"a"] * 5)
    tensor = kserve.ModelInferRequest.InferInputTensor(shape=[5, 1], contents=contents)
    assert text_count(kserve.ModelInferRequest(inputs=[tensor, tensor])) == 5
    raw = kserve.ModelInferRequest.InferInputTensor(shape=[5, 3])
    assert text_count(kserve.ModelInferRequest(inputs=[raw, raw], raw_input_contents=[bytes(120)] * 2)) == 5
