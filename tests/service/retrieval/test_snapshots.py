"""Snapshots, restoring, compaction and statistics, through the API."""

import asyncio
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sluice.common.v1 import filter_pb2 as flt
from sluice.errors import InvalidRequest, NotFound, PreconditionFailed, Unavailable
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.retrieval.files import DATABASE, FORMAT_VERSION
from services.retrieval.snapshots.manifest import CHECKSUM, DATA, MANIFEST, BadSnapshot
from services.retrieval.snapshots.restore import RestoreError, restore
from tests.support.retrieval import (
    Stub,
    document,
    error_of,
    new_collection,
    query,
    retrieval_stub,
    upsert,
    value,
)
from tests.support.waiting import until

SEGMENT = 50


def generation(number: int, count: int = 60) -> pb.UpsertRequest:
    """All documents at once, with this number as their text."""
    vectors = np.random.default_rng(number).standard_normal((count, 4))
    return upsert([document(f"{i:02}", str(number), year=number) for i in range(count)], vectors)


async def contents(stub: Stub) -> list[Any]:
    """Return everything that a client can read from `books`."""
    described = (await stub.GetCollection(pb.GetCollectionRequest(name="books"))).collection
    described.ClearField("statistics")
    listed = await stub.ListDocuments(pb.ListDocumentsRequest(collection="books", page_size=1024))
    found = await stub.Retrieve(
        pb.RetrieveRequest(collection="live", queries=[query([1, 2, 3, 4], depth=100)], exact=True)
    )
    return [described, listed, found]


async def filled(stub: Stub) -> None:
    await stub.CreateCollection(new_collection())
    await stub.CreateCollection(new_collection("empty"))
    await stub.SetAlias(pb.SetAliasRequest(alias=pb.Alias(alias="live", collection="books")))
    await stub.Upsert(generation(1))
    await stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection="books", document_ids=["07"]))


async def test_a_restored_snapshot_contains_everything_written_before_it(tmp_path: Path) -> None:
    async def check(stub: Stub) -> list[Any]:
        await filled(stub)
        await stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="books"))
        before = await contents(stub)
        made = (await stub.CreateSnapshot(pb.CreateSnapshotRequest(name="first"))).snapshot
        assert [(one.name, one.document_count, one.version) for one in made.collections] == [
            ("books", 59, before[0].version),
            ("empty", 0, 0),
        ]
        digest = hashlib.sha256((tmp_path / "snapshots" / "first" / MANIFEST).read_bytes()).hexdigest()
        assert made.digest == digest
        await stub.Upsert(generation(2))
        again = await stub.CreateSnapshot(pb.CreateSnapshotRequest(name="first"))
        assert again.snapshot == made
        assert list((await stub.ListSnapshots(pb.ListSnapshotsRequest())).snapshots) == [made]
        return before

    async def look(stub: Stub) -> list[Any]:
        statistics = (await stub.GetCollection(pb.GetCollectionRequest(name="books"))).collection.statistics
        assert (statistics.segment_count, statistics.indexed_document_count) == (1, 59)
        return await contents(stub)

    data, snapshots, elsewhere = tmp_path / "data", tmp_path / "snapshots", tmp_path / "elsewhere"
    async with retrieval_stub(data, snapshots=snapshots, segment_documents=SEGMENT) as stub:
        before = await check(stub)
    shutil.rmtree(data)
    snapshots.rename(tmp_path / "moved")
    manifest = restore(tmp_path / "moved" / "first", elsewhere)
    assert [one.document_count for one in manifest.collections] == [59, 0]
    async with retrieval_stub(elsewhere, segment_documents=SEGMENT) as stub:
        assert await look(stub) == before


