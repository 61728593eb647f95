"""tei.v1.Rerank and tei.v1.Predict: scores and labels, for clients of text-embeddings-inference."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import chain
from time import perf_counter
from typing import Any, Final

import numpy as np
from sluice.errors import InvalidRequest, PreconditionFailed, Violation
from sluice.tei.v1 import tei_service_pb2 as pb
from sluice.tei.v1.tei_service_pb2_grpc import (
    PredictServicer,
    RerankServicer,
    add_PredictServicer_to_server,
    add_RerankServicer_to_server,
)

from services.compat.streams import in_order
from services.compat.tei.call import TeiBackend, headers, timings_metadata, truncation_of
from services.compat.tei.info import TeiInfo
from services.compat.tei.tokenize import TeiTokenize
from services.core.arrays import F32
from services.inference.catalog import Catalog
from services.inference.loader import Model
from services.inference.metrics import SERIALIZE
from services.inference.scheduler import Lane, Timings
from services.reranking.scorer import RerankInput, Scores, classify, score
from services.reranking.settings import RerankingSettings
from services.rpc.auth.authorizer import methods_of
from services.rpc.server.interceptor import Context
from services.rpc.server.lifecycle import Service
from services.rpc.validation import Violations, validating

# The scores of a stream, and its texts if they are returned, are kept until its end.
_MOST_STREAMED: Final = 65_536


def tei_services(catalog: Catalog, settings: RerankingSettings) -> Sequence[Service]:
    """Return the services of this API for a reranking server.

    Predict is included only if a model with labels is possible.
    """
    backend = TeiBackend(catalog, settings, settings.max_documents)
    services = [TeiInfo(backend, reranks=True).service, TeiRerank(backend).service, TeiTokenize(backend).service]
    if settings.repository or any(map(_has_labels, catalog.models)):
        services.append(TeiPredict(backend).service)
    return services


class TeiRerank(RerankServicer):
    """Scores texts against a query."""

    def __init__(self, backend: TeiBackend) -> None:
        self._backend = backend

    @property
    def service(self) -> Service:
        """The service to register with a server."""
        name = "tei.v1.Rerank"
        return Service(name, lambda server: add_RerankServicer_to_server(self, server), reads=methods_of(name))

    async def Rerank(self, request: pb.RerankRequest, context: Context) -> pb.RerankResponse:
        """Score texts."""
        return await self._backend.unary(self._rerank, request, context)

    async def RerankStream(
        self, request_iterator: AsyncIterator[pb.RerankStreamRequest], context: Context
    ) -> pb.RerankResponse:
        """Score a stream of texts."""
        with self._backend.using(context) as model:
            if model.bundle.manifest.task == "listwise":
                raise PreconditionFailed(f"{model.name} reads several texts together, not one by one: use Rerank")
            stream = _Stream(self._backend, model, context)
            idle_s = self._backend.settings.max_deadline_s
            async for one in in_order(request_iterator, stream.score, context, idle_s=idle_s):
                stream.add(one)
            response = stream.response()
            await context.send_initial_metadata(headers(response.metadata, model.session.execution_provider))
            return response

    async def _rerank(self, request: pb.RerankRequest, context: Context, lane: Lane) -> pb.RerankResponse:
        started = perf_counter()
        with self._backend.using(context) as model:
            rerank_input = self._validate(request)
            when = self._backend.schedule(lane, context)
            scores = await score(model, rerank_input, when)
            texts = [*request.texts, *[request.query] * len(request.texts)]
            metadata = timings_metadata(texts, chain(*scores.inputs), when.times, started)
            with SERIALIZE.labels(model.name).time():
                kept = request.texts if request.return_text else None
                return pb.RerankResponse(ranks=_ranks(scores.relevance, kept), metadata=metadata)

    def _validate(self, request: pb.RerankRequest) -> RerankInput:
        """Return what to score. Raises InvalidRequest."""
        with validating() as violations:
            self._backend.check_text("query", request.query, violations)
            if violations.count("texts", len(request.texts), low=1, high=self._backend.most_texts, what="texts"):
                for position, text in enumerate(request.texts):
                    self._backend.check_text(f"texts[{position}]", text, violations)
            truncation = truncation_of(request.truncate, request.truncation_direction, violations)
        return RerankInput(request.query, list(request.texts), truncation, request.raw_scores, field="texts[{}]")


@dataclass(frozen=True)
class _ScoredText:
    """A text of a stream, with its score."""

    text: str
    score: float
    metadata: pb.Metadata


class _Stream:
    """A stream of texts, which are scored one by one and answered together."""

    def __init__(self, backend: TeiBackend, model: Model, context: Context) -> None:
        self._backend = backend
        self._model = model
        self._context = context
        self._started = perf_counter()
        self._first: pb.RerankStreamRequest | None = None
        self._texts: list[str] = []
        self._scores: list[float] = []
        self._metadata = pb.Metadata()

    async def score(self, request: pb.RerankStreamRequest) -> _ScoredText:
        """Return one text with its score. Raises InvalidRequest, and the errors of `score`."""
        started = perf_counter()
        self._first = self._first or request
        with validating() as violations:
            self._backend.check_text("query", request.query, violations)
            self._backend.check_text("text", request.text, violations)
            truncation = truncation_of(request.truncate, request.truncation_direction, violations)
        rerank_input = RerankInput(request.query, [request.text], truncation, self._first.raw_scores, field="text")
        when = self._backend.schedule("interactive", self._context)
        scores = await score(self._model, rerank_input, when)
        metadata = timings_metadata([request.query, request.text], scores.inputs[0], when.times, started)
        return _ScoredText(request.text, float(scores.relevance[0]), metadata)

    def add(self, one: _ScoredText) -> None:
        """Add the next text in the stream's order. Raises InvalidRequest if there are too many."""
        if len(self._scores) == _MOST_STREAMED:
            raise _invalid("text", f"expected at most {_MOST_STREAMED:,} texts in a stream, got more")
        self._scores.append(one.score)
        if self._first is not None and self._first.return_text:
            self._texts.append(one.text)
        self._metadata.compute_chars += one.metadata.compute_chars
        self._metadata.compute_tokens += one.metadata.compute_tokens
        for name in ("tokenization_time_ns", "queue_time_ns", "inference_time_ns"):
            setattr(self._metadata, name, max(getattr(self._metadata, name), getattr(one.metadata, name)))

    def response(self) -> pb.RerankResponse:
        """Return the response with all texts, best first. Raises InvalidRequest if there is none."""
        if not self._scores:
            raise _invalid("text", "expected a stream of 1 text or more, got none")
        self._metadata.total_time_ns = timings_metadata([], [], Timings(), self._started).total_time_ns
        relevance = np.array(self._scores, dtype=np.float32)
        return pb.RerankResponse(ranks=_ranks(relevance, self._texts or None), metadata=self._metadata)


