"""Status codes that clients of another system's API expect, where that system's codes differ from ours."""

from collections.abc import Mapping
from typing import Final

import grpc
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import SluiceError

# By the beginning of a service's full name, and the reason of the error.
_CODES: Final[Mapping[str, Mapping[ErrorReason.ValueType, grpc.StatusCode]]] = {
    "tei.v1.": {
        ErrorReason.ERROR_REASON_OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorReason.ERROR_REASON_BACKEND_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    },
}


def code_of(error: SluiceError, service: str) -> grpc.StatusCode:
    """The code of an error, as clients of a service expect it."""
    for beginning, codes in _CODES.items():
        if service.startswith(beginning):
            return codes.get(error.reason, error.code)
    return error.code
