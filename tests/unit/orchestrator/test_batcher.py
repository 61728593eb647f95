import asyncio

from sluice.common.v1.document_pb2 import Document

from services.orchestrator.indexing.batcher import DocumentBatcher


async def batches(ids: str, *, documents: int = 3, size: int = 10_000) -> list[str]:
    """Return the batches of documents with these one-letter ids, each as a string."""
    batcher = DocumentBatcher(documents, size)

    async def fill() -> None:
        for id_ in ids:
            await batcher.put(Document(document_id=id_, text="x" * 100))
        await batcher.close()

    filling, found = asyncio.create_task(fill()), []
    while batch := await batcher.next_batch():
        found.append("".join(document.document_id for document in batch))
        await asyncio.sleep(0)  # as any caller does: it lets the queue fill
    await filling
    assert await batcher.next_batch() == []
    return found


async def test_batches_have_all_documents_in_order_and_a_limited_number() -> None:
    given = await batches("abcdefgh")
    assert "".join(given) == "abcdefgh"
    assert max(map(len, given)) == 3


async def test_batches_have_a_limited_size() -> None:
    assert max(map(len, await batches("abcdefgh", documents=8, size=250))) == 2


async def test_a_document_over_the_size_is_a_batch_of_its_own() -> None:
    assert await batches("abc", size=10) == ["a", "b", "c"]


async def test_a_batch_has_each_id_once() -> None:
    given = await batches("abaab", documents=8)
    assert "".join(given) == "abaab"
    assert all(len(set(batch)) == len(batch) for batch in given)


async def test_no_documents_are_no_batch() -> None:
    assert await batches("") == []
