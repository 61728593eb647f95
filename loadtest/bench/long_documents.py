"""Benchmark of documents that are longer than the model reads: truncated, in windows, or in chunks."""

import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.progress import track
from sluice.cli.console import CommandFailed, err
from sluice.client import Chunking, Document, SearchClient, Windows

from loadtest.bench.setup import DEFAULT_OUT, Bundle, Data, Out, Quick, Setup
from loadtest.collection import Qrels, passage
from loadtest.quality import judged_collection, measures
from loadtest.quality.judged_collection import JudgedCollection
from loadtest.servers import Parts, system

_PIPELINES: Final = """
default:
  description: Dense vectors alone.
  retrieve: [{name: dense, kind: dense, depth: 50}]
late:
  description: Dense vectors, then late interaction with stored token vectors.
  retrieve: [{name: dense, kind: dense, depth: 50}]
  refine: {name: maxsim, depth: 50}
"""
_STAGES: Final = {"default": "dense", "late": "dense, MaxSim"}
_SEED: Final = 1
_SHOWN: Final = ("nDCG@10", "R@10")


@dataclass(frozen=True)
class Way:
    """A way to store documents that are longer than the model reads."""

    windows: Windows | None = None
    chunking: Chunking | None = None


@dataclass(frozen=True)
class Outcome:
    """What was measured of one way."""

    per_query: Mapping[str, measures.PerQuery]
    """By pipeline."""
    truncated: int
    """Number of truncated documents."""
    dropped_tokens: int
    """Number of tokens that the model did not read."""
    index_s: float

    def figures(self) -> dict[str, Any]:
        """Return the means of the measures, and the counts."""
        means = {
            pipeline: {name: measures.mean(values) for name, values in per_query.items()}
            for pipeline, per_query in self.per_query.items()
        }
        counts = {"truncated": self.truncated, "dropped_tokens": self.dropped_tokens, "index_s": self.index_s}
        return {**means, **counts, "per_query": self.per_query}


def long_documents(  # noqa: PLR0913, PLR0917 - each is a flag
    bundle: Bundle,
    data: Data,
    split: Annotated[str, typer.Option(help="Split of the judgments, DATA/qrels/SPLIT.tsv.")] = "test",
    documents: Annotated[
        int, typer.Option(min=0, help="Most documents: the judged ones, and a random sample of the others; 0: all.")
    ] = 0,
    join: Annotated[
        int, typer.Option(min=1, help="Join this many random documents into one, to make them longer.")
    ] = 1,
    overlap: Annotated[int, typer.Option(min=0, help="Tokens that windows and chunks share.")] = 32,
    chunk_tokens: Annotated[int, typer.Option(min=16, help="Most tokens of a chunk.")] = 200,
    late: Annotated[
        bool, typer.Option("--late", help="Search by late interaction too, with the token vectors of all windows.")
    ] = False,
    quick: Quick = False,
    out: Out = DEFAULT_OUT,
) -> None:
    """Measure the search quality of long documents: truncated, in windows, and in chunks.

    With --join, a long document is as relevant as its most relevant part.
    """
    judged = judged_collection.read(data, split, "")
    judged = judged_collection.fewer(judged) if quick else sampled(judged, documents)
    judged = joined(judged, join) if join > 1 else judged
    outcomes = _measure(bundle, judged, ways(overlap, chunk_tokens), late=late)
    name = f"long-documents-{data.resolve().name}-{join}"
    _report(Setup(name, bundle, data, quick=quick, out=out), judged, outcomes)


