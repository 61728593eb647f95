"""Rerankers that are language models over gRPC: one answers yes or no, the other ranks lists."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from sluice.common.v1 import model_pb2
from sluice.errors import InvalidRequest, PreconditionFailed, Unavailable, from_rpc_error
from sluice.reranking.v1 import reranking_service_pb2 as pb
from sluice.reranking.v1.reranking_service_pb2_grpc import RerankingServiceStub
from sluice.tei.v1 import tei_service_pb2 as tei
from sluice.tei.v1.tei_service_pb2_grpc import PredictStub, RerankStub

from tests.support.bundles import export_tiny
from tests.support.servers import reranking_server
from tests.support.tiny_rerankers import write_language_model

if TYPE_CHECKING:
    from sluice.reranking.v1.reranking_service_pb2_grpc import RerankingServiceAsyncStub

QUERY = "how do I open a file?"
DOCUMENTS = [f"{text} number {number}" for number in range(5) for text in ("sort a list", "open a file", "a generator")]
LONG = [f"{text}, {number}" for number in range(15) for text in DOCUMENTS[:3]]


@pytest.fixture(scope="module")
def yes_no(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("yes-no")
    checkpoint = write_language_model(folder / "tiny-yes-no")
    return export_tiny(checkpoint, folder / "bundles", task="yes-no-reranker", max_token_count=160)


@pytest.fixture(scope="module")
def listwise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("listwise")
    checkpoint = write_language_model(folder / "tiny-listwise", "llama", "gpt2")
    return export_tiny(checkpoint, folder / "bundles", task="listwise-reranker", max_token_count=768)


@asynccontextmanager
async def stub_of(*bundles: Path, **settings: Any) -> AsyncIterator["RerankingServiceAsyncStub"]:
    """A stub for a server of these bundles."""
    async with reranking_server(*bundles, **settings) as channel:
        yield RerankingServiceStub(channel)


def request(documents: list[str], **fields: Any) -> pb.RerankRequest:
    return pb.RerankRequest(query=QUERY, documents=documents, order=pb.ORDER_REQUEST, **fields)


async def scores_of(stub: "RerankingServiceAsyncStub", documents: list[str], **fields: Any) -> list[float]:
    return [result.score for result in (await stub.Rerank(request(documents, **fields))).results]


async def test_the_score_of_an_answer_is_its_probability(yes_no: Path) -> None:
    async with stub_of(yes_no) as stub:
        raw, plain = await scores_of(stub, DOCUMENTS, raw_scores=True), await scores_of(stub, DOCUMENTS)
        np.testing.assert_allclose(plain, 1 / (1 + np.exp(-np.array(raw))), atol=1e-6)
        [model] = (await stub.ListModels(pb.ListModelsRequest())).models
        assert (model.scoring, list(model.labels)) == (pb.SCORING_CROSS_ENCODER, ["yes"])


async def test_long_documents_are_truncated_or_read_in_windows(yes_no: Path) -> None:
    async with stub_of(yes_no) as stub:
        long = "open a file and read it, line by line. " * 30
        [cut] = (await stub.Rerank(request([long]))).results
        assert cut.usage.token_count == 160
        assert cut.usage.dropped_token_count > 0
        windows = model_pb2.Windows(overlap_token_count=4)
        [whole] = (await stub.Rerank(request([long], windows=windows))).results
        assert whole.usage.window_count > 1
        assert whole.usage.dropped_token_count == 0


async def test_a_list_is_scored_by_its_identifiers(listwise: Path) -> None:
    async with stub_of(listwise) as stub:
        raw, plain = await scores_of(stub, DOCUMENTS, raw_scores=True), await scores_of(stub, DOCUMENTS)
        np.testing.assert_allclose(plain, 1 / (1 + np.exp(np.mean(raw) - np.array(raw))), atol=1e-5)
        assert len(set(raw)) == len(raw)
        [model] = (await stub.ListModels(pb.ListModelsRequest())).models
        assert (model.scoring, list(model.labels)) == (pb.SCORING_LISTWISE, [])
        assert await scores_of(stub, DOCUMENTS[:1]) == [0.5]


@pytest.mark.parametrize("raw_scores", [False, True])
async def test_a_long_list_has_one_order_and_different_scores(listwise: Path, raw_scores: bool) -> None:
    async with stub_of(listwise) as stub:
        best = (await stub.Rerank(pb.RerankRequest(query=QUERY, documents=LONG, raw_scores=raw_scores))).results
        assert sorted(result.index for result in best) == list(range(len(LONG)))
        scores = [result.score for result in best]
        assert all(a > b for a, b in itertools.pairwise(scores))


async def test_the_order_of_a_list_does_not_depend_on_other_calls(listwise: Path) -> None:
    async with stub_of(listwise, cache_entries=0, max_batch_tokens=4096) as stub:
        alone = await scores_of(stub, LONG, raw_scores=True)
        others = [scores_of(stub, LONG[start : start + 12], raw_scores=True) for start in range(8)]
        together, *_ = await asyncio.gather(scores_of(stub, LONG, raw_scores=True), *others)
        np.testing.assert_allclose(together, alone, atol=1e-3)
        assert np.argsort(together).tolist() == np.argsort(alone).tolist()


async def test_passages_of_a_list_share_the_limit(listwise: Path) -> None:
    async with stub_of(listwise) as stub:
        documents = ["open a file " * 200, "short", *["sort a list " * 200] * 3]
        response = await stub.Rerank(request(documents))
        counts = [result.usage.token_count for result in response.results]
        dropped = [result.usage.dropped_token_count for result in response.results]
        assert dropped[1] == 0
        assert all(lost > 0 for lost in (dropped[0], *dropped[2:]))
        assert max(counts) - min(counts[0], *counts[2:]) <= 1
        assert response.query_usage.dropped_token_count == 0


async def test_a_list_that_needs_truncation_is_refused_on_request(listwise: Path) -> None:
    async with stub_of(listwise) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Rerank(request(["open a file " * 300] * 3, truncation=model_pb2.TRUNCATION_REFUSE))
        error = from_rpc_error(caught.value)
        assert isinstance(error, InvalidRequest)
        assert [violation.field for violation in error.violations] == ["documents"]
        assert "for the query and 3 documents together" in str(error)


async def test_windows_of_a_list_are_refused(listwise: Path) -> None:
    async with stub_of(listwise) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Rerank(request(DOCUMENTS, windows=model_pb2.Windows(overlap_token_count=4)))
        assert isinstance(from_rpc_error(caught.value), PreconditionFailed)
        assert "leave windows unset" in str(caught.value.details())


async def test_a_long_list_without_time_is_rejected_before_any_work(listwise: Path) -> None:
    async with stub_of(listwise) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Rerank(request(LONG * 20), timeout=0.05)
        assert isinstance(from_rpc_error(caught.value), Unavailable) or caught.value.code() == (
            grpc.StatusCode.DEADLINE_EXCEEDED
        )


async def test_the_tei_api_serves_both_kinds_or_refuses_clearly(yes_no: Path, listwise: Path) -> None:
    for bundle in (yes_no, listwise):
        async with reranking_server(bundle) as channel:
            own = await RerankingServiceStub(channel).Rerank(pb.RerankRequest(query=QUERY, documents=DOCUMENTS))
            ranks = (await RerankStub(channel).Rerank(tei.RerankRequest(query=QUERY, texts=DOCUMENTS))).ranks
            assert [rank.index for rank in ranks] == [result.index for result in own.results]
    async with reranking_server(listwise) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await RerankStub(channel).RerankStream(iter([tei.RerankStreamRequest(query=QUERY, text="open")]))
        assert "reads several texts together" in str(caught.value.details())
    async with reranking_server(yes_no) as channel:
        predict = PredictStub(channel)
        [label] = (await predict.PredictPair(tei.PredictPairRequest(inputs=[QUERY, "open a file"]))).predictions
        assert label.label == "yes"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await predict.Predict(tei.PredictRequest(inputs="open a file"))
        assert "not single texts" in str(caught.value.details())
