"""Live recall: repeats a sample of the approximate searches exactly, to measure what they missed.

Rule: a search never waits for it. One repetition runs at a time, at the lowest priority, and no other search is sampled
while it runs.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import count

from services.retrieval.cancellation import Stopped
from services.retrieval.domain.filters import Filter
from services.retrieval.domain.queries import Candidates, CascadeQuery, DenseQuery, MultiVectorQuery, Query
from services.retrieval.embedded.index.filter_masks import masks_of
from services.retrieval.embedded.index.view import View
from services.retrieval.embedded.search.search import search
from services.retrieval.metrics import LIVE_CANDIDATES
from services.rpc.server.priority import LOWEST, lower_priority


class RecallMonitor:
    """Repeats every `every`-th search exactly; 0 repeats none."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._numbers = count(1)
        self._busy = threading.Lock()
        self._stopped = threading.Event()
        self._executor = ThreadPoolExecutor(
            1, thread_name_prefix="recall", initializer=lower_priority, initargs=(LOWEST,)
        )

    def record(
        self, view: View, queries: Sequence[Query | CascadeQuery], condition: Filter | None, found: Sequence[Candidates]
    ) -> Future[None] | None:
        """Record a search. Returns the future of its repetition if it was sampled."""
        if not self._every or next(self._numbers) % self._every or not self._busy.acquire(blocking=False):
            return None
        return self._executor.submit(self._repeat, view, queries, condition, found)

    def close(self) -> None:
        """Stop a running repetition and end the thread."""
        self._stopped.set()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _repeat(
        self, view: View, queries: Sequence[Query | CascadeQuery], condition: Filter | None, found: Sequence[Candidates]
    ) -> None:
        try:
            masks = masks_of(view, condition, self._check)
            for query, candidates in zip(queries, found, strict=True):
                if isinstance(query, DenseQuery | MultiVectorQuery) and query.is_approximate:
                    exact = search(view, replace(query, is_exact=True), masks, self._is_over).candidates
                    hits = len(set(exact.ids) & set(candidates.ids))
                    LIVE_CANDIDATES.labels("found").inc(hits)
                    LIVE_CANDIDATES.labels("missed").inc(len(exact.ids) - hits)
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
