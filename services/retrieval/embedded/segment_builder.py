"""Builds segments in the background: one thread that gives coarse indexes to what has only been searched exactly.

A collection has at most one segment, its eldest part. It grows by what has gathered behind it, so that every vector
is put into a graph once; it is made anew when most of its documents are dead.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from services.retrieval.domain.schema import Schema
from services.retrieval.embedded.index.ann import CoarseIndex, Form, IsStopped, Stopped
from services.retrieval.embedded.index.fde import encoded_fields
from services.retrieval.embedded.index.view import Block, Part, View
from services.retrieval.embedded.storage.segment_files import mapped, save
from services.rpc.server.priority import LOWEST, lower_priority

logger = logging.getLogger(__name__)

# The segment is copied to grow: by at least this share, so that a vector is copied about ten times in all.
_GROWTH_SHARE: Final = 0.1
# After a disk did not take a segment, the work of building it again is not begun sooner.
_RETRY_S: Final = 60.0
# A segment with a smaller share of living documents is made anew.
_ALIVE_SHARE_MIN: Final = 0.5


def is_due(view: View, minimum: int) -> bool:
    """Whether a segment is worth building: `minimum` documents without one, or more when there is a large one."""
    segment = segment_of(view)
    if segment is None:
        return view.document_count >= minimum
    behind = view.document_count - segment.count
    is_mostly_dead = segment.count < _ALIVE_SHARE_MIN * len(segment.alive)
    return is_mostly_dead or behind >= max(minimum, _GROWTH_SHARE * len(segment.alive))


def segment_of(view: View) -> Part | None:
    """The segment of a view; None when it has none."""
    return view.parts[0] if view.parts and view.parts[0].block.is_segment else None


def is_merged(view: View, minimum: int) -> bool:
    """Whether nothing is left to merge: one part at most, without the dead, and a segment if that is worth it."""
    if len(view.parts) > 1 or view.dead_count:
        return False
    return view.document_count < minimum or segment_of(view) is not None


def merge(view: View, schema: Schema, folder: Path, minimum: int, is_stopped: IsStopped) -> tuple[Block, int]:
    """All living documents of a view as one block, and the last row in it.

    A segment when there is one already, or the documents are `minimum` or more. Raises what `build` raises.
    """
    if view.document_count >= minimum or segment_of(view) is not None:
        return build(view, schema, folder, is_stopped, alive_share_min=1.0)
    return Block.joined([part.compacted() for part in view.parts]), int(view.parts[-1].block.rows[-1])


def build(
    view: View,
    schema: Schema,
    folder: Path,
    is_stopped: IsStopped,
    *,
    alive_share_min: float = _ALIVE_SHARE_MIN,
) -> tuple[Block, int]:
    """A segment of all documents of a view, saved under the folder of its collection; and the last row in it.

    A segment with a smaller share of living documents than `alive_share_min` is made anew, another one grows.

    Raises Stopped, and OSError when the disk does not take it.
    """
    segment = segment_of(view)
    last_row = int(view.parts[-1].block.rows[-1])
    if segment is not None and segment.count >= alive_share_min * len(segment.alive):
        delta = Block.joined([part.compacted() for part in view.parts[1:]])
        block = _grown(segment.block, delta, schema, is_stopped)
    else:
        block = _made(Block.joined([part.compacted() for part in view.parts]), schema, is_stopped)
    return mapped(block, save(block, last_row, folder)), last_row


def _made(block: Block, schema: Schema, is_stopped: IsStopped) -> Block:
    vectors, tokens = dict(block.vectors), dict(block.tokens)
    for field in schema.dense:
        matrix = vectors[field.name].matrix
        coarse = CoarseIndex.of(matrix.__getitem__, len(block.rows), Form.of(field), is_stopped)
        vectors[field.name] = replace(vectors[field.name], coarse=coarse)
    for encoded in encoded_fields(schema):
        encodings = encoded.rows(tokens[encoded.name])
        coarse = CoarseIndex.of(encodings, len(block.rows), encoded.form, is_stopped)
        tokens[encoded.name] = replace(tokens[encoded.name], coarse=coarse)
    return replace(block, vectors=vectors, tokens=tokens, is_segment=True)


def _grown(segment: Block, delta: Block, schema: Schema, is_stopped: IsStopped) -> Block:
    block = Block.joined([segment, delta])
    vectors, tokens = dict(block.vectors), dict(block.tokens)
    for name, given in delta.vectors.items():
        before = segment.vectors[name].coarse
        assert before is not None
        coarse = before.grown(given.matrix.__getitem__, len(delta.rows), is_stopped)
        vectors[name] = replace(vectors[name], coarse=coarse)
    for encoded in encoded_fields(schema):
        before = segment.tokens[encoded.name].coarse
        assert before is not None
        coarse = before.grown(encoded.rows(delta.tokens[encoded.name]), len(delta.rows), is_stopped)
        tokens[encoded.name] = replace(tokens[encoded.name], coarse=coarse)
    return replace(block, vectors=vectors, tokens=tokens, is_segment=True)


def with_segment(view: View, segment: Block, last_row: int) -> View:
    """The view with the segment in place of everything up to `last_row`; who died meanwhile is dead in it too."""
    alive = np.concatenate([part.block.rows[part.alive] for part in view.parts] or [np.empty(0, dtype=np.int64)])
    parts = [Part(segment, np.isin(segment.rows, alive, assume_unique=True))]
    for part in view.parts:
        start = int(np.searchsorted(part.block.rows, last_row, side="right"))
        if start == 0:
            parts.append(part)
        elif start < len(part.alive):
            newer = np.arange(start, len(part.alive), dtype=np.int64)
            parts.append(Part(part.block.take(newer), part.alive[start:]))
    return View(view.version, tuple(parts))


class Builder:
    """Runs `work` in a thread of its own after every `wake`, until it is closed. `work` asks whether it must stop."""

    def __init__(self, work: Callable[[Callable[[], bool]], None]) -> None:
        self._work = work
        self._woken = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="builder")
        self._thread.start()

    def wake(self) -> None:
        """Let it look whether there is something to build."""
        self._woken.set()

    def close(self) -> None:
        """Stop what is being built, and end the thread."""
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
                logger.warning("no segment was built: %s; searches stay exact, tried again later", error)
                self._stopped.wait(_RETRY_S)
