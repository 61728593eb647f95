"""What surrounds every call: deadline, errors, log line, metrics.

Order, outermost first: metrics, log, errors, deadline, handler.

Facts: without the error part grpc.aio sends the text of an uncaught exception to the caller; `context.abort` raises
AbortError, an Exception, which must pass; a handler whose call was cancelled gets CancelledError, which must pass.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, Final, NoReturn, TypeAlias

import grpc
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import BackendFailed, DeadlineExpired, SluiceError, to_status

from services.rpc.dialects import code_of
from services.rpc.metrics import HANDLED, HANDLING, IN_FLIGHT

logger = logging.getLogger(__name__)

_EXEMPT: Final = ("/grpc.health.", "/grpc.reflection.")
_QUIET: Final = frozenset({grpc.StatusCode.OK, grpc.StatusCode.CANCELLED})

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler but those of health and reflection.

    `max_deadline_s` bounds calls with one response; streams bound themselves.
    """

    def __init__(self, *, max_deadline_s: float) -> None:
        self._max_deadline_s = max_deadline_s

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """The wrapped handler of a call; None when there is no such method."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(_EXEMPT):
            return handler
        if handler.response_streaming:
            return self._streaming(handler, method)
        if handler.request_streaming:
            return self._collecting(handler, method)
        return self._unary(handler, method)

    def _unary(self, handler: Handler, method: str) -> Handler:
        inner: Any = handler.unary_unary

        async def call(request: Any, context: Context) -> Any:
            async with watched(method, context):
                try:
                    async with asyncio.timeout(self._max_deadline_s):
                        return await inner(request, context)
                except TimeoutError:
                    raise DeadlineExpired(
                        f"took longer than the server's limit of {self._max_deadline_s:g} s"
                    ) from None

        return grpc.unary_unary_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)

    def _collecting(self, handler: Handler, method: str) -> Handler:
        inner: Any = handler.stream_unary

        async def call(requests: AsyncIterator[Any], context: Context) -> Any:
            async with watched(method, context):
                return await inner(requests, context)

        return grpc.stream_unary_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)

    def _streaming(self, handler: Handler, method: str) -> Handler:
        inner: Any = handler.stream_stream

        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            async with watched(method, context):
                async for response in inner(request, context):
                    yield response

        return grpc.stream_stream_rpc_method_handler(call, handler.request_deserializer, handler.response_serializer)


@asynccontextmanager
async def watched(method: str, context: Context) -> AsyncIterator[None]:
    """Turn what the block raises into a status, count it, time it, and log it when it failed."""
    service, name = method.removeprefix("/").split("/", 1)
    started = perf_counter()
    code = grpc.StatusCode.OK
    IN_FLIGHT.labels(service).inc()
    try:
        yield
    except SluiceError as error:
        code = code_of(error, service)
        _log(method, error, started)
        await _abort(context, error, code)
    except (asyncio.CancelledError, GeneratorExit):
        code = grpc.StatusCode.CANCELLED
        raise
    except grpc.aio.AbortError:
        code = grpc.StatusCode.ABORTED
        raise
    except Exception:
        code = grpc.StatusCode.INTERNAL
        request_id = secrets.token_hex(8)
        logger.exception("defect", extra={"method": method, "request_id": request_id})
        await _abort(context, _defect(request_id), code)
    finally:
        IN_FLIGHT.labels(service).dec()
        HANDLED.labels(service, name, code.name).inc()
        HANDLING.labels(service, name).observe(perf_counter() - started)


def _defect(request_id: str) -> BackendFailed:
    reason = ErrorReason.ERROR_REASON_DEFECT
    return BackendFailed("internal error", reason=reason, metadata={"request_id": request_id})


def _log(method: str, error: SluiceError, started: float) -> None:
    duration_ms = round(1000 * (perf_counter() - started), 1)
    fields = {"method": method, "code": error.code.name, "reason": error.reason_name, "duration_ms": duration_ms}
    # Refusals come by the thousand just when the machine has no time for them; a metric counts them.
    level = logging.DEBUG if error.reason == ErrorReason.ERROR_REASON_OVERLOADED else logging.INFO
    logger.log(level, "call failed: %s", error.message, extra=fields)


async def _abort(context: Context, error: SluiceError, code: grpc.StatusCode) -> NoReturn:
    status = to_status(error)
    status.code = int(code.value[0])
    details = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(code, status.message, trailing_metadata=details)
