"""The queue and its threads: order, bounds, batches, cancellation, failures and the end."""

import gc
import threading
import time
import weakref

import pytest

from ppsolo.serve.batching import Batcher, QueueFull, Stopped

SOON = 5.0  # seconds; what is awaited takes milliseconds


class Gate:
    """An `answer` that waits to be opened and keeps the batches that it was given."""

    def __init__(self):
        self.batches = []
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, items):
        self.batches.append(list(items))
        self.entered.release()
        assert self.open.wait(SOON)
        return [item * 10 for item in items]


@pytest.fixture
def batcher():
    made = []

    def make(answer, *, prepare=lambda item: item, batch_size=4, queue_size=8, **others):
        made.append(Batcher(prepare=prepare, answer=answer, batch_size=batch_size, queue_size=queue_size, **others))
        return made[-1]

    yield make
    for one in made:
        one.stop(SOON)


def wait_until(condition):
    until = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_every_item_gets_its_own_answer(batcher):
    sizes = []
    queue = batcher(
        lambda items: [item * 10 for item in items],
        prepare=lambda item: item + 1,
        queue_size=100,
        on_batch=lambda size, seconds: sizes.append(size),
    )
    futures = [queue.submit(number) for number in range(100)]
    assert [future.result(SOON) for future in futures] == [10 * (number + 1) for number in range(100)]
    wait_until(lambda: sum(sizes) == 100)
    assert max(sizes) <= 4


def test_what_waits_while_a_batch_is_answered_makes_the_next_one(batcher):
    gate = Gate()
    queue = batcher(gate, batch_size=3)
    first = queue.submit(0)
    assert gate.entered.acquire(timeout=SOON)
    others = [queue.submit(number) for number in range(1, 6)]
    wait_until(lambda: len(queue._ready) == 5)
    gate.open.set()
    assert [future.result(SOON) for future in (first, *others)] == [0, 10, 20, 30, 40, 50]
    assert [len(batch) for batch in gate.batches] == [1, 3, 2]


def test_the_queue_is_bounded_and_so_is_what_is_prepared(batcher):
    gate, prepared = Gate(), []
    queue = batcher(gate, prepare=lambda item: prepared.append(item) or item, batch_size=2, queue_size=3)
    futures = [queue.submit(0)]
    assert gate.entered.acquire(timeout=SOON)
    for number in range(1, 5):  # prepared: twice the batch size
        futures.append(queue.submit(number))
        wait_until(lambda number=number: len(queue._ready) == number)
    futures += [queue.submit(number) for number in range(5, 8)]
    assert queue.waiting() == 7
    with pytest.raises(QueueFull, match="3 requests are already waiting"):
        queue.submit(99)
    assert sorted(prepared) == [0, 1, 2, 3, 4]
    futures[6].cancel()  # makes room
    futures.append(queue.submit(8))
    gate.open.set()
    assert [future.result(SOON) for future in futures if not future.cancelled()] == [0, 10, 20, 30, 40, 50, 70, 80]
    assert 6 not in prepared


def test_a_cancelled_request_is_dropped_before_its_batch_begins(batcher):
    gate = Gate()
    queue = batcher(gate)
    first = queue.submit(1)
    assert gate.entered.acquire(timeout=SOON)
    ready, kept = queue.submit(2), queue.submit(3)
    wait_until(lambda: len(queue._ready) == 2)
    assert ready.cancel() and not first.cancel()  # the first one's batch has begun
    assert queue.waiting() == 1
    gate.open.set()
    assert (first.result(SOON), kept.result(SOON)) == (10, 30)
    assert gate.batches == [[1], [3]]


def test_what_cannot_be_prepared_fails_alone(batcher):
    def prepare(item):
        if item == 2:
            raise ValueError("no picture")
        return item

    queue = batcher(lambda items: items, prepare=prepare)
    futures = [queue.submit(number) for number in range(4)]
    with pytest.raises(ValueError, match="no picture"):
        futures[2].result(SOON)
    assert [futures[number].result(SOON) for number in (0, 1, 3)] == [0, 1, 3]


