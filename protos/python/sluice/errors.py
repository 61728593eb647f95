"""The errors of Sluice. A client receives the same class that the server raised.

    SluiceError                  the base class, never raised itself
    ├── InvalidRequest           INVALID_ARGUMENT     the request breaks a rule; change it
    ├── NotFound                 NOT_FOUND            no such model, collection or pipeline
    ├── AlreadyExists            ALREADY_EXISTS       the name is taken by something different
    ├── PreconditionFailed       FAILED_PRECONDITION  the state of the system does not allow the request
    ├── Unavailable              UNAVAILABLE          nothing was done; try again, or another replica
    ├── QuotaExceeded            RESOURCE_EXHAUSTED   a quota or size limit; wait `retry_after_s` if it is set
    ├── Unauthenticated          UNAUTHENTICATED      missing or invalid credentials
    ├── PermissionDenied         PERMISSION_DENIED    credentials without this permission
    ├── DeadlineExpired          DEADLINE_EXCEEDED    the deadline of the call has passed
    ├── Cancelled                CANCELLED            the caller cancelled the call or disconnected
    └── BackendFailed            INTERNAL             the server failed; see its log

Rule: the class determines the status code, and `reason` the case. Code raises these classes. Only `to_status` and
`from_rpc_error` convert from and to gRPC. A status without Sluice's ErrorInfo, as from gRPC itself, is converted by its
code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from sluice.common.v1.error_reason_pb2 import ErrorReason

DOMAIN: Final = "sluice"
_PREFIX: Final = "ERROR_REASON_"
# Message of grpc.aio if a stream ends during a write of the client. The status of the server is lost.
_ENDED_DURING_WRITE: Final = "Internal error from Core"
# Together below the 8 KiB of metadata that gRPC allows: the message is sent twice, percent-encoded and in base64, and
# the rest once, in base64.
_TEXT_BYTES: Final = 700
_VIOLATIONS_BYTES: Final = 2048
# A year. google.protobuf.Duration is limited to about 10,000.
_LONGEST_DELAY_S: Final = 365 * 86_400.0


@dataclass(frozen=True)
class Violation:
    """A field of a request that breaks a rule. `field` is its path, for example `texts[3]`."""

    field: str
    description: str


class SluiceError(Exception):
    """A failure with a status code, a reason and machine-readable metadata.

    message   what failed, the value that was expected, and the value that was given
    reason    the case; by default that of the class
    metadata  the numbers of the message, as text (AIP-193)
    """

    code: ClassVar[grpc.StatusCode]
    default_reason: ClassVar[ErrorReason.ValueType] = ErrorReason.ERROR_REASON_UNSPECIFIED

    def __init__(
        self,
        message: str,
        *,
        reason: ErrorReason.ValueType | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = self.default_reason if reason is None else reason
        self.metadata = {key: str(value) for key, value in (metadata or {}).items()}

    @property
    def reason_name(self) -> str:
        """Name of the reason, for example `OVERLOADED`, or of the status code if there is no reason."""
        if self.reason == ErrorReason.ERROR_REASON_UNSPECIFIED:
            return self.code.name
        return ErrorReason.Name(self.reason).removeprefix(_PREFIX)


class InvalidRequest(SluiceError):
    """A request that breaks a rule. `violations` has every field that does."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = ErrorReason.ERROR_REASON_INVALID_REQUEST

    def __init__(
        self,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message, metadata=metadata)
        self.violations = tuple(violations)


