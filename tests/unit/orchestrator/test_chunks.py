import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sluice.common.v1.document_pb2 import Document

from services.core.ranking import Ranking
from services.orchestrator.chunks import Chunking, best_of_each_parent, chunk_id, chunks_of, cut, parent_of


def spans(text: str) -> list[tuple[int, int]]:
    """Return a token for every two letters and for every other sign, so that words have several tokens."""
    return [match.span() for match in re.finditer(r"\w{1,2}|[^\w\s]", text)]


def pieces(text: str, room: int, overlap: int) -> list[str]:
    return [text[start:end] for start, end in cut(text, spans(text), room, overlap)]


@pytest.mark.parametrize(
    ("text", "room", "overlap", "expected"),
    [
        ("", 4, 0, [""]),
        ("one", 4, 2, ["one"]),
        ("ab cd ef gh ij", 2, 0, ["ab cd", "ef gh", "ij"]),
        ("ab cd ef gh ij", 3, 1, ["ab cd ef", "ef gh ij"]),
        ("abcd efghij klmn", 6, 0, ["abcd efghij", "klmn"]),
        ("abcdefghijklmnop", 4, 0, ["abcdefgh", "ijklmnop"]),
    ],
)
def test_a_text_is_cut_between_words_if_it_has_any(text: str, room: int, overlap: int, expected: list[str]) -> None:
    assert [piece.strip() for piece in pieces(text, room, overlap)] == [piece.strip() for piece in expected]


@given(st.text(alphabet="ab .\n", max_size=200), st.integers(8, 40), st.data())
def test_pieces_contain_the_whole_text_within_the_token_limit(text: str, room: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, room // 2))
    found = list(cut(text, spans(text), room, overlap))
    covered = {place for start, end in found for place in range(start, end)}
    assert {place for place, sign in enumerate(text) if not sign.isspace()} <= covered
    assert all(sum(start <= a and b <= end for a, b in spans(text)) <= room for start, end in found)
    assert [start for start, _ in found] == sorted({start for start, _ in found})


def test_chunks_have_ids_of_their_parent_and_its_title_and_metadata() -> None:
    parent = Document(document_id="a#b", title="T", text="ab cd ef gh ij kl mn op qr")
    parent.metadata["year"].number_value = 1850
    chunks = chunks_of(parent, spans(parent.text), 2, Chunking(6, 0))
    assert [chunk.document_id for chunk in chunks] == ["a#b#0", "a#b#1", "a#b#2"]
    assert {parent_of(chunk.document_id) for chunk in chunks} == {"a#b"}
    assert [chunk.text for chunk in chunks] == ["ab cd ef gh", "ij kl mn op", "qr"]
    for number, chunk in enumerate(chunks):
        assert (chunk.title, chunk.metadata["year"].number_value) == ("T", 1850)
        assert (chunk.metadata["parent_id"].string_value, chunk.metadata["chunk"].number_value) == ("a#b", number)


def test_a_long_title_takes_at_most_half_of_a_chunk() -> None:
    parent = Document(document_id="a", text="ab " * 100)
    chunks = chunks_of(parent, spans(parent.text), 1000, Chunking(20, 10))
    assert len(chunks[0].text.split()) == 10


@given(st.text(max_size=20), st.integers(0, 999))
def test_the_id_of_a_chunk_contains_that_of_its_parent(parent: str, number: int) -> None:
    assert parent_of(chunk_id(parent, number)) == parent


def test_only_the_best_chunk_of_each_parent_is_kept() -> None:
    ranking = Ranking.of([("a#0", 0.5), ("a#7", 0.9), ("b#1", 0.7), ("b#0", 0.1)])
    assert list(best_of_each_parent(ranking).items()) == [("a#7", 0.9), ("b#1", 0.7)]
