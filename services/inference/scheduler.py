"""The scheduler of one model's rows: two lanes, batches, coalescing and a cache.

    lane         threads                             for
    interactive  one per core, below the event loop  queries, whose callers wait
    bulk         one per core, below interactive     indexing, which uses the remaining capacity, never none

If an interactive batch finds its lane empty and leaves it empty, all cores compute it. Otherwise each batch has one
thread, which gives a higher throughput. Both lanes use the same cores. When an interactive batch arrives, the kernel
preempts a running bulk batch, so the size of bulk batches does not affect the latency of queries. The bulk lane keeps
the small share that its priority gives it.

Rule: all state belongs to the event loop. Threads only run the session.
"""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Literal

from sluice.common.v1.error_reason_pb2 import ErrorReason
from sluice.errors import BackendFailed, DeadlineExpired, SluiceError, Unavailable

from services.inference import metrics
from services.inference.batch_run import BatchResult, Output, run_batch
from services.inference.batching import BatchQueue, Row
from services.inference.cache import Cache
from services.inference.cost import Cost, Size, Throughput
from services.inference.session import Session
from services.inference.stall_detector import StallDetector
from services.inference.tokenizer import Input
from services.rpc.observability import traces
from services.rpc.observability.spans import Span, SpanReference
from services.rpc.server.priority import lower_priority

logger = logging.getLogger(__name__)

Lane = Literal["interactive", "bulk"]
LANES: Final[tuple[Lane, ...]] = ("interactive", "bulk")

# Nice values of the threads that run batches. The event loop, at 0, has priority over both, because calls that are
# rejected must not wait for the work that overloads the server. The kernel weighs 5 to 15 as 335 to 36, so a busy
# interactive lane leaves a tenth of the machine to bulk: bulk never starves, and queries are at most a tenth slower.
_NICE: Final[dict[Lane, int]] = {"interactive": 5, "bulk": 15}

# Batches of rows from which a batch is chosen. A larger window finds nearer lengths, and delays other rows longer.
_WINDOW_BATCHES: Final[dict[Lane, int]] = {"interactive": 4, "bulk": 32}

# Factor on expected times, because the speeds of single batches differ by about as much.
_CAUTION: Final = 1.25

# Seconds that a response takes from the model to the caller: at least _ANSWER_LEAST_S, and if the event loop is busy,
# _ANSWER_LAGS times its delay in noticing the end of a batch. Peaks decay within about 50 batches.
_ANSWER_LEAST_S: Final = 0.002
_ANSWER_LAGS: Final = 3
_FORGET: Final = 0.95

_Key = tuple[bytes, tuple[str, ...]]
"""`Input.key`, and the names of the wanted outputs."""


@dataclass
class Timings:
    """Seconds that a call spent in each step, recorded while it runs. Cached rows take none."""

    tokenize_s: float = 0.0
    """Splitting the texts into tokens."""
    queue_s: float = 0.0
    """Longest time that one of its rows waited for its batch."""
    inference_s: float = 0.0
    """Longest batch with one of its rows."""


@dataclass(frozen=True)
class Schedule:
    """The lane and the deadline of a call's rows."""

    lane: Lane
    """Lane whose threads run the rows."""
    deadline: float
    """Deadline on the monotonic clock, in seconds. Rows that would be done later are not computed."""
    times: Timings = field(default_factory=Timings)
    """Receives the timings of the call."""


@dataclass(frozen=True)
class Limits:
    """Limits of one model's use of the machine."""

    threads: int
    """Concurrent batches of each lane."""
    max_batch_tokens: int
    """Most tokens of a batch, including padding."""
    max_batch_rows: int
    """Most rows of a batch."""
    cache_entries: int
    """Most cached outputs."""
    cache_bytes: int
    """Most bytes of cached outputs."""
    token_cache_bytes: int = 0
    """Most bytes of cached texts and their token ids."""
    stuck_s: float = 5.0
    """A batch counts as stuck if it takes longer than this, and ten times longer than expected."""


