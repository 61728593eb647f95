"""The reranking service over gRPC with real models: cross-encoders and late interaction."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc
import numpy as np
import pytest
from sluice.common.v1 import model_pb2
from sluice.errors import InvalidRequest, from_rpc_error
from sluice.reranking.v1 import reranking_service_pb2 as pb
from sluice.reranking.v1.reranking_service_pb2_grpc import RerankingServiceStub

from tests.support.servers import reranking_server

if TYPE_CHECKING:
    from sluice.reranking.v1.reranking_service_pb2_grpc import RerankingServiceAsyncStub

QUERY = "how do I open a file"
DOCUMENTS = ["sort a list", "open a file and read it line by line", "file", "what is a generator", "close the file"]


@asynccontextmanager
async def stub_of(*bundles: Path, **settings: Any) -> AsyncIterator["RerankingServiceAsyncStub"]:
    """A stub for a server of these bundles."""
    async with reranking_server(*bundles, **settings) as channel:
        yield RerankingServiceStub(channel)


def request(**fields: Any) -> pb.RerankRequest:
    return pb.RerankRequest(query=QUERY, documents=DOCUMENTS, **fields)


@pytest.mark.parametrize("bundle", ["tiny_bi_encoder", "tiny_cross_encoder", "tiny_cross_encoder_3_labels"])
async def test_documents_are_returned_in_the_requested_order(bundle: str, request: pytest.FixtureRequest) -> None:
    async with stub_of(request.getfixturevalue(bundle)) as stub:
        ask = pb.RerankRequest(query=QUERY, documents=DOCUMENTS, order=pb.ORDER_REQUEST)
        as_asked = (await stub.Rerank(ask)).results
        assert [result.index for result in as_asked] == list(range(len(DOCUMENTS)))
        best = (await stub.Rerank(pb.RerankRequest(query=QUERY, documents=DOCUMENTS))).results
        expected = sorted(as_asked, key=lambda result: -result.score)
        assert [result.index for result in best] == [result.index for result in expected]
        top = (await stub.Rerank(pb.RerankRequest(query=QUERY, documents=DOCUMENTS, top_k=2))).results
        assert list(top) == list(best[:2])


@pytest.mark.parametrize("bundle", ["tiny_bi_encoder", "tiny_cross_encoder"])
async def test_a_document_scores_the_same_alone_and_among_others(bundle: str, request: pytest.FixtureRequest) -> None:
    async with stub_of(request.getfixturevalue(bundle), cache_entries=0) as stub:
        ask = pb.RerankRequest(query=QUERY, documents=DOCUMENTS, order=pb.ORDER_REQUEST)
        together = [result.score for result in (await stub.Rerank(ask)).results]
        alone = [
            (await stub.Rerank(pb.RerankRequest(query=QUERY, documents=[document]))).results[0].score
            for document in DOCUMENTS
        ]
        np.testing.assert_allclose(together, alone, atol=1e-5)


async def test_one_logit_becomes_a_probability_unless_it_is_asked_for_raw(tiny_cross_encoder: Path) -> None:
    async with stub_of(tiny_cross_encoder) as stub:
        raw = (await stub.Rerank(request(order=pb.ORDER_REQUEST, raw_scores=True))).results
        plain = (await stub.Rerank(request(order=pb.ORDER_REQUEST))).results
        expected = [1 / (1 + np.exp(-result.score)) for result in raw]
        np.testing.assert_allclose([result.score for result in plain], expected, atol=1e-6)
        assert not plain[0].label_scores


async def test_several_logits_come_back_by_label_and_the_relevant_one_is_the_score(
    tiny_cross_encoder_3_labels: Path,
) -> None:
    async with stub_of(tiny_cross_encoder_3_labels) as stub:
        labels = (await stub.ListModels(pb.ListModelsRequest())).models[0].labels
        relevant = list(labels).index("entailment")
        for result in (await stub.Rerank(request())).results:
            assert sum(result.label_scores) == pytest.approx(1)
            assert result.score == result.label_scores[relevant]


async def test_a_document_equal_to_the_query_has_a_perfect_late_interaction_score(tiny_bi_encoder: Path) -> None:
    async with stub_of(tiny_bi_encoder) as stub:
        ask = pb.RerankRequest(query=QUERY, documents=[*DOCUMENTS, QUERY])
        best = (await stub.Rerank(ask)).results[0]
        assert best.index == len(DOCUMENTS)
        assert best.score == pytest.approx(1, abs=1e-4)


async def test_long_input_is_truncated_and_reported_or_rejected(tiny_cross_encoder: Path) -> None:
    async with stub_of(tiny_cross_encoder) as stub:
        limit = (await stub.ListModels(pb.ListModelsRequest())).models[0].max_token_count
        documents = ["short", "a long file " * limit]
        results = (
            await stub.Rerank(pb.RerankRequest(query=QUERY, documents=documents, order=pb.ORDER_REQUEST))
        ).results
        assert results[0].usage.dropped_token_count == 0
        assert results[1].usage.dropped_token_count > 0
        assert results[1].usage.token_count == limit
        refuse = pb.RerankRequest(query=QUERY, documents=documents, truncation=model_pb2.TRUNCATION_REFUSE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Rerank(refuse)
        error = from_rpc_error(caught.value)
        assert isinstance(error, InvalidRequest)
        assert [violation.field for violation in error.violations] == ["documents[1]"]


@pytest.mark.parametrize("bundle", ["tiny_bi_encoder", "tiny_cross_encoder"])
async def test_a_document_in_windows_scores_as_its_best_window(bundle: str, request: pytest.FixtureRequest) -> None:
    async with stub_of(request.getfixturevalue(bundle)) as stub:
        filler = "a generator is sorted and the list is long " * 40
        documents = ["short", f"{filler} {QUERY} {filler}"]
        windows = model_pb2.Windows(overlap_token_count=4)
        ask = pb.RerankRequest(query=QUERY, documents=documents, windows=windows, order=pb.ORDER_REQUEST)
        whole = (await stub.Rerank(ask)).results
        assert whole[1].usage.window_count > 1
        assert whole[1].usage.dropped_token_count == 0
        ask = pb.RerankRequest(query=QUERY, documents=documents, order=pb.ORDER_REQUEST)
        cut = (await stub.Rerank(ask)).results
        assert cut[1].usage.dropped_token_count > 0
        assert whole[0].score == pytest.approx(cut[0].score, abs=1e-5)


@pytest.mark.parametrize("bundle", ["tiny_bi_encoder", "tiny_cross_encoder"])
async def test_the_usage_of_a_query_that_is_truncated_on_its_own_is_reported(
    bundle: str, request: pytest.FixtureRequest
) -> None:
    async with stub_of(request.getfixturevalue(bundle)) as stub:
        long_query = QUERY * 100
        windows = model_pb2.Windows()
        usage = (await stub.Rerank(pb.RerankRequest(query=long_query, documents=["a"], windows=windows))).query_usage
        assert usage.token_count > 0
        assert usage.dropped_token_count > 0
        usage = (await stub.Rerank(pb.RerankRequest(query=QUERY, documents=["a"], windows=windows))).query_usage
        assert usage.token_count > 0
        assert usage.dropped_token_count == 0


async def test_a_cross_encoder_reports_query_and_document_together_without_windows(tiny_cross_encoder: Path) -> None:
    async with stub_of(tiny_cross_encoder) as stub:
        response = await stub.Rerank(pb.RerankRequest(query=QUERY * 100, documents=["a"]))
        assert not response.HasField("query_usage")
        assert response.results[0].usage.dropped_token_count > 0


@pytest.mark.parametrize(
    ("bad", "fields"),
    [
        (pb.RerankRequest(), ["query", "documents"]),
        (pb.RerankRequest(query=" ", documents=["x"]), ["query"]),
        (pb.RerankRequest(query="x", documents=["x", ""]), ["documents[1]"]),
        (pb.RerankRequest(query="x", documents=["x"] * 9), ["documents"]),
        (pb.RerankRequest(query="x", documents=["x" * 101]), ["documents[0]"]),
        (pb.RerankRequest(query="x", documents=["x"], top_k=-1), ["top_k"]),
        (pb.RerankRequest(query="x", documents=["x"], top_k=2), ["top_k"]),
        (pb.RerankRequest(query="x", documents=["x"], order=cast("Any", 7)), ["order"]),
        (pb.RerankRequest(query="x", documents=["x"], lane=cast("Any", 7)), ["lane"]),
    ],
)
async def test_bad_input_is_refused_by_field(tiny_bi_encoder: Path, bad: pb.RerankRequest, fields: list[str]) -> None:
    async with stub_of(tiny_bi_encoder, max_documents=8, max_text_bytes=100) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Rerank(bad)
        error = from_rpc_error(caught.value)
        assert isinstance(error, InvalidRequest)
        assert [violation.field for violation in error.violations] == fields
        assert (await stub.Rerank(pb.RerankRequest(query="x", documents=["x"]))).results


async def test_two_models_are_distinguished_by_name(tiny_bi_encoder: Path, tiny_cross_encoder: Path) -> None:
    async with stub_of(tiny_bi_encoder, tiny_cross_encoder) as stub:
        models = (await stub.ListModels(pb.ListModelsRequest())).models
        assert {model.scoring for model in models} == {pb.SCORING_CROSS_ENCODER, pb.SCORING_LATE_INTERACTION}
        answers = [(await stub.Rerank(request(model=model.model.name))).model.digest for model in models]
        assert answers == [model.model.digest for model in models]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Rerank(request())
        error = from_rpc_error(caught.value)
        assert isinstance(error, InvalidRequest)
        assert [violation.field for violation in error.violations] == ["model"]
