"""The option `sluice eval --tune`: finds weights of fusions and interpolations on training queries, tests on others.

    probe    run every query once, with all candidates and the scores of every stage
    tune     replay the pipeline from these scores, weight by weight over a grid, until none improves
    print    nDCG@10 before and after, on training queries and on the others, and YAML to paste

Rule: deterministic. The replay uses the orchestrator's own arithmetic (`services.core.fusion`).
Fact: a reranker scores only what reaches it under the old weights. Run again after pasting to include the rest.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import yaml
from rich.progress import track
from sluice.cli.console import CommandFailed, err, out
from sluice.cli.refusals import Refusals
from sluice.client import Result, SearchClient

from loadtest.collection import Qrels
from loadtest.quality import measures, runs
from loadtest.quality.judged_collection import JudgedCollection, fewer, read
from loadtest.quality.replay import StageRankings, Weights, replay, weights_of
from loadtest.report import machine, terminal
from loadtest.servers import Parts, system
from services.orchestrator.pipelines.loader import PipelinesError, load
from services.orchestrator.pipelines.schema import PACKAGED, Pipeline, WeightedSum

_MEASURE: Final = "nDCG@10"
_MOST_DEPTH: Final = 1000
_ROUNDS: Final = 4
_SEARCH_S: Final = 60.0
# Weights of a fusion except the first, which is 1, and weights of an interpolation.
_FUSION_GRID: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0)
_MIX_GRID: Final = tuple(round(0.05 * step, 2) for step in range(1, 21))


@dataclass(frozen=True)
class Chosen:
    """What to tune."""

    collection: str
    pipelines: Sequence[str]
    """Names; empty means all that have weights."""
    out: Path
    patience_s: float
    """How long indexing continues without a stored document, in seconds."""
    quick: bool


@dataclass(frozen=True)
class Tuned:
    """A pipeline's weights, and nDCG@10 before and after on training queries and on the others."""

    before: Weights
    after: Weights
    train: tuple[float, float]
    test: tuple[float, float]


def tune(folder: Path, split: str, training: str, judged: JudgedCollection, made_of: Parts, chosen: Chosen) -> None:
    """Tune the chosen pipelines and print the result. Raises CommandFailed."""
    known = _tunable(made_of.pipelines or PACKAGED, chosen.pipelines)
    train, test = _sides(folder, split, training, judged, quick=chosen.quick)
    with tempfile.TemporaryDirectory(prefix="sluice-tune-") as scratch:
        probes = Path(scratch) / "pipelines.yaml"
        probes.write_text(yaml.safe_dump(_probing(known)))
        parts = Parts(made_of.bundles, made_of.reranker, made_of.index_fields, probes, made_of.data)
        with system(parts) as (addresses, _), SearchClient(addresses.search) as client:
            documents = {one.document_id: one for one in (*train.documents, *test.documents)}
            refused = runs.index(client, chosen.collection, list(documents.values()), patience_s=chosen.patience_s)
            queries = {**train.queries, **test.queries}
            probed = {
                name: _stage_rankings(client, chosen.collection, name, one, queries) for name, one in known.items()
            }
    found = {name: _tuned(pipeline, probed[name], train.qrels, test.qrels) for name, pipeline in known.items()}
    _report(known, found, (len(train.queries), len(test.queries)))
    figures = {name: {"train": one.train, "test": one.test, "weights": dict(one.after)} for name, one in found.items()}
    refusals = Refusals()
    refusals.add(*judged.refused, *refused)
    refusals.show()
    record = {
        "tuned": figures,
        **refusals.to_json(),
        "folder": folder.resolve().name,
        "split": split,
        "train": training or "half",
    }
    terminal.write_json(chosen.out / f"tune-{folder.resolve().name}.json", {**record, **machine.describe()})


def coordinate_ascent(
    start: Weights, grid: Callable[[str], Sequence[float]], value: Callable[[Weights], float]
) -> Weights:
    """Change one weight at a time to the best of its grid until none improves. Ties keep the old value."""
    best, best_value = dict(start), value(start)
    for _ in range(_ROUNDS):
        before = dict(best)
        for name in start:
            for candidate in grid(name):
                tried = {**best, name: candidate}
                if (tried_value := value(tried)) > best_value + 1e-9:
                    best, best_value = tried, tried_value
        if best == before:
            break
    return best


def _tuned(pipeline: Pipeline, probed: Mapping[str, StageRankings], train: Qrels, test: Qrels) -> Tuned:
    def value(weights: Weights, qrels: Qrels) -> float:
        rankings = {query: replay(pipeline, weights, probed[query]).ids for query in qrels}
        return measures.mean(measures.measure(rankings, qrels)[_MEASURE])

    start = weights_of(pipeline)
    after = coordinate_ascent(start, _grid, lambda weights: value(weights, train))
    return Tuned(start, after, (value(start, train), value(after, train)), (value(start, test), value(after, test)))


def _grid(name: str) -> Sequence[float]:
    return _FUSION_GRID if name.startswith("fuse.") else _MIX_GRID