@dataclass(eq=False, slots=True)
class _Job:
    """The rows that one call waits for."""

    deadline: float
    outputs: list[Output | None]
    done: asyncio.Future[None]
    missing: int
    times: Timings
    span: SpanReference | None
    """Current span of the call."""


@dataclass(eq=False, slots=True)
class _Work:
    """A row's input, and the jobs that wait for its output, each with the position that it fills."""

    key: _Key
    input: Input
    lane: Lane
    waiters: list[tuple[_Job, int]] = field(default_factory=list)


class BatchScheduler:
    """Schedules the rows of all callers of one model. Belongs to the event loop in which it was created."""

    def __init__(self, session: Session, cost: Cost, limits: Limits, *, model: str) -> None:
        self._session = session
        self._model = model
        self._limits = limits
        self._lanes = {lane: _Lane(lane, limits, cost, model) for lane in LANES}
        self._outcomes = {outcome: metrics.CACHE.labels(model, outcome) for outcome in ("hit", "coalesced", "miss")}
        self._rows: dict[tuple[Lane, _Key], Row[_Work]] = {}
        self.is_suspect = False
        """Whether a batch has failed since the last golden check."""
        self._cache: Cache[_Key, Output] = Cache(max_entries=limits.cache_entries, max_bytes=limits.cache_bytes)
        self.batch_count = 0
        """Batches that have run."""

    async def run(self, inputs: Sequence[Input], wanted: Sequence[str], schedule: Schedule) -> list[Output]:
        """Return the wanted outputs of each input, in order.

        Raises Unavailable (OVERLOADED) immediately if the call cannot be done in time, DeadlineExpired if its time runs
        out after all, BackendFailed if the model fails. A cancelled call leaves no work behind.
        """
        lane, names = schedule.lane, tuple(wanted)
        keys = [(row.key, names) for row in inputs]
        outputs: list[Output | None] = [self._cache.get(key) for key in keys]
        absent = [position for position, output in enumerate(outputs) if output is None]
        self._outcomes["hit"].inc(len(inputs) - len(absent))
        if absent:
            deadline = self.admit(schedule, [inputs[p] for p in absent if (lane, keys[p]) not in self._rows])
            done = asyncio.get_running_loop().create_future()
            job = _Job(deadline, outputs, done, len(absent), schedule.times, traces.here())
            for position in absent:
                self._enqueue(job, position, keys[position], inputs[position], lane)
            self._pump(self._lanes[lane])
            try:
                await job.done
            except (asyncio.CancelledError, SluiceError):
                self._abandon(job, [(lane, keys[position]) for position in absent])
                raise
        return [output for output in outputs if output is not None]

    def admit(self, schedule: Schedule, inputs: Sequence[Input] = (), *, in_turn: bool = False) -> float:
        """Return the monotonic time at which the model must finish these inputs for a response in time.

            in_turn  each input follows from the output of the previous one, so they do not run side by side

        Raises Unavailable (OVERLOADED) if that is not possible, before any work is done.
        """
        lane = self._lanes[schedule.lane]
        deadline = schedule.deadline - lane.answer_s
        side_by_side = 1 if in_turn else len(inputs)
        wait_s = _CAUTION * lane.wait_s(Size.of(len(row.ids) for row in inputs), side_by_side)
        left_s = deadline - monotonic()
        if wait_s > left_s:
            metrics.REFUSED.labels(self._model, lane.name).inc()
            message = f"the call would take about {wait_s:.3f} s, but {left_s:.3f} s are left; rejected before any work"
            numbers = {"expected_s": f"{wait_s:.3f}", "left_s": f"{left_s:.3f}"}
            reason = ErrorReason.ERROR_REASON_OVERLOADED
            raise Unavailable(message, reason=reason, metadata=numbers, retry_after_s=max(wait_s - left_s, 0.01))
        return deadline

    def problem(self, now: float) -> str:
        """Return which batch does not end; empty if none is stuck."""
        return next((problem for lane in self._lanes.values() if (problem := lane.stall_detector.problem(now))), "")

    def close(self) -> None:
        """Wait for running batches, and stop the threads."""
        for lane in self._lanes.values():
            lane.threads.shutdown(wait=True, cancel_futures=True)

    def _enqueue(self, job: _Job, position: int, key: _Key, input_: Input, lane: Lane) -> None:
        """Add a job to an equal row that is in progress, or to a new row."""
        row = self._rows.get((lane, key))
        if row is None:
            work = _Work(key, input_, lane)
            row = self._rows[lane, key] = Row(work, max(1, len(input_.ids)), monotonic())
            self._lanes[lane].queue.push(row)
            self._outcomes["miss"].inc()
        else:
            self._outcomes["coalesced"].inc()
        row.payload.waiters.append((job, position))
        row.deadlines.append(job.deadline)

    def _pump(self, lane: "_Lane") -> None:
        """Start batches while there are rows and threads for them."""
        while len(lane.queue) and lane.running < lane.most_running:
            now = monotonic()
            decision = lane.queue.take(now, lane.cost)
            for row in decision.expired:
                self._expire(row)
            if decision.batch:
                self._start(lane, decision.batch, now)

    def _start(self, lane: "_Lane", batch: list[Row[_Work]], now: float) -> None:
        for row in batch:
            lane.queue_wait.observe(now - row.arrived)
        alone = lane.name == "interactive" and not lane.running and not len(lane.queue)
        lane.running += 1
        lane.running_size += Size.of(row.length for row in batch)
        padded = Size.of_batch(len(batch), max(row.length for row in batch))
        number = lane.stall_detector.begin(now, lane.cost.seconds(padded))
        inputs = [row.payload.input for row in batch]
        wanted = [row.payload.key[1] for row in batch]
        loop = asyncio.get_running_loop()
        span = self._span(lane, batch)
        future = loop.run_in_executor(lane.threads, run_batch, self._session, inputs, wanted, alone)
        future.add_done_callback(lambda done: self._finish(lane, batch, done))
        future.add_done_callback(lambda done: _end(span, done))
        future.add_done_callback(lambda _: lane.stall_detector.end(number))

    def _span(self, lane: "_Lane", batch: list[Row[_Work]]) -> Span:
        """Start the span of a batch, with links to the calls that wait for it."""
        callers = [job.span for row in batch for job, _ in row.payload.waiters] if traces.is_on() else ()
        tokens = max(row.length for row in batch) * len(batch)
        return traces.batch(
            callers,
            {"sluice.model": self._model, "sluice.lane": lane.name, "sluice.rows": len(batch), "sluice.tokens": tokens},
        )

    def _finish(self, lane: "_Lane", batch: list[Row[_Work]], done: "asyncio.Future[BatchResult]") -> None:
        """Start the next batch, and deliver the outputs of this one."""
        lane.running -= 1
        lane.running_size -= Size.of(row.length for row in batch)
        was_saturated = len(lane.queue) > 0
        self._pump(lane)
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if error is None:
            ran = done.result()
            self.batch_count += 1
            lane.observe([row.length for row in batch], ran, monotonic(), was_saturated=was_saturated)
            for row, output in zip(batch, ran.outputs, strict=True):
                self._deliver(row, output, ran)
        else:
            self.is_suspect = True
            logger.error("batch failed", exc_info=error, extra={"model": self._model, "rows": len(batch)})
            for row in batch:
                self._fail(row, BackendFailed("the model failed on this batch; see the server's log"))

    def _deliver(self, row: Row[_Work], output: Output, ran: "BatchResult") -> None:
        work = row.payload
        del self._rows[work.lane, work.key]
        waited_s = ran.ended - ran.seconds - row.arrived
        latest = monotonic() - self._lanes[work.lane].answer_s
        if all(job.done.done() or job.deadline < latest for job, _ in work.waiters):
            metrics.WASTED.labels(self._model, work.lane).inc()
        for job, position in work.waiters:
            job.times.queue_s = max(job.times.queue_s, waited_s)
            job.times.inference_s = max(job.times.inference_s, ran.seconds)
            job.outputs[position] = output
            job.missing -= 1
            if not job.missing and not job.done.done():
                job.done.set_result(None)
        if work.lane == "interactive":  # queries repeat; a corpus would only evict them
            self._cache.put(work.key, output, sum(part.nbytes for part in output.values()))

    def _expire(self, row: Row[_Work]) -> None:
        reason = "expired" if row.deadlines else "cancelled"
        metrics.DROPPED.labels(self._model, row.payload.lane, reason).inc()
        self._fail(row, DeadlineExpired("the deadline would pass before the model could answer; not computed"))

    def _fail(self, row: Row[_Work], error: BackendFailed | DeadlineExpired) -> None:
        del self._rows[row.payload.lane, row.payload.key]
        for job, _ in row.payload.waiters:
            if not job.done.done():
                job.done.set_exception(error)

    def _abandon(self, job: _Job, keys: Sequence[tuple[Lane, _Key]]) -> None:
        """Detach a job from its rows. Rows without other jobs are dropped when their turn comes."""
        for key in set(keys):
            row = self._rows.get(key)
            if row is not None:
                row.payload.waiters = [(other, at) for other, at in row.payload.waiters if other is not job]
                row.deadlines = [other.deadline for other, _ in row.payload.waiters]


