"""Pipelines bound to collections and models, and checked against the served models: tables."""

import pytest
from sluice.common.v1.model_pb2 import ModelRef
from sluice.embedding.v1 import embedding_service_pb2 as embedding_pb
from sluice.errors import PreconditionFailed
from sluice.reranking.v1.reranking_service_pb2 import (
    SCORING_CROSS_ENCODER,
    SCORING_LATE_INTERACTION,
    SCORING_LISTWISE,
    RerankingModel,
    Scoring,
)
from sluice.retrieval.v1 import retrieval_service_pb2 as retrieval_pb

from services.orchestrator.pipelines.binding import bind
from services.orchestrator.pipelines.loader import parse
from services.orchestrator.pipelines.schema import Pipeline
from services.orchestrator.pipelines.validation import check

KINDS = {
    "dense": embedding_pb.REPRESENTATION_DENSE,
    "sparse": embedding_pb.REPRESENTATION_SPARSE,
    "multi_vector": embedding_pb.REPRESENTATION_MULTI_VECTOR,
}
TEXT = """
default:
  description: All kinds.
  retrieve:
    - {name: dense, kind: dense, depth: 9MODEL, on_error: skip}
    - {name: words, kind: text, depth: 9, optional: true}
    - {name: terms, kind: sparse, depth: 9, on_error: skip, optional: true}
  fuse: {method: rrf, depth: 9}
  refine: {name: maxsim, depth: 9, optional: true}
  rerank: [{name: rerank, depth: 9RERANKER}]
"""


def pipeline(model: str = "", reranker: str = "", text: str = TEXT) -> Pipeline:
    text = text.replace("MODEL", f", model: {model}" if model else "")
    return parse(text.replace("RERANKER", f", {reranker}" if reranker else ""), source="p")["default"]


def model(name: str, digest: str, *kinds: str) -> embedding_pb.EmbeddingModel:
    return embedding_pb.EmbeddingModel(
        model=ModelRef(name=name, version="1", digest=digest), representations=[KINDS[kind] for kind in kinds]
    )


def collection(**digests: str) -> retrieval_pb.Collection:
    schema = retrieval_pb.Schema()
    if "dense" in digests:
        schema.dense_fields.add(name="vectors", model_digest=digests["dense"])
    if "sparse" in digests:
        schema.sparse_fields.add(name="terms", model_digest=digests["sparse"])
    if "text" in digests:
        schema.text_fields.add(name="words")
    return retrieval_pb.Collection(name="books", schema=schema)


MINI, SPLADE = model("mini", "aaaa", "dense", "multi_vector"), model("splade", "bbbb", "sparse")


def test_fields_determine_the_models() -> None:
    plan = bind("default", pipeline(), collection(dense="aaaa", sparse="bbbb", text=""), [MINI, SPLADE])
    assert {name: (one.field, one.model) for name, one in plan.bindings.items()} == {
        "dense": ("vectors", "mini"),
        "words": ("words", ""),
        "terms": ("terms", "splade"),
        "maxsim": ("", ""),
    }
    assert {model: one.kinds for model, one in plan.encodings.items()} == {"mini": ("dense",), "splade": ("sparse",)}
    assert [stage.name for stage in plan.encodings["splade"].stages] == ["terms"]
    assert plan.bindings["maxsim"].is_left_out
    assert not plan.encodings["mini"].is_required
    assert bind("default", pipeline(), collection(dense="aaaa"), [MINI]).encodings["mini"].is_required


def test_an_open_field_takes_the_only_model_of_its_kind() -> None:
    plan = bind("default", pipeline(), collection(dense="", sparse=""), [MINI, SPLADE])
    assert (plan.bindings["dense"].model, plan.bindings["terms"].model) == ("mini", "splade")


def test_the_pipeline_names_the_model_if_the_served_models_are_unknown() -> None:
    plan = bind("default", pipeline("other"), collection(dense="aaaa"), None)
    assert plan.bindings["dense"].model == "other"


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("new", "takes vectors of mini@1 (aaaa); the pipeline names new@1 (cccc)"),
        ("gone", "takes vectors of mini@1 (aaaa); the pipeline names 'gone', which is not served"),
    ],
)
def test_a_model_that_a_field_rejects_is_an_error_that_names_both(named: str, told: str) -> None:
    plan = bind("default", pipeline(named), collection(dense="aaaa"), [MINI, model("new", "cccc", "dense")])
    error = plan.bindings["dense"].error
    assert isinstance(error, PreconditionFailed)
    assert error.reason_name == "MODEL_MISMATCH"
    assert told in error.message
    assert not plan.bindings["dense"].can_search
    assert not plan.encodings


