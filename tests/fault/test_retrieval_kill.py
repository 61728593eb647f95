"""A real retrieval process that is killed, crowded out, or has no room to write: nothing acknowledged is ever lost."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from sluice.errors import PreconditionFailed, from_rpc_error
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

from services.retrieval.engine import Engine
from services.retrieval.restore import restore
from services.retrieval.store import DATABASE, FORMAT_VERSION
from tests.support.processes import ServerProcess, StartRefused, running, start
from tests.support.retrieval import document, new_collection, query, upsert

MODULE = "services.retrieval"
# `make nightly` sets both.
CYCLES = int(os.environ.get("KILL_CYCLES", "24"))
SEED = int(os.environ.get("KILL_SEED", "11"))
DOCUMENTS = 6
# Groups 0 to 7 are of documents; a write to one of these moves an alias to `odd` or `books`, merges, makes a snapshot.
ALIAS, OPTIMIZE, SNAPSHOT = 8, 9, 10
KEPT = 3


@contextmanager
def client(server: ServerProcess) -> Iterator[RetrievalServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield RetrievalServiceStub(channel)


@dataclass
class Writes:
    """What one client knows: the acknowledged generation of each group of documents, and the write on its way.

    A generation g > 0 of a group is all its documents upserted with the text `g`; a negative one is all deleted.
    """

    acknowledged: dict[int, int] = field(default_factory=dict)
    pending: tuple[int, int] | None = None
    count: int = 0
    snapshots: dict[str, dict[int, int]] = field(default_factory=dict)
    """What each snapshot must have: what was acknowledged when it was begun."""
    restored: set[str] = field(default_factory=set)

    def run(self, stub: RetrievalServiceStub, rng: random.Random) -> None:
        """Write without end; return when the server is gone."""
        try:
            while True:
                group = rng.randrange(SNAPSHOT + 1)
                self.count += 1
                generation = self.count if rng.random() < 0.7 else -self.count
                self.pending = (group, generation)
                if group == SNAPSHOT:
                    self.snapshots[name_of(generation)] = dict(self.acknowledged)
                write(stub, group, generation)
                self.acknowledged[group] = generation
                self.pending = None
        except grpc.RpcError as error:
            if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
                raise


def ids_of(group: int) -> list[str]:
    return [f"{group}/{number}" for number in range(DOCUMENTS)]


def name_of(generation: int) -> str:
    return f"s{abs(generation):06}"


def write(stub: RetrievalServiceStub, group: int, generation: int) -> None:
    if group == SNAPSHOT:
        stub.CreateSnapshot(pb.CreateSnapshotRequest(name=name_of(generation), keep=KEPT), timeout=20)
        return
    if group == OPTIMIZE:
        stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="books"), timeout=20)
        return
    if group == ALIAS:
        name = "odd" if generation % 2 else "books"
        stub.SetAlias(pb.SetAliasRequest(alias=pb.Alias(alias="live", collection=name)), timeout=20)
        return
    if generation < 0:
        stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection="books", document_ids=ids_of(group)), timeout=20)
        return
    documents = [document(id_, str(generation), year=generation) for id_ in ids_of(group)]
    stub.Upsert(upsert(documents, np.full((DOCUMENTS, 4), [1, generation, 0, 0])), timeout=20)


def stored(stub: RetrievalServiceStub, group: int) -> set[str]:
    """The texts of a group's documents: one text when it is whole, none when it is deleted."""
    got = stub.GetDocuments(pb.GetDocumentsRequest(collection="books", document_ids=ids_of(group)), timeout=20)
    assert len(got.documents) in {0, DOCUMENTS}
    return {one.text for one in got.documents}


def check(stub: RetrievalServiceStub, writes: Writes) -> None:
    """Every group is as it was acknowledged, or as the write on its way would have made it: wholly."""
    total = 0
    for group in range(ALIAS):
        allowed = [writes.acknowledged.get(group, -1)]
        if writes.pending and writes.pending[0] == group:
            allowed.append(writes.pending[1])
        texts = stored(stub, group)
        assert texts in [{str(generation)} if generation > 0 else set() for generation in allowed]
        writes.acknowledged[group] = int(texts.pop()) if texts else -1
        total += DOCUMENTS * (writes.acknowledged[group] > 0)
    check_alias(stub, writes)
    writes.pending = None
    found = stub.Retrieve(pb.RetrieveRequest(collection="books", queries=[query([1, 1, 0, 0], depth=100)]), timeout=20)
    assert {one.document_id: one.text for one in found.documents} == {
        id_: str(generation)
        for group, generation in writes.acknowledged.items()
        if group < ALIAS and generation > 0
        for id_ in ids_of(group)
    }
    assert stub.CountDocuments(pb.CountDocumentsRequest(collection="books")).document_count == total


def check_snapshots(stub: RetrievalServiceStub, writes: Writes, folder: Path) -> None:
    """Every snapshot that is listed can be restored, and has what was acknowledged when it was begun, nothing else."""
    names = [one.name for one in stub.ListSnapshots(pb.ListSnapshotsRequest(), timeout=20).snapshots]
    if SNAPSHOT in writes.acknowledged:
        assert name_of(writes.acknowledged[SNAPSHOT]) in names
    for name in set(names) - writes.restored:
        data = folder / f"restored-{name}"
        restore(folder / "snapshots" / name, data)
        engine = Engine(data, now_us=lambda: 0, max_collections=9, segment_documents=20_000)
        try:
            with engine.moment("books") as moment:
                texts = {one.document_id: one.text for one in moment.page("", 1000, None)[0]}
        finally:
            engine.close()
        assert texts == {
            id_: str(generation)
            for group, generation in writes.snapshots[name].items()
            if group < ALIAS and generation > 0
            for id_ in ids_of(group)
        }
        shutil.rmtree(data)
        writes.restored.add(name)


