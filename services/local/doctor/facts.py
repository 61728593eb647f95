"""The facts about a running system, from outside: health, models, collections, pipelines, metrics, certificates.

Rule: nothing here judges. A service that does not answer is a fact too.
"""

import re
import socket
import ssl
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from sluice import __version__
from sluice.cli.access import access
from sluice.client import EmbeddingClient, RerankingClient, RetrievalClient, SearchClient
from sluice.client.answers import Pipeline, SearchAnswer
from sluice.embedding.v1.embedding_service_pb2 import EmbeddingModel
from sluice.errors import SluiceError
from sluice.reranking.v1.reranking_service_pb2 import RerankingModel
from sluice.retrieval.v1.retrieval_service_pb2 import Collection

from services.local.health import health

_TIMEOUT_S: Final = 5.0
_PAGE_BYTES: Final = 16 * 2**20
_SAMPLE: Final = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One value on a metrics page."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Page:
    """The metrics page of one server."""

    samples: Sequence[Sample]
    clock_ahead_s: float | None
    """The server's clock minus this machine's, in seconds, to about 1 s; None if the server sent no date."""

    def value(self, name: str) -> float | None:
        """Return the value of a metric without labels, None if the page does not have it."""
        return next((sample.value for sample in self.samples if sample.name == name), None)

    def label(self, name: str, label: str) -> str:
        """Return a label of an information metric, empty if the page does not have it."""
        return next((sample.labels.get(label, "") for sample in self.samples if sample.name == name), "")


@dataclass(frozen=True)
class Facts:
    """Everything that was found out. The error of a service that failed is in place of its response."""

    addresses: Mapping[str, str]
    """The address of each service by its name."""
    health: Mapping[str, str]
    """The serving status of each service, or the name of the status code if the check failed."""
    embedding_models: Sequence[EmbeddingModel] | SluiceError
    reranking_models: Sequence[RerankingModel] | SluiceError
    collections: Sequence[Collection] | SluiceError
    pipelines: Sequence[Pipeline] | SluiceError
    searches: Mapping[str, SearchAnswer | SluiceError] = field(default_factory=dict)
    """The answer to one search of each collection by the default pipeline."""
    pages: Mapping[str, Page | str] = field(default_factory=dict)
    """The metrics page of each server, or why it could not be read."""
    certificates: Mapping[str, datetime | str] = field(default_factory=dict)
    """When the certificate of each service expires, or why it is not trusted."""
    client_version: str = __version__


def gather(addresses: Mapping[str, str], metrics: Mapping[str, str], ca: Path | None) -> Facts:
    """Return the facts about a system.

    addresses  of the services, by name
    metrics    addresses of metrics pages, by name
    ca         file of authorities to check certificates against; None checks none
    """
    with (
        EmbeddingClient(addresses["embedding"], timeout_s=_TIMEOUT_S, **access()) as embedding,
        RerankingClient(addresses["reranking"], timeout_s=_TIMEOUT_S, **access()) as reranking,
        RetrievalClient(addresses["retrieval"], timeout_s=_TIMEOUT_S, **access()) as retrieval,
        SearchClient(addresses["orchestrator"], timeout_s=_TIMEOUT_S, **access()) as search,
    ):
        collections = _result(retrieval.collections)
        return Facts(
            addresses=addresses,
            health={name: health(name, address, access=access()) for name, address in addresses.items()},
            embedding_models=_result(embedding.models),
            reranking_models=_result(reranking.models),
            collections=collections,
            pipelines=_result(search.pipelines),
            searches=_searches(search, [] if isinstance(collections, SluiceError) else collections),
            pages={name: _page(address) for name, address in metrics.items()},
            certificates={name: _certificate_end(address, ca) for name, address in addresses.items()} if ca else {},
        )


def parse(text: str) -> list[Sample]:
    """Return the samples of a page in Prometheus's text format."""
    return [Sample(name, dict(_LABEL.findall(labels)), float(value)) for name, labels, value in _SAMPLE.findall(text)]


def _result(call: Callable[[], T]) -> T | SluiceError:
    """Return what a call returns, or the error that it raises."""
    try:
        return call()
    except SluiceError as error:
        return error


def _searches(search: SearchClient, collections: Sequence[Collection]) -> dict[str, SearchAnswer | SluiceError]:
    """Search each collection that has documents, for a common word."""
    names = [one.name for one in collections if one.document_count]
    return {name: _result(partial(search.search, name, "test", top_k=1)) for name in names}


def _page(address: str) -> Page | str:
    """Return the metrics page of a server, or why it cannot be read."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=_TIMEOUT_S) as response:
            text = response.read(_PAGE_BYTES).decode()
            date = response.headers.get("Date")
    except (OSError, ValueError) as error:
        return str(error)
    ahead = parsedate_to_datetime(date).timestamp() - datetime.now(UTC).timestamp() if date else None
    return Page(parse(text), ahead)


def _certificate_end(address: str, ca: Path | None) -> datetime | str:
    """Return when the certificate of a server expires, or why it is not trusted."""
    host, _, port = address.removeprefix("dns:///").rpartition(":")
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, int(port)), timeout=_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            certificate = secure.getpeercert() or {}
    except (OSError, ValueError) as error:
        return str(error)
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate.get("notAfter"))), UTC)
