"""Documents, candidates and queries that exceed the limit of a model, with the real services and tiny models."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import grpc
import pytest
from prometheus_client import REGISTRY
from sluice.client import AsyncSearchClient, Chunking, Document, Windows
from sluice.common.v1 import model_pb2
from sluice.errors import InvalidRequest, PreconditionFailed, SluiceError, from_rpc_error
from sluice.search.v1 import search_service_pb2 as pb
from sluice.search.v1.search_service_pb2_grpc import SearchServiceStub

from tests.support.servers import embedding_address, orchestrator_address, reranking_address, retrieval_address

PIPELINES: Final = """
default:
  description: Dense alone.
  retrieve: [{name: dense, kind: dense, depth: 5}]
late:
  description: Token vectors alone.
  retrieve: [{name: tokens, kind: multi_vector, depth: 5}]
reranked:
  description: Dense, and a reranker that truncates.
  retrieve: [{name: dense, kind: dense, depth: 5}]
  rerank: [{name: rerank, depth: 5, slice: 1}]
windowed:
  description: Dense, and a reranker that reads candidates in windows.
  retrieve: [{name: dense, kind: dense, depth: 5}]
  rerank: [{name: rerank, depth: 5, slice: 1, windows: {overlap: 4}}]
far:
  description: Windows that share more tokens than the model reads.
  retrieve: [{name: dense, kind: dense, depth: 5}]
  rerank: [{name: rerank, depth: 5, windows: {overlap: 4000}, on_error: fail}]
