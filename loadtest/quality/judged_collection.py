"""JudgedCollection collections, read and validated as a whole."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sluice.cli.console import CommandFailed
from sluice.cli.refusals import Refusal
from sluice.client import Document

from loadtest import collection
from loadtest.collection import Qrels

_QUICK_QUERIES: Final = 20
_QUICK_DOCUMENTS: Final = 200


@dataclass(frozen=True)
class JudgedCollection:
    """A judged collection: documents, rejected lines, judged queries, judgments, and training queries."""

    documents: Sequence[Document]
    refused: Sequence[Refusal]
    queries: Mapping[str, str]
    qrels: Qrels
    training: Sequence[str]


def read(folder: Path, split: str, training: str) -> JudgedCollection:
    """Read a judged collection. Raises CommandFailed that names judgments without a query or document."""
    corpus, queries = collection.corpus(folder), collection.queries(folder)
    qrels = collection.qrels(folder, split)
    where = folder / "qrels" / f"{split}.tsv"
    _known(qrels, queries, f"{where}: query")
    _known((id_ for grades in qrels.values() for id_ in grades), corpus.documents, f"{where}: document")
    relevant = {query: grades for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    if not relevant:
        raise CommandFailed(f"{where}: expected a query with a relevant document, found none")
    near = collection.qrels(folder, training) if training else {}
    _known(near, queries, f"{folder / 'qrels' / f'{training}.tsv'}: query")
    return JudgedCollection(
        documents=list(corpus.documents.values()),
        refused=corpus.refused,
        queries={query: queries[query] for query in relevant},
        qrels=relevant,
        training=[queries[query] for query in near if query not in relevant],
    )


def _known(ids: "Iterator[str] | Mapping[str, object]", known: Mapping[str, object], what: str) -> None:
    if unknown := sorted({id_ for id_ in ids if id_ not in known}):
        shown = ", ".join(unknown[:5])
        raise CommandFailed(f"{what}: expected known ids, got {len(unknown)} unknown ones, such as {shown}")


def fewer(judged: JudgedCollection) -> JudgedCollection:
    """Return a few queries, their judged documents and some others, for a quick check. It is easier than the whole."""
    queries = dict(list(judged.queries.items())[:_QUICK_QUERIES])
    qrels = {query: judged.qrels[query] for query in queries}
    needed = {id_ for grades in qrels.values() for id_ in grades}
    others = random.Random(1).sample(list(judged.documents), min(_QUICK_DOCUMENTS, len(judged.documents)))  # noqa: S311
    kept = {document.document_id: document for document in others}
    kept |= {document.document_id: document for document in judged.documents if document.document_id in needed}
    return JudgedCollection(list(kept.values()), judged.refused, queries, qrels, judged.training[:200])
