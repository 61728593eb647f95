"""Replay of a pipeline from its stages' scores, with other weights. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.core.fusion import append_unscored, interpolate
from services.core.ranking import Ranking
from services.orchestrator.pipelines.schema import Pipeline, WeightedSum

Weights = Mapping[str, float]
"""`fuse.RETRIEVER`: its weight in the fusion. `mix.STAGE`: that of a refinement or reranker in its interpolation."""


@dataclass(frozen=True)
class StageRankings:
    """The ranking of each stage for one query, by stage name; a skipped stage has none."""

    rankings: Mapping[str, Ranking]

    @classmethod
    def of(cls, scores: Mapping[str, Mapping[str, float]]) -> "StageRankings":
        """Build it from the scores by document of each stage."""
        return cls({stage: Ranking.of(found.items()) for stage, found in scores.items()})


def weights_of(pipeline: Pipeline) -> dict[str, float]:
    """Return the weights of a pipeline."""
    weights = {}
    if isinstance(pipeline.fuse, WeightedSum):
        weights = {f"fuse.{name}": weight for name, weight in pipeline.fuse.weights.items()}
    return weights | {f"mix.{one.name}": one.interpolate.weight for one in pipeline.rescoring if one.interpolate}


def replay(pipeline: Pipeline, weights: Weights, probed: StageRankings) -> Ranking:
    """Return the ranking of the pipeline with these weights."""
    ranking = _fused(pipeline, weights, probed)
    for stage in pipeline.rescoring:
        given = ranking.top(stage.depth)
        scored = probed.rankings[stage.name].only(given.ids)
        if stage.interpolate and scored:
            mix = stage.interpolate
            weight = weights[f"mix.{stage.name}"]
            scored = interpolate(given, scored, weight=weight, normalization=mix.normalisation)
        ranking = append_unscored(scored, given)
    return ranking


def _fused(pipeline: Pipeline, weights: Weights, probed: StageRankings) -> Ranking:
    found = {stage.name: probed.rankings[stage.name].top(stage.depth) for stage in pipeline.retrieve}
    fusion = pipeline.fuse
    if fusion is None:
        return found[pipeline.retrieve[0].name]
    if isinstance(fusion, WeightedSum):
        fusion = fusion.model_copy(update={"weights": {name: weights[f"fuse.{name}"] for name in found}})
    return fusion.fuse(found).top(fusion.depth)
