"""The command `sluice eval`: search quality of every pipeline on a judged collection, through the real services."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from sluice.cli import options
from sluice.cli.console import CommandFailed, err
from sluice.cli.refusals import Refusals
from sluice.client import EmbeddingClient, Pipeline, SearchClient
from sluice.client.indexing import DEFAULT_PATIENCE_S

from loadtest.load.calls import percentile_s
from loadtest.load.command import RESULTS
from loadtest.load.targets import Addresses
from loadtest.quality import health, judged_collection, losses, measures, runs
from loadtest.quality.judged_collection import JudgedCollection
from loadtest.quality.runs import Searched
from loadtest.report import machine, terminal
from loadtest.servers import Parts, system

_K: Final = 10


def evaluate(  # noqa: PLR0913, PLR0917 - each is a flag
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a collection in BEIR layout.")],
    split: Annotated[str, typer.Option(help="Split of the judgments, DIR/qrels/SPLIT.tsv.")] = "test",
    training: Annotated[
        str, typer.Option("--train", metavar="SPLIT", help="Training split: report queries near to and far from it.")
    ] = "",
    pipeline: Annotated[
        list[str] | None, typer.Option("--pipeline", "-p", help="Pipeline to measure; may repeat. (default: all)")
    ] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="Start services with this bundle; may repeat.")
    ] = None,
    reranker: Annotated[Path | None, typer.Option(metavar="FOLDER", help="(default: the first bundle)")] = None,
    index_fields: Annotated[
        str, typer.Option(metavar="KIND,...", help="Fields of the collection: dense, text, sparse, multi_vector.")
    ] = "",
    pipelines_file: Annotated[
        Path | None, typer.Option("--pipelines", metavar="FILE", help="Pipelines file. (default: the packaged one)")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Keep the index in this folder.")] = None,
    tuned: Annotated[
        bool, typer.Option("--tune", help="Tune weights on the --train queries, or on half of all; print YAML.")
    ] = False,
    search: Annotated[str, typer.Option(metavar="HOST:PORT", help="Running orchestrator.")] = Addresses.search,
    embedding: Annotated[str, typer.Option(metavar="HOST:PORT", help="Running embedding.")] = Addresses.embed,
    collection_name: Annotated[str, typer.Option("--collection", "-c", help="(default: eval-DIR)")] = "",
    sample: Annotated[int, typer.Option(min=0, help="Documents for the label-free measures; 0 skips them.")] = 2000,
    patience: options.Patience = DEFAULT_PATIENCE_S,
    quick: Annotated[bool, typer.Option("--quick", help="Quick check: 20 queries, few documents.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder of the figures.")] = RESULTS,
) -> None:
    """Measure nDCG@10, recall, MRR and MAP of every pipeline, where relevant documents are lost, and latency.

    Rejected documents, such as those with neither title nor text, are left out and reported at the end.

    [bold]Examples[/]

      sluice eval collections/scifact --bundle bundles/all-MiniLM-L6-v2/1

      sluice eval collections/mine --search 127.0.0.1:50050 --pipeline default --pipeline fast

      sluice eval collections/scifact --train train --tune --bundle bundles/e5/1
    """
    made_of = _parts(bundle, reranker, index_fields, pipelines_file, data)
    judged = judged_collection.read(folder, split, training)
    judged = judged_collection.fewer(judged) if quick else judged
    name = collection_name or f"eval-{folder.resolve().name.lower()}{'-quick' if quick else ''}"
    if tuned:
        if made_of is None:
            raise CommandFailed("--tune needs --bundle: it starts services with pipelines that return all candidates")
        # Imported late: tuning needs the servers' packages, which the other commands do not.
        from loadtest.quality import tune  # noqa: PLC0415

        chosen = tune.Chosen(name, pipeline or (), out, patience, quick=quick)
        tune.tune(folder, split, training, judged, made_of, chosen)
        return
    with _addresses(made_of, Addresses(search=search, embed=embedding)) as addresses:
        with SearchClient(addresses.search) as client:
            judged, refusals = _stored(client, name, judged, patience)
            pipelines = _chosen(client.pipelines(), pipeline)
            searched = {one.name: runs.search(client, name, one, judged.queries) for one in pipelines}
        with EmbeddingClient(addresses.embed) as embedder:
            figures = _figures(judged, searched, embedder, sample)
    given = {"folder": folder.resolve().name, "split": split, "train": training, "quick": quick}
    counts = {"documents": len(judged.documents), "queries": len(judged.queries), **refusals.to_json()}
    path = out / f"eval-{folder.resolve().name}{'-quick' if quick else ''}.json"
    terminal.write_json(path, {**counts, **figures, **given, **machine.describe()})
    _report(refusals, quick=quick)


def _stored(
    client: SearchClient, name: str, judged: JudgedCollection, patience_s: float
) -> tuple[JudgedCollection, Refusals]:
    """Index a collection. Return it without the rejected documents, and the rejections."""
    refused = runs.index(client, name, judged.documents, patience_s=patience_s)
    refusals = Refusals()
    refusals.add(*judged.refused, *refused)
    ids = {one.document_id for one in refused}
    return replace(judged, documents=[one for one in judged.documents if one.document_id not in ids]), refusals


def _report(refusals: Refusals, *, quick: bool) -> None:
    """Print a warning for quick runs, and the documents that are not part of the figures."""
    if quick:
        err.print("--quick: the figures are not meaningful; they only show that it runs", style="yellow")
    if refusals.count:
        err.print(f"{refusals.count:,} documents were rejected; all figures exclude them", style="yellow")
        refusals.show()


@contextmanager
def _addresses(made_of: Parts | None, running: Addresses) -> Iterator[Addresses]:
    """Yield the addresses of services started here if there are bundles, else those of running services."""
    if made_of is None:
        yield running
        return
    with system(made_of) as (addresses, _):
        yield addresses


def _parts(
    bundles: Sequence[Path] | None, reranker: Path | None, fields: str, pipelines: Path | None, data: Path | None
) -> Parts | None:
    """Return the configuration of services to start; None if there is no bundle. Raises CommandFailed."""
    if not bundles:
        if fields or pipelines or data:
            raise CommandFailed("--index-fields, --pipelines and --data need --bundle, which starts services")
        return None
    return Parts(
        [bundle.absolute() for bundle in bundles],
        (reranker or bundles[0]).absolute(),
        [kind.strip() for kind in fields.split(",") if kind.strip()],
        pipelines.absolute() if pipelines else None,
        data.absolute() if data else None,
    )


def _chosen(there: Sequence[Pipeline], wanted: Sequence[str] | None) -> list[Pipeline]:
    by_name = {one.name: one for one in there}
    if unknown := [name for name in wanted or () if name not in by_name]:
        raise CommandFailed(f"expected pipelines of {', '.join(by_name)}, got {', '.join(unknown)}")
    return [by_name[name] for name in wanted] if wanted else list(there)


def _figures(
    judged: JudgedCollection, searched: Mapping[str, Searched], embedder: EmbeddingClient, sample: int
) -> dict[str, Any]:
    """Measure everything, and print it along the way."""
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


def _fates(judged: JudgedCollection, searched: Mapping[str, Searched]) -> dict[str, dict[str, int]]:
    relevant = {query: [id_ for id_, grade in grades.items() if grade > 0] for query, grades in judged.qrels.items()}
    figures = {name: dict(losses.fates(relevant, found.standings, _K)) for name, found in searched.items()}
    rows = []
    for name, counts in figures.items():
        total = sum(counts.values())
        rows += [[name, fate, str(count), f"{count / total:.1%}"] for fate, count in sorted(counts.items())]
    terminal.show_table(("pipeline", f"relevant documents, first {_K}", "count", "share"), rows)
    return figures


def _nearness(
    judged: JudgedCollection, values: Mapping[str, measures.PerQuery], embedder: EmbeddingClient
) -> dict[str, Any]:
    """Return nDCG@10 of the half of the queries nearer to training queries, and of the other half."""
    queries = list(judged.queries)
    vectors = runs.query_vectors(embedder, list(judged.queries.values()))
    near = health.nearer_half(vectors, runs.query_vectors(embedder, judged.training))
    figures, rows = {}, []
    for name, per_query in values.items():
        halves = [[query for query, is_near in zip(queries, near, strict=True) if is_near == side] for side in (1, 0)]
        interpolation, extrapolation = (measures.mean(per_query["nDCG@10"], half) for half in halves)
        figures[name] = {"interpolation": interpolation, "extrapolation": extrapolation}
        rows.append([name, f"{interpolation:.3f}", f"{extrapolation:.3f}"])
    terminal.show_table(("pipeline", "nDCG@10, near training queries", "far from them"), rows)
    return figures


def _health(judged: JudgedCollection, embedder: EmbeddingClient, sample: int) -> dict[str, float]:
    documents = runs.document_vectors(embedder, judged.documents, sample)
    queries = runs.query_vectors(embedder, list(judged.queries.values()))
    figures = {
        "documents": float(len(documents)),
        "dimensions": float(documents.shape[1]),
        "effective_rank": health.effective_rank(documents),
        "uniformity": health.uniformity(documents),
        "hubness": health.hubness(queries, documents, min(_K, len(documents) - 1)),
    }
    terminal.show_table(("embeddings", "value"), [[name, f"{value:.3f}"] for name, value in figures.items()])
    return figures
