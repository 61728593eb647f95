"""Concurrent searches and writes: each search sees one state, and too many calls are rejected at once."""

import asyncio
from pathlib import Path

import grpc
import numpy as np
from sluice.errors import Unavailable, from_rpc_error
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from tests.support.retrieval import document, new_collection, query, retrieval_stub, upsert

DOCUMENTS = 40


def generation(number: int) -> pb.UpsertRequest:
    """All documents at once, with this number as their text, their metadata and their vector."""
    documents = [document(f"{i:02}", str(number), year=number) for i in range(DOCUMENTS)]
    return upsert(documents, np.full((DOCUMENTS, 4), [1, number, 0, 0]))


async def test_a_search_sees_one_state_while_all_documents_are_replaced_and_deleted(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path, search_threads=3) as stub:
        await stub.CreateCollection(new_collection(metric=pb.METRIC_DOT))
        await stub.Upsert(generation(0))
        ended = False

        async def write() -> None:
            nonlocal ended
            for number in range(1, 60):
                await stub.Upsert(generation(number))
                if number % 10 == 0:
                    ids = [f"{i:02}" for i in range(DOCUMENTS)]
                    await stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection="books", document_ids=ids))
            ended = True

        async def search() -> int:
            count = 0
            request = pb.RetrieveRequest(collection="books", queries=[query([0, 1, 0, 0], depth=DOCUMENTS)])
            while not ended:
                found = await stub.Retrieve(request)
                assert len(found.documents) in {0, DOCUMENTS}
                numbers = {one.text for one in found.documents}
                numbers |= {f"{one.metadata['year'].number_value:g}" for one in found.documents}
                numbers |= {f"{score:g}" for score in found.rankings[0].scores}
                assert len(numbers) == (1 if found.documents else 0)
                count += 1
            return count

        _, *counts = await asyncio.gather(write(), search(), search(), search())
        assert min(counts) > 0


async def test_writes_beyond_the_queue_are_rejected_before_any_work(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path, max_waiting_writes=1) as stub:
        await stub.CreateCollection(new_collection())
        calls = (stub.Upsert(upsert([document(f"{i}")], np.ones((1, 4)))) for i in range(50))
        results = await asyncio.gather(*calls, return_exceptions=True)
        errors = [from_rpc_error(result) for result in results if isinstance(result, grpc.aio.AioRpcError)]
        counted = await stub.CountDocuments(pb.CountDocumentsRequest(collection="books"))
        assert counted.document_count == 50 - len(errors)
        for error in errors:
            assert isinstance(error, Unavailable)
            assert error.reason_name == "OVERLOADED"
            assert error.retry_after_s is not None
