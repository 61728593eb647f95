"""What a collection takes of memory and disk."""

import fnmatch
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.retrieval.embedded.index.view import Block, View

# An id is a string object in a list: about its header, some 20 characters, and its place.
_ID_BYTES: Final = 80


@dataclass(frozen=True)
class Statistics:
    """How a collection is held."""

    indexed_count: int
    dead_count: int
    part_count: int
    segment_count: int
    memory_bytes: int
    """About, without what is mapped from files."""
    segment_bytes: int
    store_bytes: int
    """About: estimated from some documents."""


def statistics(view: View, folder: Path, store_bytes: int) -> Statistics:
    """Those of a collection whose segments lie in `folder`."""
    return Statistics(
        view.indexed_count,
        view.dead_count,
        len(view.parts),
        sum(part.block.is_segment for part in view.parts),
        memory_bytes(view, folder),
        folder_bytes(folder),
        store_bytes,
    )


def memory_bytes(view: View, folder: Path) -> int:
    """About how many bytes of memory a view takes. An approximate index takes as much there as in its file."""
    arrays = sum(array.nbytes for part in view.parts for array in _arrays(part.block) if not _is_mapped(array))
    others = sum(len(part.alive) * (1 + _ID_BYTES) for part in view.parts)
    return arrays + others + folder_bytes(folder, "coarse-*")


def folder_bytes(folder: Path, pattern: str = "*") -> int:
    """Bytes of the files of a collection's segments whose names match; segments that go meanwhile do not count.

    Fact: `Path.glob` raises FileNotFoundError when a folder goes while it looks, `os.walk` does not.
    """
    places = os.walk(folder)
    return sum(_size(Path(place, name)) for place, _, names in places for name in fnmatch.filter(names, pattern))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # replaced meanwhile by a newer segment
        return 0


def _arrays(block: Block) -> Iterator[NDArray[Any]]:
    yield block.rows
    for vectors in block.vectors.values():
        yield from (vectors.matrix, vectors.lengths)
    for column in block.columns.values():
        yield from column.state()[0].values()
    for postings in block.postings.values():
        yield from postings.state().values()
    for tokens in block.tokens.values():
        yield from (tokens.vectors, tokens.starts)
        if tokens.scales is not None:
            yield tokens.scales


def _is_mapped(array: NDArray[Any]) -> bool:
    """Whether it lies in a file, as `segments` maps it. What numpy makes of a mapped array is in memory."""
    return isinstance(array.base, np.memmap)