def check_alias(stub: RetrievalServiceStub, writes: Writes) -> None:
    """The alias means what was acknowledged, or what the write on its way would have made it mean."""
    allowed = [writes.acknowledged.pop(ALIAS, 0)]
    if writes.pending and writes.pending[0] == ALIAS:
        allowed.append(writes.pending[1])
    listed = stub.ListAliases(pb.ListAliasesRequest(), timeout=20).aliases
    name = listed[0].collection if listed else ""
    assert name in [("odd" if generation % 2 else "books") if generation else "" for generation in allowed]
    if name:
        writes.acknowledged[ALIAS] = 1 if name == "odd" else 2


def test_kill_at_any_moment_loses_nothing_acknowledged_and_leaves_no_halves(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    writes = Writes()
    folders = ("--data", str(tmp_path / "data"), "--snapshots", str(tmp_path / "snapshots"))
    for _ in range(CYCLES):
        # With 20, segments are built all the time, and left half done by the kill.
        server = start(MODULE, *folders, "--segment-documents", rng.choice(["20", "20000"]))
        with client(server) as stub:
            stub.CreateCollection(new_collection(), timeout=20)
            stub.CreateCollection(new_collection("odd"), timeout=20)
            check(stub, writes)
            check_snapshots(stub, writes, tmp_path)
            thread = threading.Thread(target=writes.run, args=(stub, rng))
            thread.start()
            # Not a synchronisation: the kill may come at any moment, and the wait is what makes it any.
            thread.join(rng.random() * 0.15)
            server.kill()
            thread.join()
    assert writes.count > CYCLES
    assert writes.restored
    with running(MODULE, *folders) as server, client(server) as stub:
        check(stub, writes)
        check_snapshots(stub, writes, tmp_path)
        # What the kills left half done, and what they left to be deleted, is gone after the next snapshot.
        write(stub, SNAPSHOT, writes.count + 1)
        assert len(stub.ListSnapshots(pb.ListSnapshotsRequest(), timeout=20).snapshots) == KEPT
    assert not list(tmp_path.glob("snapshots/*.draft"))


def test_stopping_kindly_ends_with_status_0_and_leaves_no_log_behind(tmp_path: Path) -> None:
    server = start(MODULE, "--data", str(tmp_path))
    with client(server) as stub:
        stub.CreateCollection(new_collection(), timeout=20)
    assert server.terminate() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LOCK", DATABASE]


def test_a_second_process_on_the_folder_does_not_start_and_the_first_goes_on(tmp_path: Path) -> None:
    with running(MODULE, "--data", str(tmp_path)) as server, client(server) as stub:
        with pytest.raises(StartRefused, match="another process uses the data folder") as refused:
            start(MODULE, "--data", str(tmp_path))
        assert refused.value.status == 1
        stub.CreateCollection(new_collection(), timeout=20)


def test_a_full_disk_refuses_writes_and_reads_go_on(tmp_path: Path) -> None:
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


def test_a_snapshot_and_a_merge_that_the_disk_does_not_take_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
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
    """A disk of that size. Skips the test where nothing may be mounted."""
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


def test_a_snapshot_that_would_fill_the_disk_is_refused_before_it_is_begun(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "70m") as disk:
        arguments = ("--data", str(tmp_path / "data"), "--snapshots", str(disk / "snapshots"))
        with running(MODULE, *arguments) as server, client(server) as stub:
            fill(stub, 10)
            stub.CreateSnapshot(pb.CreateSnapshotRequest(name="small"), timeout=60)
            fill(stub, 150)
            large = pb.CreateSnapshotRequest(name="large", keep=1)
            message = expect_unwritable(lambda: stub.CreateSnapshot(large, timeout=60))
            assert "bytes of room" in message
            (kept,) = stub.ListSnapshots(pb.ListSnapshotsRequest(), timeout=20).snapshots
            assert kept.name == "small"
            assert sorted(path.name for path in (disk / "snapshots").iterdir()) == ["LOCK", "small"]


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed, whom the folder does not let write")
@pytest.mark.parametrize("killed", [False, True])
def test_a_read_only_disk_refuses_writes_and_reads_go_on(tmp_path: Path, killed: bool) -> None:
    data, snapshots = tmp_path / "data", tmp_path / "snapshots"
    server = start(MODULE, "--data", str(data))
    with client(server) as stub:
        stub.CreateCollection(new_collection(), timeout=20)
        stub.Upsert(upsert([document("a")], np.ones((1, 4))), timeout=20)
    server.kill() if killed else server.terminate()
    # As another user: root may write anywhere.
    data.chmod(0o555)
    snapshots.mkdir()
    snapshots.chmod(0o777)
    for parent in data.parents[:3]:
        parent.chmod(0o755)
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


def test_a_folder_of_a_newer_format_is_refused_and_says_so(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    connection.close()
    with pytest.raises(StartRefused, match=f"has format {FORMAT_VERSION + 1}"):
        start(MODULE, "--data", str(tmp_path))


def test_a_truncated_store_is_refused_and_a_snapshot_takes_its_place(tmp_path: Path) -> None:
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


def test_a_file_that_is_no_database_is_refused_and_says_so(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_text("no database " * 1000)
    with pytest.raises(StartRefused, match="file is not a database") as refused:
        start(MODULE, "--data", str(tmp_path))
    assert "Traceback" not in json.dumps(refused.value.log)