class _Lane:
    """The waiting rows of one lane, and the threads that run them."""

    def __init__(self, name: Lane, limits: Limits, cost: Cost, model: str) -> None:
        self.name = name
        self.cost = cost
        self.queue: BatchQueue[_Work] = BatchQueue(
            max_batch_tokens=limits.max_batch_tokens,
            max_batch_rows=limits.max_batch_rows,
            window_tokens=_WINDOW_BATCHES[name] * limits.max_batch_tokens,
        )
        self.threads = ThreadPoolExecutor(
            limits.threads, thread_name_prefix=name, initializer=lower_priority, initargs=(_NICE[name],)
        )
        self.thread_count = limits.threads
        # Bulk keeps a batch ready for the next free thread. A query waits in the queue, where others can join it.
        self.most_running = limits.threads + (name == "bulk")
        self.running = 0
        self.running_size = Size()
        self.stall_detector = StallDetector(name, limits.stuck_s)
        self._throughput = Throughput(cost.seconds_per_token / limits.threads)
        self._saturated_since: float | None = None
        self.answer_s = _ANSWER_LEAST_S
        """Seconds that a response takes from the model to the caller."""
        self.queue_wait = metrics.QUEUE_WAIT.labels(model, name)
        self._inference = metrics.INFERENCE.labels(model, name)
        self._batch_tokens = metrics.BATCH_TOKENS.labels(model, name)
        self._used, self._padding = (metrics.TOKENS.labels(model, name, kind) for kind in ("used", "padding"))

    def observe(self, lengths: Sequence[int], ran: "BatchResult", now: float, *, was_saturated: bool) -> None:
        """Update the estimates after a batch of rows of these lengths. `was_saturated`: other rows were waiting."""
        size, padded = Size.of(lengths), Size.of_batch(len(lengths), max(lengths))
        began, self._saturated_since = self._saturated_since, now if was_saturated else None
        since_last_s = ran.seconds / self.thread_count if began is None else now - began
        self._throughput = self._throughput.after(self.cost.effective_tokens(size), since_last_s)
        self.cost = self.cost.after(padded, ran.seconds)
        self.answer_s = max(_ANSWER_LEAST_S, _FORGET * self.answer_s, _ANSWER_LAGS * (now - ran.ended))
        self._inference.observe(ran.seconds)
        self._batch_tokens.observe(padded.tokens)
        self._used.inc(size.tokens)
        self._padding.inc(padded.tokens - size.tokens)

    def wait_s(self, own: Size, own_rows: int) -> float:
        """Return the expected time until new work is done: the waiting and running rows, then the work itself."""
        waiting, running = map(self.cost.effective_tokens, (self.queue.size, self.running_size))
        before = self._throughput.seconds_per_token * (waiting + running / 2)
        return before + self.cost.seconds(own) / max(1, min(self.thread_count, own_rows))


def _end(span: Span, done: "asyncio.Future[BatchResult]") -> None:
    if done.cancelled() or done.exception() is not None:
        span.fail("INTERNAL")
    span.end()
