"""The base of all clients: a channel, and calls with retries that raise the errors of `sluice.errors`."""

import asyncio
import random
import time
from types import TracebackType
from typing import Final, Self, TypeVar

import grpc
from google.protobuf.message import Message

from sluice.client.credentials import bearer, with_trace
from sluice.client.retry import Attempts, RetryPolicy, Throttle
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import Cancelled, DeadlineExpired, Unavailable, from_rpc_error

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

DEFAULT_TIMEOUT_S: Final = 10.0
# For calls that take longer the more data there is.
LONG_TIMEOUT_S: Final = 3600.0
_MAX_MESSAGE_BYTES: Final = 16 * 2**20
# gRPC's own retries are off, because those of the client follow RetryInfo and the timeout of the call.
# Servers treat a keepalive more often than once a minute as abuse when a stream is quiet.
_OPTIONS: Final = (
    ("grpc.enable_retries", 0),
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A name is resolved again when a connection ends. With gRPC's default of 30 s, new replicas would get no calls for
    # that long.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
)


class Client:
    """A connection to one service, and the base of all sync clients. Threads can share a client.

    address      HOST:PORT, unix:PATH, or dns:///NAME:PORT for several replicas, which then take turns
    timeout_s    timeout of a call that is given none, in seconds, retries included
    retry        when and how often UNAVAILABLE is retried
    credentials  of a TLS channel, made by `tls_credentials`; None connects in plain text
    token        bearer token, sent with every call; over a network, use it only together with credentials
    """

    # Generated from AsyncClient by protos/unasync.py; do not edit.

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._retry = retry or RetryPolicy()
        self._throttle = Throttle()
        self._bearer = bearer(token)
        self._channel = (
            grpc.secure_channel(address, credentials, options=_OPTIONS)
            if credentials
            else grpc.insecure_channel(address, options=_OPTIONS)
        )

    def close(self) -> None:
        """Close the connection and cancel the calls on it."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self, method: "grpc.UnaryUnaryMultiCallable[Request, Response]", request: Request, timeout_s: float | None
    ) -> Response:
        """Call a method and return its response. Raises SluiceError."""
        deadline = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        attempts = Attempts(self._retry, self._throttle, deadline=deadline)
        while True:
            try:
                response = method(
                    request, timeout=attempts.remaining_s(time.monotonic()), metadata=with_trace(self._bearer)
                )
            except grpc.RpcError as error:
                time.sleep(wait_s(attempts, error))
            else:
                attempts.succeeded()
                return response

    def _call_joined(
        self, method: "grpc.UnaryUnaryMultiCallable[Request, Response]", request: Request, timeout_s: float | None
    ) -> Response:
        """Call a method whose work goes on after the deadline, and return its response.

        A call that is sent again joins the work in progress. Because servers limit the time of a call, it is sent again
        until `timeout_s` has passed, by default LONG_TIMEOUT_S. Raises SluiceError.
        """
        deadline = time.monotonic() + (LONG_TIMEOUT_S if timeout_s is None else timeout_s)
        while True:
            try:
                return self._call(method, request, max(0.001, deadline - time.monotonic()))
            except DeadlineExpired:
                if time.monotonic() >= deadline:
                    raise

    # End of the generated code.


class AsyncClient:
    """A connection to one service, and the base of all async clients. Its parameters are those of `Client`."""

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._retry = retry or RetryPolicy()
        self._throttle = Throttle()
        self._bearer = bearer(token)
        self._channel = (
            grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
            if credentials
            else grpc.aio.insecure_channel(address, options=_OPTIONS)
        )

    async def close(self) -> None:
        """Close the connection and cancel the calls on it."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]", request: Request, timeout_s: float | None
    ) -> Response:
        """Call a method and return its response. Raises SluiceError."""
        deadline = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        attempts = Attempts(self._retry, self._throttle, deadline=deadline)
        while True:
            try:
                response = await method(
                    request, timeout=attempts.remaining_s(time.monotonic()), metadata=with_trace(self._bearer)
                )
            except grpc.RpcError as error:
                await asyncio.sleep(wait_s(attempts, error))
            else:
                attempts.succeeded()
                return response

    async def _call_joined(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]", request: Request, timeout_s: float | None
    ) -> Response:
        """Call a method whose work goes on after the deadline, and return its response.

        A call that is sent again joins the work in progress. Because servers limit the time of a call, it is sent again
        until `timeout_s` has passed, by default LONG_TIMEOUT_S. Raises SluiceError.
        """
        deadline = time.monotonic() + (LONG_TIMEOUT_S if timeout_s is None else timeout_s)
        while True:
            try:
                return await self._call(method, request, max(0.001, deadline - time.monotonic()))
            except DeadlineExpired:
                if time.monotonic() >= deadline:
                    raise


def wait_s(attempts: Attempts, error: grpc.RpcError) -> float:
    """Return the seconds to wait before the next attempt. Raises the SluiceError if there must be none.

    CANCELLED is retried as UNAVAILABLE: a server that stops may end a new call this way. Calls that the caller cancels
    do not reach this function.
    """
    failure = from_rpc_error(error)
    if isinstance(failure, Cancelled):
        failure = Unavailable("cancelled by the server", reason=ErrorReason.ERROR_REASON_DRAINING)
    return attempts.failed(failure, now=time.monotonic(), jitter=random.random())  # noqa: S311
