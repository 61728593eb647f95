"""A collection is loaded as it is in the store, whatever segments there are."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from services.retrieval.embedded.index.view import View, block_of
from services.retrieval.embedded.loader import load_view, remove_leftovers, remove_other_segments
from services.retrieval.embedded.segment_builder import build
from services.retrieval.embedded.storage.segment_files import MANIFEST, segment_folders
from services.retrieval.embedded.storage.store import Store
from tests.unit.retrieval.batches import SCHEMA, batch_of, contents

Model = dict[str, int]


class Collection:
    """A collection in a store, and what it must contain."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.segments = folder / "segments" / "1"
        self.model: Model = {}
        with self.store.writing() as writer:
            self.key = writer.create("c", SCHEMA, 0)

    def upsert(self, numbers: Model) -> None:
        with self.store.writing() as writer:
            writer.upsert(self.key, batch_of(numbers))
        self.model |= numbers

    def delete(self, ids: list[str]) -> None:
        with self.store.writing() as writer:
            writer.delete(self.key, writer.rows(self.key, ids))
        self.model = {id_: number for id_, number in self.model.items() if id_ not in ids}

    def load(self) -> View:
        with self.store.reading() as reader:
            (record,) = reader.collections()
            return load_view(reader, record, self.segments)

    def build(self) -> None:
        build(self.load(), SCHEMA, self.segments, lambda: False)


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    made = Collection(tmp_path)
    made.upsert({f"{number:03}": number for number in range(30)})
    yield made
    made.store.close()


def expected(model: Model) -> object:
    """Return the contents of a collection into which the model was written at once."""
    block = block_of(SCHEMA, np.arange(len(model), dtype=np.int64), batch_of(model))
    return contents(View(0).apply(0, np.empty(0, dtype=np.int64), block))


def nothing(_segment: Path) -> None:
    pass


def truncate(segment: Path) -> None:
    path = segment / "arrays.npz"
    path.write_bytes(path.read_bytes()[:-1])


def remove_manifest(segment: Path) -> None:
    (segment / MANIFEST).unlink()


@pytest.mark.parametrize("damage", [nothing, truncate, remove_manifest])
def test_a_view_equals_the_store(collection: Collection, damage: Callable[[Path], None]) -> None:
    assert contents(collection.load()) == expected(collection.model)
    collection.build()
    collection.upsert({"003": 77, "new": 5})
    collection.delete(["004", "029"])
    for segment in segment_folders(collection.segments):
        damage(segment)
    view = collection.load()
    assert contents(view) == expected(collection.model)
    assert (view.version, view.indexed_count) == (3, 27 if damage is nothing else 0)


def test_a_segment_that_lacks_a_document_of_the_store_is_skipped(collection: Collection) -> None:
    collection.build()
    (segment,) = segment_folders(collection.segments)
    collection.upsert({"late": 8})
    manifest = json.loads((segment / MANIFEST).read_text())
    (segment / MANIFEST).write_text(json.dumps({**manifest, "last_row": 31}))
    segment.rename(segment.with_name("31"))
    view = collection.load()
    assert (view.indexed_count, contents(view)) == (0, expected(collection.model))


def test_an_empty_collection_has_no_parts(collection: Collection) -> None:
    collection.delete(list(collection.model))
    assert collection.load() == View(2)


def test_old_segments_and_drafts_are_removed(collection: Collection) -> None:
    collection.build()
    collection.upsert({"late": 8})
    collection.build()
    (collection.segments / "99.draft").mkdir()
    remove_other_segments(collection.segments, 31)
    assert [path.name for path in collection.segments.iterdir()] == ["31"]
    (collection.segments / "99.draft").mkdir()
    other = collection.segments.with_name("2")
    other.mkdir()
    remove_leftovers(collection.segments.parent, {"1"})
    assert not other.exists()
    assert [path.name for path in collection.segments.iterdir()] == ["31"]
