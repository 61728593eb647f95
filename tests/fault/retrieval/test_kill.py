"""A retrieval process that is killed, started twice, or runs out of disk space never loses an acknowledged write."""

import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from sluice.errors import PreconditionFailed, from_rpc_error
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

from services.retrieval.files import DATABASE, FORMAT_VERSION
from services.retrieval.snapshots.restore import restore
from tests.support.kills import KEPT, kill_in_parallel
from tests.support.processes import ServerProcess, StartRefused, running, start
from tests.support.retrieval import document, new_collection, query, upsert

MODULE = "services.retrieval"
# `make nightly` sets the first two.
CYCLES = int(os.environ.get("KILL_CYCLES", "24"))
SEED = int(os.environ.get("KILL_SEED", "11"))
# Servers that are killed at a time, each with data of its own.
JOBS = int(os.environ.get("KILL_JOBS", "2"))


@contextmanager
def client(server: ServerProcess) -> Iterator[RetrievalServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield RetrievalServiceStub(channel)


def test_a_kill_at_any_moment_loses_no_acknowledged_write_and_leaves_no_partial_one(tmp_path: Path) -> None:
    tally = kill_in_parallel(tmp_path, SEED, CYCLES, JOBS)
    assert tally.kills >= CYCLES
    assert tally.acknowledged > 0
    assert tally.snapshots >= JOBS * KEPT


def test_a_graceful_stop_exits_with_status_0_and_leaves_no_log(tmp_path: Path) -> None:
    server = start(MODULE, "--data", str(tmp_path))
    with client(server) as stub:
        stub.CreateCollection(new_collection(), timeout=20)
    assert server.terminate() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LOCK", DATABASE]


def test_a_second_process_on_the_folder_does_not_start_and_the_first_continues(tmp_path: Path) -> None:
    with running(MODULE, "--data", str(tmp_path)) as server, client(server) as stub:
        with pytest.raises(StartRefused, match="another process uses the data folder") as refused:
            start(MODULE, "--data", str(tmp_path))
        assert refused.value.status == 1
        stub.CreateCollection(new_collection(), timeout=20)


def test_with_a_full_disk_writes_are_rejected_and_reads_continue(tmp_path: Path) -> None:
    """A limit on the size of files makes SQLite's writes fail as a full disk does."""
    server = start(MODULE, "--data", str(tmp_path), prefix=("prlimit", f"--fsize={600_000}"))
    with client(server) as stub:
        stub.CreateCollection(new_collection(), timeout=20)
        acknowledged = 0
        refused = None
        while refused is None and acknowledged < 100:
            try:
                large = [document(f"{acknowledged}-{number}", "x" * 60_000) for number in range(2)]
                stub.Upsert(upsert(large, np.ones((2, 4))), timeout=20)
                acknowledged += 1
            except grpc.RpcError as error:
                refused = from_rpc_error(error)
        assert isinstance(refused, PreconditionFailed)
        assert refused.reason_name == "STORAGE_UNWRITABLE"
        assert acknowledged > 0
        expect_documents(stub, 2 * acknowledged)
    server.kill()
    with running(MODULE, "--data", str(tmp_path)) as server, client(server) as stub:
        expect_documents(stub, 2 * acknowledged)
        stub.Upsert(upsert([document("more")], np.ones((1, 4))), timeout=20)
        expect_documents(stub, 2 * acknowledged + 1)


def expect_documents(stub: RetrievalServiceStub, count: int) -> None:
    assert stub.CountDocuments(pb.CountDocumentsRequest(collection="books"), timeout=20).document_count == count
    found = stub.Retrieve(
        pb.RetrieveRequest(collection="books", queries=[query([1, 1, 1, 1], depth=1000)], view=pb.DOCUMENT_VIEW_FULL),
        timeout=20,
    )
    assert len(found.documents) == count


def fill(stub: RetrievalServiceStub, texts: int, length: int = 60_000) -> None:
    stub.CreateCollection(new_collection(), timeout=20)
    for number in range(0, texts, 10):
        large = [document(f"{number + i}", "x" * length) for i in range(10)]
        stub.Upsert(upsert(large, np.ones((10, 4))), timeout=20)


def expect_unwritable(call: Callable[[], object]) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    refused = from_rpc_error(caught.value)
    assert isinstance(refused, PreconditionFailed)
    assert refused.reason_name == "STORAGE_UNWRITABLE"
    return refused.message


def test_a_snapshot_and_a_compaction_on_a_full_disk_are_rejected_and_leave_no_files(tmp_path: Path) -> None:
    data, snapshots = tmp_path / "data", tmp_path / "snapshots"
    with running(MODULE, "--data", str(data)) as server, client(server) as stub:
        fill(stub, 20)
        ids = [document(f"small-{number}", "x") for number in range(1000)]
        for start_ in range(3):
            named = [document(f"{start_}-{one.document_id}", "x") for one in ids]
            stub.Upsert(upsert(named, np.ones((1000, 4))), timeout=20)
    limit = ("prlimit", "--fsize=40000")
    arguments = ("--data", str(data), "--snapshots", str(snapshots), "--segment-documents", "100")
    server = start(MODULE, *arguments, prefix=limit)
    with client(server) as stub:
        snapshot = pb.CreateSnapshotRequest(name="full")
        expect_unwritable(lambda: stub.CreateSnapshot(snapshot, timeout=60))
        assert sorted(path.name for path in snapshots.iterdir()) == ["LOCK"]
        assert not stub.ListSnapshots(pb.ListSnapshotsRequest(), timeout=20).snapshots
        optimize = pb.OptimizeCollectionRequest(name="books")
        expect_unwritable(lambda: stub.OptimizeCollection(optimize, timeout=60))
        assert not list(data.glob("segments/*/*"))
        assert stub.CountDocuments(pb.CountDocumentsRequest(collection="books"), timeout=20).document_count == 3020
    server.kill()
    with running(MODULE, *arguments) as server, client(server) as stub:
        stub.CreateSnapshot(snapshot, timeout=60)
        stub.OptimizeCollection(optimize, timeout=60)
        (listed,) = stub.ListSnapshots(pb.ListSnapshotsRequest(), timeout=20).snapshots
        assert [one.document_count for one in listed.collections] == [3020]


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk of this size. Skips the test if mounting is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        assert os.environ.get("CI") != "true", mounted.stderr
        pytest.skip(f"a small disk is needed: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_snapshot_that_would_fill_the_disk_is_rejected_before_it_starts(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "70m") as disk:
        arguments = ("--data", str(tmp_path / "data"), "--snapshots", str(disk / "snapshots"))
        with running(MODULE, *arguments) as server, client(server) as stub:
            fill(stub, 10)
            stub.CreateSnapshot(pb.CreateSnapshotRequest(name="small"), timeout=60)
            fill(stub, 150)
            large = pb.CreateSnapshotRequest(name="large", keep=1)
            message = expect_unwritable(lambda: stub.CreateSnapshot(large, timeout=60))
            assert "bytes of free space" in message
            (kept,) = stub.ListSnapshots(pb.ListSnapshotsRequest(), timeout=20).snapshots
            assert kept.name == "small"
            assert sorted(path.name for path in (disk / "snapshots").iterdir()) == ["LOCK", "small"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Return a folder that other users can enter, unlike `tmp_path`, whose parent pytest closes in every run."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed, whom the folder does not let write")
@pytest.mark.parametrize("killed", [False, True])
def test_with_a_read_only_disk_writes_are_rejected_and_reads_continue(open_folder: Path, killed: bool) -> None:
    data, snapshots = open_folder / "data", open_folder / "snapshots"
    server = start(MODULE, "--data", str(data))
    with client(server) as stub:
        stub.CreateCollection(new_collection(), timeout=20)
        stub.Upsert(upsert([document("a")], np.ones((1, 4))), timeout=20)
    server.kill() if killed else server.terminate()
    # As another user: root may write anywhere.
    data.chmod(0o555)
    snapshots.mkdir()
    snapshots.chmod(0o777)
    other_user = ("setpriv", "--reuid=65534", "--clear-groups", "--inh-caps=-all")
    server = start(MODULE, "--data", str(data), "--snapshots", str(snapshots), prefix=other_user)
    with client(server) as stub:
        with pytest.raises(grpc.RpcError) as caught:
            stub.Upsert(upsert([document("b")], np.ones((1, 4))), timeout=20)
        refused = from_rpc_error(caught.value)
        assert isinstance(refused, PreconditionFailed)
        assert refused.reason_name == "STORAGE_UNWRITABLE"
        expect_unwritable(lambda: stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="books"), timeout=20))
        stub.CreateSnapshot(pb.CreateSnapshotRequest(name="one"), timeout=20)
        expect_documents(stub, 1)
    server.terminate()


