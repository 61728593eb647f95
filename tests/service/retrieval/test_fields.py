"""Text, sparse and multi-vector fields against reference implementations, after any writes and after a restart."""

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import bm25s
import numpy as np
import pytest

from services.core.arrays import F32, I64
from services.retrieval.domain.analysis import analyzer
from services.retrieval.domain.documents import Batch, Document
from services.retrieval.domain.queries import MultiVectorQuery, Query, SparseQuery, TextQuery
from services.retrieval.domain.schema import DenseField, Metric, MultiVectorField, Schema, SparseField, TextField
from services.retrieval.domain.vectors import Terms, TokenVectors
from services.retrieval.embedded.engine import EmbeddedEngine
from services.retrieval.embedded.storage.store import MIGRATIONS
from services.retrieval.files import DATABASE, FORMAT_VERSION
from services.retrieval.hybrid.execution import execute
from services.retrieval.hybrid.fusion import FusedRanking, Fusion, Rrf
from services.retrieval.hybrid.grouping import GroupedRanking
from services.retrieval.hybrid.search_spec import Grouping, SearchSpec

TEXT = TextField(name="words", language="english", keeps_stop_words=False, k1=1.5, b=0.75)
OTHER_TEXT = TextField(name="plain", language="none", keeps_stop_words=True, k1=0.9, b=0.4)
SPARSE = SparseField(name="terms")
OTHER_SPARSE = SparseField(name="more")
TOKENS = MultiVectorField(name="tokens", dimensions=4)
SCHEMA = Schema(text=(TEXT, OTHER_TEXT), sparse=(SPARSE, OTHER_SPARSE), multi_vector=(TOKENS,))

WORDS = [
    "queue",
    "queues",
    "lock",
    "locking",
    "thread",
    "threads",
    "the",
    "and",
    "of",
    "await",
    "awaited",
    "task",
    "tasks",
    "cancel",
    "é",
    "東京",
    "x1",
    "run",
]

# text, (keys, weights), token vectors
Given = tuple[str, tuple[I64, F32], F32]


@contextmanager
def engine_on(folder: Path, segment_documents: int) -> Iterator[EmbeddedEngine]:
    engine = EmbeddedEngine(folder, now_us=lambda: 0, max_collections=9, segment_documents=segment_documents)
    try:
        yield engine
    finally:
        engine.close()


def made(rng: np.random.Generator) -> Given:
    """Return a random document. Some have no words, no terms or no tokens."""
    text = " ".join(rng.choice(WORDS, size=int(rng.integers(0, 30))))
    keys = np.sort(rng.choice(40, size=int(rng.integers(0, 8)), replace=False)).astype(np.int64)
    weights = (rng.integers(1, 5, size=len(keys)) / 2).astype(np.float32)
    tokens = rng.standard_normal((int(rng.integers(0, 6)), 4)).astype(np.float16).astype(np.float32)
    return text, (keys, weights), tokens


def batch(ids: Sequence[str], given: Sequence[Given]) -> Batch:
    tokens = np.concatenate([np.empty((0, 4), dtype=np.float32), *(one[2] for one in given)]).astype(np.float16)
    counts = np.array([len(one[2]) for one in given], dtype=np.int64)
    documents = [Document(id_, text=one[0]) for id_, one in zip(ids, given, strict=True)]
    terms = Terms.of([one[1] for one in given])
    nothing = Terms.of([(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))] * len(given))
    return Batch(documents, sparse=[terms, nothing], multi_vector=[TokenVectors.of(tokens, counts)])


def answer(engine: EmbeddedEngine, query: Query) -> list[tuple[str, float]]:
    with engine.reader("c") as reader:
        (found,) = reader.retrieve([query], None, lambda: False, with_documents=False).candidates
    return list(zip(found.ids, found.scores.tolist(), strict=True))


def agree(found: list[tuple[str, float]], expected: dict[str, float], depth: int) -> None:
    """Check scores, and order up to differences that rounding explains."""
    ranked = sorted(expected.items(), key=lambda item: (-item[1], item[0]))[:depth]
    assert [score for _, score in found] == pytest.approx([score for _, score in ranked], rel=1e-5)
    assert [score for _, score in found] == pytest.approx([expected[id_] for id_, _ in found], rel=1e-5)
    assert found == sorted(found, key=lambda item: (-item[1], item[0]))


