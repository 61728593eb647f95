import asyncio

import pytest
from sluice.common.v1.document_pb2 import Document, MetadataValue
from sluice.errors import InvalidRequest, Violation

from services.orchestrator.documents import content_hash, rejections
from services.orchestrator.indexing.batcher import DocumentBatcher

PLAIN = Document(document_id="a", title="title", text="text")


def changed(*, title: str = "", text: str = "") -> Document:
    document = Document()
    document.CopyFrom(PLAIN)
    document.MergeFrom(Document(title=title, text=text))
    return document


def with_metadata(*years: int) -> Document:
    document = changed()
    for year in years:
        document.metadata[f"y{year}"].CopyFrom(MetadataValue(number_value=year))
    return document


def test_the_hash_covers_title_text_metadata_and_models() -> None:
    whole = content_hash(PLAIN, ["m"])
    others = [changed(title="x"), changed(text="x"), with_metadata(2020), changed(title="title\n", text="text")]
    hashes = {whole, content_hash(PLAIN, ["n"]), *(content_hash(other, ["m"]) for other in others)}
    assert len(hashes) == 6
    assert whole == content_hash(changed(), ["m"])


def test_the_hash_does_not_depend_on_the_order_of_metadata() -> None:
    assert content_hash(with_metadata(1, 2, 3), ["m"]) == content_hash(with_metadata(3, 1, 2), ["m"])


@pytest.mark.parametrize(
    ("violations", "expected"),
    [
        ([("texts[1]", "too long")], {1: "too long"}),
        ([("texts[0]", "empty"), ("texts[2].x", "odd")], {0: "empty", 2: "x: odd"}),
        ([("texts[7]", "not ours")], {0: "whole", 1: "whole", 2: "whole"}),
        ([("model", "unknown")], {0: "whole", 1: "whole", 2: "whole"}),
        ([], {0: "whole", 1: "whole", 2: "whole"}),
    ],
)
def test_rejections_name_the_documents(violations: list[tuple[str, str]], expected: dict[int, str]) -> None:
    error = InvalidRequest("whole", violations=[Violation(*violation) for violation in violations])
    assert rejections(error, "texts", 3) == expected


def batches(ids: str, *, documents: int = 3, size: int = 10_000) -> list[str]:
    """Batches of documents with one-letter ids that are all there, each as a string."""

    async def main() -> list[str]:
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

    return asyncio.run(main())


def test_batches_have_all_documents_in_order_and_a_limited_number() -> None:
    given = batches("abcdefgh")
    assert "".join(given) == "abcdefgh"
    assert max(map(len, given)) == 3


def test_batches_have_a_limited_size() -> None:
    assert max(map(len, batches("abcdefgh", documents=8, size=250))) == 2


def test_a_document_over_the_size_is_a_batch_of_its_own() -> None:
    assert batches("abc", size=10) == ["a", "b", "c"]


def test_a_batch_has_each_id_once() -> None:
    given = batches("abaab", documents=8)
    assert "".join(given) == "abaab"
    assert all(len(set(batch)) == len(batch) for batch in given)


def test_no_documents_are_no_batch() -> None:
    assert batches("") == []
