"""A bounded queue with its threads: requests are prepared one by one and answered in batches."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any


class QueueFull(Exception):
    """The queue is full, or a new request would wait too long."""


class Stopped(Exception):
    """The queue was stopped before it reached this request."""


class Pending(Future[Any]):
    """The future answer to a request.

    submitted: when the request came. begun: when its batch began, None before. Both in seconds of time.monotonic.
    """

    def __init__(self):
        super().__init__()
        self.submitted = time.monotonic()
        self.begun: float | None = None


class _Job:
    """One request: the submitted item, later the prepared item, and its future answer."""

    def __init__(self, item: Any):
        self.item = item
        self.future = Pending()


class Batcher:
    """Answers requests of any thread: `prepare` runs on a few threads, then `answer` on one thread, batch by batch.

    When the worker is free, all prepared requests, up to `batch_size`, form a batch; it does not wait for more. Memory
    is bounded: at most `queue_size` requests wait unprepared and 2 * `batch_size` wait prepared, besides the running
    batch. A request is refused when its estimated wait exceeds `patience` seconds, unless the queue is idle. A request
    with a cancelled future is dropped, unless its batch has begun. When a batch fails, each of its requests is tried
    alone, so one bad request does not harm the others.

    prepare: item -> prepared item. Its exception is the answer to that item alone.
    answer: prepared items, 1 to `batch_size` -> as many answers.
    on_batch: called on the worker's thread after each batch with its number of requests and its seconds.
    """

    def __init__(
        self,
        *,
        prepare: Callable[[Any], Any],
        answer: Callable[[list[Any]], Sequence[Any]],
        batch_size: int,
        queue_size: int,
        patience: float = math.inf,
        prepare_threads: int = 2,
        on_batch: Callable[[int, float], None] | None = None,
    ):
        self._prepare = prepare
        self._answer = answer
        self._batch_size = batch_size
        self._queue_size = queue_size
        self._patience = patience
        self._on_batch = on_batch
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[_Job] = deque()
        self._preparing: set[_Job] = set()
        self._ready: deque[_Job] = deque()
        self._answering: list[_Job] = []
        self._stopping = False
        self._began = 0.0  # start of the running batch
        self._seconds_each = 0.0  # a running mean
        targets = [self._run_preparation] * prepare_threads + [self._run_answers]
        self._threads = [threading.Thread(target=target, name="batcher", daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def check_room(self) -> None:
        """Raise QueueFull or Stopped if `submit` would raise it now."""
        with self._changed:
            if self._stopping:
                raise Stopped("the service is stopping")
            if len(self._waiting) >= self._queue_size:
                raise QueueFull(f"{len(self._waiting)} requests are already waiting")
            wait = self.expected_wait()
            if wait > self._patience and (self._answering or self.waiting()):
                raise QueueFull(f"a new request would wait {math.ceil(wait)} s for its answer")

    def submit(self, item: Any) -> Pending:
        """Queue the item and return its future answer. Raises QueueFull, or Stopped after `stop`."""
        job = _Job(item)
        with self._changed:
            self.check_room()
            self._waiting.append(job)
            self._changed.notify_all()
        job.future.add_done_callback(self._drop_cancelled)
        return job.future

    def waiting(self) -> int:
        """The number of waiting requests, prepared or not, without those of the running batch."""
        with self._changed:
            return len(self._waiting) + len(self._preparing) + len(self._ready)

    def expected_wait(self) -> float:
        """Estimate in seconds when a request submitted now would be answered, from the speed of recent batches."""
        with self._changed:
            each, gone = self._seconds_each, 0.0
            if self._answering:
                gone = time.monotonic() - self._began
                each = max(each, gone / len(self._answering))
            return each * (len(self._answering) + self.waiting() + 1) - gone

    def stop(self, timeout: float) -> None:
        """Refuse new requests, answer the waiting ones for up to `timeout` seconds, then end the rest with Stopped."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        with self._changed:
            left = [*self._answering, *self._ready, *self._preparing, *self._waiting]
            self._waiting.clear()
            self._ready.clear()
            self._changed.notify_all()
            for job in left:
                _settle(job, error=Stopped("the service stopped before it reached this request"))

    def _drop_cancelled(self, future: Future[Any]) -> None:
        if not future.cancelled():
            return
        with self._changed:
            for queue in (self._waiting, self._ready):
                for job in [job for job in queue if job.future is future]:
                    queue.remove(job)
            self._changed.notify_all()

    def _run_preparation(self) -> None:
        while (job := self._next_to_prepare()) is not None:
            try:
                job.item = self._prepare(job.item)
                prepared = True
            except Exception as error:
                prepared = False
                with self._changed:
                    _settle(job, error=error)
            with self._changed:
                self._preparing.discard(job)
                if prepared and not job.future.done():
                    self._ready.append(job)
                self._changed.notify_all()
            del job  # free the image while this thread waits

    def _next_to_prepare(self) -> _Job | None:
        """Wait for the next job and for room to hold its prepared item; None after the stop."""
        with self._changed:
            while True:
                self._changed.wait_for(
                    lambda: (
                        (self._stopping and not self._waiting)
                        or (self._waiting and len(self._preparing) + len(self._ready) < 2 * self._batch_size)
                    )
                )
                if not self._waiting:
                    return None
                job = self._waiting.popleft()
                if not job.future.cancelled():
                    self._preparing.add(job)
                    return job

    def _run_answers(self) -> None:
        while batch := self._next_batch():
            self._answer_together(batch)
            seconds = time.monotonic() - self._began
            with self._changed:
                self._answering = []
                share = 0.2 if self._seconds_each else 1.0
                self._seconds_each += share * (seconds / len(batch) - self._seconds_each)
            if self._on_batch is not None:
                self._on_batch(len(batch), seconds)
            del batch

    def _next_batch(self) -> list[_Job]:
        """Wait until something is prepared and return it; empty after the stop."""
        with self._changed:
            while not self._answering:
                self._changed.wait_for(
                    lambda: self._ready or (self._stopping and not self._waiting and not self._preparing)
                )
                if not self._ready:
                    break
                while self._ready and len(self._answering) < self._batch_size:
                    job = self._ready.popleft()
                    if job.future.set_running_or_notify_cancel():
                        self._answering.append(job)
                self._changed.notify_all()
            self._began = time.monotonic()
            for job in self._answering:
                job.future.begun = self._began
            return self._answering

    def _answer_together(self, batch: list[_Job]) -> None:
        try:
            answers = list(zip(batch, self._answer([job.item for job in batch]), strict=True))
        except Exception as error:
            if len(batch) > 1:
                for job in batch:
                    self._answer_together([job])
                return
            with self._changed:
                _settle(batch[0], error=error)
            return
        with self._changed:
            for job, answer in answers:
                _settle(job, answer=answer)


def _settle(job: _Job, *, answer: Any = None, error: Exception | None = None) -> None:
    """Set the job's answer, unless it has one or was cancelled. The lock is held."""
    future = job.future
    if future.done() or not (future.running() or future.set_running_or_notify_cancel()):
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(answer)