def text_query(field: TextField, text: str, depth: int) -> TextQuery:
    keys = analyzer(field.language, keeps_stop_words=field.keeps_stop_words).keys(text)
    return TextQuery(field, *np.unique(keys, return_counts=True), depth)


def bm25_reference(field: TextField, model: dict[str, Given], text: str) -> dict[str, float]:
    """Scores by bm25s, of the documents that have a word of the query."""
    analysis = analyzer(field.language, keeps_stop_words=field.keeps_stop_words)
    corpus = [[str(key) for key in analysis.keys(given[0])] for given in model.values()]
    query = [str(key) for key in analysis.keys(text)]
    reference = bm25s.BM25(method="lucene", k1=field.k1, b=field.b)
    reference.index(corpus, show_progress=False)
    known = [word for word in query if word in reference.vocab_dict]
    scores = reference.get_scores(known) if known else np.zeros(len(corpus))
    has_word = [bool(set(words) & set(query)) for words in corpus]
    return {id_: float(score) for id_, score, has in zip(model, scores, has_word, strict=True) if has}


def check(engine: EmbeddedEngine, model: dict[str, Given], rng: np.random.Generator) -> None:
    depth = int(rng.choice([1, 5, 100]))
    text = " ".join(rng.choice(WORDS, size=3)) + " unheard"
    for field in (TEXT, OTHER_TEXT):
        agree(answer(engine, text_query(field, text, depth)), bm25_reference(field, model, text), depth)
    keys, weights = np.array([1, 5, 9, 30, 99]), np.array([1.0, -0.5, 2.0, 0.25, 1.0], dtype=np.float32)
    weight_of = dict(zip(keys.tolist(), weights.tolist(), strict=True))
    sparse = {
        id_: sum(
            weight_of.get(key, 0) * value for key, value in zip(*(part.tolist() for part in given[1]), strict=True)
        )
        for id_, given in model.items()
        if set(given[1][0].tolist()) & set(weight_of)
    }
    agree(answer(engine, SparseQuery(SPARSE, keys, weights, depth)), sparse, depth)
    assert answer(engine, SparseQuery(OTHER_SPARSE, keys, weights, depth)) == []
    tokens = rng.standard_normal((3, 4)).astype(np.float32)
    late = {id_: float((tokens @ given[2].T).max(axis=1).sum()) for id_, given in model.items() if len(given[2])}
    agree(answer(engine, MultiVectorQuery(TOKENS, tokens, depth)), late, depth)


@pytest.mark.parametrize("segment_documents", [20, 20_000])
def test_scores_equal_the_references_after_any_writes_and_a_restart(tmp_path: Path, segment_documents: int) -> None:
    rng = np.random.default_rng(12)
    model: dict[str, Given] = {}
    with engine_on(tmp_path, segment_documents) as engine:
        engine.create("c", SCHEMA)
        for _ in range(40):
            ids = [f"{number:02}" for number in rng.choice(90, size=int(rng.integers(1, 20)), replace=False)]
            if model and rng.random() < 0.3:
                engine.delete(engine.catalog.find("c"), ids)
                model = {id_: given for id_, given in model.items() if id_ not in ids}
            else:
                given = [made(rng) for _ in ids]
                engine.upsert(engine.catalog.find("c"), batch(ids, given))
                model |= dict(zip(ids, given, strict=True))
            check(engine, model, rng)
        engine.build_segments(lambda: False)
        check(engine, model, rng)
    with engine_on(tmp_path, segment_documents) as engine:
        assert engine.catalog.find("c").view.parts[0].block.is_segment == (segment_documents == 20)
        for _ in range(5):
            check(engine, model, rng)


def fill_two_parts(engine: EmbeddedEngine) -> None:
    """Fifty equal documents, 40 in one part and 10 in another."""
    engine.create("c", SCHEMA)
    for size in (40, 10):
        ids = [f"{size}-{number}" for number in range(size)]
        given: list[Given] = [
            ("queue", (np.array([1]), np.ones(1, np.float32)), np.ones((1, 4), np.float32)) for _ in ids
        ]
        engine.upsert(engine.catalog.find("c"), batch(ids, given))


