"""Aliases that move without a failed call, and pages of documents."""

import asyncio
from pathlib import Path

import numpy as np
from sluice.common.v1 import filter_pb2 as flt
from sluice.errors import AlreadyExists, InvalidRequest, NotFound
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from tests.support.retrieval import (
    Stub,
    document,
    error_of,
    new_collection,
    query,
    retrieval_stub,
    upsert,
    value,
)


def alias(name: str, collection: str) -> pb.SetAliasRequest:
    return pb.SetAliasRequest(alias=pb.Alias(alias=name, collection=collection))


async def fill(stub: Stub, name: str, dimensions: int) -> None:
    """Create a collection with a document whose id is the name of the collection."""
    create = new_collection(name)
    create.schema.dense_fields[0].dimensions = dimensions
    await stub.CreateCollection(create)
    await stub.Upsert(upsert([document(name)], np.ones((1, dimensions)), collection=name))


async def test_every_call_resolves_an_alias_also_after_a_restart(tmp_path: Path) -> None:
    async def use(stub: Stub) -> None:
        described = (await stub.GetCollection(pb.GetCollectionRequest(name="live"))).collection
        assert described.name == "blue"
        found = await stub.Retrieve(pb.RetrieveRequest(collection="live", queries=[query([1, 0, 0, 0])]))
        assert "blue" in found.rankings[0].document_ids
        await stub.Upsert(upsert([document("more")], np.ones((1, 4)), collection="live"))
        counted = await stub.CountDocuments(pb.CountDocumentsRequest(collection="blue"))
        assert counted.document_count == 2
        listed = await stub.ListAliases(pb.ListAliasesRequest())
        assert list(listed.aliases) == [pb.Alias(alias="live", collection="blue")]

    async with retrieval_stub(tmp_path) as stub:
        await fill(stub, "blue", 4)
        await stub.SetAlias(alias("live", "blue"))
        await use(stub)
    async with retrieval_stub(tmp_path) as stub:
        await use(stub)
        gone = await error_of(stub.DropCollection(pb.DropCollectionRequest(name="live")))
        assert isinstance(gone, NotFound)
        await stub.DropCollection(pb.DropCollectionRequest(name="blue"))
        assert not (await stub.ListAliases(pb.ListAliasesRequest())).aliases
        await fill(stub, "blue", 4)
        await stub.SetAlias(alias("live", "blue"))
        await stub.DeleteAlias(pb.DeleteAliasRequest(alias="live"))
        await stub.DeleteAlias(pb.DeleteAliasRequest(alias="live"))
        assert isinstance(await error_of(stub.CountDocuments(pb.CountDocumentsRequest(collection="live"))), NotFound)


async def test_an_alias_and_a_collection_cannot_have_the_same_name(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await fill(stub, "blue", 4)
        assert isinstance(await error_of(stub.SetAlias(alias("blue", "blue"))), AlreadyExists)
        assert isinstance(await error_of(stub.SetAlias(alias("live", "green"))), NotFound)
        assert isinstance(await error_of(stub.SetAlias(alias("Live", ""))), InvalidRequest)
        await stub.SetAlias(alias("live", "blue"))
        assert isinstance(await error_of(stub.SetAlias(alias("second", "live"))), NotFound)
        assert isinstance(await error_of(stub.CreateCollection(new_collection("live"))), AlreadyExists)


async def test_no_search_fails_while_the_alias_moves_and_the_old_collection_is_dropped(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path, search_threads=2) as stub:
        await fill(stub, "v0", 4)
        await stub.SetAlias(alias("live", "v0"))
        ended = False

        async def switch() -> None:
            nonlocal ended
            for number in range(1, 25):
                await fill(stub, f"v{number}", 4)
                await stub.SetAlias(alias("live", f"v{number}"))
                await stub.DropCollection(pb.DropCollectionRequest(name=f"v{number - 1}"))
            ended = True

        async def search() -> list[str]:
            seen = []
            while not ended:
                request = pb.RetrieveRequest(collection="live", queries=[query([1, 1, 1, 1])])
                (document_id,) = (await stub.Retrieve(request)).rankings[0].document_ids
                seen.append(document_id)
            return seen

        _, *seen = await asyncio.gather(switch(), search(), search())
        for ids in seen:
            numbers = [int(id_.removeprefix("v")) for id_ in ids]
            assert numbers == sorted(numbers)


async def test_documents_are_listed_by_id_a_page_at_a_time(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        documents = [document(f"{number:03}", year=number % 10) for number in range(250)]
        await stub.Upsert(upsert(documents[::-1], np.ones((250, 4)), content_hashes=["h"] * 250))
        comparison = flt.Comparison(field="year", operator=flt.Comparison.OPERATOR_EQUAL, value=value(3))
        for request, expected, sizes in (
            (pb.ListDocumentsRequest(), documents, [100, 100, 50]),
            (pb.ListDocumentsRequest(page_size=125), documents, [125, 125]),
            (
                pb.ListDocumentsRequest(page_size=20, filter=flt.Filter(comparison=comparison)),
                documents[3::10],
                [20, 5],
            ),
        ):
            request.collection = "books"
            pages = [await stub.ListDocuments(request)]
            while pages[-1].next_page_token:
                request.page_token = pages[-1].next_page_token
                pages.append(await stub.ListDocuments(request))
            assert [len(page.documents) for page in pages] == sizes
            assert [one for page in pages for one in page.documents] == expected
            assert {hash_ for page in pages for hash_ in page.content_hashes} == {"h"}
        bad = pb.ListDocumentsRequest(collection="books", page_size=1025, page_token="x" * 513)
        error = await error_of(stub.ListDocuments(bad))
        assert isinstance(error, InvalidRequest)
        assert [violation.field for violation in error.violations] == ["page_size", "page_token"]


async def test_a_page_of_large_documents_is_cut_to_fit_into_a_message(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        for number in range(100):
            await stub.Upsert(upsert([document(f"{number:03}", "x" * 65_536)], np.ones((1, 4))))
        request = pb.ListDocumentsRequest(collection="books", page_size=1024)
        ids: list[str] = []
        while True:
            page = await stub.ListDocuments(request)
            ids.extend(one.document_id for one in page.documents)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert ids == [f"{number:03}" for number in range(100)]


async def test_pages_list_each_remaining_document_once_during_writes_and_deletions(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        staying = [document(f"{number:03}-stays") for number in range(200)]
        await stub.Upsert(upsert(staying, np.ones((200, 4))))
        listed = 0

        async def write() -> None:
            rng = np.random.default_rng(1)
            while listed < 5:
                numbers = rng.choice(200, 20, replace=False)
                passing = [document(f"{number:03}-{rng.choice(['goes', 'writes'])}") for number in numbers]
                await stub.Upsert(upsert(passing, np.ones((20, 4))))
                ids = [f"{number:03}-goes" for number in range(200)]
                await stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection="books", document_ids=ids))

        async def listing() -> None:
            nonlocal listed
            while listed < 5:
                request, ids = pb.ListDocumentsRequest(collection="books", page_size=7), list[str]()
                while request.page_token or not ids:
                    page = await stub.ListDocuments(request)
                    ids.extend(one.document_id for one in page.documents)
                    request.page_token = page.next_page_token
                    if not page.next_page_token:
                        break
                assert ids == sorted(set(ids))
                assert [id_ for id_ in ids if id_.endswith("stays")] == [one.document_id for one in staying]
                listed += 1

        await asyncio.gather(write(), listing())