class TeiPredict(PredictServicer):
    """Scores the labels of texts and pairs."""

    def __init__(self, backend: TeiBackend) -> None:
        self._backend = backend

    @property
    def service(self) -> Service:
        """The service to register with a server."""
        name = "tei.v1.Predict"
        return Service(name, lambda server: add_PredictServicer_to_server(self, server), reads=methods_of(name))

    async def Predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        """Return the labels of a text."""
        return await self._backend.unary(self._one, request, context)

    def PredictStream(
        self, request_iterator: AsyncIterator[pb.PredictRequest], context: Context
    ) -> AsyncIterator[pb.PredictResponse]:
        """Yield the labels of each text."""
        return self._backend.stream(request_iterator, self._one, context)

    async def PredictPair(self, request: pb.PredictPairRequest, context: Context) -> pb.PredictResponse:
        """Return the labels of a text or a pair."""
        return await self._backend.unary(self._pair, request, context)

    def PredictPairStream(
        self, request_iterator: AsyncIterator[pb.PredictPairRequest], context: Context
    ) -> AsyncIterator[pb.PredictResponse]:
        """Yield the labels of each text or pair."""
        return self._backend.stream(request_iterator, self._pair, context)

    async def _one(self, request: pb.PredictRequest, context: Context, lane: Lane) -> pb.PredictResponse:
        with validating() as violations:
            self._backend.check_text("inputs", request.inputs, violations)
        return await self._predict([request.inputs], request, context, lane)

    async def _pair(self, request: pb.PredictPairRequest, context: Context, lane: Lane) -> pb.PredictResponse:
        with validating() as violations:
            if violations.count("inputs", len(request.inputs), low=1, high=2, what="texts"):
                for position, text in enumerate(request.inputs):
                    self._backend.check_text(f"inputs[{position}]", text, violations)
        return await self._predict(list(request.inputs), request, context, lane)

    async def _predict(self, texts: Sequence[str], request: Any, context: Context, lane: Lane) -> pb.PredictResponse:
        """Return the labels of one text or two. Raises PreconditionFailed if the model has none."""
        started = perf_counter()
        with self._backend.using(context) as model:
            if not _has_labels(model):
                how = "in lists" if model.bundle.manifest.task == "listwise" else "by late interaction"
                raise PreconditionFailed(f"{model.name} scores {how} and has no labels: use Rerank")
            violations = Violations()
            truncation = truncation_of(request.truncate, request.truncation_direction, violations)
            violations.raise_if_any()
            when = self._backend.schedule(lane, context)
            if len(texts) == 1:
                scores = await classify(model, texts[0], truncation, request.raw_scores, when)
            else:
                rerank_input = RerankInput(texts[0], [texts[1]], truncation, request.raw_scores, field="inputs")
                scores = await score(model, rerank_input, when)
            metadata = timings_metadata(texts, chain(*scores.inputs), when.times, started)
            return pb.PredictResponse(predictions=_predictions(model, scores), metadata=metadata)


def _has_labels(model: Model) -> bool:
    return model.bundle.manifest.task == "cross_encoder"


def _ranks(relevance: F32, texts: Sequence[str] | None) -> list[pb.Rank]:
    """Return the ranks, best first; equal scores keep the order of the request."""
    order = np.argsort(-relevance, kind="stable").tolist()
    return [pb.Rank(index=at, score=relevance[at], text=None if texts is None else texts[at]) for at in order]


def _predictions(model: Model, scores: Scores) -> list[pb.Prediction]:
    """Return all labels, best first."""
    values = scores.relevance if scores.labels is None else scores.labels[0]
    order = np.argsort(-values, kind="stable").tolist()
    return [pb.Prediction(score=values[at], label=model.bundle.manifest.labels[at]) for at in order]


def _invalid(field: str, description: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {description}", violations=[Violation(field, description)])
