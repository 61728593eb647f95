"""Calls to Milvus: with the time that is left, and with our errors for Milvus's.

Facts about pymilvus 3.0: a call to a Milvus that is away is repeated until its `timeout` is over; without one it has no
deadline at all. Errors go to its log with their tracebacks, and with what was asked.
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

from services.retrieval.embedded.catalog import unknown
from services.retrieval.lanes import remaining_s
from services.retrieval.milvus.version import Version, parsed

logger = logging.getLogger(__name__)

R = TypeVar("R")

# A read sees every write that was acknowledged before it began, by whichever replica.
STRONG: Final = "Strong"

# Outside of a lane, which has a deadline: a scrape of the metrics, the start.
_OTHERWISE_S: Final = 2.0
# Longest wait for a connection, of the first caller alone: a Milvus that is there takes some ms.
_CONNECT_S: Final = 3.0
# A Milvus that restarts needs some seconds.
_RETRY_AFTER_S: Final = 1.0
# Longest pause between two attempts to connect to a Milvus that is away; gRPC would let it grow to two minutes.
_OPTIONS: Final = {"grpc.max_reconnect_backoff_ms": 1000, "grpc.min_reconnect_backoff_ms": 1000}
_NOT_FOUND: Final = 100
_INVALID: Final = frozenset({6, 1100})
# Not ready, too busy, out of quota; collections that are not loaded (yet); replicas, channels and nodes that are gone.
# Source: pkg/util/merr of Milvus 2.3 to 2.6.
_AWAY: Final = frozenset({2, 3, 4, 7, 8, 9, 101, 103, 104, 106, *range(400, 406), *range(500, 505), *range(901, 912)})
_AWAY_CODES: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        # Our longest wait is over, and not yet the caller's.
        grpc.StatusCode.DEADLINE_EXCEEDED,
    }
)
_TEXT_CHARACTERS: Final = 300


@dataclass(frozen=True)
class Address:
    """Where Milvus is, and how to be let in."""

    uri: str
    token: str
    database: str


class _Once(float):
    """Seconds that pymilvus takes to be over when it asks, after a failure, whether it may try again."""

    def __le__(self, _elapsed: float) -> bool:
        return True


class Connection:
    """One connection to Milvus, made when it is first needed. Any thread may use it."""

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._client: Any = None
        self._next_attempt = 0.0
        self._version: Version | None = None
        self._keys: dict[str, int] = {}
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

    def call(self, method: str, *given: Any, **named: Any) -> Any:
        """What the method of MilvusClient returns.

        Raises Unavailable when Milvus is away or busy, NotFound for a collection that is not there, InvalidRequest for
        what Milvus does not take, DeadlineExpired, and BackendFailed.
        """
        client = self._connected()
        timeout_s = min(remaining_s(otherwise=_OTHERWISE_S), self._timeout_s)
        return _told(lambda: getattr(client, method)(*given, timeout=_Once(timeout_s), **named))

    def call_slow(self, method: str, *given: Any, **named: Any) -> Any:
        """As `call`, with all the time that the caller has: for what pymilvus waits for, step by step."""
        client = self._connected()
        timeout_s = remaining_s(otherwise=_OTHERWISE_S)
        return _told(lambda: getattr(client, method)(*given, timeout=timeout_s, **named))

    @property
    def version(self) -> Version:
        """What Milvus it is. Raises what `call` raises."""
        if self._version is None:
            self._version = parsed(str(self.call("get_server_version")))
        return self._version

    def holds(self, place: str, key: int) -> None:
        """Tell which collection has that name now, so that the client forgets the fields of one that had it before."""
        if self._keys.get(place) != key:
            self._connected()._get_connection()._invalidate_schema(place, self._address.database)
            self._keys[place] = key

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                if monotonic() < self._next_attempt:
                    raise Unavailable("Milvus is away; try again", retry_after_s=_RETRY_AFTER_S)
                timeout_s = min(remaining_s(otherwise=_OTHERWISE_S), self._timeout_s, _CONNECT_S)
                try:
                    self._client = _told(lambda: self._connect(timeout_s))
                finally:
                    # Those who waited here do not wait for an attempt of their own.
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


def _told(work: Callable[[], R]) -> R:
    """What the work returns. Raises our error for Milvus's."""
    try:
        return work()
    except (MilvusException, grpc.RpcError) as error:
        raise _translated(error) from error


def _translated(error: Exception) -> SluiceError:
    """Our error for one of pymilvus; what is neither the caller's fault nor a Milvus that is away goes to the log."""
    code = error.code() if isinstance(error, grpc.RpcError) else getattr(error, "code", None)
    text = _first_line(error)
    if _is_over():
        return DeadlineExpired("the time was over before Milvus answered; it may have done what it was asked")
    if code == _NOT_FOUND:
        return unknown("the collection is not in Milvus", "")
    if _is_away(code, error):
        logger.info("milvus is away: %s", text)
        return Unavailable("Milvus is away or busy; try again", retry_after_s=_RETRY_AFTER_S)
    if code in _INVALID or getattr(error, "is_input_error", False):
        return InvalidRequest(f"Milvus does not take it: {text}")
    logger.error("milvus failed: code %s: %s", code, text)
    return BackendFailed(f"Milvus failed (code {code}); the server's log has its words")


def _is_over() -> bool:
    try:
        return remaining_s(otherwise=_OTHERWISE_S) <= 0
    except DeadlineExpired:
        return True


def _is_away(code: object, error: Exception) -> bool:
    if code in _AWAY or code in _AWAY_CODES or getattr(error, "retriable", False):
        return True
    # The client has no code of its own for a server that it did not reach, or lost.
    return "Fail connecting to server" in str(error) or "closed channel" in str(error)


def _first_line(error: Exception) -> str:
    text = error.details() if isinstance(error, grpc.Call) else getattr(error, "message", str(error))
    # What was wrong stands behind that the time is over, which it is not.
    return str(text).rpartition("message=")[2].partition("\n")[0][:_TEXT_CHARACTERS]