def ways(overlap: int, chunk_tokens: int) -> dict[str, Way]:
    """Return the ways to compare, by their names in the table. The first is what the others are compared with."""
    return {
        "truncated": Way(),
        "windows, mean": Way(Windows(overlap, "mean")),
        "windows, max": Way(Windows(overlap, "max")),
        f"chunks of {chunk_tokens}": Way(chunking=Chunking(chunk_tokens, min(overlap, chunk_tokens // 2))),
    }


def sampled(judged: JudgedCollection, most: int) -> JudgedCollection:
    """Return the judged documents with a random sample of the others, about `most` together; all for 0."""
    needed = {id_ for grades in judged.qrels.values() for id_ in grades}
    others = [document for document in judged.documents if document.document_id not in needed]
    wanted = max(0, most - len(needed)) if most else len(others)
    kept = {one.document_id for one in random.Random(_SEED).sample(others, min(wanted, len(others)))}  # noqa: S311
    return replace(judged, documents=[one for one in judged.documents if one.document_id in needed | kept])


def joined(judged: JudgedCollection, size: int) -> JudgedCollection:
    """Return the collection with `size` random documents joined into one, which is as relevant as its best part."""
    shuffled = list(judged.documents)
    random.Random(_SEED).shuffle(shuffled)  # noqa: S311
    parts = {f"joined-{start // size}": shuffled[start : start + size] for start in range(0, len(shuffled), size)}
    whole = {one.document_id: id_ for id_, group in parts.items() for one in group}
    documents = [Document(id_, "\n".join(map(passage, group))) for id_, group in parts.items()]
    return replace(judged, documents=documents, qrels=_of_wholes(judged.qrels, whole))


def _of_wholes(qrels: Qrels, whole: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Return the judgments of joined documents: the highest grade of their parts."""
    found: dict[str, dict[str, int]] = {}
    for query, grades in qrels.items():
        best = found.setdefault(query, {})
        for id_, grade in grades.items():
            best[whole[id_]] = max(grade, best.get(whole[id_], 0))
    return found


def _measure(bundle: Path, judged: JudgedCollection, compared: Mapping[str, Way], *, late: bool) -> dict[str, Outcome]:
    """Return the outcome of each way, all in one system."""
    with tempfile.TemporaryDirectory(prefix="sluice-pipelines-") as folder:
        pipelines = Path(folder) / "pipelines.yaml"
        pipelines.write_text(_PIPELINES)
        fields = ["dense", "multi_vector"] if late else ["dense"]
        parts = Parts([bundle.absolute()], bundle.absolute(), fields, pipelines)
        with system(parts) as (addresses, _), SearchClient(addresses.search, timeout_s=60) as client:
            return {
                label: _outcome(client, f"way-{number}", label, way, judged, late=late)
                for number, (label, way) in enumerate(compared.items())
            }


def _outcome(
    client: SearchClient, collection: str, label: str, way: Way, judged: JudgedCollection, *, late: bool
) -> Outcome:
    """Index the documents one way, and search all queries."""
    started = time.perf_counter()
    dropped = _index(client, collection, label, way, judged.documents)
    index_s = time.perf_counter() - started
    per_query = {
        pipeline: measures.measure(_search(client, collection, pipeline, judged.queries), judged.qrels)
        for pipeline in (_STAGES if late else ["default"])
    }
    return Outcome(per_query, sum(count > 0 for count in dropped), sum(dropped), index_s)


def _search(client: SearchClient, collection: str, pipeline: str, queries: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the ids of the best documents of each query. The best chunk of a document stands for it."""
    rankings = {}
    for query, text in queries.items():
        answer = client.search(collection, text, pipeline=pipeline, top_k=50, group_by_parent=True)
        rankings[query] = [result.parent_id or result.document.document_id for result in answer.results]
    return rankings


def _index(client: SearchClient, collection: str, label: str, way: Way, documents: Sequence[Document]) -> list[int]:
    """Index documents, and return how many tokens of each were dropped. Documents without a text are left out.

    Raises CommandFailed if another document fails.
    """
    acknowledgements = client.index(
        collection, documents, create=True, chunking=way.chunking, windows=way.windows, patience_s=600
    )
    known = list(track(acknowledgements, f"indexing, {label}", total=len(documents), console=err))
    if failed := [one for one in known if one.outcome == "failed" and one.reason != "INVALID_REQUEST"]:
        raise CommandFailed(f"{failed[0].document_id} was not indexed: {failed[0].message}")
    return [one.dropped_token_count for one in known]


def _report(setup: Setup, judged: JudgedCollection, outcomes: Mapping[str, Outcome]) -> None:
    """Print a row for each way, with its difference to the first one, and write the figures."""
    first = next(iter(outcomes.values()))
    rows = [
        [label, f"{one.truncated:,}", f"{one.dropped_tokens:,}", _STAGES[pipeline], *_shown(per_query, first, pipeline)]
        for pipeline in first.per_query
        for label, one in outcomes.items()
        for per_query in [one.per_query[pipeline]]
    ]
    head = ("documents", "truncated", "dropped tokens", "search", *_SHOWN, "nDCG@10 - truncated (95 %)", "p")
    counts = {"documents": len(judged.documents), "queries": len(judged.queries)}
    err.print(f"{counts['documents']:,} documents, {counts['queries']:,} queries")
    setup.report(head, rows, {**counts, **{label: one.figures() for label, one in outcomes.items()}})


def _shown(per_query: measures.PerQuery, first: Outcome, pipeline: str) -> list[str]:
    """Return the means of the shown measures, and the difference to the first way."""
    means = [f"{measures.mean(per_query[name]):.3f}" for name in _SHOWN]
    if per_query is first.per_query[pipeline]:
        return [*means, "", ""]
    by = measures.difference(per_query["nDCG@10"], first.per_query[pipeline]["nDCG@10"])
    return [*means, f"{by.mean:+.3f} ({by.low:+.3f} to {by.high:+.3f})", f"{by.p_value:.4f}"]
