"""Several training processes that work as one: gradients averaged, results gathered, weights shared.

Also what the processes that a command starts have in common.

Paddle is imported only for several processes, so one process can evaluate an export without Paddle.
"""

import ctypes
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

from ppsolo.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    import paddle
    from paddle import nn

BUCKET_ELEMENTS = 8_000_000  # gradients averaged at once: 32 MB

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux
# Words in the errors of NCCL, gloo and the store of the first process when another process is gone.
_LOST_PROCESS = re.compile(
    r"nccl|gloo|\bstore|tcpstore|time[d -]?out|timed out|connect|socket|peer|broken pipe|\brecv|\bsend", re.IGNORECASE
)
_ERROR_OF_THIS_GPU = re.compile(r"(CUDA|CUDNN|CUBLAS) error\s*\(|Out of memory error")


@dataclass(frozen=True)
class Processes:
    """This process among those that train or evaluate together. rank: 0 .. world_size - 1; process 0 writes all files.

    All processes must call every method except `is_main`, in the same order. If another process has died, they raise
    TrainingError as soon as the backend (NCCL on GPUs, gloo on CPUs) notices.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def average_gradients(self, parameters: "Sequence[paddle.Tensor]") -> None:
        """Replace every gradient by its mean over the processes; a parameter has a gradient in all processes or in
        none.

        `paddle.DataParallel` would overlap communication and backward pass. But with recomputation, which our group
        norms and deformable convolutions use, it raises "parameter ... has been ready before" (Paddle 3.3.1, two
        processes, with and without find_unused_parameters): the head's parameters serve five levels, and each level's
        recomputation is a backward pass of its own. On 8 V100 with NVLink, the mean of R50's 184 MB takes about 3 ms
        of a step of 400 ms (docs/training.md).
        """
        if self.world_size == 1:
            return
        import paddle

        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        with paddle.no_grad():
            for bucket in _buckets(gradients):
                flat = paddle.concat([gradient.flatten() for gradient in bucket])
                with _naming_the_cause():
                    paddle.distributed.all_reduce(flat)
                parts = paddle.split(flat / self.world_size, [gradient.size for gradient in bucket])
                for gradient, part in zip(bucket, parts, strict=True):
                    paddle.assign(part.reshape(gradient.shape), gradient)

    def mean(self, values: "paddle.Tensor") -> "paddle.Tensor":
        """Return the elementwise mean of the processes' tensors."""
        if self.world_size == 1:
            return values
        import paddle

        with _naming_the_cause():
            paddle.distributed.all_reduce(values)
        return values / self.world_size

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes by rank; values must be picklable."""
        if self.world_size == 1:
            return [value]
        import paddle

        values: list[Any] = []
        with _naming_the_cause():
            paddle.distributed.all_gather_object(values, value)
        return values

    def share_weights(self, model: "nn.Layer") -> None:
        """Copy the weights of process 0, running statistics included, to every process."""
        if self.world_size == 1:
            return
        import paddle

        for value in model.state_dict().values():
            with _naming_the_cause():
                paddle.distributed.broadcast(value, src=0)


ALONE = Processes()


@dataclass(frozen=True)
class Launched:
    """The place of this process among those that `python -m paddle.distributed.launch` started.

    rank: 0 .. world_size - 1. local_size: how many of them run on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_size: int = 1


def launched() -> Launched:
    """Read the launcher's variables of the environment; without a launcher, this process is alone.

    Raises ConfigError for a value that no launcher writes. Paddle's import fails on such a value, so call this first.
    """
    world_size = _launcher_number("PADDLE_TRAINERS_NUM", least=1, default=1)
    rank = _launcher_number("PADDLE_TRAINER_ID", least=0, default=0)
    local_size = _launcher_number("PADDLE_LOCAL_SIZE", least=1, default=world_size)
    if world_size > 1 and rank >= world_size:
        raise ConfigError(
            f"PADDLE_TRAINER_ID is {rank}, but PADDLE_TRAINERS_NUM is {world_size}: the launcher counts processes "
            "from 0; unset both to run alone"
        )
    return Launched(rank if world_size > 1 else 0, world_size, local_size)


def _launcher_number(name: str, *, least: int, default: int) -> int:
    text = os.environ.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
        raise ConfigError(
            f"{name} is {text!r} in the environment: the launcher sets it to a number, at least {least}; unset it to "
            "run alone"
        )
    return int(text)


def start_processes() -> Processes:
    """Join the processes that `python -m paddle.distributed.launch` started; without it, this process is alone.

    Raises ConfigError if the launcher's variables are wrong or incomplete.
    """
    world_size = launched().world_size
    if world_size == 1:
        return Processes()
    import paddle

    try:
        with _naming_the_cause(), _ended_by_signals():
            paddle.distributed.init_parallel_env()
    except (ValueError, NotImplementedError) as error:  # a variable is missing
        raise ConfigError(
            f"PADDLE_TRAINERS_NUM is {world_size}, but the processes cannot meet ({error}): start them with "
            "python -m paddle.distributed.launch, or unset it to run alone"
        ) from None
    return Processes(paddle.distributed.get_rank(), paddle.distributed.get_world_size())


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Inside the block, Ctrl-C, SIGTERM and the death of the parent end this process at once.

    Paddle waits there in C++ for the other processes, up to 15 minutes, and holds Python's lock: no handler in Python
    would be called, and no thread would run.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)}
    library = ctypes.CDLL(None)
    notice = library.prctl if hasattr(library, "prctl") else lambda *request: None  # Linux only
    notice(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    try:
        yield
    finally:
        notice(_PARENT_DEATH_SIGNAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Processes spawned in the block do not hear Ctrl-C, not even while Python starts: this one ends them.

    Without this, each would print a traceback.
    """
    resource_tracker.ensure_running()  # else the first spawn starts it, and unblocks Ctrl-C
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_starter() -> None:
    """In a process that `multiprocessing` started: end it when the process that started it is gone."""
    starter = multiprocessing.parent_process()
    if starter is None:
        return

    def watch() -> None:
        starter.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _buckets(gradients: "Sequence[paddle.Tensor]") -> "Iterator[list[paddle.Tensor]]":
    bucket, size = [], 0
    for gradient in gradients:
        bucket.append(gradient)
        size += gradient.size
        if size >= BUCKET_ELEMENTS:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


@contextmanager
def _naming_the_cause() -> Iterator[None]:
    """Turn errors of the communication into TrainingError; other errors, such as a GPU's, are not changed."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = " ".join(str(error).split()).rpartition("Error Message Summary:")[2]
        if _ERROR_OF_THIS_GPU.search(reason) or not _LOST_PROCESS.search(reason):
            raise
        raise TrainingError(
            "lost another process: its own log says why (by default log/workerlog.N); "
            f"resume with -r auto once that is solved ({reason[-200:]})"
        ) from None
