"""The processor's cores: how many of them Paddle's kernels use, and which matrix product an AMD one gets."""

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import threadpoolctl

from ppsolo.errors import ExportError

_MKL_KERNELS = "MKL_DEBUG_CPU_TYPE"
_AVX2_KERNELS, _AVX512_KERNELS = "5", "7"
_AVX512_FLAGS = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's mallopt


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """How many threads kernels get: OMP_NUM_THREADS where the user has set it, else all cores of this process.

    Paddle sets the variable to 1 when it is imported; that is not the user's word. On Linux it is known from the
    environment that the process started with; a program that sets 1 itself says so with `threads=1`.
    """
    stated = os.environ.get("OMP_NUM_THREADS", "")
    if stated.isdigit() and int(stated) > 0 and (stated != "1" or _started_with("OMP_NUM_THREADS")):
        return int(stated)
    return available_cores()


def threads_in_words(threads: int) -> str:
    """ "1 thread" or "2 threads"."""
    return f"{threads} thread{'s'[: threads > 1]}"


def use_threads(threads: int) -> None:
    """Let Paddle's CPU kernels take `threads` threads from here on, whatever was set when Paddle was imported."""
    from paddle.base import core

    core.set_num_threads(threads)


@contextlib.contextmanager
def single_threaded_products() -> Iterator[None]:
    """Within it, a matrix product of numpy takes one thread.

    Several threads that each compute products of their own otherwise wait for each other, two to four times as long.
    The setting belongs to the whole process: the first thread that enters sets it, the last one that leaves undoes it.
    """
    with _products.lock:
        if _products.users == 0:
            _products.limit = _blas().limit(limits=1)
        _products.users += 1
    try:
        yield
    finally:
        with _products.lock:
            _products.users -= 1
            if _products.users == 0 and _products.limit is not None:
                _products.limit.restore_original_limits()


class _Products:
    """How many threads are within `single_threaded_products`, and the way back to the setting before the first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.limit: Any = None


_products = _Products()


@functools.cache
def _blas() -> threadpoolctl.ThreadpoolController:
    """The matrix product libraries of this process. Paddle's own (MKL) is none of them."""
    import numpy  # noqa: F401  here, since this module is read before Paddle, which decides numpy's threads

    return threadpoolctl.ThreadpoolController().select(user_api="blas")


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, for the next arrays: no size comes from fresh pages of the system again.

    Paddle's CPU kernels and numpy take and free each array on its own; zeroed pages for those of some megabytes cost up
    to half of the time of Paddle's convolutions. The process stays as large as it has been at its peak.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def use_vector_products() -> None:
    """Have the matrix product library that Paddle brings (MKL of 2019) use AVX2 or AVX-512 on CPUs of other makers too.

    It gives those its slowest kernels, a quarter of what AVX2 reaches, and convolutions are its products. Works until
    the first product is computed; a value that the user has set stays.
    """
    kernels = _foreign_kernels(cpu_facts())
    if kernels is not None:
        os.environ.setdefault(_MKL_KERNELS, kernels)


def cpu_facts() -> dict[str, str]:
    """What Linux says of the first core: "model name", "vendor_id", "flags" and more; nothing elsewhere."""
    lines = _cpu_info().split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 by itself; without, it is slower than float32."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpu_facts().get("flags", "").split())


def require_bfloat16() -> None:
    """Raises ExportError where the CPU has no bfloat16."""
    if not has_bfloat16():
        raise ExportError("this CPU has no bfloat16 (avx512_bf16 or amx_bf16): take precision='fp32'")


def _foreign_kernels(facts: dict[str, str]) -> str | None:
    """MKL's number for the best kernels of a CPU that is not Intel's, None where it needs no word."""
    flags = set(facts.get("flags", "").split())
    if facts.get("vendor_id", "GenuineIntel") == "GenuineIntel" or not {"avx2", "fma"} <= flags:
        return None
    return _AVX512_KERNELS if flags >= _AVX512_FLAGS else _AVX2_KERNELS


def _cpu_info() -> str:
    """The start of /proc/cpuinfo."""
    try:
        with open("/proc/cpuinfo") as stream:
            return stream.read(8192)
    except OSError:
        return ""


def _started_with(variable: str) -> bool:
    """Whether the environment that this process started with had the variable; True where that cannot be known."""
    try:
        start = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return True
    return any(entry.startswith(variable.encode() + b"=") for entry in start)
