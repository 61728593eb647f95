from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluice.client import Document

from services.local.pydocs import MAX_WORDS, corpus, passages


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return list(corpus())


def test_corpus_has_thousands_of_passages_of_every_kind(documents: list[Document]) -> None:
    kinds = Counter(document.metadata["kind"] for document in documents)
    assert len(documents) > 2000
    assert all(kinds[kind] > 100 for kind in ("topic", "module", "class", "function"))


def test_ids_and_texts_are_unique(documents: list[Document]) -> None:
    assert len({document.document_id for document in documents}) == len(documents)
    assert len({document.text for document in documents}) == len(documents)


def test_corpus_is_the_same_every_time(documents: list[Document]) -> None:
    assert list(corpus()) == documents


def test_known_passages(documents: list[Document]) -> None:
    by_id = {document.document_id: document for document in documents}
    queue = by_id["asyncio.Queue.get"]
    assert queue.title == "asyncio.Queue.get"
    assert queue.metadata == {"kind": "function", "module": "asyncio"}
    assert "Remove and return an item from the queue." in queue.text
    assert by_id["str.join"].metadata["module"] == "builtins"
    assert by_id["topic:with"].title == 'The "with" statement'
    assert by_id["topic:with#2"].metadata == {"kind": "topic"}


def test_nothing_private_and_nothing_that_acts_on_import(documents: list[Document]) -> None:
    roots = {str(document.metadata.get("module", "")).partition(".")[0] for document in documents}
    assert not roots & {"antigravity", "this", "idlelib", "test", "lib2to3", "turtle"}
    assert not any(root.startswith("_") for root in roots)


def test_passages_are_short_enough_to_be_embedded_whole(documents: list[Document]) -> None:
    assert max(len(document.text.split()) for document in documents) <= MAX_WORDS


@given(st.lists(st.lists(st.text("ab ", min_size=1, max_size=30), min_size=1, max_size=40), max_size=8))
def test_passages_keep_every_word_in_order(paragraphs: list[list[str]]) -> None:
    text = "\n\n".join("\n".join(lines) for lines in paragraphs)
    cut = list(passages(text))
    assert " ".join(cut).split() == text.split()
