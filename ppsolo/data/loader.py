"""The training loader: batches that depend only on the seed, made in this process or in workers."""

# Not paddle.io.DataLoader: it needs Paddle, and turns a worker's error into a text with a traceback.

import gc
import mmap
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NamedTuple

import cv2
import numpy as np

from ppsolo.data.augment import Normalize, Transform, augment
from ppsolo.data.coco import ImageRecord, load_sample
from ppsolo.data.images import ImageReader
from ppsolo.data.preprocess import padded_shape, round_up
from ppsolo.data.sample import TrainingSample
from ppsolo.data.targets import BatchTargets, collate_targets, make_targets
from ppsolo.errors import DatasetError, PpsoloError

TASKS_PER_WORKER = 2


class TrainingBatch(NamedTuple):
    """A batch of B images with their targets.

    images: float32 [B, 3, H, W], normalised, padded with zeros at the right and the bottom to the largest image of the
    batch and to multiples of 32. image_ids: B ids, as in the annotation file. targets: for H x W.
    """

    images: np.ndarray
    image_ids: tuple[int | str, ...]
    targets: BatchTargets


@dataclass(frozen=True)
class BatchMaker:
    """Makes batches from image records.

    records: the data set. transforms, normalize: applied to each sample, in this order.
    num_grids, scale_ranges, sampling_radius: see `make_targets`.
    largest_side: limit of a sample's sides after the transforms, in pixels.
    read: reads the pictures; `read_image` if None.
    """

    records: Sequence[ImageRecord]
    transforms: tuple[Transform, ...]
    normalize: Normalize
    num_grids: tuple[int, ...]
    scale_ranges: tuple[tuple[float, float], ...]
    sampling_radius: float
    largest_side: int
    seed: int
    read: ImageReader | None = None

    def __call__(self, epoch: int, indices: Sequence[int]) -> TrainingBatch:
        """Make the batch of these records; the random numbers of a sample depend only on (seed, epoch, index)."""
        samples = [self._sample(epoch, int(index)) for index in indices]
        size = padded_size(samples)
        images = np.zeros((len(samples), 3, *size), np.float32)
        for image, sample in zip(images, samples, strict=True):
            self.normalize.fill(image[:, : sample.size[0], : sample.size[1]], sample.image)
        return TrainingBatch(images, tuple(sample.image_id for sample in samples), self.targets(samples, size))

    def targets(self, samples: Sequence[TrainingSample], size: tuple[int, int]) -> BatchTargets:
        """Make the targets of samples in a batch of this padded (height, width)."""
        return collate_targets(
            [
                make_targets(
                    sample.boxes,
                    sample.labels,
                    sample.masks,
                    size,
                    num_grids=self.num_grids,
                    scale_ranges=self.scale_ranges,
                    sampling_radius=self.sampling_radius,
                )
                for sample in samples
            ]
        )

    def _sample(self, epoch: int, index: int) -> TrainingSample:
        # index + 1: numpy treats (seed, epoch, 0) as (seed, epoch), which already draws the order.
        rng = np.random.default_rng((self.seed, epoch, index + 1))
        return augment(load_sample(self.records[index], self.read), self.transforms, rng)


class TrainingLoader:
    """Epochs of batches; order and content depend only on the seed and the epoch.

    In each epoch all processes together go once through the records, in random order. Records that do not fill a batch
    for every process are left out; each epoch leaves out others.

    make_batch: makes the batches. batch_size: images per batch. rank, world_size: this process's number, and the number
    of processes in a step. num_workers: processes that make batches, 0: this process; always 0 without `fork`.
    """

    def __init__(
        self, make_batch: BatchMaker, *, batch_size: int, rank: int = 0, world_size: int = 1, num_workers: int = 0
    ):
        self.make_batch = make_batch
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        together = batch_size * world_size
        self.batches_per_epoch = len(make_batch.records) // together
        if self.batches_per_epoch == 0:
            raise DatasetError(
                f"the data set has {len(make_batch.records)} images, but one step takes {together} "
                f"({batch_size} in each of {world_size} processes): lower train.batch_size"
            )
        can_fork = "fork" in multiprocessing.get_all_start_methods()
        self._workers = _Workers(make_batch, num_workers, batch_size) if num_workers and can_fork else None

    def epoch(self, epoch: int, *, start: int = 0, stop: int | None = None) -> Generator[TrainingBatch, None, None]:
        """Yield this process's batches from `start` to `stop` (excluded; None: to the end) in an epoch."""
        tasks = [(epoch, indices) for indices in self.order(epoch)[start:stop]]
        if self._workers is not None:
            return self._workers.results(tasks)
        return (self.make_batch(number, indices) for number, indices in tasks)

    def order(self, epoch: int) -> np.ndarray:
        """Return the records of this process: int64 [batches, batch_size]."""
        order = np.random.default_rng((self.make_batch.seed, epoch)).permutation(len(self.make_batch.records))
        used = order[: self.batches_per_epoch * self.batch_size * self.world_size]
        return used.reshape(-1, self.world_size, self.batch_size)[:, self.rank]

    def close(self) -> None:
        """End the worker processes; a new epoch starts new ones."""
        if self._workers is not None:
            self._workers.close()