"""
FILLER: Final = "a list of numbers is sorted and a generator is closed " * 12
LAST: Final = "wait for the lock and read the file"
# Both begin with the same text. Only the end, which is beyond the limit of the models, tells them apart.
LONG: Final = [Document("other", f"{FILLER} open the door"), Document("wanted", f"{FILLER} {LAST}")]
SHORT: Final = Document("short", "sort a list")
WINDOWS: Final = Windows(overlap=4)


@dataclass
class Running:
    """A running system."""

    address: str
    client: AsyncSearchClient

    async def index(self, documents: Sequence[Document], name: str = "docs", **options: Any) -> dict[str, int]:
        """Index documents, and return the number of dropped tokens by id."""
        acknowledgements = [one async for one in self.client.index(name, documents, create=True, **options)]
        assert {one.outcome for one in acknowledgements} == {"indexed"}, acknowledgements
        return {one.document_id: one.dropped_token_count for one in acknowledgements}

    async def scores(self, query: str, name: str = "docs", pipeline: str = "") -> dict[str, float]:
        """Return the scores of the found documents, the best first."""
        answer = await self.client.search(name, query, pipeline=pipeline)
        assert not answer.degraded, answer
        return {one.document.document_id: one.score for one in answer.results}

    async def truncation(self, stage: str, query: str, pipeline: str) -> tuple[int, int]:
        """Return the number of truncated texts and of dropped tokens that a stage reports."""
        answer = await self.client.search("docs", query, pipeline=pipeline)
        [report] = [one for one in answer.stages if one.name == stage]
        return report.truncated_count, report.dropped_token_count


@asynccontextmanager
async def running(
    folder: Path, bundle: Path, reranker: Path, *, embedder_bytes: int = 2**24, fields: Sequence[str] = ("dense",)
) -> AsyncIterator[Running]:
    """Run a system with these models. `embedder_bytes` is the largest message of the embedding service."""
    (folder / "pipelines.yaml").write_text(PIPELINES)
    async with (
        embedding_address(bundle, max_message_bytes=embedder_bytes) as embedding,
        reranking_address(reranker) as reranking,
        retrieval_address(folder / "data") as retrieval,
        orchestrator_address(
            embedding=embedding,
            retrieval=retrieval,
            reranking=reranking,
            pipelines=folder / "pipelines.yaml",
            index_fields=list(fields),
        ) as address,
        AsyncSearchClient(address, timeout_s=30) as client,
    ):
        yield Running(address, client)


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def error_of(system: Running, windows: Windows | None, name: str = "docs", *, create: bool = True) -> SluiceError:
    with pytest.raises(SluiceError) as caught:
        async for _ in system.client.index(name, [SHORT], create=create, windows=windows):
            pass
    return caught.value


async def test_windows_read_the_end_of_a_document_that_truncation_loses(tmp_path: Path, tiny_bi_encoder: Path) -> None:
    async with running(tmp_path, tiny_bi_encoder, tiny_bi_encoder, fields=["dense", "multi_vector"]) as system:
        cut = await system.index([*LONG, SHORT])
        assert cut["short"] == 0
        assert min(cut["wanted"], cut["other"]) > 0
        for aggregation in ("mean", "max"):
            whole = await system.index([*LONG, SHORT], f"{aggregation}-windows", windows=Windows(4, aggregation))
            assert set(whole.values()) == {0}
        for pipeline in ("default", "late"):
            before = await system.scores(LAST, pipeline=pipeline)
            assert before["wanted"] == pytest.approx(before["other"], abs=1e-6)
            after = await system.scores(LAST, "mean-windows", pipeline=pipeline)
            assert after["wanted"] != pytest.approx(after["other"], abs=1e-4)
            assert after["short"] == pytest.approx(before["short"], abs=1e-6)
        largest = await system.scores(LAST, "max-windows")
        assert largest["wanted"] != pytest.approx(largest["other"], abs=1e-4)
        assert largest["wanted"] != pytest.approx((await system.scores(LAST, "mean-windows"))["wanted"], abs=1e-4)


async def test_a_sentence_at_the_end_of_a_long_document_is_found(
    tmp_path: Path, minilm_bundle: Path, tiny_bi_encoder: Path
) -> None:
    async with running(tmp_path, minilm_bundle, tiny_bi_encoder) as system:
        start = "The museum of the town shows paintings of ships, and the harbor is open all year. " * 20
        end = "Whales are mammals that breathe air. They nurse their calves with milk and sleep near the surface. " * 10
        documents = [Document("whales", f"{start} {end}"), Document("museum", f"{start} {start[:800]}")]
        query = "how do whales feed their young"
        assert min((await system.index(documents)).values()) > 0
        cut = await system.scores(query)
        assert cut["whales"] == pytest.approx(cut["museum"], abs=1e-5)
        await system.index(documents, "whole", windows=Windows(overlap=32))
        whole = await system.scores(query, "whole")
        assert whole["whales"] > whole["museum"] + 0.2


async def test_later_streams_use_the_windows_of_the_collection(tmp_path: Path, tiny_bi_encoder: Path) -> None:
    async with running(tmp_path, tiny_bi_encoder, tiny_bi_encoder) as system:
        await system.index([SHORT], windows=WINDOWS)
        assert await system.index(LONG) == {"other": 0, "wanted": 0}
        again = [one async for one in system.client.index("docs", LONG, windows=WINDOWS)]
        assert {one.outcome for one in again} == {"unchanged"}
        error = await error_of(system, Windows(overlap=5))
        assert isinstance(error, PreconditionFailed)
        assert (
            "has windows with an overlap of 4 tokens, joined by MEAN, got windows with an overlap of 5" in error.message
        )
        await system.index([SHORT], "truncating")
        assert "has no windows" in (await error_of(system, WINDOWS, "truncating")).message


async def test_windows_that_a_model_cannot_read_are_refused_before_the_collection_is_created(
    tmp_path: Path, tiny_bi_encoder: Path
) -> None:
    async with running(tmp_path, tiny_bi_encoder, tiny_bi_encoder) as system:
        for overlap in (32, -1, 5000):
            error = await error_of(system, Windows(overlap=overlap))
            assert isinstance(error, InvalidRequest)
            assert [one.field for one in error.violations] == ["windows.overlap_token_count"]
        assert (await error_of(system, Windows(aggregation=cast("Any", "sum")))).message.startswith(
            "windows.aggregation"
        )
        odd = model_pb2.Windows(aggregation=cast("Any", 7))
        async with grpc.aio.insecure_channel(system.address) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                await SearchServiceStub(channel).Index(iter([pb.IndexRequest(collection="docs", windows=odd)])).read()
        assert "windows.aggregation" in from_rpc_error(caught.value).message
        assert (await error_of(system, None, create=False)).reason_name == "UNKNOWN_COLLECTION"
        await system.index([SHORT], windows=Windows(overlap=31))


async def test_truncated_documents_are_counted(tmp_path: Path, tiny_bi_encoder: Path) -> None:
    names = ("sluice_documents_truncated_total", "sluice_documents_dropped_tokens_total")
    before = [metric(name) for name in names]
    async with running(tmp_path, tiny_bi_encoder, tiny_bi_encoder) as system:
        dropped = await system.index([*LONG, SHORT])
        counted = [metric(name) - start for name, start in zip(names, before, strict=True)]
        assert counted == [2, sum(dropped.values())]


async def test_chunks_lose_tokens_only_to_a_long_title(tmp_path: Path, tiny_bi_encoder: Path) -> None:
    async with running(tmp_path, tiny_bi_encoder, tiny_bi_encoder) as system:
        titled = Document("titled", FILLER, title="the list of files")
        dropped = await system.index([*LONG, titled], chunking=Chunking(tokens=64, overlap=8))
        assert dropped == {"other": 0, "wanted": 0, "titled": 0}
        long_title = Document("long-title", FILLER, title=FILLER)
        assert (await system.index([long_title], chunking=Chunking(tokens=64)))["long-title"] > 0
        chunking = Chunking(tokens=64)
        assert await system.index([long_title], "both", chunking=chunking, windows=WINDOWS) == {"long-title": 0}


@pytest.mark.parametrize("reranker", ["tiny_cross_encoder", "tiny_bi_encoder"])
async def test_a_reranker_reads_candidates_in_windows(
    tmp_path: Path, tiny_bi_encoder: Path, reranker: str, request: pytest.FixtureRequest
) -> None:
    async with running(tmp_path, tiny_bi_encoder, request.getfixturevalue(reranker)) as system:
        await system.index([*LONG, SHORT])
        cut = await system.scores(LAST, pipeline="reranked")
        assert cut["wanted"] == pytest.approx(cut["other"], abs=1e-6)
        whole = await system.scores(LAST, pipeline="windowed")
        assert whole["wanted"] > cut["wanted"] + 1e-5, "the score is that of the best window"
        assert whole["short"] == pytest.approx(cut["short"], abs=1e-5)


@pytest.mark.parametrize("reranker", ["tiny_cross_encoder", "tiny_bi_encoder"])
async def test_the_report_of_a_stage_says_what_its_model_truncated(
    tmp_path: Path, tiny_bi_encoder: Path, reranker: str, request: pytest.FixtureRequest
) -> None:
    async with running(tmp_path, tiny_bi_encoder, request.getfixturevalue(reranker)) as system:
        await system.index([*LONG, SHORT])
        counted = {"pipeline": "reranked", "stage": "rerank"}
        before = (
            metric("sluice_stage_truncated_total", **counted),
            metric("sluice_stage_dropped_tokens_total", **counted),
        )
        texts, tokens = await system.truncation("rerank", LAST, "reranked")
        assert texts == 2
        assert tokens > 2
        assert metric("sluice_stage_truncated_total", **counted) - before[0] == texts
        assert metric("sluice_stage_dropped_tokens_total", **counted) - before[1] == tokens
        assert await system.truncation("rerank", LAST, "windowed") == (0, 0)
        assert await system.truncation("embed", LAST, "windowed") == (0, 0)
        texts, tokens = await system.truncation("embed", FILLER, "windowed")
        assert (texts, tokens > 0) == (1, True)
        texts, tokens = await system.truncation("rerank", FILLER, "windowed")
        assert (texts, tokens > 0) == (1, True), "the query is truncated, the candidates are not"


async def test_windows_that_the_reranker_cannot_read_are_named_by_the_pipeline(
    tmp_path: Path, tiny_bi_encoder: Path, tiny_cross_encoder: Path
) -> None:
    async with running(tmp_path, tiny_bi_encoder, tiny_cross_encoder) as system:
        await system.index([SHORT])
        with pytest.raises(PreconditionFailed, match="lower the overlap in the pipeline"):
            await system.client.search("docs", LAST, pipeline="far")
        pipelines = {one.name: one for one in await system.client.pipelines()}
        assert pipelines["far"].state == "unusable"
        [problem] = pipelines["far"].problems
        assert "expected windows with an overlap of up to 31 tokens for tiny-pairs, got 4000" in problem
        assert pipelines["windowed"].state == "usable"


async def test_documents_whose_vectors_exceed_a_message_together_are_embedded_in_parts(
    tmp_path: Path, tiny_bi_encoder: Path
) -> None:
    fields = ["dense", "multi_vector"]
    async with running(tmp_path, tiny_bi_encoder, tiny_bi_encoder, embedder_bytes=2**16, fields=fields) as system:
        many = [Document(f"d{number}", f"{FILLER} {number}") for number in range(8)]
        assert set((await system.index(many, windows=WINDOWS)).values()) == {0}
        huge = Document("huge", FILLER * 6)
        outcomes = {one.document_id: one async for one in system.client.index("docs", [*many[:2], huge, SHORT])}
        assert {id_: one.outcome for id_, one in outcomes.items()} == {
            "d0": "unchanged",
            "d1": "unchanged",
            "huge": "failed",
            "short": "indexed",
        }
        assert "expected texts with at most 65,536 bytes of vectors" in outcomes["huge"].message
