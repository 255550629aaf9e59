"""A bounded queue and the threads behind it: requests are prepared one by one and answered in batches."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any


class QueueFull(Exception):
    """As many requests wait as may, or one more would wait longer than it may."""


class Stopped(Exception):
    """The queue takes nothing more, or was stopped before it came to this request."""


class Pending(Future[Any]):
    """The answer to a request, to come.

    submitted, begun: when, by time.monotonic. The latter is that of its batch, None until then.
    """

    def __init__(self):
        super().__init__()
        self.submitted = time.monotonic()
        self.begun: float | None = None


class _Job:
    """One request: what was submitted, later what was prepared, and its answer to come."""

    def __init__(self, item: Any):
        self.item = item
        self.future = Pending()


class Batcher:
    """Answers requests from any thread: `prepare` on a few threads, then `answer` on one, a batch at a time.

    A batch is what is ready when the worker is free, up to `batch_size`: nobody waits for company. At most
    `queue_size` requests wait as they were submitted and, beside those being answered, 2 * `batch_size` prepared,
    so that the memory is bounded by these two numbers. None is taken in that would wait for more than `patience`
    seconds, as the batches before have gone, unless nothing else is to be done. A request whose future is cancelled is
    dropped, unless its batch has begun. Where a batch fails, each of its requests is tried by itself: one does not harm
    the others.

    prepare: item -> prepared item. Its exception is the answer to that item alone.
    answer: prepared items, 1 to `batch_size` -> as many answers.
    on_batch: called on the worker's thread with the number of requests and the seconds of each batch.
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
        self._began = 0.0  # the batch that is being answered
        self._seconds_each = 0.0  # a running mean
        targets = [self._run_preparation] * prepare_threads + [self._run_answers]
        self._threads = [threading.Thread(target=target, name="batcher", daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def check_room(self) -> None:
        """Raises what `submit` would raise now: QueueFull, or Stopped after `stop`."""
        with self._changed:
            if self._stopping:
                raise Stopped("the service is stopping")
            if len(self._waiting) >= self._queue_size:
                raise QueueFull(f"{len(self._waiting)} requests are waiting already")
            wait = self.expected_wait()
            if wait > self._patience and (self._answering or self.waiting()):
                raise QueueFull(f"one more would wait {math.ceil(wait)} s for its answer")

    def submit(self, item: Any) -> Pending:
        """The item's answer to come. Raises QueueFull, or Stopped after `stop`."""
        job = _Job(item)
        with self._changed:
            self.check_room()
            self._waiting.append(job)
            self._changed.notify_all()
        job.future.add_done_callback(self._drop_cancelled)
        return job.future

    def waiting(self) -> int:
        """The requests that wait, prepared or not; those being answered are not counted."""
        with self._changed:
            return len(self._waiting) + len(self._preparing) + len(self._ready)

    def expected_wait(self) -> float:
        """Seconds until a request that is submitted now would be answered, as the batches before and this one go."""
        with self._changed:
            each, gone = self._seconds_each, 0.0
            if self._answering:
                gone = time.monotonic() - self._began
                each = max(each, gone / len(self._answering))
            return each * (len(self._answering) + self.waiting() + 1) - gone

    def stop(self, timeout: float) -> None:
        """Take nothing more in, answer what waits for up to `timeout` seconds, and end the rest with Stopped."""
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
                _settle(job, error=Stopped("the service stopped before it came to this request"))

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
            del job  # while this thread waits, it keeps nobody's image

    def _next_to_prepare(self) -> _Job | None:
        """The next job, once there is room for what comes of it; None when there will be no more."""
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
        """What is ready, once something is; empty when there will be no more."""
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
    """Give the job its answer, unless it has one or nobody waits for it. The lock is held."""
    future = job.future
    if future.done() or not (future.running() or future.set_running_or_notify_cancel()):
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(answer)