class NotFound(SluiceError):
    """An unknown model, collection or pipeline; `reason` says which of these."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(SluiceError):
    """A name that is taken by something different."""

    code = grpc.StatusCode.ALREADY_EXISTS
    default_reason = ErrorReason.ERROR_REASON_COLLECTION_EXISTS


class PreconditionFailed(SluiceError):
    """A state of the system that does not allow the request. A retry fails again."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Unavailable(SluiceError):
    """A failure before anything was done. Try again after `retry_after_s` seconds, or at another replica."""

    code = grpc.StatusCode.UNAVAILABLE
    default_reason = ErrorReason.ERROR_REASON_NOT_READY

    def __init__(
        self,
        message: str,
        *,
        reason: ErrorReason.ValueType | None = None,
        metadata: Mapping[str, object] | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_after_s = retry_after_s


class QuotaExceeded(SluiceError):
    """An exceeded quota, or a message over the size limit of gRPC.

    subject        owner of the quota, for example `token:search-page`; empty if it is not that of a caller
    retry_after_s  seconds until the quota allows the request; None if a retry does not help
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = ErrorReason.ERROR_REASON_QUOTA_EXCEEDED

    def __init__(
        self,
        message: str,
        *,
        reason: ErrorReason.ValueType | None = None,
        metadata: Mapping[str, object] | None = None,
        retry_after_s: float | None = None,
        subject: str = "",
    ) -> None:
        super().__init__(message, reason=reason, metadata=metadata)
        self.retry_after_s = retry_after_s
        self.subject = subject


class Unauthenticated(SluiceError):
    """Missing or invalid credentials."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(SluiceError):
    """Credentials without the permission for this request."""

    code = grpc.StatusCode.PERMISSION_DENIED


class DeadlineExpired(SluiceError):
    """A deadline that has passed."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = ErrorReason.ERROR_REASON_DEADLINE_EXPIRED


class Cancelled(SluiceError):
    """A call that the caller cancelled, or whose caller disconnected."""

    code = grpc.StatusCode.CANCELLED


class BackendFailed(SluiceError):
    """A failure of the server: in a model, in an index, or by a bug."""

    code = grpc.StatusCode.INTERNAL
    default_reason = ErrorReason.ERROR_REASON_BACKEND_FAILED


_CLASSES: Final[dict[grpc.StatusCode, type[SluiceError]]] = {
    cls.code: cls
    for cls in (
        InvalidRequest,
        NotFound,
        AlreadyExists,
        PreconditionFailed,
        Unavailable,
        QuotaExceeded,
        Unauthenticated,
        PermissionDenied,
        DeadlineExpired,
        Cancelled,
        BackendFailed,
    )
}
_CODE_NUMBERS: Final = {code: int(code.value[0]) for code in grpc.StatusCode}


def to_status(error: SluiceError) -> status_pb2.Status:
    """Return the google.rpc.Status of an error: ErrorInfo, and BadRequest, QuotaFailure and RetryInfo where they apply.

    A status is sent as metadata, which gRPC rejects above 8 KiB. Therefore long texts are cut, and violations beyond
    2,048 bytes are left out.
    """
    metadata = {key: _cut(value) for key, value in error.metadata.items()}
    info = error_details_pb2.ErrorInfo(reason=error.reason_name, domain=DOMAIN, metadata=metadata)
    status = status_pb2.Status(code=_CODE_NUMBERS[error.code], message=_cut(error.message), details=[_pack(info)])
    if isinstance(error, InvalidRequest) and error.violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in _first_violations(error.violations)
        ]
        status.details.append(_pack(error_details_pb2.BadRequest(field_violations=fields)))
    if isinstance(error, QuotaExceeded) and error.subject:
        violation = error_details_pb2.QuotaFailure.Violation(subject=error.subject, description=_cut(error.message))
        status.details.append(_pack(error_details_pb2.QuotaFailure(violations=[violation])))
    if isinstance(error, Unavailable | QuotaExceeded) and error.retry_after_s is not None:
        delay = duration_pb2.Duration(nanos=0)
        delay.FromNanoseconds(int(min(error.retry_after_s, _LONGEST_DELAY_S) * 1e9))
        status.details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status


def from_rpc_error(error: grpc.RpcError) -> SluiceError:
    """Return the error that the server raised. Unknown status codes become BackendFailed."""
    code, message = _code_and_message(error)
    status = _rich_status(error)
    return from_status(status or status_pb2.Status(code=_CODE_NUMBERS[code], message=message))


def from_status(status: status_pb2.Status) -> SluiceError:
    """Return the error from which `to_status` made the status, or the nearest one for a status of gRPC itself."""
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    quota = error_details_pb2.QuotaFailure()
    for detail in status.details:
        for message in (info, bad_request, retry, quota):
            if detail.Is(message.DESCRIPTOR):
                detail.Unpack(message)
    reason = _reason(info)
    cls = _class_of(status.code)
    if cls is InvalidRequest:
        violations = [Violation(v.field, v.description) for v in bad_request.field_violations]
        return InvalidRequest(status.message, violations=violations, metadata=info.metadata)
    delay_s = retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None
    if cls is Unavailable:
        return Unavailable(status.message, reason=reason, metadata=info.metadata, retry_after_s=delay_s)
    if cls is QuotaExceeded:
        subject = next((one.subject for one in quota.violations), "")
        return QuotaExceeded(
            status.message, reason=reason, metadata=info.metadata, retry_after_s=delay_s, subject=subject
        )
    return cls(status.message, reason=reason, metadata=info.metadata)


def _cut(text: str) -> str:
    """Return the text, cut if it is too long for metadata."""
    encoded = text.encode()
    return text if len(encoded) <= _TEXT_BYTES else encoded[: _TEXT_BYTES - 3].decode(errors="ignore") + "..."


def _first_violations(violations: Sequence[Violation]) -> list[Violation]:
    """Return as many of the first violations as fit into metadata, but at least one."""
    kept: list[Violation] = []
    room = _VIOLATIONS_BYTES
    for violation in violations:
        cut = Violation(_cut(violation.field), _cut(violation.description))
        room -= len(cut.field.encode()) + len(cut.description.encode())
        if kept and room < 0:
            break
        kept.append(cut)
    return kept


def _pack(message: Message) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)
    return detail


def _class_of(number: int) -> type[SluiceError]:
    for code, cls in _CLASSES.items():
        if _CODE_NUMBERS[code] == number:
            return cls
    return BackendFailed


def _reason(info: error_details_pb2.ErrorInfo) -> ErrorReason.ValueType:
    """Return the reason, or UNSPECIFIED for a reason of another domain or of a newer server."""
    name = _PREFIX + info.reason
    if info.domain == DOMAIN and name in ErrorReason.keys():  # noqa: SIM118 - a protobuf enum is not a mapping
        return ErrorReason.Value(name)
    return ErrorReason.ERROR_REASON_UNSPECIFIED


def _code_and_message(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        if error.code() is grpc.StatusCode.INTERNAL and error.details() == _ENDED_DURING_WRITE:
            return grpc.StatusCode.UNAVAILABLE, "the stream ended while it was written to"
        return error.code(), error.details() or ""
    return grpc.StatusCode.UNKNOWN, str(error)


def _rich_status(error: grpc.RpcError) -> status_pb2.Status | None:
    """Return the status in the trailing metadata, or None if it is missing or invalid."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return None
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            status = status_pb2.Status()
            try:
                status.ParseFromString(value)
            except DecodeError:
                return None
            return status
    return None
