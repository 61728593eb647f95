"""The common part of all calls of this API: model, limits, schedule, and timings of the response.

Fact: the API has no field for a model, because a TEI server has only one. If a Sluice server has several, the name is
read from the call's metadata.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, Protocol, TypeVar

from sluice.errors import InvalidRequest, Violation
from sluice.tei.v1 import tei_service_pb2 as pb

from services.compat.streams import in_order
from services.inference.bundle import Role
from services.inference.catalog import Catalog
from services.inference.loader import Model
from services.inference.scheduler import Lane, Schedule, Timings
from services.inference.settings import ModelServerSettings
from services.inference.tokenizer import Input, Truncation
from services.rpc.deadline import Deadline
from services.rpc.server.interceptor import Context
from services.rpc.validation import Violations, quote

MODEL_KEY: Final = "sluice-model"
PROMPTS: Final[dict[str, Role]] = {"query": "query", "document": "document", "passage": "document"}
_TRUNCATIONS: Final[dict[int, Truncation]] = {
    pb.TRUNCATION_DIRECTION_RIGHT: "end",
    pb.TRUNCATION_DIRECTION_LEFT: "start",
}

Request = TypeVar("Request")
Response = TypeVar("Response")
Timed = TypeVar("Timed", bound="HasTimings")


class HasTimings(Protocol):
    """A response with the timings of its request."""

    @property
    def metadata(self) -> pb.Metadata:
        """Timings and counts of the request."""


@dataclass(frozen=True)
class TeiBackend:
    """The models behind this API, and the limits of its calls."""

    catalog: Catalog
    settings: ModelServerSettings
    most_texts: int
    """Most texts of one Rerank."""

    def using(self, context: Context) -> AbstractContextManager[Model]:
        """Return the only model, or the one named in the call's metadata, for a block.

        Raises NotFound, InvalidRequest.
        """
        name = _metadata_value(context, MODEL_KEY)
        names = [model.name for model in self.catalog.models]
        if not name and len(names) > 1:
            description = f"expected one of {', '.join(names)} in the call's metadata, got none"
            raise InvalidRequest(f"{MODEL_KEY}: {description}", violations=[Violation(MODEL_KEY, description)])
        return self.catalog.using(name)

    def schedule(self, lane: Lane, context: Context) -> Schedule:
        """Return the lane and the deadline of the call's rows."""
        return Schedule(lane, Deadline.of(context, default_s=self.settings.max_deadline_s).at)

    def stream(
        self,
        requests: AsyncIterator[Request],
        answer: Callable[[Request, Context, Lane], Awaitable[Response]],
        context: Context,
    ) -> AsyncIterator[Response]:
        """Return the responses to a stream, in its order, computed in the bulk lane."""

        def bulk(request: Request) -> Awaitable[Response]:
            return answer(request, context, "bulk")

        return in_order(requests, bulk, context, idle_s=self.settings.max_deadline_s)

    async def unary(
        self, answer: Callable[[Request, Context, Lane], Awaitable[Timed]], request: Request, context: Context
    ) -> Timed:
        """Return the response to a single request, computed in the interactive lane. Send its timings as metadata."""
        with self.using(context) as model:
            response = await answer(request, context, "interactive")
            await context.send_initial_metadata(headers(response.metadata, model.session.execution_provider))
            return response

    def check_text(self, field: str, text: str, violations: Violations) -> None:
        """Add a violation if a text is empty or too long."""
        violations.text(field, text, max_bytes=self.settings.max_text_bytes)


def truncation_of(truncate: bool, direction: int, violations: Violations) -> Truncation:
    """Return the truncation of texts that are too long; add a violation for an unknown direction."""
    if direction not in _TRUNCATIONS:
        violations.add("truncation_direction", f"expected RIGHT or LEFT, got number {direction}")
    return _TRUNCATIONS.get(direction, "end") if truncate else "refuse"


def role_of(request: Any, violations: Violations) -> Role:
    """Return the role whose prompt is wanted, plain for none; add a violation for an unknown name."""
    if not request.HasField("prompt_name"):
        return "plain"
    if request.prompt_name not in PROMPTS:
        expected = ", ".join(PROMPTS)
        violations.add("prompt_name", f"expected one of {expected}, or none, got {quote(request.prompt_name)}")
    return PROMPTS.get(request.prompt_name, "plain")


def timings_metadata(texts: Iterable[str], rows: Iterable[Input], times: Timings, started: float) -> pb.Metadata:
    """Return the counts and timings of a response, from `started` on perf_counter until now."""
    return pb.Metadata(
        compute_chars=sum(map(len, texts)),
        compute_tokens=sum(len(row.ids) for row in rows),
        total_time_ns=_ns(perf_counter() - started),
        tokenization_time_ns=_ns(times.tokenize_s),
        queue_time_ns=_ns(times.queue_s),
        inference_time_ns=_ns(times.inference_s),
    )


def headers(metadata: pb.Metadata, execution_provider: str) -> tuple[tuple[str, str], ...]:
    """Return the counts and timings of a response as metadata of the call, in milliseconds."""
    return (
        ("x-compute-type", "cpu" if execution_provider == "CPUExecutionProvider" else "gpu+optimized"),
        ("x-compute-time", _ms(metadata.total_time_ns)),
        ("x-compute-characters", str(metadata.compute_chars)),
        ("x-compute-tokens", str(metadata.compute_tokens)),
        ("x-total-time", _ms(metadata.total_time_ns)),
        ("x-tokenization-time", _ms(metadata.tokenization_time_ns)),
        ("x-queue-time", _ms(metadata.queue_time_ns)),
        ("x-inference-time", _ms(metadata.inference_time_ns)),
    )


def _metadata_value(context: Context, key: str) -> str:
    """Return a value of the call's metadata; empty if there is none."""
    for name, value in context.invocation_metadata() or ():
        if name == key:
            return value.decode(errors="replace") if isinstance(value, bytes) else value
    return ""


def _ns(seconds: float) -> int:
    return max(0, int(seconds * 1e9))


def _ms(nanoseconds: int) -> str:
    return str(nanoseconds // 1_000_000)
