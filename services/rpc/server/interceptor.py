"""The interceptor around every call: metrics, trace, log line, errors, authorization and deadline.

Order, outermost first: metrics, trace, log, errors, authorization, deadline, handler.

Facts: grpc.aio sends the text of an uncaught exception to the caller, so errors are turned into statuses here. A
handler whose call was cancelled gets CancelledError, which must propagate. `context.abort` is not used: gRPC keeps the
exception that it raises, and with its traceback the call and the request, until the garbage collector runs.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter
from typing import Any, Final, TypeAlias

import grpc
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import BackendFailed, DeadlineExpired, InvalidRequest, QuotaExceeded, SluiceError, to_status

from services.rpc.auth.authorizer import Authorizer, Charge, kind_of
from services.rpc.auth.tokens import Kind, Token
from services.rpc.observability import traces
from services.rpc.observability.logs import begin_call
from services.rpc.observability.metrics import HANDLED, HANDLING, IN_FLIGHT
from services.rpc.request_streams import discard_rest
from services.rpc.server.open_calls import OpenCalls
from services.rpc.server.requests import read_all, read_one
from services.rpc.server.status_overrides import code_of

logger = logging.getLogger(__name__)

HEALTH: Final = "/grpc.health."
REFLECTION: Final = "/grpc.reflection."
OPEN: Final = (HEALTH, REFLECTION)
WATCH: Final = "/grpc.health.v1.Health/Watch"
# Most rejected streams whose rest is being discarded. Further ones end immediately, so that rejections stay cheap.
_MOST_DISCARDING: Final = 64
# Under overload there are thousands of them, so they are counted by a metric and not logged.
_UNLOGGED: Final = frozenset({ErrorReason.ERROR_REASON_OVERLOADED, ErrorReason.ERROR_REASON_QUOTA_EXCEEDED})

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler.

    max_deadline_s  longest time of calls with one response, from their headers on; streams limit themselves
    max_calls       concurrent calls, without those of health and reflection
    open_calls      admits the calls of health and reflection
    authorizer      authorizes callers; None admits every caller
    guarded         prefixes of the health and reflection methods that need a token too
    reads           methods that change nothing although their protos do not say so
    """

    def __init__(
        self,
        *,
        max_deadline_s: float,
        max_calls: int,
        open_calls: OpenCalls,
        authorizer: Authorizer | None = None,
        guarded: tuple[str, ...] = (),
        reads: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self._max_deadline_s = max_deadline_s
        self._max_calls = max_calls
        self._open_calls = open_calls
        self._authorizer = authorizer
        self._guarded = guarded
        self._reads = reads
        self._running = 0
        self._discarding = 0

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return the wrapped handler of a call; None if there is no such method.

        A call that is not authorized is rejected here, before its request is read.
        """
        handler = await continuation(handler_call_details)
        method, metadata = handler_call_details.method, handler_call_details.invocation_metadata or ()
        if handler is None:
            return None
        try:
            if method.startswith(OPEN):
                if self._authorizer and method.startswith(self._guarded):
                    self._authorizer.identify(metadata)
                return self._wrap_open(handler, method)
            token = self._authorizer.enter(metadata, method, self._kind(method)) if self._authorizer else None
        except SluiceError as error:
            return self._reject(method, error, is_stream=handler.request_streaming)
        return self._wrap(handler, method, token)

    def _wrap(self, handler: Handler, method: str, token: Token | None) -> Handler:
        if handler.response_streaming:
            return self._wrap_response_stream(handler, method, token)
        if handler.request_streaming:
            return self._wrap_request_stream(handler, method, token)
        return self._wrap_unary(handler, method, token)

    def _kind(self, method: str) -> Kind:
        return "read" if method in self._reads() else kind_of(method)

    def _wrap_unary(self, handler: Handler, method: str, token: Token | None) -> Handler:
        """Wrap a handler of one request.

        It is served as a stream, so that a message that is missing or malformed is rejected in the handler like any
        other invalid request.
        """
        inner: Any = handler.unary_unary

        async def call(_: AsyncIterator[bytes], context: Context) -> Any:
            async with observe_call(method, context):
                with self._count_call(), self._refund_if_invalid(token) as charge:
                    try:
                        async with asyncio.timeout(self._max_deadline_s):
                            request = await read_one(context, handler.request_deserializer)
                            if self._authorizer and token:
                                charge.texts = self._authorizer.check(token, request)
                            return self._redact(token, await inner(request, context))
                    except TimeoutError:
                        raise DeadlineExpired(
                            f"the call took longer than the server's limit of {self._max_deadline_s:g} s"
                        ) from None

        return grpc.stream_unary_rpc_method_handler(call, None, handler.response_serializer)

    def _wrap_request_stream(self, handler: Handler, method: str, token: Token | None) -> Handler:
        inner: Any = handler.stream_unary

        async def call(raw: AsyncIterator[bytes], context: Context) -> Any:
            async with observe_call(method, context):
                with self._count_call(), self._refund_if_invalid(token) as charge:
                    requests = self._throttle(token, read_all(context, handler.request_deserializer), charge)
                    return self._redact(token, await inner(requests, context))

        return grpc.stream_unary_rpc_method_handler(call, None, handler.response_serializer)

    def _wrap_response_stream(self, handler: Handler, method: str, token: Token | None) -> Handler:
        inner: Any = handler.stream_stream

        async def call(raw: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            async with observe_call(method, context):
                with self._count_call(), self._refund_if_invalid(token) as charge:
                    requests = self._throttle(token, read_all(context, handler.request_deserializer), charge)
                    async for response in inner(requests, context):
                        yield self._redact(token, response)

        return grpc.stream_stream_rpc_method_handler(call, None, handler.response_serializer)

    def _wrap_open(self, wrapped: Handler, method: str) -> Handler:
        """Wrap a handler of health or reflection.

        It writes its responses itself, so that its time limit also applies while a response is written.
        """
        handler: Any = wrapped

        async def call(raw: AsyncIterator[bytes], context: Context) -> None:
            admission = self._open_calls.admit(context, is_watch=method == WATCH)
            async with observe_call(method, context), admission as open_call:
                if handler.request_streaming:
                    responses = handler.stream_stream(read_all(context, handler.request_deserializer), context)
                else:
                    request = await read_one(context, handler.request_deserializer)
                    if not handler.response_streaming:
                        await open_call.write(await handler.unary_unary(request, context))
                        return
                    open_call.lengthen()
                    responses = handler.unary_stream(request, context)
                async for response in responses:
                    await open_call.write(response)

        return grpc.stream_stream_rpc_method_handler(call, None, handler.response_serializer)

    def _reject(self, method: str, error: SluiceError, *, is_stream: bool) -> Handler:
        """Return a handler that responds with an error and decodes nothing of the request."""

        async def call(raw: AsyncIterator[bytes], context: Context) -> None:
            async with observe_call(method, context):
                if is_stream and self._discarding < _MOST_DISCARDING:
                    self._discarding += 1
                    try:
                        await discard_rest(raw)
                    finally:
                        self._discarding -= 1
                raise error

        return grpc.stream_stream_rpc_method_handler(call)

    def _throttle(self, token: Token | None, requests: AsyncIterator[Any], charge: Charge) -> AsyncIterator[Any]:
        """Return the messages of a stream that its caller is authorized to send."""
        return self._authorizer.throttle(token, requests, charge) if self._authorizer and token else requests

    def _redact(self, token: Token | None, response: Any) -> Any:
        """Return the response without the entries that the caller is not allowed to see."""
        if self._authorizer and token:
            self._authorizer.redact(token, response)
        return response

    @contextmanager
    def _count_call(self) -> Iterator[None]:
        """Count a call as running in the block. Raises QuotaExceeded if too many run."""
        if self._running >= self._max_calls:
            raise QuotaExceeded(
                f"expected at most {self._max_calls:,} concurrent calls on this server; try again later"
            )
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    @contextmanager
    def _refund_if_invalid(self, token: Token | None) -> Iterator[Charge]:
        """Refund the texts that an invalid request was charged; for a stream, those of its last message."""
        charge = Charge()
        try:
            yield charge
        except InvalidRequest:
            if self._authorizer and token:
                self._authorizer.refund(token, charge.texts)
            raise


@asynccontextmanager
async def observe_call(method: str, context: Context) -> AsyncIterator[None]:
    """Turn an exception of the block into a status. Trace, count and time the call, and log it if it failed."""
    started = perf_counter()
    code = grpc.StatusCode.OK
    with _record_call(method, context, lambda: code) as request_id:
        try:
            yield
        except SluiceError as error:
            code = code_of(error, method.removeprefix("/"))
            _log(method, error, started)
            _end(context, error, code)
            _drop_tracebacks(error)
        except (asyncio.CancelledError, GeneratorExit):
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as defect:
            code = grpc.StatusCode.INTERNAL
            logger.exception("call failed because of a defect", extra={"method": method, "request_id": request_id})
            _end(context, _defect(request_id), code)
            _drop_tracebacks(defect)


@contextmanager
def _record_call(method: str, context: Context, code: Callable[[], grpc.StatusCode]) -> Iterator[str]:
    """Yield the id of the call. Trace, count and time the block, which ends with the status code `code()`."""
    service, name = method.removeprefix("/").split("/", 1)
    metadata = context.invocation_metadata() or ()
    span = traces.none() if method.startswith(OPEN) else traces.start_server_span(method, metadata)
    started = perf_counter()
    IN_FLIGHT.labels(service).inc()
    try:
        yield begin_call(metadata, traces.trace_id())
    finally:
        ended = code()
        if ended is not grpc.StatusCode.OK:
            span.fail(ended.name)
        span.end()
        IN_FLIGHT.labels(service).dec()
        HANDLED.labels(service, name, ended.name).inc()
        HANDLING.labels(service, name).observe(perf_counter() - started)


def _defect(request_id: str) -> BackendFailed:
    reason = ErrorReason.ERROR_REASON_DEFECT
    return BackendFailed("internal error", reason=reason, metadata={"request_id": request_id})


def _log(method: str, error: SluiceError, started: float) -> None:
    duration_ms = round(1000 * (perf_counter() - started), 1)
    fields = {"method": method, "code": error.code.name, "reason": error.reason_name, "duration_ms": duration_ms}
    level = logging.DEBUG if error.reason in _UNLOGGED else logging.INFO
    logger.log(level, "call failed: %s", error.message, extra=fields)


def _end(context: Context, error: SluiceError, code: grpc.StatusCode) -> None:
    """Set the status with which the call ends once its handler returns."""
    status = to_status(error)
    status.code = int(code.value[0])
    context.set_code(code)
    context.set_details(status.message)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))


def _drop_tracebacks(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and its causes, because their frames keep the request in memory."""
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__context__
