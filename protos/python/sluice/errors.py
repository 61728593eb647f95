"""Every error Sluice raises, the same class in the server that raises it and in the client that receives it.

    SluiceError                  never raised itself
    ├── InvalidRequest           INVALID_ARGUMENT     the request breaks a rule: change it
    ├── NotFound                 NOT_FOUND            no such model, collection or pipeline
    ├── AlreadyExists            ALREADY_EXISTS       the name is taken by something different
    ├── PreconditionFailed       FAILED_PRECONDITION  the system is in a state that does not allow it
    ├── Unavailable              UNAVAILABLE          nothing was done: try again, or another replica
    ├── QuotaExceeded            RESOURCE_EXHAUSTED   this caller asks too much: not before `retry_after_s`, if at all
    ├── Unauthenticated          UNAUTHENTICATED      no or wrong credentials
    ├── PermissionDenied         PERMISSION_DENIED    credentials that do not allow this
    ├── DeadlineExpired          DEADLINE_EXCEEDED    the caller's time ended
    ├── Cancelled                CANCELLED            the caller went away
    └── BackendFailed            INTERNAL             our fault; the server's log tells

Rule: a class fixes the status code, `reason` says which case of it. Code raises these; only `to_status` and
`from_rpc_error` know gRPC. A status that carries no ErrorInfo of ours (gRPC's own refusals) maps by its code.
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
# What a grpc.aio client makes of any end of a stream that meets a write of its own: the server's status is lost.
_ENDED_UNDER_A_WRITE: Final = "Internal error from Core"
# Together below gRPC's 8 KiB of metadata: the message travels twice, once percent-encoded, the rest once in base64.
_TEXT_BYTES: Final = 700
_VIOLATIONS_BYTES: Final = 2048
# A year: google.protobuf.Duration holds no more than some 10,000.
_LONGEST_DELAY_S: Final = 365 * 86_400.0


@dataclass(frozen=True)
class Violation:
    """One field of a request that breaks a rule. `field` is its path, e.g. `texts[3]`."""

    field: str
    description: str


class SluiceError(Exception):
    """A failure with a status code, a reason and numbers that machines can read.

    message   what was wrong, expected and given
    reason    the case; the class's own unless given
    metadata  every number of the message again, as text (AIP-193)
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
        """The reason as sent, e.g. `OVERLOADED`; the status code's name when there is none."""
        if self.reason == ErrorReason.ERROR_REASON_UNSPECIFIED:
            return self.code.name
        return ErrorReason.Name(self.reason).removeprefix(_PREFIX)


class InvalidRequest(SluiceError):
    """The request breaks a rule. `violations` names every field that does."""

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
    """No such model, collection or pipeline; `reason` says which."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(SluiceError):
    """The name is taken by something different."""

    code = grpc.StatusCode.ALREADY_EXISTS
    default_reason = ErrorReason.ERROR_REASON_COLLECTION_EXISTS


class PreconditionFailed(SluiceError):
    """The state of the system does not allow it; a retry of the same call will fail again."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Unavailable(SluiceError):
    """Nothing was done. Try again after `retry_after_s` seconds, or elsewhere."""

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
    """This caller asks too much: a quota of ours, or a message over gRPC's size limit.

    subject        whose quota it is, when it is a caller's, e.g. `token:search-page`
    retry_after_s  when the quota will have grown again; None: trying again does not help
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
    """No credentials, or wrong ones."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(SluiceError):
    """Credentials that do not allow this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class DeadlineExpired(SluiceError):
    """The caller's time ended."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = ErrorReason.ERROR_REASON_DEADLINE_EXPIRED


class Cancelled(SluiceError):
    """The caller went away."""

    code = grpc.StatusCode.CANCELLED


class BackendFailed(SluiceError):
    """The server failed: a model, an index, or a defect."""

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
    """The google.rpc.Status of an error: ErrorInfo always; BadRequest, QuotaFailure and RetryInfo where they apply.

    Long texts are cut and violations beyond a few thousand bytes left out: a status travels as metadata, which gRPC
    refuses above 8 KiB, and then the caller would see none of it.
    """
    metadata = {key: _cut(value) for key, value in error.metadata.items()}
    info = error_details_pb2.ErrorInfo(reason=error.reason_name, domain=DOMAIN, metadata=metadata)
    status = status_pb2.Status(code=_CODE_NUMBERS[error.code], message=_cut(error.message), details=[_packed(info)])
    if isinstance(error, InvalidRequest) and error.violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in _fitting(error.violations)
        ]
        status.details.append(_packed(error_details_pb2.BadRequest(field_violations=fields)))
    if isinstance(error, QuotaExceeded) and error.subject:
        violation = error_details_pb2.QuotaFailure.Violation(subject=error.subject, description=_cut(error.message))
        status.details.append(_packed(error_details_pb2.QuotaFailure(violations=[violation])))
    if isinstance(error, Unavailable | QuotaExceeded) and error.retry_after_s is not None:
        delay = duration_pb2.Duration(nanos=0)
        delay.FromNanoseconds(int(min(error.retry_after_s, _LONGEST_DELAY_S) * 1e9))
        status.details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status


def from_rpc_error(error: grpc.RpcError) -> SluiceError:
    """The error a server raised, from what gRPC gave the client. Never fails: unknown codes become BackendFailed."""
    code, message = _code_and_message(error)
    status = _rich_status(error)
    return from_status(status or status_pb2.Status(code=_CODE_NUMBERS[code], message=message))


def from_status(status: status_pb2.Status) -> SluiceError:
    """The error that `to_status` was given, or the nearest one for a status that is not ours."""
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
    """The text, or its beginning when it is too long for metadata."""
    encoded = text.encode()
    return text if len(encoded) <= _TEXT_BYTES else encoded[: _TEXT_BYTES - 3].decode(errors="ignore") + "..."


def _fitting(violations: Sequence[Violation]) -> list[Violation]:
    """The first violations, as many as fit into metadata; always one."""
    kept: list[Violation] = []
    room = _VIOLATIONS_BYTES
    for violation in violations:
        cut = Violation(_cut(violation.field), _cut(violation.description))
        room -= len(cut.field.encode()) + len(cut.description.encode())
        if kept and room < 0:
            break
        kept.append(cut)
    return kept


def _packed(message: Message) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)
    return detail


def _class_of(number: int) -> type[SluiceError]:
    for code, cls in _CLASSES.items():
        if _CODE_NUMBERS[code] == number:
            return cls
    return BackendFailed


def _reason(info: error_details_pb2.ErrorInfo) -> ErrorReason.ValueType:
    """The reason; UNSPECIFIED for another domain's or a newer server's."""
    name = _PREFIX + info.reason
    if info.domain == DOMAIN and name in ErrorReason.keys():  # noqa: SIM118 - a protobuf enum is not a mapping
        return ErrorReason.Value(name)
    return ErrorReason.ERROR_REASON_UNSPECIFIED


def _code_and_message(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        if error.code() is grpc.StatusCode.INTERNAL and error.details() == _ENDED_UNDER_A_WRITE:
            return grpc.StatusCode.UNAVAILABLE, "the stream ended while it was written to"
        return error.code(), error.details() or ""
    return grpc.StatusCode.UNKNOWN, str(error)


def _rich_status(error: grpc.RpcError) -> status_pb2.Status | None:
    """The status in the trailing metadata; None when there is none or it is not readable."""
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
