"""A data folder with words analyzed by an earlier release, which are analyzed again when it is opened.

`tests/data/retrieval-analysis-1.tar.xz` is a data folder of the release before bigrams: a collection of seven documents
with a dense and a text field, six of them in a segment and one of these deleted.
"""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from services.retrieval.domain.schema import ANALYSIS_VERSION
from services.retrieval.embedded.engine import EmbeddedEngine
from services.retrieval.embedded.storage.segment_files import MANIFEST
from services.retrieval.snapshots.repository import SnapshotRepository
from services.retrieval.snapshots.restore import restore
from tests.support.retrieval import Stub, retrieval_stub

DATA = Path(__file__).parents[2] / "data" / "retrieval-analysis-1.tar.xz"
QUERIES = {
    "图书馆": ["new", "zh"],
    "机器学习": ["zh"],
    "美術館": ["ja"],
    "도서관": ["ko"],
    "cats": ["en"],
    "x" * 300: ["long"],
    "我不喜欢": [],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Unpack the data folder of the earlier release."""
    target = tmp_path / "data"
    with tarfile.open(DATA) as archive:
        archive.extractall(target, filter="data")
    return target


def manifest_of(folder: Path) -> dict[str, object]:
    (path,) = folder.glob(f"segments/*/*/{MANIFEST}")
    read: dict[str, object] = json.loads(path.read_text())
    return read


def inode_of_vectors(folder: Path) -> int:
    (vectors,) = folder.glob("segments/*/*/vectors-v.npy")
    return vectors.stat().st_ino


def set_modes(folder: Path, *, folders: int, files: int) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(folders if path.is_dir() else files)


async def is_found(stub: Stub) -> None:
    for text, expected in QUERIES.items():
        request = pb.RetrieveRequest(collection="c", queries=[pb.FieldQuery(text=text, depth=10)])
        assert sorted((await stub.Retrieve(request)).rankings[0].document_ids) == expected, text
    described = (await stub.GetCollection(pb.GetCollectionRequest(name="c"))).collection
    assert (described.text_analysis, described.statistics.segment_count) == (ANALYSIS_VERSION, 1)


async def test_words_of_an_earlier_release_are_analyzed_again_once(folder: Path) -> None:
    assert "analysis" not in manifest_of(folder)
    before = inode_of_vectors(folder)
    async with retrieval_stub(folder) as stub:
        await is_found(stub)
    written = manifest_of(folder)
    assert written["analysis"] == ANALYSIS_VERSION
    assert inode_of_vectors(folder) == before
    async with retrieval_stub(folder) as stub:
        await is_found(stub)
    assert manifest_of(folder) == written


async def test_a_read_only_folder_of_an_earlier_release_is_searched(folder: Path) -> None:
    set_modes(folder, folders=0o555, files=0o444)
    try:
        async with retrieval_stub(folder) as stub:
            await is_found(stub)
    finally:
        set_modes(folder, folders=0o755, files=0o644)


async def test_a_snapshot_with_the_earlier_analysis_is_restored(folder: Path, tmp_path: Path) -> None:
    """The snapshot contains the segment as the earlier release wrote it, even if the snapshot is created now."""
    earlier = tmp_path / "earlier"
    shutil.copytree(folder / "segments", earlier)
    engine = EmbeddedEngine(folder, now_us=lambda: 0, max_collections=9, segment_documents=4)
    try:

        def copy(target: Path, is_stopped: object) -> None:
            engine.copy_to(target, lambda: False)
            shutil.rmtree(target / "segments")
            shutil.copytree(earlier, target / "segments")

        SnapshotRepository(tmp_path / "snapshots", copy, lambda: 0).create("old", 0, lambda: False)
    finally:
        engine.close()
    restore(tmp_path / "snapshots" / "old", tmp_path / "restored")
    assert "analysis" not in manifest_of(tmp_path / "restored")
    async with retrieval_stub(tmp_path / "restored") as stub:
        await is_found(stub)