async def test_rows_of_deleted_documents_are_not_reused_after_restoring(tmp_path: Path) -> None:
    """The segment still contains the deleted document, so a new document must not get its row."""

    async def write(stub: Stub) -> list[Any]:
        await stub.Upsert(upsert([document("new", "new")], np.ones((1, 4))))
        return await contents(stub)

    async with retrieval_stub(tmp_path / "data", snapshots=tmp_path / "snapshots", segment_documents=SEGMENT) as stub:
        await filled(stub)
        await stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="books"))
        await stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection="books", document_ids=["59"]))
        await stub.CreateSnapshot(pb.CreateSnapshotRequest(name="one"))
    restore(tmp_path / "snapshots" / "one", tmp_path / "restored")
    async with retrieval_stub(tmp_path / "restored", segment_documents=SEGMENT) as stub:
        written = await write(stub)
    assert written[0].document_count == 59
    async with retrieval_stub(tmp_path / "restored", segment_documents=SEGMENT) as stub:
        assert await contents(stub) == written


async def test_a_snapshot_created_during_writes_is_consistent(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path / "data", snapshots=tmp_path / "snapshots", segment_documents=2) as stub:
        await stub.CreateCollection(new_collection())
        await stub.Upsert(generation(0))
        is_over = False

        async def write() -> None:
            number = 0
            while not is_over:
                number += 1
                await stub.Upsert(generation(number))

        async def snapshots() -> None:
            nonlocal is_over
            try:
                for name in ("a", "b", "c", "d", "e"):
                    await stub.CreateSnapshot(pb.CreateSnapshotRequest(name=name))
            finally:
                is_over = True

        await asyncio.gather(write(), snapshots())
    for name in ("a", "b", "c", "d", "e"):
        restore(tmp_path / "snapshots" / name, tmp_path / f"restored-{name}")
        async with retrieval_stub(tmp_path / f"restored-{name}") as stub:
            listed = await stub.ListDocuments(pb.ListDocumentsRequest(collection="books", page_size=1024))
            assert len(listed.documents) == 60
            assert len({one.text for one in listed.documents}) == 1


async def test_old_snapshots_are_deleted_beyond_the_number_to_keep(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path / "data", snapshots=tmp_path / "snapshots") as stub:
        await filled(stub)
        names = [(await stub.CreateSnapshot(pb.CreateSnapshotRequest())).snapshot.name for _ in range(3)]
        assert names == sorted(names)
        done = await stub.CreateSnapshot(pb.CreateSnapshotRequest(name="zzz", keep=2))
        assert list(done.deleted) == names[:2]
        assert await listed(stub) == [names[2], "zzz"]
        await stub.DeleteSnapshot(pb.DeleteSnapshotRequest(name="zzz"))
        assert await listed(stub) == names[2:]
        gone = await error_of(stub.DeleteSnapshot(pb.DeleteSnapshotRequest(name="zzz")))
        assert isinstance(gone, NotFound)
        only = await stub.CreateSnapshot(pb.CreateSnapshotRequest(keep=1))
        assert await listed(stub) == [only.snapshot.name]
        (tmp_path / "snapshots" / "no-snapshot").mkdir()
        (tmp_path / "snapshots" / "left.draft").mkdir()
        assert await listed(stub) == [only.snapshot.name]
        taken = await error_of(stub.CreateSnapshot(pb.CreateSnapshotRequest(name="no-snapshot")))
        assert isinstance(taken, PreconditionFailed)
        outside = await error_of(stub.DeleteSnapshot(pb.DeleteSnapshotRequest(name="../data")))
        assert isinstance(outside, NotFound)


async def listed(stub: Stub) -> list[str]:
    return [one.name for one in (await stub.ListSnapshots(pb.ListSnapshotsRequest())).snapshots]


