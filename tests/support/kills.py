"""Retrieval killed repeatedly while a client writes: every acknowledged write must survive, completely.

The moment of a kill depends on progress, not on the clock: a random number of writes after the start, and a random part
of the time that such a write last took. A slow machine makes the run longer but does not change what it tests.
"""

import random
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
import numpy as np
from sluice.retrieval.v1 import retrieval_service_pb2 as pb
from sluice.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

from services.retrieval.embedded.engine import EmbeddedEngine
from services.retrieval.snapshots.restore import restore
from tests.support.processes import running, start
from tests.support.retrieval import document, new_collection, query, upsert
from tests.support.waiting import GUARD_S

MODULE: Final = "services.retrieval"
DOCUMENTS: Final = 6
# Groups 0 to 7 are of documents; a write to one of these moves an alias to `odd` or `books`, merges, makes a snapshot.
ALIAS, OPTIMIZE, SNAPSHOT = 8, 9, 10
KEPT: Final = 3
_MOST_WRITES: Final = 30
_TOLD_EVERY: Final = 20


@dataclass
class Tally:
    """Counts of a run, over all of its processes."""

    kills: int = 0
    acknowledged: int = 0
    snapshots: int = 0
    lost: int = 0
    """Checks that found an acknowledged write missing, or only a part of one."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, acknowledged: int, snapshots: int) -> None:
        """Count a kill and what was acknowledged and checked before it. Print the progress from time to time."""
        with self._lock:
            self.kills += 1
            self.acknowledged += acknowledged
            self.snapshots += snapshots
            if self.kills % _TOLD_EVERY == 0:
                self.tell()

    def tell(self) -> None:
        """Print the counts."""
        sys.stdout.write(f"{self.words()}\n")
        sys.stdout.flush()

    def words(self) -> str:
        """`1,000 kills, 15,201 acknowledged writes, 1,382 snapshots restored, 0 lost`."""
        return (
            f"{self.kills:,} kills, {self.acknowledged:,} acknowledged writes, "
            f"{self.snapshots:,} snapshots restored, {self.lost:,} lost"
        )


@dataclass
class Writes:
    """The client's knowledge: the acknowledged generation of each group of documents, and the write in progress.

    A generation g > 0 of a group is all its documents upserted with the text `g`; a negative one is all deleted.
    """

    acknowledged: dict[int, int] = field(default_factory=dict)
    pending: tuple[int, int] | None = None
    count: int = 0
    acknowledged_count: int = 0
    snapshots: dict[str, dict[int, int]] = field(default_factory=dict)
    """Expected content of each snapshot: what was acknowledged when it was started."""
    restored: set[str] = field(default_factory=set)
    took_s: dict[int, float] = field(default_factory=dict)
    """Duration of the last acknowledged write to each group, in seconds."""

    def run(self, stub: RetrievalServiceStub, rng: random.Random, undisturbed: int, reached: threading.Event) -> None:
        """Write until the server is gone. Set `reached` after `undisturbed` writes, just before the next is sent.

        Returns when the server is gone.
        """
        try:
            while True:
                group = rng.randrange(SNAPSHOT + 1)
                self.count += 1
                generation = self.count if rng.random() < 0.7 else -self.count
                self.pending = (group, generation)
                if group == SNAPSHOT:
                    self.snapshots[name_of(generation)] = dict(self.acknowledged)
                if undisturbed == 0:
                    reached.set()
                undisturbed -= 1
                started = time.monotonic()
                write(stub, group, generation)
                self.took_s[group] = time.monotonic() - started
                self.acknowledged[group] = generation
                self.acknowledged_count += 1
                self.pending = None
        except grpc.RpcError as error:
            if error.code() not in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}:
                raise
        finally:
            reached.set()


def ids_of(group: int) -> list[str]:
    return [f"{group}/{number}" for number in range(DOCUMENTS)]


def name_of(generation: int) -> str:
    return f"s{abs(generation):06}"


def write(stub: RetrievalServiceStub, group: int, generation: int) -> None:
    if group == SNAPSHOT:
        stub.CreateSnapshot(pb.CreateSnapshotRequest(name=name_of(generation), keep=KEPT), timeout=GUARD_S)
        return
    if group == OPTIMIZE:
        stub.OptimizeCollection(pb.OptimizeCollectionRequest(name="books"), timeout=GUARD_S)
        return
    if group == ALIAS:
        name = "odd" if generation % 2 else "books"
        stub.SetAlias(pb.SetAliasRequest(alias=pb.Alias(alias="live", collection=name)), timeout=GUARD_S)
        return
    if generation < 0:
        ids = ids_of(group)
        stub.DeleteDocuments(pb.DeleteDocumentsRequest(collection="books", document_ids=ids), timeout=GUARD_S)
        return
    documents = [document(id_, str(generation), year=generation) for id_ in ids_of(group)]
    stub.Upsert(upsert(documents, np.full((DOCUMENTS, 4), [1, generation, 0, 0])), timeout=GUARD_S)


def stored(stub: RetrievalServiceStub, group: int) -> set[str]:
    """Return the texts of a group's documents: one text if the group is complete, none if it is deleted."""
    got = stub.GetDocuments(pb.GetDocumentsRequest(collection="books", document_ids=ids_of(group)), timeout=GUARD_S)
    assert len(got.documents) in {0, DOCUMENTS}
    return {one.text for one in got.documents}


