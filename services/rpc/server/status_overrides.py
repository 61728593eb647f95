"""Status codes for clients of other systems' APIs, where those systems use other codes than Sluice."""

from collections.abc import Mapping
from typing import Final

import grpc
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import SluiceError

# By prefix of the service's full name, and the reason of the error.
_CODES: Final[Mapping[str, Mapping[ErrorReason.ValueType, grpc.StatusCode]]] = {
    "tei.v1.": {
        ErrorReason.ERROR_REASON_OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorReason.ERROR_REASON_BACKEND_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    },
}


def code_of(error: SluiceError, service: str) -> grpc.StatusCode:
    """Return the status code of an error, as clients of the service expect it."""
    for beginning, codes in _CODES.items():
        if service.startswith(beginning):
            return codes.get(error.reason, error.code)
    return error.code
