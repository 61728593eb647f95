import pytest
from sluice.common.v1.document_pb2 import Document, MetadataValue
from sluice.errors import InvalidRequest, Violation

from services.orchestrator.documents import content_hash, rejections

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
        ([("texts[7]", "not ours")], {}),
        ([("model", "unknown")], {}),
        ([], {}),
    ],
)
def test_rejections_name_the_documents(violations: list[tuple[str, str]], expected: dict[int, str]) -> None:
    error = InvalidRequest("whole", violations=[Violation(*violation) for violation in violations])
    assert rejections(error, "texts", 3) == expected


def test_a_rejection_of_one_document_names_it_always() -> None:
    error = InvalidRequest("whole", violations=[Violation("texts", "too large")])
    assert rejections(error, "texts", 1) == {0: "whole"}
    assert not rejections(error, "texts", 2)
