"""The state of an index call across its streams: how long it retries without an acknowledgement."""

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import grpc

from sluice.client.answers import Acknowledgement
from sluice.client.calls import wait_s
from sluice.client.indexing import Window
from sluice.client.retry import Attempts, RetryPolicy
from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import SluiceError, Unavailable
from sluice.search.v1 import search_service_pb2 as pb

# The number of attempts is not limited, only the time without an acknowledgement.
_RETRY: Final = RetryPolicy(attempts=1_000_000, initial_s=0.1)

OnRetry = Callable[[SluiceError, float], None]


class IndexJob:
    """An index call: its first message, its window, and the time until it gives up.

    That time starts again with each acknowledgement, and with each document from the source, which may be slow.
    """

    def __init__(self, first: pb.IndexRequest, window: Window, patience_s: float, on_retry: OnRetry | None) -> None:
        self.first = first
        self.window = window
        self.patience_s = patience_s
        self._on_retry = on_retry
        self._last: SluiceError | None = None
        self.progressed(1)

    def progressed(self, documents: int) -> None:
        """Restart the time until the call gives up, if there were documents."""
        if documents:
            self.ends_at = time.monotonic() + self.patience_s
            self._attempts = Attempts(_RETRY, None, deadline=self.ends_at)

    def acknowledge(self, response: pb.IndexResponse) -> Iterator[Acknowledgement]:
        """Yield the acknowledgements of a response. The time that the caller takes to process them does not count."""
        self.progressed(len(response.acknowledgements))
        yield from self.window.acknowledge(response)
        self.progressed(len(response.acknowledgements))

    def broken(self, error: grpc.RpcError) -> float:
        """Return the seconds to wait before the next stream. Raises SluiceError if the call must end."""
        self.window.rewind()
        try:
            seconds = wait_s(self._attempts, error)
        except Unavailable as failure:
            raise self.given_up(failure) from None
        self._last = self._attempts.last
        if self._on_retry and self._last:
            self._on_retry(self._last, seconds)
        return seconds

    def given_up(self, failure: Unavailable | None = None) -> Unavailable:
        """Return the error of a call that gave up: the number of stored documents, and the last error of the server."""
        last = failure or self._last
        stored = self.window.stored
        return Unavailable(
            f"no document was acknowledged for {self.patience_s:g} s; {stored:,} were stored before. To continue, "
            f"index the same documents again: stored documents are skipped. "
            f"Last error of the server: {last.message if last else 'none'}",
            reason=last.reason if last else ErrorReason.ERROR_REASON_OVERLOADED,
            metadata={**(last.metadata if last else {}), "patience_s": self.patience_s, "stored": stored},
            retry_after_s=last.retry_after_s if isinstance(last, Unavailable) else None,
        )


class Watchdog:
    """A timeout for reads of a synchronous gRPC stream, which have none: calls `cancel` if a read takes too long.

    The reader and the thread share a queue and no lock. A signal handler can raise an exception between taking a lock
    and entering the block that releases it: the thread would wait forever, and `close` for the thread.
    """

    def __init__(self, cancel: Callable[[], object]) -> None:
        self._cancel = cancel
        self._due: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        self.has_fired = False
        self._thread = threading.Thread(target=self._run, name="sluice-index-patience", daemon=True)
        self._thread.start()

    def read(self, responses: Iterator[pb.IndexResponse], job: IndexJob) -> pb.IndexResponse | None:
        """Return the next response, or None at the end. Raises Unavailable if the job gives up before that."""
        self._due.put(job.ends_at)
        try:
            return next(responses, None)
        except grpc.RpcError:
            if self.has_fired:
                raise job.given_up() from None
            raise
        finally:
            self._due.put(math.inf)

    def close(self) -> None:
        """Stop the thread."""
        self._due.put(None)
        self._thread.join()

    def _run(self) -> None:
        due: float | None = math.inf
        while due is not None:
            left_s = None if math.isinf(due) else max(0.0, due - time.monotonic())
            try:
                due = self._due.get(timeout=left_s)
            except queue.Empty:
                self.has_fired = True
                self._cancel()
                return
