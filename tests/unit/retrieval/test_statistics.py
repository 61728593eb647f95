"""Sizes of a collection's files while segments are replaced."""

import shutil
import threading
from pathlib import Path

from services.retrieval.embedded.statistics import folder_bytes


def test_files_are_summed_by_name(tmp_path: Path) -> None:
    for name, size in (("1/coarse-a", 3), ("1/rows", 5), ("2/coarse-b", 7)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
    assert folder_bytes(tmp_path) == 15
    assert folder_bytes(tmp_path, "coarse-*") == 10
    assert folder_bytes(tmp_path / "nothing") == 0


def test_segments_may_be_replaced_during_the_count(tmp_path: Path) -> None:
    ended = threading.Event()

    def replace() -> None:
        for number in range(400):
            for segment in (tmp_path / f"{number}-{part}" for part in range(5)):
                segment.mkdir()
                (segment / "rows").write_bytes(b"1234")
            for segment in tmp_path.iterdir():
                shutil.rmtree(segment)
        ended.set()

    replacing = threading.Thread(target=replace)
    replacing.start()
    while not ended.is_set():
        assert folder_bytes(tmp_path) % 4 == 0
    replacing.join()
