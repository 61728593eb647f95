"""Items of an index stream, and the queue of batches that wait to be stored."""

import asyncio

from sluice.common.v1.document_pb2 import Document
from sluice.common.v1.model_pb2 import ModelRef
from sluice.common.v1.tensor_pb2 import MultiVectors, SparseVectors, Tensor

from services.orchestrator.downstream.vectors import EmbeddingBatch, FieldVectors
from services.orchestrator.indexing.items import IndexItem, WriteBatch, group_items, rejected_items, slice_documents
from services.orchestrator.indexing.preparer import too_many
from services.orchestrator.indexing.queues import WriteQueue

EMPTY = (Tensor(), SparseVectors(), MultiVectors())


def item(name: str, count: int) -> IndexItem:
    return IndexItem.of(name, [Document(document_id=f"{name}#{n}", text="x" * 10) for n in range(count)], "hash")


def pairs(*items: IndexItem) -> list[tuple[IndexItem, Document]]:
    return [(one, document) for one in items for document in one.documents]


def test_items_are_grouped_and_a_large_one_is_alone() -> None:
    groups = group_items([item("a", 2), item("b", 2), item("c", 9), item("d", 1)], 4)
    assert [[one.id for one in group] for group in groups] == [["a", "b"], ["c"], ["d"]]


def test_the_first_chunk_is_in_the_last_slice() -> None:
    a = item("a", 5)
    slices = [[document.document_id for _, document in part] for part in slice_documents(pairs(a), 2, 10_000)]
    assert slices == [["a#1", "a#2"], ["a#3", "a#4"], ["a#0"]]
    assert [len(part) for part in slice_documents(pairs(item("a", 3)), 9, 1)] == [1, 1, 1]


def test_a_rejected_document_names_its_item_once() -> None:
    part = pairs(item("a", 2), item("b", 1))
    assert rejected_items(part, {1: "second", 0: "first", 2: "other"}) == {"a": "first", "b": "other"}


def test_a_batch_without_an_item_keeps_the_runs_around_it() -> None:
    a, b, c = item("a", 1), item("b", 2), item("c", 1)
    batch = WriteBatch([a, b, c], [(pairs(a, b, c), [])]).without({"b"})
    assert [one.id for one in batch.items] == ["a", "c"]
    assert [[one.id for one, _ in part] for part, _ in batch.slices] == [["a"], ["c"]]


def vectors(name: str, *dropped: int) -> FieldVectors:
    """The vectors of a model that did not read some tokens of the documents of a slice."""
    batch = EmbeddingBatch(len(dropped), (), ModelRef(name=name), Tensor(), SparseVectors(), MultiVectors(), dropped)
    return FieldVectors(name, "dense", batch)


def test_dropped_tokens_are_summed_over_chunks_and_the_model_that_dropped_the_most_counts() -> None:
    a, b, c = item("a", 2), item("b", 1), item("c", 1)
    first = (pairs(a, b), [vectors("short", 5, 0, 0), vectors("long", 2, 1, 0)])
    unknown = (pairs(c), [FieldVectors("old", "dense", EmbeddingBatch(1, (), ModelRef(), *EMPTY))])
    batch = WriteBatch([a, b, c], [first, unknown])
    assert batch.dropped_tokens() == {"a": 6, "b": 0, "c": 0}
    assert batch.without({"b"}).dropped_tokens() == {"a": 6, "c": 0}


def test_documents_of_too_many_chunks_fail() -> None:
    assert too_many({"a": [Document()] * 1000, "b": [Document()] * 1001}) == {
        "b": "text: expected at most 1,000 chunks, got 1,001"
    }


async def test_the_write_queue_waits_only_for_items_with_the_same_id() -> None:
    queue, batch = WriteQueue(), WriteBatch([item("a", 1)], [])
    await queue.put(batch)
    await queue.wait_for(["b"])
    waiting = asyncio.create_task(queue.wait_for(["b", "a"]))
    assert await queue.get() is batch
    assert not waiting.done()
    queue.mark_done(batch)
    await waiting
    await queue.close()
    assert await queue.get() is None
