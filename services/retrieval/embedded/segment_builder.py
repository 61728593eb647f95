"""Builds segments, which give approximate indexes to documents that are only searched exactly until then.

A collection has at most one segment, its oldest part. It grows by the parts that follow it, so that every vector is
added to a graph once. It is rebuilt when most of its documents are dead.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from services.retrieval.cancellation import IsStopped, Stopped
from services.retrieval.domain.schema import Schema
from services.retrieval.embedded.index.ann import AnnIndex, VectorFormat
from services.retrieval.embedded.index.fde import fde_fields
from services.retrieval.embedded.index.view import Block, LiveBlock, View
from services.retrieval.embedded.storage.segment_files import save, with_mapped_vectors
from services.rpc.server.priority import LOWEST, lower_priority

logger = logging.getLogger(__name__)

# Growing copies the segment, so it grows by at least this share; each vector is copied about ten times in all.
_GROWTH_SHARE: Final = 0.1
# Pause after the disk rejected a segment.
_RETRY_S: Final = 60.0
# A segment with a smaller share of live documents is rebuilt.
_ALIVE_SHARE_MIN: Final = 0.5


def is_due(view: View, minimum: int) -> bool:
    """Return whether to build a segment: for `minimum` documents without one, or more if the segment is large."""
    segment = segment_of(view)
    if segment is None:
        return view.document_count >= minimum
    unindexed = view.document_count - segment.count
    is_mostly_dead = segment.count < _ALIVE_SHARE_MIN * len(segment.alive)
    return is_mostly_dead or unindexed >= max(minimum, _GROWTH_SHARE * len(segment.alive))


def segment_of(view: View) -> LiveBlock | None:
    """Return the segment of a view, if it has one."""
    return view.parts[0] if view.parts and view.parts[0].block.is_segment else None


def is_compact(view: View, minimum: int) -> bool:
    """Return whether nothing is left to compact: at most one part, no dead documents, and a segment if it is due."""
    if len(view.parts) > 1 or view.dead_count:
        return False
    return view.document_count < minimum or segment_of(view) is not None


def compact(view: View, schema: Schema, folder: Path, minimum: int, is_stopped: IsStopped) -> tuple[Block, int]:
    """Join the live documents of a view into one block, and return it with the last row.

    The block is a segment if the view has one already or `minimum` documents. Raises what `build` raises.
    """
    if view.document_count >= minimum or segment_of(view) is not None:
        return build(view, schema, folder, is_stopped, alive_share_min=1.0)
    return Block.concatenate([part.compact() for part in view.parts]), int(view.parts[-1].block.rows[-1])


def build(
    view: View,
    schema: Schema,
    folder: Path,
    is_stopped: IsStopped,
    *,
    alive_share_min: float = _ALIVE_SHARE_MIN,
) -> tuple[Block, int]:
    """Build and save a segment of all documents of a view, and return it with its last row.

    An existing segment is extended if its share of live documents is at least `alive_share_min`, else rebuilt.

    Raises Stopped, and OSError if the disk rejects the files.
    """
    segment = segment_of(view)
    last_row = int(view.parts[-1].block.rows[-1])
    if segment is not None and segment.count >= alive_share_min * len(segment.alive):
        added = Block.concatenate([part.compact() for part in view.parts[1:]])
        block = _extend(segment.block, added, schema, is_stopped)
    else:
        block = _index(Block.concatenate([part.compact() for part in view.parts]), schema, is_stopped)
    return with_mapped_vectors(block, save(block, last_row, folder)), last_row


def _index(block: Block, schema: Schema, is_stopped: IsStopped) -> Block:
    """Return the block with new approximate indexes."""
    vectors, multi_vectors = dict(block.vectors), dict(block.multi_vectors)
    for field in schema.dense:
        matrix = vectors[field.name].matrix
        ann = AnnIndex.build(matrix.__getitem__, len(block.rows), VectorFormat.of(field), is_stopped)
        vectors[field.name] = replace(vectors[field.name], ann=ann)
    for fde in fde_fields(schema):
        encodings = fde.encodings(multi_vectors[fde.name])
        ann = AnnIndex.build(encodings, len(block.rows), fde.format, is_stopped)
        multi_vectors[fde.name] = replace(multi_vectors[fde.name], ann=ann)
    return replace(block, vectors=vectors, multi_vectors=multi_vectors, is_segment=True)


def _extend(segment: Block, added: Block, schema: Schema, is_stopped: IsStopped) -> Block:
    """Return the segment with more documents at the end."""
    block = Block.concatenate([segment, added])
    vectors, multi_vectors = dict(block.vectors), dict(block.multi_vectors)
    for name, given in added.vectors.items():
        ann = segment.vectors[name].ann
        assert ann is not None
        extended = ann.extend(given.matrix.__getitem__, len(added.rows), is_stopped)
        vectors[name] = replace(vectors[name], ann=extended)
    for fde in fde_fields(schema):
        ann = segment.multi_vectors[fde.name].ann
        assert ann is not None
        extended = ann.extend(fde.encodings(added.multi_vectors[fde.name]), len(added.rows), is_stopped)
        multi_vectors[fde.name] = replace(multi_vectors[fde.name], ann=extended)
    return replace(block, vectors=vectors, multi_vectors=multi_vectors, is_segment=True)


def with_segment(view: View, segment: Block, last_row: int) -> View:
    """Return the view with the segment in place of all documents up to `last_row`.

    Documents that died while the segment was built are dead in it too.
    """
    alive = np.concatenate([part.block.rows[part.alive] for part in view.parts] or [np.empty(0, dtype=np.int64)])
    parts = [LiveBlock(segment, np.isin(segment.rows, alive, assume_unique=True))]
    for part in view.parts:
        start = int(np.searchsorted(part.block.rows, last_row, side="right"))
        if start == 0:
            parts.append(part)
        elif start < len(part.alive):
            newer = np.arange(start, len(part.alive), dtype=np.int64)
            parts.append(LiveBlock(part.block.take(newer), part.alive[start:]))
    return View(view.version, tuple(parts))


class SegmentBuilder:
    """A thread that runs `work` after every `wake` until it is closed."""

    def __init__(self, work: Callable[[IsStopped], None]) -> None:
        self._work = work
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="builder")
        self._thread.start()

    def wake(self) -> None:
        """Let the thread check whether a segment is due."""
        self._woken.set()

    def close(self) -> None:
        """Stop the work and end the thread."""
        self._stopped.set()
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        lower_priority(LOWEST)
        while self._woken.wait() and not self._stopped.is_set():
            self._woken.clear()
            try:
                self._work(self._stopped.is_set)
            except Stopped:
                return
            # FAISS reports a full disk as a RuntimeError.
            except (OSError, RuntimeError) as error:
                logger.warning("segment not built: %s; searches stay exact, next attempt in %g s", error, _RETRY_S)
                self._stopped.wait(_RETRY_S)
