"""Benchmark of BM25 and learned sparse terms against bm25s, a library that scores precomputed arrays in memory."""

import importlib
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Annotated, Any, Final

import numpy as np
import typer
from sluice.client import float32_tensor
from sluice.common.v1 import tensor_pb2 as tns
from sluice.common.v1.document_pb2 import Document
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from loadtest.bench import setup
from loadtest.bench.retrieval.collection_server import COLLECTION, K, ms, p, served
from loadtest.bench.setup import Setup
from services.retrieval.domain.analysis import analyzer

_QUERIES: Final = 500
_BATCH: Final = 512
# Share of the words that are replaced in passages beyond the real ones.
_REPLACED: Final = 0.3
_VOCABULARY: Final = 2**31 - 1


@dataclass(frozen=True)
class Corpus:
    """Passages and queries, with the term keys of the service's analyzer."""

    passages: list[str]
    queries: list[str]
    keys: list[list[int]]
    query_keys: list[list[int]]

    @classmethod
    def of(cls, plan: Setup, count: int) -> "Corpus":
        """Return so many passages of the collection; beyond its size, real ones with some words of others."""
        texts = plan.texts()
        passages, queries = list(texts.passages[:count]), list(texts.queries[:_QUERIES])
        chance = random.Random(1)  # noqa: S311
        words = [word for passage in passages for word in passage.split()]
        for _ in range(count - len(passages)):
            given = chance.choice(texts.passages).split()
            passages.append(" ".join(chance.choice(words) if chance.random() < _REPLACED else word for word in given))
        keys = analyzer("english", keeps_stop_words=False).keys
        by_passage = [keys(passage).tolist() for passage in passages]
        return cls(passages, queries, by_passage, [keys(query).tolist() for query in queries])


def lexical(
    bundle: setup.Bundle,
    data: setup.Data,
    documents: Annotated[int, typer.Option(min=1000, max=2_000_000, help="Number of passages.")] = 100_000,
    quick: setup.Quick = False,
    out: setup.Out = setup.DEFAULT_OUT,
) -> None:
    """Measure the latency of one query by BM25 and by weighted terms over gRPC, and of bm25s in-process."""
    plan = Setup("lexical", bundle, data, quick=quick, out=out)
    corpus = Corpus.of(plan, 2000 if quick else documents)
    schema = pb.Schema(text_fields=[pb.TextField(name="words")], sparse_fields=[pb.SparseField(name="terms")])
    measured: dict[str, list[float]] = {}
    with served(schema, "--segment-documents", str(len(corpus.passages))) as one:
        written_s = one.upsert(_upserts(corpus))
        one.settle(len(corpus.passages))
        for name, requests in (("BM25 over gRPC", _text(corpus)), ("terms over gRPC", _sparse(corpus))):
            one.search(requests)  # warm
            measured[name], found = one.search(requests)
            if name.startswith("BM25"):
                ours = [ranking for (ranking,) in found]
    measured["bm25s in-process"], theirs = _bm25s(corpus)
    agreement = mean(len(a & b) / max(1, len(b)) for a, b in zip(ours, theirs, strict=True))
    rows = [[name, "", ms(p(taken, 50)), ms(p(taken, 99))] for name, taken in measured.items()]
    rows += [["same among the best 10", f"{agreement:.3f}", "", ""]]
    figures = {
        "passages": len(corpus.passages),
        "replaced_words": _REPLACED,
        "latencies_s": measured,
        "agreement_at_10": agreement,
        "written_per_s": len(corpus.passages) / written_s,
    }
    plan.report(("", "", "p50 ms", "p99 ms"), rows, figures)


def _upserts(corpus: Corpus) -> Iterator[pb.UpsertRequest]:
    for start in range(0, len(corpus.passages), _BATCH):
        texts = corpus.passages[start : start + _BATCH]
        vectors = _terms(corpus.keys[start : start + _BATCH])
        yield pb.UpsertRequest(
            collection=COLLECTION,
            documents=[Document(document_id=str(start + i), text=text) for i, text in enumerate(texts)],
            sparse=[pb.SparseColumn(field="terms", vectors=vectors)],
        )


def _terms(texts: Sequence[Sequence[int]]) -> tns.SparseVectors:
    """Return words as weighted terms: 1 + ln of the frequency."""
    counted = [sorted(Counter(key % _VOCABULARY for key in keys).items()) for keys in texts]
    indices = np.array([key for terms in counted for key, _ in terms], dtype="<i4")
    weights = np.array([1 + np.log(count) for terms in counted for _, count in terms], dtype=np.float32)
    return tns.SparseVectors(
        indices=tns.Tensor(data_type=tns.DATA_TYPE_INT32, shape=indices.shape, data=indices.tobytes()),
        weights=float32_tensor(weights, axes=1, field="terms"),
        term_counts=[len(terms) for terms in counted],
    )


def _text(corpus: Corpus) -> list[pb.RetrieveRequest]:
    return [_request(pb.FieldQuery(field="words", text=query, depth=K)) for query in corpus.queries]


def _sparse(corpus: Corpus) -> list[pb.RetrieveRequest]:
    return [_request(pb.FieldQuery(field="terms", sparse=_terms([keys]), depth=K)) for keys in corpus.query_keys]


def _request(query: pb.FieldQuery) -> pb.RetrieveRequest:
    return pb.RetrieveRequest(collection=COLLECTION, queries=[query], view=pb.DOCUMENT_VIEW_ID)


def _bm25s(corpus: Corpus) -> tuple[list[float], list[set[int]]]:
    """Return the seconds of each query and its best K documents, for queries as known words."""
    words = [[str(key) for key in keys] for keys in corpus.keys]
    bm25s: Any = importlib.import_module("bm25s")  # of the extra `dev`
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    index.index(words, show_progress=False)
    latencies_s, found = [], []
    for keys in corpus.query_keys:
        query = [word for key in keys if (word := str(key)) in index.vocab_dict]
        started = time.perf_counter()
        if query:
            ids, scores = index.retrieve([query], k=K, show_progress=False)
            found.append({int(id_) for id_, score in zip(ids[0], scores[0], strict=True) if score > 0})
        else:
            found.append(set())
        latencies_s.append(time.perf_counter() - started)
    return latencies_s, found