class _Workers:
    """Processes that make batches. Worker i modulo their number makes batch i, so the order is fixed.

    Images come through memory that is shared before the fork, everything else through a pipe.
    """

    def __init__(self, make_batch: BatchMaker, count: int, batch_size: int):
        self._make_batch = make_batch
        self._count = count
        side = round_up(make_batch.largest_side)
        self._slot_bytes = batch_size * 3 * side * side * np.dtype(np.float32).itemsize
        self._workers: list[_Worker] = []

    def results(self, tasks: Sequence[tuple[int, np.ndarray]]) -> Generator[TrainingBatch, None, None]:
        """Yield the batches of the tasks, in their order. Raises the exceptions of workers."""
        if not self._workers:
            self._workers = _start_workers(self._make_batch, self._count, self._slot_bytes)
        waiting: deque[_Worker] = deque()
        try:
            for number, task in enumerate(tasks):
                if len(waiting) == TASKS_PER_WORKER * len(self._workers):
                    yield waiting.popleft().receive()
                worker = self._workers[number % len(self._workers)]
                worker.send(task)
                waiting.append(worker)
            while waiting:
                yield waiting.popleft().receive()
        finally:
            if waiting:  # batches still in the pipe must not reach a later epoch
                self.close()

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._workers = []


class _Worker:
    """One process with a pipe, and slots of shared memory that it fills in turn."""

    def __init__(self, make_batch: BatchMaker, slot_bytes: int):
        context = multiprocessing.get_context("fork")
        self._slots = [mmap.mmap(-1, slot_bytes) for _ in range(TASKS_PER_WORKER)]
        self._received = 0
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(make_batch, self._connection, theirs, self._slots), daemon=True
        )
        self._process.start()
        theirs.close()

    def send(self, task: tuple[int, np.ndarray]) -> None:
        try:
            self._connection.send(task)
        except OSError:
            raise self._died() from None

    def receive(self) -> TrainingBatch:
        try:
            result = self._connection.recv()
        except (EOFError, OSError):
            raise self._died() from None
        slot = self._slots[self._received % TASKS_PER_WORKER]
        self._received += 1
        if isinstance(result, Exception):
            raise result
        shape, image_ids, targets = result
        images = np.frombuffer(slot, np.float32, count=int(np.prod(shape))).reshape(shape).copy()
        return TrainingBatch(images, image_ids, targets)

    def close(self) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.join()
        for slot in self._slots:
            slot.close()

    def _died(self) -> DatasetError:
        self._process.join(timeout=5)
        return DatasetError(
            f"a data worker has ended (exit code {self._process.exitcode}), perhaps for lack of memory: "
            "lower data.num_workers, or set it to 0 to see the error itself"
        )


def _start_workers(make_batch: BatchMaker, count: int, slot_bytes: int) -> list[_Worker]:
    # OpenCV's threads do not survive a fork, so switch them off before it.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    # Workers must not collect objects from before the fork: freeing a GPU's tensor would kill them.
    gc.freeze()
    try:
        return [_Worker(make_batch, slot_bytes) for _ in range(count)]
    finally:
        gc.unfreeze()
        cv2.setNumThreads(threads)


def _serve(make_batch: BatchMaker, theirs: Connection, mine: Connection, slots: Sequence[mmap.mmap]) -> None:
    """Run in a worker until the training process closes its end of the pipe, or is gone."""
    theirs.close()
    # Ignore signals to the process group: the training process ends its workers.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    number = 0
    while True:
        try:
            epoch, indices = mine.recv()
        except (EOFError, OSError):
            return
        try:
            batch = make_batch(epoch, indices)
            slot = np.frombuffer(slots[number % len(slots)], np.float32, count=batch.images.size)
            slot[:] = batch.images.ravel()
            result = (batch.images.shape, batch.image_ids, batch.targets)
        except PpsoloError as error:
            result = error
        except Exception:
            result = RuntimeError(f"in a data worker:\n{traceback.format_exc()}")
        number += 1
        try:
            mine.send(result)
        except OSError:
            return


def padded_size(samples: Sequence[TrainingSample]) -> tuple[int, int]:
    """Return (height, width) of a batch of the samples: the largest sides, rounded up to multiples of 32."""
    return padded_shape([sample.size for sample in samples])
