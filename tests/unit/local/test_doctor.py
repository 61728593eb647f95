"""What facts of a system mean: a table of troubles, and what is said of each."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sluice.client.answers import Pipeline
from sluice.common.v1.model_pb2 import ModelRef
from sluice.embedding.v1.embedding_service_pb2 import EmbeddingModel
from sluice.errors import NotFound, Unavailable
from sluice.retrieval.v1.retrieval_service_pb2 import Collection, CollectionStatistics, DenseField, Schema

from services.local.doctor.facts import Facts, Page, parsed
from services.local.doctor.findings import Finding, findings

NOW = datetime(2026, 3, 1, tzinfo=UTC)
MODEL = EmbeddingModel(
    model=ModelRef(name="minilm", version="1", digest="a" * 64),
    execution_provider="CPUExecutionProvider",
    variant="fp32",
)
BOOKS = Collection(
    name="books",
    schema=Schema(dense_fields=[DenseField(name="dense", model_digest="a" * 64)]),
    document_count=10,
)
OLD = Collection(name="old", schema=Schema(dense_fields=[DenseField(name="v", model_digest="b" * 64)]))
HOLLOW = Collection(name="c", document_count=6, statistics=CollectionStatistics(dead_document_count=4))
PAGE = """# HELP sluice_server_info 1 for the running program.
sluice_server_info{program="services.retrieval",version="1.2.3",grpc_version="1.81.1"} 1.0
sluice_store_writable 1.0
sluice_store_free_bytes 5e+10
"""
WELL = Facts(
    places={"embedding": "e:1", "retrieval": "r:2"},
    health={"embedding": "SERVING", "retrieval": "SERVING"},
    embedding_models=[MODEL],
    reranking_models=[],
    collections=[BOOKS],
    pipelines=[Pipeline("default", "All.", (), "usable", ())],
    pages={"retrieval": Page(parsed(PAGE), 0.4)},
    client_version="1.2.3",
)


def troubles(facts: Facts) -> list[Finding]:
    return [one for one in findings(facts, NOW) if one.level != "ok" and one.about != "reranking"]


def test_a_well_system_has_no_trouble_and_each_part_is_told() -> None:
    found = findings(WELL, NOW)
    assert not troubles(WELL)
    assert {one.about for one in found} >= {"embedding", "collection books", "pipeline default", "versions"}


def pipeline(state: str, problem: str) -> Pipeline:
    return Pipeline("p", "", (), state, (problem,))


def page(text: str, ahead: float = 0.0) -> dict[str, Page | str]:
    return {"retrieval": Page(parsed(text), ahead)}


@pytest.mark.parametrize(
    ("facts", "level", "about", "words"),
    [
        (replace(WELL, health={**WELL.health, "embedding": "UNAVAILABLE"}), "problem", "embedding", "UNAVAILABLE"),
        (replace(WELL, health={**WELL.health, "embedding": "NOT_FOUND"}), "problem", "embedding", "NOT_FOUND"),
        (replace(WELL, embedding_models=[], collections=[]), "warning", "embedding", "no model"),
        (
            replace(WELL, collections=[OLD]),
            "problem",
            "collection old",
            "bbbbbbbbbbbb, which is not served",
        ),
        (
            replace(WELL, collections=[HOLLOW]),
            "warning",
            "collection c",
            "4 of 10",
        ),
        (replace(WELL, pipelines=[pipeline("unusable", "no reranker")]), "problem", "pipeline p", "no reranker"),
        (replace(WELL, pipelines=[pipeline("degraded", "no words")]), "warning", "pipeline p", "no words"),
        (replace(WELL, searched={"books": NotFound("no field")}), "problem", "search in books", "no field"),
        (replace(WELL, pages={"retrieval": "refused"}), "warning", "metrics of retrieval", "refused"),
        (replace(WELL, pages=page(PAGE.replace("writable 1.0", "writable 0.0"))), "problem", "retrieval", "no writes"),
        (replace(WELL, pages=page(PAGE.replace("5e+10", "5e+8"))), "warning", "retrieval", "477 MiB"),
        (replace(WELL, pages=page(PAGE, ahead=-90)), "warning", "retrieval", "-90 s"),
        (replace(WELL, client_version="9.9"), "warning", "versions", "retrieval 1.2.3"),
        (replace(WELL, certificates={"embedding": "expired"}), "problem", "embedding", "expired"),
        (replace(WELL, certificates={"embedding": NOW + timedelta(days=3)}), "warning", "embedding", "2026-03-04"),
    ],
)
def test_a_trouble_is_told_with_what_to_do(facts: Facts, level: str, about: str, words: str) -> None:
    (found,) = troubles(facts)
    assert (found.level, found.about) == (level, about)
    assert words in found.text
    assert found.next


def test_models_that_are_not_known_make_no_collection_wrong() -> None:
    facts = replace(WELL, embedding_models=Unavailable("away"))
    assert not [one for one in troubles(facts) if one.about.startswith("collection")]
