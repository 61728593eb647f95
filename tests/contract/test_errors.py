"""Every error that a server raises reaches the client as the same error."""

from collections.abc import Sequence

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from sluice import errors
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import (
    AlreadyExists,
    BackendFailed,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    SluiceError,
    Unavailable,
    Violation,
    from_rpc_error,
    from_status,
    to_status,
)

CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, SluiceError)]
LEAVES = [cls for cls in CLASSES if cls is not SluiceError]


class Received(grpc.aio.AioRpcError):
    """The error that a client gets for a status."""

    def __init__(self, code: grpc.StatusCode, message: str, trailing: Sequence[tuple[str, bytes]] = ()) -> None:
        super().__init__(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), message)


@pytest.mark.parametrize("cls", LEAVES, ids=lambda cls: cls.__name__)
def test_an_error_survives_the_wire(cls: type[SluiceError]) -> None:
    sent = cls("expected 384 dimensions, got 768", metadata={"expected": 384, "given": 768})
    details = (("grpc-status-details-bin", to_status(sent).SerializeToString()),)
    received = from_rpc_error(Received(sent.code, sent.message, details))
    assert type(received) is cls
    assert (received.message, received.reason, received.metadata) == (sent.message, sent.reason, sent.metadata)


def test_a_status_code_belongs_to_one_class() -> None:
    codes = [cls.code for cls in LEAVES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("reason", [number for number in ErrorReason.values() if number], ids=ErrorReason.Name)
def test_a_reason_survives_the_wire(reason: ErrorReason.ValueType) -> None:
    received = from_status(to_status(NotFound("gone", reason=reason)))
    assert received.reason == reason
    assert received.reason_name == ErrorReason.Name(reason).removeprefix("ERROR_REASON_")


def test_violations_and_the_retry_delay_survive_the_wire() -> None:
    violations = [Violation("texts[3]", "expected some text, got none"), Violation("top_k", "expected 1, got 0")]
    invalid = from_status(to_status(InvalidRequest("two things", violations=violations)))
    assert isinstance(invalid, InvalidRequest)
    assert list(invalid.violations) == violations
    busy = from_status(to_status(Unavailable("busy", retry_after_s=1.25)))
    assert isinstance(busy, Unavailable)
    assert busy.retry_after_s == 1.25


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, QuotaExceeded),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.ALREADY_EXISTS, AlreadyExists),
        (grpc.StatusCode.UNKNOWN, BackendFailed),
        (grpc.StatusCode.UNIMPLEMENTED, BackendFailed),
        (grpc.StatusCode.DATA_LOSS, BackendFailed),
    ],
)
def test_a_status_of_grpc_itself_becomes_the_nearest_error(code: grpc.StatusCode, cls: type[SluiceError]) -> None:
    received = from_rpc_error(Received(code, "from the transport"))
    assert type(received) is cls
    assert received.message == "from the transport"


def test_invalid_details_are_ignored() -> None:
    received = from_rpc_error(
        Received(grpc.StatusCode.NOT_FOUND, "gone", (("grpc-status-details-bin", b"\xff\xff not a status"),))
    )
    assert isinstance(received, NotFound)
    assert received.message == "gone"


def test_a_reason_of_another_system_is_ignored() -> None:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="example.com"))
    received = from_status(status_pb2.Status(code=5, message="gone", details=[detail]))
    assert isinstance(received, NotFound)
    assert received.reason == ErrorReason.ERROR_REASON_UNSPECIFIED