def test_a_failing_batch_is_tried_one_by_one(batcher):
    gate = Gate()

    def answer(items):
        if 0 in items:
            return gate(items)
        if 2 in items:
            raise RuntimeError("not finite")
        return items

    queue = batcher(answer)
    futures = [queue.submit(0)]
    assert gate.entered.acquire(timeout=SOON)
    futures += [queue.submit(number) for number in (1, 2, 3)]
    wait_until(lambda: len(queue._ready) == 3)
    gate.open.set()
    with pytest.raises(RuntimeError, match="not finite"):
        futures[2].result(SOON)
    assert [futures[number].result(SOON) for number in (0, 1, 3)] == [0, 1, 3]
    assert queue.submit(4).result(SOON) == 4  # the worker goes on


def test_a_wrong_number_of_answers_is_a_failure(batcher):
    with pytest.raises(ValueError):
        batcher(lambda items: []).submit(1).result(SOON)


def test_stopping_answers_what_waits(batcher):
    gate = Gate()
    queue = batcher(gate, batch_size=1)
    futures = [queue.submit(number) for number in range(5)]
    gate.open.set()
    queue.stop(SOON)
    assert [future.result(0) for future in futures] == [0, 10, 20, 30, 40]
    with pytest.raises(Stopped):
        queue.submit(9)


def test_stopping_in_time_ends_the_rest(batcher):
    gate = Gate()
    queue = batcher(gate, batch_size=1)
    futures = [queue.submit(number) for number in range(5)]
    assert gate.entered.acquire(timeout=SOON)
    queue.stop(0.05)
    for future in futures:
        with pytest.raises(Stopped):
            future.result(0)
    gate.open.set()


def test_nothing_is_kept_of_what_was_answered(batcher):
    class Image:
        pass

    queue = batcher(lambda items: [None] * len(items))
    image = Image()
    kept = weakref.ref(image)
    queue.submit(image).result(SOON)
    del image
    wait_until(lambda: gc.collect() is not None and kept() is None)


def test_the_wait_is_foreseen_from_the_batches_before(batcher):
    gate = Gate()
    queue = batcher(lambda items: time.sleep(0.05) or gate(items), batch_size=1)
    assert queue.expected_wait() == 0
    gate.open.set()
    queue.submit(1).result(SOON)
    wait_until(lambda: queue.expected_wait() >= 0.05)
    gate.open.clear()
    for number in range(4):
        queue.submit(number)
    wait_until(lambda: queue.waiting() == 3)
    queue._seconds_each = 100.0
    assert 400 < queue.expected_wait() < 500  # four more batches and what is left of this one
    gate.open.set()


def test_who_would_wait_too_long_is_not_taken_in(batcher):
    gate = Gate()
    queue = batcher(gate, batch_size=1, patience=100.0)
    queue._seconds_each = 40.0
    futures = [queue.submit(0)]
    assert gate.entered.acquire(timeout=SOON)
    futures.append(queue.submit(1))
    for refuse in (queue.check_room, lambda: queue.submit(2)):
        with pytest.raises(QueueFull, match="a new request would wait"):
            refuse()
    gate.open.set()
    assert [future.result(SOON) for future in futures] == [0, 10]
    queue._seconds_each = 10_000.0
    wait_until(lambda: not queue._answering)
    assert queue.submit(3).result(SOON) == 30  # one that finds nobody is taken in, whatever went before


def test_behind_a_batch_that_hangs_nobody_is_taken_in(batcher):
    gate = Gate()
    queue = batcher(gate, patience=0.05)
    hanging = queue.submit(0)
    assert gate.entered.acquire(timeout=SOON)
    time.sleep(0.06)
    with pytest.raises(QueueFull):
        queue.submit(1)
    gate.open.set()
    assert hanging.result(SOON) == 0


def test_an_answer_tells_when_its_batch_began(batcher):
    gate = Gate()
    queue = batcher(gate, batch_size=1)
    first, second = queue.submit(0), queue.submit(1)
    assert gate.entered.acquire(timeout=SOON)
    assert first.begun is not None and first.submitted <= first.begun <= time.monotonic() and second.begun is None
    gate.open.set()
    second.result(SOON)
    assert second.begun is not None and second.begun >= first.begun
