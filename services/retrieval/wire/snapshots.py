"""Snapshots, from and to protos."""

from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.retrieval.snapshots.repository import NAME, Snapshot
from services.rpc.validation import validating

_KEEP_MAX: Final = 10_000


def creation(request: pb.CreateSnapshotRequest) -> tuple[str, int]:
    """Return the name of the new snapshot, empty for a default, and how many to keep, 0 for all.

    Raises InvalidRequest.
    """
    with validating() as violations:
        if request.name and not NAME.fullmatch(request.name):
            rule = "1 to 64 of [a-z0-9-], starting with a letter or digit"
            violations.add("name", f"expected {rule}, got {request.name[:64]!r}")
        violations.count("keep", request.keep, low=0, high=_KEEP_MAX, what="snapshots")
    return request.name, request.keep


def message(snapshot: Snapshot) -> pb.Snapshot:
    """Return the message of a snapshot."""
    created = Timestamp()
    created.FromMicroseconds(snapshot.manifest.created_us)
    return pb.Snapshot(
        name=snapshot.name,
        create_time=created,
        size_bytes=snapshot.manifest.size_bytes,
        digest=snapshot.digest,
        collections=[
            pb.SnapshotCollection(name=one.name, version=one.version, document_count=one.document_count)
            for one in snapshot.manifest.collections
        ],
    )
