"""Sizes of a collection in memory and on disk."""

import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.retrieval.domain.collections import CollectionStatistics
from services.retrieval.embedded.index.view import Block, View

# An id is a string object in a list: its header, about 20 characters, and a pointer.
_ID_BYTES: Final = 80


def statistics_of(view: View, folder: Path, store_bytes: int) -> CollectionStatistics:
    """Return the statistics of a collection whose segments are in `folder`."""
    return CollectionStatistics(
        view.indexed_count,
        view.dead_count,
        len(view.parts),
        sum(part.block.is_segment for part in view.parts),
        memory_bytes(view, folder),
        folder_bytes(folder),
        store_bytes,
    )


def memory_bytes(view: View, folder: Path) -> int:
    """Estimate the bytes of memory of a view. An approximate index takes as much memory as its file."""
    arrays = sum(array.nbytes for part in view.parts for array in _arrays(part.block) if not _is_mapped(array))
    others = sum(len(part.alive) * (1 + _ID_BYTES) for part in view.parts)
    return arrays + others + folder_bytes(folder, "coarse-*")


def folder_bytes(folder: Path, pattern: str = "*") -> int:
    """Return the total size of the files below a folder whose names match. Files that disappear meanwhile count 0.

    Fact: `Path.glob` raises FileNotFoundError if a folder disappears during the walk, `os.walk` does not.
    """
    folders = os.walk(folder)
    return sum(_size(Path(path, name)) for path, _, names in folders for name in fnmatch.filter(names, pattern))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a newer segment replaced it
        return 0


def _arrays(block: Block) -> Iterator[NDArray[Any]]:
    yield block.rows
    for vectors in block.vectors.values():
        yield from (vectors.matrix, vectors.lengths)
    for column in block.columns.values():
        yield from column.state()[0].values()
    for postings in block.postings.values():
        yield from postings.state().values()
    for multi in block.multi_vectors.values():
        yield from (multi.tokens.vectors, multi.tokens.starts)
        if multi.tokens.scales is not None:
            yield multi.tokens.scales


def _is_mapped(array: NDArray[Any]) -> bool:
    """Return whether an array is mapped from a file. Arrays computed from a mapped array are in memory."""
    return isinstance(array.base, np.memmap)
