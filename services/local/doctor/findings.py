"""What facts mean: each finding says what is wrong, or well, and what to do.

Rule: pure; `now` is an argument.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import Final, Literal, TypeVar

from sluice.client.answers import Pipeline, model_name
from sluice.embedding.v1.embedding_service_pb2 import EmbeddingModel
from sluice.errors import SluiceError
from sluice.reranking.v1.reranking_service_pb2 import RerankingModel
from sluice.retrieval.v1.retrieval_service_pb2 import Collection

from services.local.doctor.facts import Facts, Page

Level = Literal["ok", "warning", "problem"]
T = TypeVar("T")

# Tokens and certificates are checked against the clock; the metrics' Date is exact to a second.
_CLOCK_S: Final = 5.0
_EXPIRES_SOON: Final = timedelta(days=14)
_FREE_BYTES: Final = 2**30
_DEAD_SHARE: Final = 0.3
_LOADED: Final = "SERVING"
_HEALTH: Final = {
    "UNAVAILABLE": "is it running there? `sluice up` starts a system; a server that speaks TLS needs --tls-ca",
    "NOT_SERVING": "it loads, drains or is in trouble: its log says which",
    "UNAUTHENTICATED": "set SLUICE_TOKEN to a token of its tokens file, or open health checks",
    "UNIMPLEMENTED": "something else serves at that address",
    "NOT_FOUND": "another service of ours serves at that address: were two of them mixed up?",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    about: str
    """The service, model, collection or pipeline."""
    text: str
    """What was found."""
    next: str = ""
    """What to do."""


def findings(facts: Facts, now: datetime) -> list[Finding]:
    """All findings, in the order in which to mend them."""
    return list(
        chain(
            _services(facts),
            _certificates(facts, now),
            _models(facts),
            *(_collection(facts, one) for one in _known(facts.collections)),
            *(_pipeline(one) for one in _known(facts.pipelines)),
            _searches(facts),
            *(_page(name, page, now) for name, page in facts.pages.items()),
            _versions(facts),
        )
    )


def _known(said: Sequence[T] | SluiceError) -> Sequence[T]:
    return () if isinstance(said, SluiceError) else said


def _services(facts: Facts) -> Iterator[Finding]:
    for name, place in facts.places.items():
        said = facts.health[name]
        if said == _LOADED:
            yield Finding("ok", name, f"serves at {place}")
        else:
            yield Finding("problem", name, f"{place}: {said}", _HEALTH.get(said, "its log tells more"))


def _certificates(facts: Facts, now: datetime) -> Iterator[Finding]:
    for name, end in facts.certificates.items():
        if isinstance(end, str):
            yield Finding("problem", name, f"no trusted certificate: {end}", "compare its certificate with --tls-ca")
        elif end - now < _EXPIRES_SOON:
            text = f"its certificate ends at {end:%Y-%m-%d %H:%M} UTC"
            yield Finding("warning", name, text, "renew it: servers read the files again while they run")
        else:
            yield Finding("ok", name, f"its certificate is trusted until {end:%Y-%m-%d}")


def _models(facts: Facts) -> Iterator[Finding]:
    said: dict[str, Sequence[EmbeddingModel | RerankingModel] | SluiceError] = {
        "embedding": facts.embedding_models,
        "reranking": facts.reranking_models,
    }
    digests: dict[str, set[str]] = {}
    for service, models in said.items():
        served = _known(models)
        if not served and not isinstance(models, SluiceError):
            yield Finding("warning", service, "serves no model", "start it with --bundles, or load one")
        for model in served:
            name = model_name(model.model)
            digests.setdefault(name, set()).add(model.model.digest)
            runs_on = model.execution_provider.removesuffix("ExecutionProvider")
            yield Finding("ok", service, f"{name}, {model.variant} on {runs_on}, bundle {model.model.digest[:12]}")
    for name, found in digests.items():
        if len(found) > 1:
            listed = ", ".join(sorted(digest[:12] for digest in found))
            yield Finding("warning", name, f"is served from different bundles: {listed}", "give a bundle a new version")


def _collection(facts: Facts, collection: Collection) -> Iterator[Finding]:
    schema, name = collection.schema, f"collection {collection.name}"
    statistics = collection.statistics
    served = {model.model.digest for model in _known(facts.embedding_models)}
    bound = {one.name: one.model_digest for one in schema.dense_fields}
    bound |= {one.name: one.model_digest for one in schema.sparse_fields}
    bound |= {one.name: one.model_digest for one in schema.multi_vector_fields}
    strangers = {field: digest for field, digest in bound.items() if digest and digest not in served}
    if not isinstance(facts.embedding_models, SluiceError):
        for field, digest in strangers.items():
            text = f"field {field} was made by the model {digest[:12]}, which is not served"
            yield Finding("problem", name, text, "load that bundle, or index into a new collection with the served one")
    dead, all_ = statistics.dead_document_count, collection.document_count + statistics.dead_document_count
    if dead > _DEAD_SHARE * all_:
        text = f"{dead:,} of {all_:,} places are of deleted documents"
        yield Finding("warning", name, text, f"`sluice collections optimize {collection.name}` frees them")
    if not strangers:
        yield Finding("ok", name, f"{collection.document_count:,} documents")


def _pipeline(pipeline: Pipeline) -> Iterator[Finding]:
    about = f"pipeline {pipeline.name}"
    if pipeline.state == "usable":
        yield Finding("ok", about, "has what it needs")
    elif pipeline.state == "unchecked":
        yield Finding("warning", about, "not checked yet", "the services with its models have not answered it")
    level: Level = "problem" if pipeline.state == "unusable" else "warning"
    for problem in pipeline.problems:
        yield Finding(level, about, problem, "serve what it needs, or change the pipelines file: it is read again")


def _searches(facts: Facts) -> Iterator[Finding]:
    for name, answer in facts.searched.items():
        about = f"search in {name}"
        if isinstance(answer, SluiceError):
            yield Finding("problem", about, f"{answer.reason_name}: {answer.message}", "`sluice search` shows it again")
        elif answer.degraded:
            reasons = "; ".join(f"{one.name}: {one.reason}" for one in answer.stages if one.status != "ok")
            yield Finding("warning", about, f"degraded: {reasons}", "see the service of that stage")
        else:
            yield Finding("ok", about, f"full answer in {1000 * answer.duration_s:.0f} ms")


def _page(name: str, page: Page | str, now: datetime) -> Iterator[Finding]:
    about = f"metrics of {name}"
    if isinstance(page, str):
        yield Finding("warning", about, page, "is it started with --metrics-listen?")
        return
    if page.value("sluice_store_writable") == 0:
        yield Finding("problem", name, "its data folder takes no writes", "check its rights and the disk, then restart")
    free = page.value("sluice_store_free_bytes")
    if free is not None and free < _FREE_BYTES:
        yield Finding(
            "warning", name, f"{free / 2**20:,.0f} MiB of disk are free", "free some, or give it a larger one"
        )
    if page.clock_ahead_s is not None and abs(page.clock_ahead_s) > _CLOCK_S:
        text = f"its clock is {page.clock_ahead_s:+.0f} s from ours"
        yield Finding("warning", name, text, "set both by NTP: certificates are checked against the clock")
    end = page.value("sluice_certificate_expiry_timestamp_seconds")
    if end and end - now.timestamp() < _EXPIRES_SOON.total_seconds():
        yield Finding("warning", name, "its certificate ends within two weeks", "renew it: it is read while running")


def _versions(facts: Facts) -> Iterator[Finding]:
    pages = {name: page for name, page in facts.pages.items() if isinstance(page, Page)}
    versions = {name: page.label("sluice_server_info", "version") for name, page in pages.items()}
    if not versions:
        return
    found = {facts.client_version, *versions.values()}
    if len(found) == 1:
        yield Finding("ok", "versions", f"all are {facts.client_version}")
    else:
        listed = ", ".join(f"{name} {version or 'unknown'}" for name, version in versions.items())
        text = f"this command is {facts.client_version}; {listed}"
        yield Finding("warning", "versions", text, "upgrade servers first, then clients: v1 of the API only grows")