def test_a_model_that_is_no_longer_served_is_named_by_its_digest() -> None:
    error = bind("default", pipeline(), collection(dense="dddddddddddddddd"), [MINI]).bindings["dense"].error
    assert isinstance(error, PreconditionFailed)
    assert "takes vectors of the model dddddddddddd; served are mini@1 (aaaa)" in error.message


def test_a_missing_field_is_an_error_unless_the_stage_is_optional() -> None:
    plan = bind("default", pipeline(), collection(text=""), [MINI])
    error = plan.bindings["dense"].error
    assert isinstance(error, PreconditionFailed)
    assert error.reason_name == "COLLECTION_MISMATCH"
    assert "expected one dense field, or its name in the pipeline; collection 'books' has words (text)" in error.message
    assert plan.bindings["terms"].is_left_out


def test_a_collection_without_a_field_for_any_retriever_is_rejected() -> None:
    text = TEXT.replace("on_error: skip}", "on_error: skip, optional: true}", 1)
    with pytest.raises(PreconditionFailed, match="expected a dense or text or sparse field"):
        bind("default", pipeline(text=text), collection(), [MINI])


LATE = RerankingModel(model=ModelRef(name="late"))
LARGE = RerankingModel(model=ModelRef(name="large"))


@pytest.mark.parametrize(
    ("given", "embedders", "rerankers", "state", "told"),
    [
        (pipeline(), [MINI, SPLADE], [LATE], "usable", ""),
        (pipeline(), [MINI], [LATE], "usable", ""),
        (pipeline(), None, [LATE], "unchecked", ""),
        (pipeline(), [MINI], None, "unchecked", ""),
        (pipeline("gone"), [MINI], [LATE], "degraded", "dense: expected the embedding model 'gone' with dense vectors"),
        (pipeline(), [MINI], [LATE, LARGE], "degraded", "rerank: expected one reranking model, or a name, served are"),
        (
            pipeline(reranker="model: large, on_error: fail"),
            [MINI],
            [LATE],
            "unusable",
            "rerank: expected the reranking",
        ),
        (pipeline(), [SPLADE], [LATE], "degraded", "dense: expected an embedding model with dense vectors, served are"),
    ],
)
def test_pipelines_are_checked_against_what_is_served(
    given: Pipeline,
    embedders: list[embedding_pb.EmbeddingModel] | None,
    rerankers: list[RerankingModel] | None,
    state: str,
    told: str,
) -> None:
    found = check(given, embedders, rerankers)
    assert found.state == state
    assert bool(found.problems) == bool(told)
    assert all(problem.startswith(told) for problem in found.problems)


@pytest.mark.parametrize(
    ("scoring", "overlap", "told"),
    [
        (SCORING_CROSS_ENCODER, 31, ""),
        (SCORING_CROSS_ENCODER, 32, "rerank: expected windows with an overlap of up to 31 tokens for reader, got 32"),
        (SCORING_LATE_INTERACTION, 62, ""),
        (SCORING_LATE_INTERACTION, 63, "rerank: expected windows with an overlap of up to 62 tokens for reader, got"),
        (SCORING_LISTWISE, 0, "rerank: expected no windows, because reader reads many candidates together"),
    ],
)
def test_windows_are_checked_against_the_reranker(scoring: Scoring.ValueType, overlap: int, told: str) -> None:
    reader = RerankingModel(model=ModelRef(name="reader"), max_token_count=128, scoring=scoring)
    found = check(pipeline(reranker=f"windows: {{overlap: {overlap}}}"), [MINI, SPLADE], [reader])
    assert found.state == ("degraded" if told else "usable")
    assert all(problem.startswith(told) for problem in found.problems)


def test_a_pipeline_without_a_working_retriever_is_unusable() -> None:
    text = "default:\n  description: One.\n  retrieve: [{name: near, kind: dense, depth: 3, model: gone}]\n"
    assert check(pipeline(text=text), [MINI], []).state == "unusable"
