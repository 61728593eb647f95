"""What a running system says of itself, gathered from outside: health, models, collections, pipelines, metrics, clocks.

Rule: whatever does not answer is a fact too; nothing here judges.
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
    """One value of a page of metrics."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Page:
    """The metrics of one server."""

    samples: Sequence[Sample]
    clock_ahead_s: float | None
    """Its clock minus ours, in seconds, exact to about one; None when it did not say."""

    def value(self, name: str) -> float | None:
        """The value of a metric without labels; None when it is not there."""
        return next((sample.value for sample in self.samples if sample.name == name), None)

    def label(self, name: str, label: str) -> str:
        """A label of an information metric; empty when it is not there."""
        return next((sample.labels.get(label, "") for sample in self.samples if sample.name == name), "")


@dataclass(frozen=True)
class Facts:
    """What is known. Where a service did not answer, its error stands in place of what it would have said."""

    places: Mapping[str, str]
    """Address of each service by its name."""
    health: Mapping[str, str]
    """What each health check said, or the name of the status code that it failed with."""
    embedding_models: Sequence[EmbeddingModel] | SluiceError
    reranking_models: Sequence[RerankingModel] | SluiceError
    collections: Sequence[Collection] | SluiceError
    pipelines: Sequence[Pipeline] | SluiceError
    searched: Mapping[str, SearchAnswer | SluiceError] = field(default_factory=dict)
    """One search of each collection by the default pipeline."""
    pages: Mapping[str, Page | str] = field(default_factory=dict)
    """Metrics by server, or why there are none."""
    certificates: Mapping[str, datetime | str] = field(default_factory=dict)
    """When each service's certificate ends, or why it is not trusted."""
    client_version: str = __version__


def gather(places: Mapping[str, str], metrics: Mapping[str, str], ca: Path | None) -> Facts:
    """The facts of the system at these addresses, and of the metrics at those."""
    with (
        EmbeddingClient(places["embedding"], timeout_s=_TIMEOUT_S, **access()) as embedding,
        RerankingClient(places["reranking"], timeout_s=_TIMEOUT_S, **access()) as reranking,
        RetrievalClient(places["retrieval"], timeout_s=_TIMEOUT_S, **access()) as retrieval,
        SearchClient(places["orchestrator"], timeout_s=_TIMEOUT_S, **access()) as search,
    ):
        collections = _said(retrieval.collections)
        return Facts(
            places=places,
            health={name: health(name, place, access=access()) for name, place in places.items()},
            embedding_models=_said(embedding.models),
            reranking_models=_said(reranking.models),
            collections=collections,
            pipelines=_said(search.pipelines),
            searched=_searched(search, [] if isinstance(collections, SluiceError) else collections),
            pages={name: _page(address) for name, address in metrics.items()},
            certificates={name: _certificate_end(place, ca) for name, place in places.items()} if ca else {},
        )


def parsed(text: str) -> list[Sample]:
    """The samples of a page in Prometheus's text format."""
    return [Sample(name, dict(_LABEL.findall(labels)), float(value)) for name, labels, value in _SAMPLE.findall(text)]


def _said(ask: Callable[[], T]) -> T | SluiceError:
    try:
        return ask()
    except SluiceError as error:
        return error


def _searched(search: SearchClient, collections: Sequence[Collection]) -> dict[str, SearchAnswer | SluiceError]:
    """A search of each collection that has documents, for a word that any may have."""
    names = [one.name for one in collections if one.document_count]
    return {name: _said(partial(search.search, name, "test", top_k=1)) for name in names}


def _page(address: str) -> Page | str:
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=_TIMEOUT_S) as answer:
            text = answer.read(_PAGE_BYTES).decode()
            stated = answer.headers.get("Date")
    except (OSError, ValueError) as error:
        return str(error)
    ahead = parsedate_to_datetime(stated).timestamp() - datetime.now(UTC).timestamp() if stated else None
    return Page(parsed(text), ahead)


def _certificate_end(place: str, ca: Path | None) -> datetime | str:
    """When the certificate of a server ends, when it is trusted; else why it is not."""
    host, _, port = place.removeprefix("dns:///").rpartition(":")
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, int(port)), timeout=_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            found = secure.getpeercert() or {}
    except (OSError, ValueError) as error:
        return str(error)
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(found.get("notAfter"))), UTC)