async def test_snapshots_without_a_folder_are_rejected_with_the_missing_setting(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        for call in (
            stub.CreateSnapshot(pb.CreateSnapshotRequest()),
            stub.ListSnapshots(pb.ListSnapshotsRequest()),
            stub.DeleteSnapshot(pb.DeleteSnapshotRequest(name="a")),
        ):
            error = await error_of(call)
            assert isinstance(error, PreconditionFailed)
            assert "--snapshots" in error.message


async def test_invalid_requests_for_snapshots_are_rejected(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path / "data", snapshots=tmp_path / "snapshots") as stub:
        for name, keep, fields in (("../a", 0, ["name"]), ("A", -1, ["name", "keep"]), ("a" * 65, 0, ["name"])):
            error = await error_of(stub.CreateSnapshot(pb.CreateSnapshotRequest(name=name, keep=keep)))
            assert isinstance(error, InvalidRequest)
            assert [violation.field for violation in error.violations] == fields
        assert isinstance(await error_of(stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="no"))), NotFound)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a snapshot with a segment."""
    folder = tmp_path_factory.mktemp("snapshots")

    async def make() -> None:
        async with retrieval_stub(folder / "data", snapshots=folder / "snapshots", segment_documents=SEGMENT) as stub:
            await filled(stub)
            await stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="books"))
            await stub.CreateSnapshot(pb.CreateSnapshotRequest(name="whole"))

    asyncio.run(make())
    return folder / "snapshots" / "whole"


def flipped(path: Path) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FILES = [MANIFEST, CHECKSUM, f"{DATA}/{DATABASE}", f"{DATA}/segments/*/*/vectors-dense.npy"]


@pytest.mark.parametrize("damage", [flipped, truncated, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_snapshot_is_not_restored(
    snapshot: Path, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(snapshot, copy)
    (path,) = copy.glob(name)
    damage(path)
    with pytest.raises(BadSnapshot):
        restore(copy, tmp_path / "data")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["copy"]


@pytest.mark.parametrize("field", ["format", "store_format"])
def test_a_snapshot_of_a_newer_format_is_not_restored(snapshot: Path, tmp_path: Path, field: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(snapshot, copy)
    changed(copy, {field: 1 + FORMAT_VERSION})
    with pytest.raises(BadSnapshot, match=rf"format {1 + FORMAT_VERSION}, this release reads formats up to"):
        restore(copy, tmp_path / "data")


def test_a_snapshot_that_names_files_outside_of_it_is_not_restored(snapshot: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(snapshot, copy)
    for name in ("../../outside", "/outside"):
        changed(copy, {"files": {name: {"bytes": 0, "sha256": ""}}})
        with pytest.raises(BadSnapshot, match="names of files within"):
            restore(copy, tmp_path / "data")


def changed(folder: Path, values: dict[str, Any]) -> None:
    """Change the manifest, and the SHA-256 of it with it."""
    manifest = json.loads((folder / MANIFEST).read_text()) | values
    (folder / MANIFEST).write_text(json.dumps(manifest))
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    (folder / CHECKSUM).write_text(f"{digest}  {MANIFEST}\n")


def run_restore(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.retrieval.restore", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_restore_command_reports_success_and_failure(snapshot: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    done = run_restore(str(snapshot), "--data", str(data))
    assert done.returncode == 0, done.stderr
    assert "books: 59 documents" in done.stdout
    assert (data / DATABASE).exists()
    again = run_restore(str(snapshot), "--data", str(data))
    assert again.returncode == 1
    assert "expected an empty or missing folder" in again.stderr
    with pytest.raises(RestoreError):
        restore(snapshot, data / DATABASE)
    assert run_restore(str(tmp_path), "--data", str(tmp_path / "new")).returncode == 1
    assert run_restore().returncode == 2


async def test_compaction_leaves_one_segment_without_dead_documents(tmp_path: Path) -> None:
    async def check(stub: Stub) -> list[Any]:
        await filled(stub)
        await stub.Upsert(generation(3, count=5))
        before = await contents(stub)
        done = await stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="live"))
        assert (done.after.part_count, done.after.segment_count) == (1, 1)
        assert (done.after.dead_document_count, done.after.indexed_document_count) == (0, 59)
        assert done.after.segment_bytes > 0 < done.before.memory_bytes
        assert await contents(stub) == before
        again = await stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="books"))
        assert again.before == again.after == done.after
        await stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection="books", document_ids=["01", "02"]))
        smaller = await stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="books"))
        assert (smaller.before.dead_document_count, smaller.after.dead_document_count) == (2, 0)
        described = (await stub.GetCollection(pb.GetCollectionRequest(name="books"))).collection
        assert described.statistics == smaller.after
        return await contents(stub)

    async with retrieval_stub(tmp_path, segment_documents=SEGMENT) as stub:
        before = await check(stub)
    async with retrieval_stub(tmp_path, segment_documents=SEGMENT) as stub:
        assert await contents(stub) == before


async def test_a_collection_too_small_for_a_segment_is_compacted_in_memory(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await filled(stub)
        nothing = await stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="empty"))
        assert nothing.before == nothing.after == pb.CollectionStatistics()
        await stub.Upsert(generation(3, count=5))
        before = await contents(stub)
        done = await stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="books"))
        assert (done.before.part_count, done.before.dead_document_count) == (2, 6)
        assert (done.after.part_count, done.after.segment_count, done.after.dead_document_count) == (1, 0, 0)
        assert await contents(stub) == before


async def test_a_segment_without_live_documents_is_removed(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path, segment_documents=SEGMENT) as stub:
        await filled(stub)
        await stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="books"))
        ids = [f"{number:02}" for number in range(60)]
        await stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection="books", document_ids=ids))
        emptied = await stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="books"))
        assert emptied.after == pb.CollectionStatistics()


async def test_a_filter_that_matches_nothing_in_a_segment_finds_documents_outside_it(tmp_path: Path) -> None:
    comparison = flt.Comparison(field="year", operator=flt.Comparison.OPERATOR_EQUAL, value=value(3))

    async with retrieval_stub(tmp_path, segment_documents=SEGMENT) as stub:
        await filled(stub)
        await stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="books"))
        request = pb.RetrieveRequest(
            collection="books", queries=[query([1, 2, 3, 4])], filter=flt.Filter(comparison=comparison)
        )
        assert not (await stub.Retrieve(request)).rankings[0].document_ids
        await stub.Upsert(generation(3, count=1))
        assert list((await stub.Retrieve(request)).rankings[0].document_ids) == ["00"]


async def test_statistics_count_live_dead_and_indexed_documents_and_bytes(tmp_path: Path) -> None:
    async with retrieval_stub(tmp_path) as stub:
        await stub.CreateCollection(new_collection())
        documents = [document(f"{i}", "x" * 1000) for i in range(100)]
        await stub.Upsert(upsert(documents, np.ones((100, 4))))
        await stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection="books", document_ids=["1", "2"]))
        described = (await stub.GetCollection(pb.GetCollectionRequest(name="books"))).collection
        held = described.statistics
        assert described.document_count == 98
        assert (held.dead_document_count, held.part_count, held.segment_count) == (2, 1, 0)
        assert (held.indexed_document_count, held.segment_bytes) == (0, 0)
        assert 98 * 1000 < held.store_bytes < 98 * 1200
        assert 100 * 4 * 4 < held.memory_bytes < 100 * 1000
        (alone,) = (await stub.ListCollections(pb.ListCollectionsRequest())).collections
        assert alone == described


async def test_a_job_continues_when_its_caller_disconnects_and_the_next_call_joins_it(tmp_path: Path) -> None:
    from services.retrieval.lanes import SharedJobs

    jobs, ran = SharedJobs(), []
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def work(is_stopped: Callable[[], bool]) -> str:
        ran.append(is_stopped())
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
        return "done"

    first = asyncio.create_task(jobs.run("key", work))
    await asyncio.to_thread(until, lambda: bool(ran))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second, third = asyncio.create_task(jobs.run("key", work)), asyncio.create_task(jobs.run("key", work))
    gate.set()
    assert list(await asyncio.gather(second, third)) == ["done", "done"]
    assert ran == [False]
    jobs.close()


async def test_too_many_jobs_are_rejected_and_a_shutdown_stops_running_ones() -> None:
    from services.retrieval.cancellation import Stopped
    from services.retrieval.lanes import SharedJobs

    jobs = SharedJobs()
    started = []

    def work(is_stopped: Callable[[], bool]) -> None:
        started.append(1)
        while not is_stopped():
            pass
        raise Stopped

    running = [asyncio.create_task(jobs.run(number, work)) for number in range(16)]
    await asyncio.to_thread(until, lambda: len(started) == 2)
    with pytest.raises(Unavailable, match="at most 16"):
        await jobs.run("more", work)
    await asyncio.to_thread(jobs.close)
    ended = await asyncio.gather(*running, return_exceptions=True)
    assert {type(error) for error in ended} <= {Unavailable, asyncio.CancelledError}
