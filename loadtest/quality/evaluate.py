"""`sluice eval`: search quality of every pipeline on a judged collection, through the real services."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from sluice.cli.console import CommandFailed, err
from sluice.client import Document, EmbeddingClient, Pipeline, SearchClient

from loadtest import collection, machine, terminal
from loadtest.calls import percentile_s
from loadtest.collection import Qrels
from loadtest.load import RESULTS
from loadtest.quality import health, losses, measures, services
from loadtest.quality.services import Searched
from loadtest.servers import system
from loadtest.targets import Addresses

_K: Final = 10
_QUICK_QUERIES: Final = 20
_QUICK_DOCUMENTS: Final = 200


@dataclass(frozen=True)
class Judged:
    """A judged collection: documents with text, judged queries, judgements, and training queries."""

    documents: Sequence[Document]
    queries: Mapping[str, str]
    qrels: Qrels
    training: Sequence[str]


def evaluate(  # noqa: PLR0913, PLR0917 - each is a flag
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a collection in BEIR layout.")],
    split: Annotated[str, typer.Option(help="Judgements: DIR/qrels/SPLIT.tsv.")] = "test",
    training: Annotated[
        str, typer.Option("--train", metavar="SPLIT", help="Also split queries by nearness to those of this split.")
    ] = "",
    pipeline: Annotated[
        list[str] | None, typer.Option("--pipeline", "-p", help="Pipelines; may repeat. (default: all)")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Start services of its own with this bi-encoder.")
    ] = None,
    reranker: Annotated[Path | None, typer.Option(metavar="FOLDER", help="(default: the bundle itself)")] = None,
    search: Annotated[str, typer.Option(metavar="HOST:PORT", help="Else: the orchestrator.")] = Addresses.search,
    embedding: Annotated[str, typer.Option(metavar="HOST:PORT", help="And embedding.")] = Addresses.embed,
    collection_name: Annotated[str, typer.Option("--collection", "-c", help="(default: eval-DIR)")] = "",
    sample: Annotated[int, typer.Option(min=0, help="Documents for the label-free health; 0 leaves it out.")] = 2000,
    quick: Annotated[bool, typer.Option("--quick", help="A look: 20 queries, few documents.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder of the figures.")] = RESULTS,
) -> None:
    """Measure nDCG@10, recall, MRR and MAP of every pipeline, where relevant documents are lost, and latency.

    [bold]Examples[/]

      sluice eval collections/scifact --bundle bundles/all-MiniLM-L6-v2/1

      sluice eval collections/mine --search 127.0.0.1:50050 --pipeline default --pipeline fast
    """
    judged = read(folder, split, training)
    judged = _fewer(judged) if quick else judged
    name = collection_name or f"eval-{folder.resolve().name.lower()}{'-quick' if quick else ''}"
    with _addresses(bundle, reranker, Addresses(search=search, embed=embedding)) as addresses:
        with SearchClient(addresses.search) as client:
            services.index(client, name, judged.documents)
            pipelines = _chosen(client.pipelines(), pipeline)
            searched = {one.name: services.search(client, name, one, judged.queries) for one in pipelines}
        with EmbeddingClient(addresses.embed) as embedder:
            figures = _figures(judged, searched, embedder, sample)
    options = {"folder": folder.resolve().name, "split": split, "train": training, "quick": quick}
    told = {"documents": len(judged.documents), "queries": len(judged.queries)}
    path = out / f"eval-{folder.resolve().name}{'-quick' if quick else ''}.json"
    if quick:
        err.print("--quick: these figures only show that it runs", style="yellow")
    terminal.write_json(path, {**told, **figures, **options, **machine.describe()})


def read(folder: Path, split: str, training: str) -> Judged:
    """A judged collection, checked as a whole. Raises CommandFailed naming what judgements do not fit."""
    documents, queries = collection.documents(folder), collection.queries(folder)
    qrels = collection.qrels(folder, split)
    where = folder / "qrels" / f"{split}.tsv"
    _known(qrels, queries, f"{where}: query")
    _known((id_ for grades in qrels.values() for id_ in grades), documents, f"{where}: document")
    relevant = {query: grades for query, grades in qrels.items() if any(grade > 0 for grade in grades.values())}
    if not relevant:
        raise CommandFailed(f"{where}: expected a query with a relevant document, found none")
    near = collection.qrels(folder, training) if training else {}
    _known(near, queries, f"{folder / 'qrels' / f'{training}.tsv'}: query")
    return Judged(
        documents=[document for document in documents.values() if collection.passage(document).strip()],
        queries={query: queries[query] for query in relevant},
        qrels=relevant,
        training=[queries[query] for query in near if query not in relevant],
    )


def _known(ids: "Iterator[str] | Mapping[str, object]", known: Mapping[str, object], what: str) -> None:
    if unknown := sorted({id_ for id_ in ids if id_ not in known}):
        shown = ", ".join(unknown[:5])
        raise CommandFailed(f"{what}: expected known ids, got {len(unknown)} unknown ones, such as {shown}")


def _fewer(judged: Judged) -> Judged:
    """Some queries, their judged documents, and some others: easier than the whole, so only a look."""
    queries = dict(list(judged.queries.items())[:_QUICK_QUERIES])
    qrels = {query: judged.qrels[query] for query in queries}
    needed = {id_ for grades in qrels.values() for id_ in grades}
    others = random.Random(1).sample(list(judged.documents), min(_QUICK_DOCUMENTS, len(judged.documents)))  # noqa: S311
    kept = {document.document_id: document for document in others}
    kept |= {document.document_id: document for document in judged.documents if document.document_id in needed}
    return Judged(list(kept.values()), queries, qrels, judged.training[:200])


@contextmanager
def _addresses(bundle: Path | None, reranker: Path | None, running: Addresses) -> Iterator[Addresses]:
    """Those of services of our own when there is a bundle, else those that run already."""
    if bundle is None:
        yield running
        return
    with system(bundle.absolute(), (reranker or bundle).absolute()) as (addresses, _):
        yield addresses


def _chosen(there: Sequence[Pipeline], wanted: Sequence[str] | None) -> list[Pipeline]:
    by_name = {one.name: one for one in there}
    if unknown := [name for name in wanted or () if name not in by_name]:
        raise CommandFailed(f"no pipeline {', '.join(unknown)}; there is {', '.join(by_name)}")
    return [by_name[name] for name in wanted] if wanted else list(there)


def _figures(
    judged: Judged, searched: Mapping[str, Searched], embedder: EmbeddingClient, sample: int
) -> dict[str, Any]:
    """All that is measured, told on the way."""
    values = {name: measures.measure(found.rankings, judged.qrels) for name, found in searched.items()}
    figures: dict[str, Any] = {"pipelines": _quality(values, searched)}
    figures["differences"] = _differences(values)
    figures["fates"] = _fates(judged, searched)
    if judged.training:
        figures["nearness"] = _nearness(judged, values, embedder)
    if sample:
        figures["health"] = _health(judged, embedder, sample)
    return figures


def _quality(values: Mapping[str, measures.PerQuery], searched: Mapping[str, Searched]) -> dict[str, Any]:
    figures, rows = {}, []
    for name, per_query in values.items():
        found = searched[name]
        means = {measure: measures.mean(per_query[measure]) for measure in measures.MEASURES}
        p50, p99 = (percentile_s(found.latencies_s, percent) or 0.0 for percent in (50, 99))
        figures[name] = {**means, "p50_s": p50, "p99_s": p99, "degraded": found.degraded, "per_query": per_query}
        shown = [f"{value:.3f}" for value in means.values()]
        rows.append([name, *shown, f"{1000 * p50:.0f}", f"{1000 * p99:.0f}", str(found.degraded)])
    terminal.show_table(("pipeline", *measures.MEASURES, "p50 ms", "p99 ms", "degraded"), rows)
    return figures


def _differences(values: Mapping[str, measures.PerQuery]) -> list[dict[str, Any]]:
    figures, rows = [], []
    for first, second in combinations(values, 2):
        one = measures.difference(values[first]["nDCG@10"], values[second]["nDCG@10"])
        figures.append({"first": first, "second": second, "measure": "nDCG@10", **asdict(one)})
        rows.append(
            [f"{first} - {second}", f"{one.mean:+.3f}", f"{one.low:+.3f} to {one.high:+.3f}", f"{one.p_value:.4f}"]
        )
    if rows:
        terminal.show_table(("nDCG@10", "difference", "95 %", "p"), rows)
    return figures


def _fates(judged: Judged, searched: Mapping[str, Searched]) -> dict[str, dict[str, int]]:
    relevant = {query: [id_ for id_, grade in grades.items() if grade > 0] for query, grades in judged.qrels.items()}
    figures = {name: dict(losses.fates(relevant, found.standings, _K)) for name, found in searched.items()}
    rows = []
    for name, counts in figures.items():
        total = sum(counts.values())
        rows += [[name, fate, str(count), f"{count / total:.1%}"] for fate, count in sorted(counts.items())]
    terminal.show_table(("pipeline", f"relevant documents, first {_K}", "count", "share"), rows)
    return figures


def _nearness(judged: Judged, values: Mapping[str, measures.PerQuery], embedder: EmbeddingClient) -> dict[str, Any]:
    """nDCG@10 on the half of the queries nearer to training queries, and on the other."""
    queries = list(judged.queries)
    vectors = services.query_vectors(embedder, list(judged.queries.values()))
    near = health.nearer_half(vectors, services.query_vectors(embedder, judged.training))
    figures, rows = {}, []
    for name, per_query in values.items():
        halves = [[query for query, is_near in zip(queries, near, strict=True) if is_near == side] for side in (1, 0)]
        interpolation, extrapolation = (measures.mean(per_query["nDCG@10"], half) for half in halves)
        figures[name] = {"interpolation": interpolation, "extrapolation": extrapolation}
        rows.append([name, f"{interpolation:.3f}", f"{extrapolation:.3f}"])
    terminal.show_table(("pipeline", "nDCG@10, near training queries", "far from them"), rows)
    return figures


def _health(judged: Judged, embedder: EmbeddingClient, sample: int) -> dict[str, float]:
    documents = services.document_vectors(embedder, judged.documents, sample)
    queries = services.query_vectors(embedder, list(judged.queries.values()))
    figures = {
        "documents": float(len(documents)),
        "dimensions": float(documents.shape[1]),
        "effective_rank": health.effective_rank(documents),
        "uniformity": health.uniformity(documents),
        "hubness": health.hubness(queries, documents, min(_K, len(documents) - 1)),
    }
    terminal.show_table(("embeddings", "value"), [[name, f"{value:.3f}"] for name, value in figures.items()])
    return figures
