"""Live recall: one search in some hundred is repeated exactly in the background, to see what the fast one missed.

Rule: it never keeps a search waiting. One repetition runs at a time, at the lowest priority; while it runs no other
search is sampled.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import count

from services.retrieval.domain.filters import Filter
from services.retrieval.embedded.index.ann import Stopped
from services.retrieval.embedded.index.view import View
from services.retrieval.embedded.search.dense import DenseQuery
from services.retrieval.embedded.search.late_interaction import MultiVectorQuery
from services.retrieval.embedded.search.search import Candidates, Query, Staged, masks_of, search
from services.rpc.observability.metrics import LIVE_CANDIDATES
from services.rpc.server.priority import LOWEST, lower_priority


class LiveRecall:
    """Repeats every `every`-th search exactly; 0 repeats none."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._numbers = count(1)
        self._busy = threading.Lock()
        self._stopped = threading.Event()
        self._executor = ThreadPoolExecutor(
            1, thread_name_prefix="recall", initializer=lower_priority, initargs=(LOWEST,)
        )

    def note(
        self, view: View, queries: Sequence[Query | Staged], condition: Filter | None, found: Sequence[Candidates]
    ) -> Future[None] | None:
        """Take note of a search, which may be repeated: its future then."""
        if not self._every or next(self._numbers) % self._every or not self._busy.acquire(blocking=False):
            return None
        return self._executor.submit(self._repeat, view, queries, condition, found)

    def close(self) -> None:
        """Stop the repetition that runs, and end."""
        self._stopped.set()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _repeat(
        self, view: View, queries: Sequence[Query | Staged], condition: Filter | None, found: Sequence[Candidates]
    ) -> None:
        try:
            masks = masks_of(view, condition, self._check)
            for query, candidates in zip(queries, found, strict=True):
                if isinstance(query, DenseQuery | MultiVectorQuery) and query.is_approximate:
                    truth = search(view, replace(query, is_exact=True), masks, self._is_over)
                    hits = len(set(truth.ids) & set(candidates.ids))
                    LIVE_CANDIDATES.labels("found").inc(hits)
                    LIVE_CANDIDATES.labels("missed").inc(len(truth.ids) - hits)
        except Stopped:
            return
        finally:
            self._busy.release()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    def _is_over(self) -> bool:
        self._check()
        return False
