"""Rows of prompts, with tokenizers that split as those of published models do."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.bundle import Prompt, Slot
from services.inference.prompt import PromptRows, share
from services.inference.tokenizer import Tokenizer, TooLong
from tests.support.tiny_rerankers import trained

LONGEST = 400
PAIR = Prompt(
    head=("<|im_start|>user\nQuery:", Slot(before=" ", after="\n")),
    document=("Document:", Slot(before=" ")),
    tail=("<|im_end|>\n<|im_start|>assistant\n",),
)
LIST = Prompt(
    head=("Rank {count} passages for:", Slot(before=" ", after=".\n")),
    document=("[{identifier}]", Slot(before=" ", after="\n")),
    tail=("Query:", Slot(before=" ", after=".\n"), "Answer: ["),
    identifiers=tuple("ABCDE"),
)
WORDS = st.lists(st.sampled_from(["open", "a file", "7", "?", "\n", " ", "é", "日本", "It's", "<b>"]), min_size=1)
TEXTS = WORDS.map("".join)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    trained("qwen").save(str(path))
    return Tokenizer(path, max_token_count=LONGEST)


def row_of(
    prompt: Prompt, tokenizer: Tokenizer, query: str, documents: Sequence[str], *, longest: int = LONGEST
) -> tuple[int, ...]:
    rows = PromptRows(prompt, tokenizer, max_token_count=longest)
    ids = tokenizer.tokenize(rows.texts(query, documents))
    return rows.row(*rows.split(ids), "end").row.ids


def text_of(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return tokenizer.join([ids], skip_special=False)[0]


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=5))
def test_a_row_has_the_tokens_of_the_whole_prompt(tokenizer: Tokenizer, query: str, documents: list[str]) -> None:
    lines = "".join(f"[{name}] {text}\n" for name, text in zip("ABCDE", documents, strict=False))
    whole = f"Rank {len(documents)} passages for: {query}.\n{lines}Query: {query}.\nAnswer: ["
    [expected] = tokenizer.tokenize([whole])
    assert row_of(LIST, tokenizer, query, documents, longest=10_000) == tuple(expected)


@given(TEXTS, TEXTS)
def test_a_pair_has_the_tokens_of_the_whole_prompt(tokenizer: Tokenizer, query: str, document: str) -> None:
    whole = f"<|im_start|>user\nQuery: {query}\nDocument: {document}<|im_end|>\n<|im_start|>assistant\n"
    [expected] = tokenizer.tokenize([whole])
    assert row_of(PAIR, tokenizer, query, [document], longest=10_000) == tuple(expected)


def test_the_document_loses_tokens_and_the_prompt_none(tokenizer: Tokenizer) -> None:
    ids = row_of(PAIR, tokenizer, "open a file", ["word " * 500], longest=64)
    text = text_of(tokenizer, ids)
    assert len(ids) == 64
    assert text.startswith("<|im_start|>user\nQuery: open a file\nDocument: word word")
    assert text.endswith("word<|im_end|>\n<|im_start|>assistant\n")


def test_a_long_query_keeps_half_of_the_room_and_the_text_after_it(tokenizer: Tokenizer) -> None:
    text = text_of(tokenizer, row_of(PAIR, tokenizer, "why " * 500, ["word " * 500], longest=64))
    assert "why\nDocument: word" in text
    assert abs(text.count("why") - text.count("word")) <= 2


def test_passages_share_the_limit_and_the_longest_lose_tokens(tokenizer: Tokenizer) -> None:
    rows = PromptRows(LIST, tokenizer, max_token_count=120)
    documents = ["word " * 300, "short", "other " * 300]
    ids = tokenizer.tokenize(rows.texts("open a file", documents))
    found = rows.row(*rows.split(ids), "end")
    first, short, last = found.documents
    assert len(found.row.ids) == 120
    assert short.dropped == 0
    assert abs(len(first.ids) - len(last.ids)) <= 1
    assert found.row.dropped == first.dropped + last.dropped > 0
    text = text_of(tokenizer, found.row.ids)
    assert text.endswith("Query: open a file.\nAnswer: [")
    assert all(line.startswith(f"[{name}] ") for name, line in zip("ABC", text.split("\n")[1:4], strict=True))


def test_a_row_that_would_be_truncated_is_refused_on_request(tokenizer: Tokenizer) -> None:
    rows = PromptRows(PAIR, tokenizer, max_token_count=64)
    ids = tokenizer.tokenize(rows.texts("open a file", ["word " * 100]))
    with pytest.raises(TooLong, match="at most 64 tokens"):
        rows.row(*rows.split(ids), "refuse")


def test_windows_cover_the_document_and_each_has_the_prompt(tokenizer: Tokenizer) -> None:
    rows = PromptRows(PAIR, tokenizer, max_token_count=48)
    document = " ".join(map(str, range(1000, 1060)))
    queries, [ids] = rows.split(tokenizer.tokenize(rows.texts("open a file", [document])))
    windows = [text_of(tokenizer, row.ids) for row in rows.pair_windows(queries, ids, 4)]
    assert len(windows) > 3
    assert all(text.startswith("<|im_start|>user\nQuery: open a file\nDocument: ") for text in windows)
    assert all(text.endswith("<|im_end|>\n<|im_start|>assistant\n") for text in windows)
    assert all(len(row.ids) <= 48 for row in rows.pair_windows(queries, ids, 4))


def test_a_limit_without_room_for_texts_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="tokens or more for the prompt"):
        PromptRows(LIST, tokenizer, max_token_count=40)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=20), st.integers(0, 2000))
def test_shares_are_fair_and_use_the_room(lengths: list[int], room: int) -> None:
    kept = share(lengths, room)
    assert sum(kept) == min(sum(lengths), room)
    cut = [own for own, length in zip(kept, lengths, strict=True) if own < length]
    assert all(own <= length for own, length in zip(kept, lengths, strict=True))
    assert all(abs(a - b) <= 1 for a, b in itertools.combinations(cut, 2))
    assert not cut or max(kept) <= min(cut) + 1