def check(stub: RetrievalServiceStub, writes: Writes) -> None:
    """Check that every group is as acknowledged, or completely as the write in progress would make it."""
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
    everything = pb.RetrieveRequest(collection="books", queries=[query([1, 1, 0, 0], depth=100)])
    found = stub.Retrieve(everything, timeout=GUARD_S)
    assert {one.document_id: one.text for one in found.documents} == texts_of(writes.acknowledged)
    counted = stub.CountDocuments(pb.CountDocumentsRequest(collection="books"), timeout=GUARD_S)
    assert counted.document_count == total


def check_snapshots(stub: RetrievalServiceStub, writes: Writes, folder: Path) -> None:
    """Check that every listed snapshot can be restored, with exactly what was acknowledged when it started."""
    names = [one.name for one in stub.ListSnapshots(pb.ListSnapshotsRequest(), timeout=GUARD_S).snapshots]
    if SNAPSHOT in writes.acknowledged:
        assert name_of(writes.acknowledged[SNAPSHOT]) in names
    for name in sorted(set(names) - writes.restored):
        data = folder / f"restored-{name}"
        restore(folder / "snapshots" / name, data)
        engine = EmbeddedEngine(data, now_us=lambda: 0, max_collections=9, segment_documents=20_000)
        try:
            with engine.reader("books") as reader:
                texts = {one.document_id: one.text for one in reader.page("", 1000, None)[0]}
        finally:
            engine.close()
        assert texts == texts_of(writes.snapshots[name])
        shutil.rmtree(data)
        writes.restored.add(name)


def texts_of(acknowledged: dict[int, int]) -> dict[str, str]:
    """Return the text of each document that is stored after these writes."""
    return {
        id_: str(generation)
        for group, generation in acknowledged.items()
        if group < ALIAS and generation > 0
        for id_ in ids_of(group)
    }


def check_alias(stub: RetrievalServiceStub, writes: Writes) -> None:
    """Check that the alias points where it was acknowledged to, or where the write in progress would point it."""
    allowed = [writes.acknowledged.pop(ALIAS, 0)]
    if writes.pending and writes.pending[0] == ALIAS:
        allowed.append(writes.pending[1])
    listed = stub.ListAliases(pb.ListAliasesRequest(), timeout=GUARD_S).aliases
    name = listed[0].collection if listed else ""
    assert name in [("odd" if generation % 2 else "books") if generation else "" for generation in allowed]
    if name:
        writes.acknowledged[ALIAS] = 1 if name == "odd" else 2


def kill_once(folder: Path, writes: Writes, rng: random.Random, arguments: Sequence[str]) -> None:
    """Start the server, check the state after the last kill, and kill it while a client writes."""
    server = start(MODULE, *arguments)
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(1) as threads:
        try:
            stub = RetrievalServiceStub(channel)
            stub.CreateCollection(new_collection(), timeout=GUARD_S)
            stub.CreateCollection(new_collection("odd"), timeout=GUARD_S)
            check(stub, writes)
            check_snapshots(stub, writes, folder)
            reached = threading.Event()
            own = random.Random(rng.random())
            writing = threads.submit(writes.run, stub, own, rng.randrange(_MOST_WRITES), reached)
            assert reached.wait(GUARD_S)
            # Not a synchronization: this only spreads the kills over all parts of a write.
            group, _ = writes.pending or (0, 0)
            time.sleep(rng.random() * writes.took_s.get(group, 0))
        finally:
            server.kill()
        writing.result(GUARD_S)


def kill_again_and_again(folder: Path, seed: int, cycles: int, tally: Tally, stop: threading.Event) -> None:
    """Kill a server `cycles` times, and until enough snapshots were completed. Raises AssertionError."""
    rng = random.Random(seed)
    writes = Writes()
    # Deadlines are no part of this: on a busy machine a write may take its time.
    arguments = ["--data", str(folder / "data"), "--snapshots", str(folder / "snapshots"), "--max-deadline-s", "3600"]
    done = 0
    try:
        while not stop.is_set() and (done < cycles or len(writes.restored) < KEPT):
            # With 20, segments are built all the time, and left half done by the kill.
            size = rng.choice(["20", "20000"])
            before = writes.acknowledged_count, len(writes.restored)
            kill_once(folder, writes, rng, [*arguments, "--segment-documents", size])
            done += 1
            tally.add(writes.acknowledged_count - before[0], len(writes.restored) - before[1])
        if stop.is_set():
            return
        with running(MODULE, *arguments) as server, grpc.insecure_channel(server.address) as channel:
            check_the_end(RetrievalServiceStub(channel), writes, folder)
    except BaseException as error:
        stop.set()
        tally.lost += isinstance(error, AssertionError)
        raise


def check_the_end(stub: RetrievalServiceStub, writes: Writes, folder: Path) -> None:
    """Check that the next snapshot removes what the kills left behind."""
    check(stub, writes)
    check_snapshots(stub, writes, folder)
    write(stub, SNAPSHOT, writes.count + 1)
    assert len(stub.ListSnapshots(pb.ListSnapshotsRequest(), timeout=GUARD_S).snapshots) == KEPT
    assert not list(folder.glob("snapshots/*.draft"))


def kill_in_parallel(folder: Path, seed: int, cycles: int, jobs: int) -> Tally:
    """Kill `jobs` servers, each with its own data, `cycles` times in total. Raises the first failure."""
    tally, stop = Tally(), threading.Event()
    shares = [cycles // jobs + (job < cycles % jobs) for job in range(jobs)]
    folders = [folder / str(job) for job in range(jobs)]
    with ThreadPoolExecutor(jobs) as threads:
        running_ = [
            threads.submit(kill_again_and_again, own, seed + job, share, tally, stop)
            for job, (own, share) in enumerate(zip(folders, shares, strict=True))
        ]
    tally.tell()
    for one in running_:
        one.result()
    return tally
