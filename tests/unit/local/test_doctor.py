"""The findings of `sluice doctor`: a table of faults, and the finding for each."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sluice.client.answers import Pipeline
from sluice.common.v1.model_pb2 import ModelRef
from sluice.embedding.v1.embedding_service_pb2 import EmbeddingModel
from sluice.errors import NotFound, Unavailable
from sluice.retrieval.v1.retrieval_service_pb2 import Collection, CollectionStatistics, DenseField, Schema

from services.local.doctor.facts import Facts, Page, parse
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
SOUND = Facts(
    addresses={"embedding": "e:1", "retrieval": "r:2"},
    health={"embedding": "SERVING", "retrieval": "SERVING"},
    embedding_models=[MODEL],
    reranking_models=[],
    collections=[BOOKS],
    pipelines=[Pipeline("default", "All.", (), "usable", ())],
    pages={"retrieval": Page(parse(PAGE), 0.4)},
    client_version="1.2.3",
)


def faults(facts: Facts) -> list[Finding]:
    return [one for one in findings(facts, NOW) if one.level != "ok" and one.about != "reranking"]


def test_a_healthy_system_has_a_finding_for_each_part_and_no_fault() -> None:
    found = findings(SOUND, NOW)
    assert not faults(SOUND)
    assert {one.about for one in found} >= {"embedding", "collection books", "pipeline default", "versions"}


def pipeline(state: str, problem: str) -> Pipeline:
    return Pipeline("p", "", (), state, (problem,))


def page(text: str, ahead: float = 0.0) -> dict[str, Page | str]:
    return {"retrieval": Page(parse(text), ahead)}


@pytest.mark.parametrize(
    ("facts", "level", "about", "words"),
    [
        (
            replace(SOUND, health={**SOUND.health, "embedding": "UNAVAILABLE"}),
            "problem",
            "embedding",
            "UNAVAILABLE",
        ),
        (replace(SOUND, health={**SOUND.health, "embedding": "NOT_FOUND"}), "problem", "embedding", "NOT_FOUND"),
        (replace(SOUND, embedding_models=[], collections=[]), "warning", "embedding", "no model"),
        (
            replace(SOUND, collections=[OLD]),
            "problem",
            "collection old",
            "bbbbbbbbbbbb, which is not served",
        ),
        (
            replace(SOUND, collections=[HOLLOW]),
            "warning",
            "collection c",
            "4 of 10",
        ),
        (replace(SOUND, pipelines=[pipeline("unusable", "no reranker")]), "problem", "pipeline p", "no reranker"),
        (replace(SOUND, pipelines=[pipeline("degraded", "no words")]), "warning", "pipeline p", "no words"),
        (replace(SOUND, searches={"books": NotFound("no field")}), "problem", "search in books", "no field"),
        (replace(SOUND, pages={"retrieval": "refused"}), "warning", "metrics of retrieval", "refused"),
        (
            replace(SOUND, pages=page(PAGE.replace("writable 1.0", "writable 0.0"))),
            "problem",
            "retrieval",
            "no writes",
        ),
        (replace(SOUND, pages=page(PAGE.replace("5e+10", "5e+8"))), "warning", "retrieval", "477 MiB"),
        (replace(SOUND, pages=page(PAGE, ahead=-90)), "warning", "retrieval", "-90 s"),
        (replace(SOUND, client_version="9.9"), "warning", "versions", "retrieval 1.2.3"),
        (replace(SOUND, certificates={"embedding": "expired"}), "problem", "embedding", "expired"),
        (replace(SOUND, certificates={"embedding": NOW + timedelta(days=3)}), "warning", "embedding", "2026-03-04"),
    ],
)
def test_a_fault_is_reported_with_what_to_do(facts: Facts, level: str, about: str, words: str) -> None:
    (found,) = faults(facts)
    assert (found.level, found.about) == (level, about)
    assert words in found.text
    assert found.next


def test_collections_are_not_judged_when_the_models_are_unknown() -> None:
    facts = replace(SOUND, embedding_models=Unavailable("away"))
    assert not [one for one in faults(facts) if one.about.startswith("collection")]