def test_a_folder_of_a_newer_format_is_rejected_with_the_reason(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    connection.close()
    with pytest.raises(StartRefused, match=f"has format {FORMAT_VERSION + 1}"):
        start(MODULE, "--data", str(tmp_path))


def test_a_truncated_store_is_rejected_and_a_snapshot_replaces_it(tmp_path: Path) -> None:
    data, snapshots = tmp_path / "data", tmp_path / "snapshots"
    with running(MODULE, "--data", str(data), "--snapshots", str(snapshots)) as server, client(server) as stub:
        fill(stub, 20)
        stub.CreateSnapshot(pb.CreateSnapshotRequest(name="one"), timeout=20)
    os.truncate(data / DATABASE, (data / DATABASE).stat().st_size // 2)
    with pytest.raises(StartRefused, match="malformed") as refused:
        start(MODULE, "--data", str(data))
    assert "Traceback" not in json.dumps(refused.value.log)
    shutil.rmtree(data)
    restore(snapshots / "one", data)
    with running(MODULE, "--data", str(data)) as server, client(server) as stub:
        expect_documents(stub, 20)


def test_a_file_that_is_not_a_database_is_rejected_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_text("no database " * 1000)
    with pytest.raises(StartRefused, match="file is not a database") as refused:
        start(MODULE, "--data", str(tmp_path))
    assert "Traceback" not in json.dumps(refused.value.log)
