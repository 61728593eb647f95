"""Errors that both engines raise with the same reason and metadata."""

from typing import Final

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import NotFound, PreconditionFailed

# Characters of an unknown name that an error repeats.
_SHOWN: Final = 128


def no_collection(name: str) -> NotFound:
    """Return the error for a name that neither a collection nor an alias has."""
    return unknown_collection(f"no collection {name[:_SHOWN]!r}", name[:_SHOWN])


def dropped_collection(name: str) -> NotFound:
    """Return the error for a collection that was dropped during a call."""
    return unknown_collection(f"collection {name!r} was dropped during the call", name)


def unknown_collection(message: str, name: str) -> NotFound:
    """Return a NotFound error with reason UNKNOWN_COLLECTION."""
    reason = ErrorReason.ERROR_REASON_UNKNOWN_COLLECTION
    return NotFound(message, reason=reason, metadata={"collection": name})


def storage_unwritable(why: object) -> PreconditionFailed:
    """Return the error for a disk that is full or read-only."""
    reason = ErrorReason.ERROR_REASON_STORAGE_UNWRITABLE
    return PreconditionFailed(f"nothing was written: {why}; free space or make the disk writable", reason=reason)
