"""Errors in the format of each API dialect.

| dialect | body |
|---|---|
| OpenAI | `{"error": {"message", "type", "param", "code"}}` |
| Cohere and Jina | `{"message", "detail"}` |
| TEI | `{"error", "error_type"}` |
| Sluice | `{"error": {"code", "reason", "message", "violations", "metadata"}}` |
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import InvalidRequest, QuotaExceeded, SluiceError, Unavailable, Violation
from starlette.responses import Response

from services.gateway.http.responses import json_response

_STATUSES: Final[Mapping[grpc.StatusCode, int]] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
# Statuses of TEI that differ.
_TEI_STATUSES: Final = {400: 422, 409: 424, 500: 424}
_TEI_TYPES: Final = {413: "Validation", 422: "Validation", 424: "Backend", 429: "Overloaded", 503: "Unhealthy"}
_TEI_PATHS: Final = ("/embed", "/embed_sparse", "/embed_all", "/rerank", "/tokenize", "/decode", "/info")
# Statuses after which the connection closes, because the rest of the body is not read.
_CLOSING: Final = (408, 413)
_OPENAI_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ClientDisconnected(Exception):
    """The client closed the connection before the response."""


class HttpError(InvalidRequest):
    """A rejected request with a status that no gRPC code maps to."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def http_status(error: SluiceError) -> int:
    """Return the HTTP status of an error in all dialects that define no other."""
    return error.status if isinstance(error, HttpError) else _STATUSES[error.code]


@dataclass(frozen=True)
class ErrorFormat:
    """The format of errors in an API dialect."""

    name: str
    """Name of the dialect."""
    body: Callable[[SluiceError, int], Any]
    """Function from an error and its HTTP status to the JSON."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Names of the dialect for fields of the gRPC requests; fields that are missing keep their names."""
    status: Callable[[SluiceError], int] = http_status
    """Function from an error to its HTTP status."""


def _openai(error: SluiceError, status: int) -> Any:
    kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    is_model = error.reason == ErrorReason.ERROR_REASON_UNKNOWN_MODEL
    code = "model_not_found" if is_model else error.reason_name.lower()
    violations = error.violations if isinstance(error, InvalidRequest) else ()
    param = violations[0].field if violations else "model" if is_model else None
    return {"error": {"message": error.message, "type": kind, "param": param, "code": code}}


def _cohere(error: SluiceError, status: int) -> Any:
    return {"message": error.message, "detail": error.message}


def _tei(error: SluiceError, status: int) -> Any:
    kind = _TEI_TYPES.get(status, "Validation" if status < 500 else "Backend")
    return {"error": error.message, "error_type": kind}


def _tei_status(error: SluiceError) -> int:
    if error.reason == ErrorReason.ERROR_REASON_OVERLOADED:
        return 429
    status = http_status(error)
    return _TEI_STATUSES.get(status, status)


def _sluice(error: SluiceError, status: int) -> Any:
    violations = error.violations if isinstance(error, InvalidRequest) else ()
    return {
        "error": {
            "code": error.code.name,
            "reason": error.reason_name,
            "message": error.message,
            "violations": [{"field": one.field, "description": one.description} for one in violations],
            "metadata": error.metadata,
        }
    }


OPENAI: Final = ErrorFormat("OpenAI", _openai, {"texts": "input"})
COHERE: Final = ErrorFormat(
    "Cohere and Jina", _cohere, {"top_k": "top_n", "dimensions": "output_dimension", "truncation": "truncate"}
)
TEI: Final = ErrorFormat("TEI", _tei, {"texts": "inputs", "documents": "texts"}, _tei_status)
SLUICE: Final = ErrorFormat("Sluice", _sluice)


def format_of(path: str) -> ErrorFormat:
    """Return the error format of a path."""
    if path.startswith(("/v2/", "/v1/rerank")):
        return COHERE
    if path.startswith("/v1/"):
        return OPENAI
    return TEI if path in _TEI_PATHS else SLUICE


def status_table() -> list[tuple[str, int, int]]:
    """Return the name of each gRPC status code, its HTTP status, and its HTTP status in the dialect of TEI."""
    return [(code.name, status, _TEI_STATUSES.get(status, status)) for code, status in _STATUSES.items()]


def error_response(error: SluiceError, path: str) -> Response:
    """Return the response to an error, in the format of the path."""
    error_format = format_of(path)
    translated = _in_dialect(error, error_format.names)
    status = error_format.status(translated)
    return json_response(error_format.body(translated, status), status=status, headers=_headers(error, status))


def _headers(error: SluiceError, status: int) -> dict[str, str]:
    if isinstance(error, (Unavailable, QuotaExceeded)) and error.retry_after_s is not None:
        # Retry-After has whole seconds. OpenAI's clients read `retry-after-ms` first.
        milliseconds = max(1, math.ceil(1000 * error.retry_after_s))
        return {"retry-after": str(math.ceil(milliseconds / 1000)), "retry-after-ms": str(milliseconds)}
    if status in _CLOSING:
        return {"connection": "close"}
    return {"www-authenticate": "Bearer"} if status == 401 else {}


def _in_dialect(error: SluiceError, names: Mapping[str, str]) -> SluiceError:
    """Return the error with the field names of the dialect."""
    if not isinstance(error, InvalidRequest) or not error.violations:
        return error
    return rename_fields(error, lambda field: _name(field, names))


def _name(field: str, names: Mapping[str, str]) -> str:
    head = field.partition("[")[0].partition(".")[0]
    return names.get(head, head) + field[len(head) :]


def rename_fields(error: InvalidRequest, rename: Callable[[str], str]) -> InvalidRequest:
    """Return the same error with other field names, in its message too."""
    violations = [Violation(rename(one.field), one.description) for one in error.violations]
    first, message = error.violations[0].field, error.message
    if message.startswith(first):
        message = violations[0].field + message[len(first) :]
    return InvalidRequest(message, violations=violations, metadata=error.metadata)
