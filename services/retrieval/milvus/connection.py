"""Calls to Milvus within the caller's deadline, with errors of Sluice.

Facts about pymilvus 3.0: a call to an unreachable Milvus is repeated until its `timeout` ends, and without one it has
no deadline. Its log contains errors with tracebacks and with the content of requests.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, TypeVar

import grpc
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException
from sluice.errors import BackendFailed, DeadlineExpired, InvalidRequest, SluiceError, Unavailable

from services.retrieval.domain.errors import unknown_collection
from services.retrieval.lanes import remaining_s
from services.retrieval.milvus.version import MilvusVersion, parse_version

logger = logging.getLogger(__name__)

R = TypeVar("R")

# A read sees every write that any replica acknowledged before the read started.
STRONG: Final = "Strong"

# Timeout outside of a lane, where there is no deadline: at start, and when metrics are scraped.
_DEFAULT_S: Final = 2.0
# Longest wait for a connection. Only the first caller waits; a reachable Milvus takes a few ms.
_CONNECT_S: Final = 3.0
# A restart of Milvus takes a few seconds.
_RETRY_AFTER_S: Final = 1.0
# Longest pause between two attempts to connect. The default of gRPC is two minutes.
_OPTIONS: Final = {"grpc.max_reconnect_backoff_ms": 1000, "grpc.min_reconnect_backoff_ms": 1000}
_NOT_FOUND: Final = 100
_INVALID: Final = frozenset({6, 1100})
# Not ready, too busy, out of quota; collections that are not loaded; missing replicas, channels and nodes.
# Source: pkg/util/merr of Milvus 2.3 to 2.6.
_UNAVAILABLE: Final = frozenset(
    {2, 3, 4, 7, 8, 9, 101, 103, 104, 106, *range(400, 406), *range(500, 505), *range(901, 912)}
)
_UNAVAILABLE_STATUS: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        # The timeout of this call has passed, but not the caller's deadline.
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
_TEXT_CHARACTERS: Final = 300


@dataclass(frozen=True)
class Address:
    """The address, credentials and database of Milvus."""

    uri: str
    token: str
    database: str


class _NoRetry(float):
    """A timeout in seconds that pymilvus considers expired after the first failure, so that it does not retry."""

    def __le__(self, _elapsed: float) -> bool:
        return True


class Connection:
    """One connection to Milvus, opened on first use. Any thread may use it."""

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._client: Any = None
        self._next_attempt = 0.0
        self._version: MilvusVersion | None = None
        self._keys: dict[str, int] = {}
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

    def call(self, method: str, *given: Any, **named: Any) -> Any:
        """Call a method of MilvusClient.

        Raises Unavailable if Milvus is unreachable or busy, NotFound for an unknown collection, InvalidRequest for what
        Milvus rejects, DeadlineExpired, and BackendFailed.
        """
        client = self._open_client()
        timeout_s = min(remaining_s(otherwise=_DEFAULT_S), self._timeout_s)
        return _translate_errors(lambda: getattr(client, method)(*given, timeout=_NoRetry(timeout_s), **named))

    def call_slow(self, method: str, *given: Any, **named: Any) -> Any:
        """Call a method that waits in several steps, with all the time of the caller. Raises as `call`."""
        client = self._open_client()
        timeout_s = remaining_s(otherwise=_DEFAULT_S)
        return _translate_errors(lambda: getattr(client, method)(*given, timeout=timeout_s, **named))

    @property
    def version(self) -> MilvusVersion:
        """The version of Milvus. Raises as `call`."""
        if self._version is None:
            self._version = parse_version(str(self.call("get_server_version")))
        return self._version

    def refresh_schema(self, milvus_name: str, key: int) -> None:
        """Drop the client's cached schema of a name if another collection had the name before."""
        if self._keys.get(milvus_name) != key:
            self._open_client()._get_connection()._invalidate_schema(milvus_name, self._address.database)
            self._keys[milvus_name] = key

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _open_client(self) -> Any:
        with self._lock:
            if self._client is None:
                if monotonic() < self._next_attempt:
                    raise Unavailable("Milvus is unreachable; try again", retry_after_s=_RETRY_AFTER_S)
                timeout_s = min(remaining_s(otherwise=_DEFAULT_S), self._timeout_s, _CONNECT_S)
                try:
                    self._client = _translate_errors(lambda: self._connect(timeout_s))
                finally:
                    # Callers that waited for the lock fail at once instead of making another attempt.
                    self._next_attempt = monotonic() + _RETRY_AFTER_S
            return self._client

    def _connect(self, timeout_s: float) -> MilvusClient:
        return MilvusClient(
            uri=self._address.uri,
            token=self._address.token,
            db_name=self._address.database,
            timeout=timeout_s,
            dedicated=True,
            grpc_options=_OPTIONS,
        )


def _translate_errors(work: Callable[[], R]) -> R:
    """Run the work, and raise errors of Milvus as errors of Sluice."""
    try:
        return work()
    except (MilvusException, grpc.RpcError) as error:
        raise _translate(error) from error


def _translate(error: Exception) -> SluiceError:
    """Return the error of Sluice for one of pymilvus. Failures inside Milvus are logged."""
    code = error.code() if isinstance(error, grpc.RpcError) else getattr(error, "code", None)
    text = _first_line(error)
    if _is_over():
        return DeadlineExpired("the deadline passed before Milvus responded; the operation may have taken effect")
    if code == _NOT_FOUND:
        return unknown_collection("the collection is not in Milvus", "")
    if _is_unavailable(code, error):
        logger.info("milvus unavailable: %s", text)
        return Unavailable("Milvus is unreachable or busy; try again", retry_after_s=_RETRY_AFTER_S)
    if code in _INVALID or getattr(error, "is_input_error", False):
        return InvalidRequest(f"Milvus rejected the request: {text}")
    logger.error("milvus failed: code %s: %s", code, text)
    return BackendFailed(f"Milvus failed (code {code}); see the log of the retrieval server")


def _is_over() -> bool:
    try:
        return remaining_s(otherwise=_DEFAULT_S) <= 0
    except DeadlineExpired:
        return True


def _is_unavailable(code: object, error: Exception) -> bool:
    if code in _UNAVAILABLE or code in _UNAVAILABLE_STATUS or getattr(error, "retriable", False):
        return True
    # pymilvus has no error code for an unreachable server or a lost connection.
    return "Fail connecting to server" in str(error) or "closed channel" in str(error)


def _first_line(error: Exception) -> str:
    text = error.details() if isinstance(error, grpc.Call) else getattr(error, "message", str(error))
    # The message starts with a timeout that did not happen; the cause follows.
    return str(text).rpartition("message=")[2].partition("\n")[0][:_TEXT_CHARACTERS]