def test_a_search_whose_time_is_over_returns_partial_results_with_their_coverage(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    with engine_on(tmp_path, 20_000) as engine:
        fill_two_parts(engine)
        queries: list[Query] = [
            text_query(TEXT, "queue", 100),
            SparseQuery(SPARSE, np.array([1]), np.ones(1, dtype=np.float32), 100),
            MultiVectorQuery(TOKENS, rng.standard_normal((2, 4)).astype(np.float32), 100),
        ]
        with engine.reader("c") as reader:
            for is_over, count in ((lambda: True, 40), (lambda: False, 50)):
                found = reader.retrieve(queries, None, is_over, with_documents=False)
                assert [len(one.ids) for one in found.candidates] == [count] * 3
                assert [one.coverage for one in found.candidates] == [count / 50] * 3


def test_fused_and_grouped_rankings_have_a_coverage(tmp_path: Path) -> None:
    with engine_on(tmp_path, 20_000) as engine:
        fill_two_parts(engine)
        queries: list[Query] = [
            text_query(TEXT, "queue", 100),
            SparseQuery(SPARSE, np.array([1]), np.ones(1, dtype=np.float32), 100),
        ]
        fused = SearchSpec(queries, None, with_documents=True, fusion=Fusion(Rrf(60), 100))
        groups = SearchSpec(queries[:1], None, with_documents=False, grouping=Grouping("none", 60, 1))
        both = SearchSpec(
            queries, None, with_documents=False, fusion=Fusion(Rrf(60), 1), grouping=Grouping("none", 60, 1)
        )
        with engine.reader("c") as reader:
            for is_over, count in ((lambda: True, 40), (lambda: False, 50)):
                found = execute(reader, fused, is_over, max_depth=1000)
                assert isinstance(found.result, FusedRanking)
                assert (len(found.result.ranking), found.result.coverage) == (count, count / 50)
                assert len(found.documents) == count
                for asked in (groups, both):
                    result = execute(reader, asked, is_over, max_depth=1000).result
                    assert isinstance(result, GroupedRanking)
                    assert (len(result.groups), result.coverage) == (count, count / 50)
                    assert result.is_incomplete == (count < 50)


def test_words_are_stemmed_and_stop_words_are_ignored(tmp_path: Path) -> None:
    with engine_on(tmp_path, 20_000) as engine:
        engine.create("c", SCHEMA)
        texts = ["How to CANCEL a running task", "Locks and queues", "ÉCOLE in 東京"]
        given: list[Given] = [
            (text, made(np.random.default_rng(1))[1], np.ones((1, 4), dtype=np.float32)) for text in texts
        ]
        engine.upsert(engine.catalog.find("c"), batch(["a", "b", "c"], given))
        for text, expected in (
            ("tasks cancelled", ["a"]),
            ("queue", ["b"]),
            ("école", ["c"]),
            ("東京", ["c"]),
            ("and the", []),
        ):
            assert [id_ for id_, _ in answer(engine, text_query(TEXT, text, 9))] == expected
        assert [id_ for id_, _ in answer(engine, text_query(OTHER_TEXT, "and tasks", 9))] == ["b"]


def test_released_migrations_never_change() -> None:
    """Users have folders of each format, so a format is changed by a new entry."""
    digests = [hashlib.sha256(entry.encode()).hexdigest()[:16] for entry in MIGRATIONS]
    assert digests[:3] == ["6008b8735baa0c05", "2623b5d38c607266", "4cbd93310b2a3d96"]


def test_a_data_folder_of_the_first_format_is_migrated(tmp_path: Path) -> None:
    schema = Schema(dense=(DenseField(name="v", dimensions=2, metric=Metric.DOT),))
    old = '{"dense":[{"name":"v","dimensions":2,"metric":"dot","model_digest":""}],"metadata":[]}'
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.executescript(MIGRATIONS[0])
        connection.execute("PRAGMA user_version = 1")
        connection.execute("INSERT INTO collections VALUES (1, 'c', ?, 0, 1)", (old,))
        connection.execute("INSERT INTO documents VALUES (1, 1, 'a', '', '{}', 'title', 'text')")
        vector = np.array([3, 4], dtype="<f4").tobytes()
        connection.execute("INSERT INTO vectors VALUES (1, ?)", (vector,))
    connection.close()
    with engine_on(tmp_path, 20_000) as engine:
        assert engine.catalog.find("c").schema == schema
        with engine.reader("c") as reader:
            assert reader.documents(["a"]) == [Document("a", "title", "text")]
        engine.upsert(engine.catalog.find("c"), Batch([Document("b")], [np.ones((1, 2), dtype=np.float32)]))
    with engine_on(tmp_path, 20_000) as engine:
        assert engine.catalog.find("c").view.document_count == 2
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT_VERSION,)
    connection.close()
