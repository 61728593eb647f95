"""The judgment of facts: each finding says what is right or wrong, and what to do.

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
from services.local.health import SERVING

Level = Literal["ok", "warning", "problem"]
T = TypeVar("T")

# Tokens and certificates are checked against the clock. The date of a metrics page is exact to a second.
_CLOCK_S: Final = 5.0
_EXPIRES_SOON: Final = timedelta(days=14)
_FREE_BYTES: Final = 2**30
_DEAD_SHARE: Final = 0.3
_HEALTH: Final = {
    "UNAVAILABLE": "check the address; `sluice up` starts a system; servers with TLS need --tls-ca",
    "NOT_SERVING": "it is loading, draining or failing: see its log",
    "UNAUTHENTICATED": "set SLUICE_TOKEN to a token of its tokens file, or let it answer health checks without a token",
    "UNIMPLEMENTED": "another program serves at this address",
    "NOT_FOUND": "another Sluice service serves at this address: check that two addresses are not swapped",
}


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    level: Level
    about: str
    """The service, model, collection or pipeline that was checked."""
    text: str
    """What was found."""
    next: str = ""
    """What to do."""


def findings(facts: Facts, now: datetime) -> list[Finding]:
    """Return all findings, in the order in which to fix them."""
    return list(
        chain(
            _services(facts),
            _certificates(facts, now),
            _models(facts),
            *(_collection(facts, one) for one in _succeeded(facts.collections)),
            *(_pipeline(one) for one in _succeeded(facts.pipelines)),
            _searches(facts),
            *(_page(name, page, now) for name, page in facts.pages.items()),
            _versions(facts),
        )
    )


def _succeeded(result: Sequence[T] | SluiceError) -> Sequence[T]:
    """Return the result of a call, empty if it failed."""
    return () if isinstance(result, SluiceError) else result


def _services(facts: Facts) -> Iterator[Finding]:
    for name, address in facts.addresses.items():
        state = facts.health[name]
        if state == SERVING:
            yield Finding("ok", name, f"serves at {address}")
        else:
            yield Finding("problem", name, f"{address}: {state}", _HEALTH.get(state, "see its log"))


def _certificates(facts: Facts, now: datetime) -> Iterator[Finding]:
    for name, end in facts.certificates.items():
        if isinstance(end, str):
            yield Finding(
                "problem",
                name,
                f"certificate not trusted: {end}",
                "compare its issuer with --check-ca",
            )
        elif end - now < _EXPIRES_SOON:
            text = f"its certificate expires at {end:%Y-%m-%d %H:%M} UTC"
            yield Finding("warning", name, text, "renew it; servers reload the files without a restart")
        else:
            yield Finding("ok", name, f"its certificate is trusted until {end:%Y-%m-%d}")


def _models(facts: Facts) -> Iterator[Finding]:
    by_service: dict[str, Sequence[EmbeddingModel | RerankingModel] | SluiceError] = {
        "embedding": facts.embedding_models,
        "reranking": facts.reranking_models,
    }
    digests: dict[str, set[str]] = {}
    for service, models in by_service.items():
        served = _succeeded(models)
        if not served and not isinstance(models, SluiceError):
            yield Finding("warning", service, "serves no model", "start it with --bundles, or load a model")
        for model in served:
            name = model_name(model.model)
            digests.setdefault(name, set()).add(model.model.digest)
            runs_on = model.execution_provider.removesuffix("ExecutionProvider")
            yield Finding("ok", service, f"{name}, {model.variant} on {runs_on}, bundle {model.model.digest[:12]}")
    for name, found in digests.items():
        if len(found) > 1:
            listed = ", ".join(sorted(digest[:12] for digest in found))
            yield Finding(
                "warning", name, f"is served from different bundles: {listed}", "give the newer one a new version"
            )


def _collection(facts: Facts, collection: Collection) -> Iterator[Finding]:
    schema, name = collection.schema, f"collection {collection.name}"
    statistics = collection.statistics
    served = {model.model.digest for model in _succeeded(facts.embedding_models)}
    bound = {one.name: one.model_digest for one in schema.dense_fields}
    bound |= {one.name: one.model_digest for one in schema.sparse_fields}
    bound |= {one.name: one.model_digest for one in schema.multi_vector_fields}
    unserved = {field: digest for field, digest in bound.items() if digest and digest not in served}
    if not isinstance(facts.embedding_models, SluiceError):
        for field, digest in unserved.items():
            text = f"field {field} was indexed with model {digest[:12]}, which is not served"
            yield Finding("problem", name, text, "serve that model, or index into a new collection")
    dead = statistics.dead_document_count
    total = collection.document_count + dead
    if dead > _DEAD_SHARE * total:
        text = f"{dead:,} of {total:,} documents on disk are deleted"
        yield Finding("warning", name, text, f"`sluice collections optimize {collection.name}` reclaims their space")
    if not unserved:
        yield Finding("ok", name, f"{collection.document_count:,} documents")


def _pipeline(pipeline: Pipeline) -> Iterator[Finding]:
    about = f"pipeline {pipeline.name}"
    if pipeline.state == "usable":
        yield Finding("ok", about, "usable")
    elif pipeline.state == "unchecked":
        yield Finding("warning", about, "not checked yet", "check the services that serve its models")
    level: Level = "problem" if pipeline.state == "unusable" else "warning"
    for problem in pipeline.problems:
        yield Finding(level, about, problem, "serve what it needs, or change the pipelines file; it is reloaded")


def _searches(facts: Facts) -> Iterator[Finding]:
    for name, answer in facts.searches.items():
        about = f"search in {name}"
        if isinstance(answer, SluiceError):
            yield Finding("problem", about, f"{answer.reason_name}: {answer.message}", "repeat it with `sluice search`")
        elif answer.degraded:
            reasons = "; ".join(f"{one.name}: {one.reason}" for one in answer.stages if one.status != "ok")
            yield Finding("warning", about, f"degraded: {reasons}", "check the service of that stage")
        else:
            yield Finding("ok", about, f"full answer in {1000 * answer.duration_s:.0f} ms")


def _page(name: str, page: Page | str, now: datetime) -> Iterator[Finding]:
    about = f"metrics of {name}"
    if isinstance(page, str):
        yield Finding("warning", about, page, "check the address; servers need --metrics-listen")
        return
    if page.value("sluice_store_writable") == 0:
        yield Finding(
            "problem", name, "its data folder accepts no writes", "check permissions and disk, then restart it"
        )
    free = page.value("sluice_store_free_bytes")
    if free is not None and free < _FREE_BYTES:
        yield Finding(
            "warning", name, f"{free / 2**20:,.0f} MiB of disk are free", "free some space, or use a larger disk"
        )
    if page.clock_ahead_s is not None and abs(page.clock_ahead_s) > _CLOCK_S:
        text = f"its clock is {page.clock_ahead_s:+.0f} s from this machine's"
        yield Finding("warning", name, text, "synchronize both by NTP; certificates are checked against the clock")
    end = page.value("sluice_certificate_expiry_timestamp_seconds")
    if end and end - now.timestamp() < _EXPIRES_SOON.total_seconds():
        yield Finding("warning", name, "its certificate expires within two weeks", "renew it; servers reload it")


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
        yield Finding("warning", "versions", text, "upgrade the servers first, then the clients")