def _tunable(path: Path, names: Sequence[str]) -> dict[str, Pipeline]:
    """Return the pipelines of a file that have weights. Raises CommandFailed if there is none or a name is unknown."""
    try:
        pipelines = load(path)
    except PipelinesError as error:
        raise CommandFailed(str(error)) from error
    if unknown := [name for name in names if name not in pipelines]:
        raise CommandFailed(f"expected pipelines of {', '.join(pipelines)}, got {', '.join(unknown)}")
    found = {name: one for name, one in pipelines.items() if (name in names or not names) and weights_of(one)}
    if not found:
        raise CommandFailed(f"{path}: expected a weighted_sum of retrievers or an interpolate to tune, found none")
    return found


def _sides(
    folder: Path, split: str, training: str, judged: JudgedCollection, *, quick: bool
) -> tuple[JudgedCollection, JudgedCollection]:
    """Return training queries and the others: of two splits, or the halves of one by a hash of the query's id."""
    if training:
        train = read(folder, training, "")
        return (fewer(train) if quick else train), judged
    sides = [{query for query in judged.queries if sha256(query.encode()).digest()[0] % 2 == half} for half in (0, 1)]
    if not all(sides):
        raise CommandFailed(f"{folder}: expected several queries in {split}: one half of them is for tuning")
    halves = [
        JudgedCollection(
            judged.documents,
            judged.refused,
            {query: text for query, text in judged.queries.items() if query in side},
            {query: grades for query, grades in judged.qrels.items() if query in side},
            [],
        )
        for side in sides
    ]
    return halves[0], halves[1]


def _probing(pipelines: Mapping[str, Pipeline]) -> dict[str, Any]:
    """Return the pipelines with all candidates of every retriever kept, and each stage's own scores."""
    probes = {}
    for name, pipeline in pipelines.items():
        probe = pipeline.model_dump(exclude_none=True, exclude={"cut_off", "feedback"})
        depth = min(_MOST_DEPTH, sum(retriever.depth for retriever in pipeline.retrieve))
        for stage in (*probe["retrieve"], *([probe["refine"]] if "refine" in probe else []), *probe["rerank"]):
            stage.update(on_error="fail")
            stage.pop("on_timeout", None)
            stage.pop("share")
            stage.pop("interpolate", None)
        for stage in [probe[part] for part in ("fuse", "refine") if part in probe]:
            stage["depth"] = depth
        probe["retrieve"], probe["rerank"] = list(probe["retrieve"]), list(probe["rerank"])
        probes[name] = probe
    probes.setdefault("default", next(iter(probes.values())))
    return probes


def _stage_rankings(
    client: SearchClient, collection: str, name: str, pipeline: Pipeline, queries: Mapping[str, str]
) -> dict[str, StageRankings]:
    """Return the scores of each stage for the candidates of every query."""
    [probe] = [one for one in client.pipelines() if one.name == name]
    top_k = probe.stages[-1].depth
    found = {}
    for query, text in track(queries.items(), f"probing, {name}", console=err):
        answer = client.search(collection, text, pipeline=name, top_k=top_k, timeout_s=_SEARCH_S)
        found[query] = StageRankings.of({stage: dict(_scores(answer.results, stage)) for stage in _stages(pipeline)})
    return found


def _stages(pipeline: Pipeline) -> list[str]:
    return [stage.name for stage in (*pipeline.retrieve, *pipeline.rescoring)]


def _scores(results: Sequence[Result], stage: str) -> Iterator[tuple[str, float]]:
    for result in results:
        for standing in result.standings:
            if standing.stage == stage:
                yield result.document.document_id, standing.score


def _report(pipelines: Mapping[str, Pipeline], found: Mapping[str, Tuned], queries: tuple[int, int]) -> None:
    rows = []
    for name, one in found.items():
        (train_before, train_after), (test_before, test_after) = one.train, one.test
        rows.append([name, "as it is", f"{train_before:.4f}", f"{test_before:.4f}"])
        rows.append([name, "tuned", f"{train_after:.4f}", f"{test_after:.4f}"])
    head = ("pipeline", "weights", f"{_MEASURE}, {queries[0]} training queries", f"{queries[1]} others")
    terminal.show_table(head, rows)
    for name, one in found.items():
        out.print(f"{name}:\n{paste(pipelines[name], one.after)}", markup=False, highlight=False, soft_wrap=True)


def paste(pipeline: Pipeline, weights: Weights) -> str:
    """Return the parts of a pipeline that have weights, as YAML."""
    lines = []
    if isinstance(pipeline.fuse, WeightedSum):
        own = ", ".join(f"{stage.name}: {weights[f'fuse.{stage.name}']:g}" for stage in pipeline.retrieve)
        how = f"method: weighted_sum, normalisation: {pipeline.fuse.normalisation}, weights: {{{own}}}"
        lines.append(f"  fuse: {{{how}, depth: {pipeline.fuse.depth}}}")
    for stage in pipeline.rescoring:
        if stage.interpolate:
            mix = f"{{weight: {weights[f'mix.{stage.name}']:g}, normalisation: {stage.interpolate.normalisation}}}"
            lines.append(f"  # {stage.name}:\n  #   interpolate: {mix}")
    return "\n".join(lines)
