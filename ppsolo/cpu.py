"""The processor: its cores, the threads of kernels, and the kernels of matrix products."""

import contextlib
import os
import threading
from collections.abc import Iterator

TYPE_CHECKING = False  # `import ppsolo` imports this file; ppsolo/__init__.py says why it imports little
if TYPE_CHECKING:
    from typing import Any

    import threadpoolctl

_MKL_KERNELS = "MKL_DEBUG_CPU_TYPE"
_AVX2_KERNELS, _AVX512_KERNELS = "5", "7"
_AVX512_FLAGS = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_MOST_DIGITS = 4  # of a number of threads; more than 9999 is no number that runtimes can serve
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # options of glibc's mallopt


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Return the number of threads for kernels: OMP_NUM_THREADS if the user set it, else all cores of this process.

    Importing Paddle sets the variable to 1. On Linux, the environment at the start of the process shows whether the
    user set it. A program that wants 1 passes `threads=1`.
    """
    stated = os.environ.get("OMP_NUM_THREADS", "")
    usable = stated.isascii() and stated.isdecimal() and len(stated) <= _MOST_DIGITS and int(stated) > 0
    if usable and (stated != "1" or _started_with("OMP_NUM_THREADS")):
        return int(stated)
    return available_cores()


def threads_in_words(threads: int) -> str:
    """ "1 thread" or "2 threads"."""
    return f"{threads} thread{'s'[: threads > 1]}"


def use_threads(threads: int) -> None:
    """Let Paddle's CPU kernels use `threads` threads from now on."""
    from paddle.base import core

    core.set_num_threads(threads)


@contextlib.contextmanager
def single_threaded_products() -> Iterator[None]:
    """Inside the block, a matrix product of numpy uses one thread.

    Otherwise, threads that compute products at the same time wait for each other, which takes two to four times as
    long. The setting belongs to the whole process: the first thread that enters sets it, the last one that leaves
    restores it.
    """
    with _products.lock:
        if _products.libraries is None:
            import numpy  # noqa: F401  here, because this module is imported before Paddle, which sets numpy's threads
            import threadpoolctl

            # Without Paddle's own library (MKL).
            _products.libraries = threadpoolctl.ThreadpoolController().select(user_api="blas")
        if _products.users == 0:
            _products.limit = _products.libraries.limit(limits=1)
        _products.users += 1
    try:
        yield
    finally:
        with _products.lock:
            _products.users -= 1
            if _products.users == 0 and _products.limit is not None:
                _products.limit.restore_original_limits()


class _Products:
    """Counts the threads inside `single_threaded_products`, and restores the old setting after the last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.libraries: threadpoolctl.ThreadpoolController | None = None
        self.limit: Any = None


_products = _Products()


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for later arrays instead of returning it to the system.

    Paddle's CPU kernels and numpy allocate and free each array separately. Fresh zeroed pages for arrays of some
    megabytes cost up to half of the time of Paddle's convolutions. The process stays as large as its peak.
    """
    import ctypes

    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def use_vector_products() -> None:
    """Make Paddle's matrix product library (MKL of 2019) use AVX2 or AVX-512 on CPUs that are not from Intel.

    Otherwise it uses its slowest kernels there, at a quarter of the speed of AVX2, also for convolutions. Call it
    before the first product. A value that the user has set is kept.
    """
    kernels = _foreign_kernels(cpu_facts())
    if kernels is not None:
        os.environ.setdefault(_MKL_KERNELS, kernels)


def cpu_facts() -> dict[str, str]:
    """Return Linux's description of the first core: "model name", "vendor_id", "flags" and more; empty elsewhere."""
    lines = _cpu_info().split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; otherwise bfloat16 is slower than float32."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpu_facts().get("flags", "").split())


def require_bfloat16() -> None:
    """Raise ExportError if the CPU has no bfloat16."""
    if not has_bfloat16():
        from ppsolo.errors import ExportError

        raise ExportError("this CPU has no bfloat16 (avx512_bf16 or amx_bf16): use precision='fp32'")


def _foreign_kernels(facts: dict[str, str]) -> str | None:
    """Return MKL's number for the best kernels of a CPU that is not Intel's; None if MKL chooses well."""
    flags = set(facts.get("flags", "").split())
    if facts.get("vendor_id", "GenuineIntel") == "GenuineIntel" or not {"avx2", "fma"} <= flags:
        return None
    return _AVX512_KERNELS if flags >= _AVX512_FLAGS else _AVX2_KERNELS


def _cpu_info() -> str:
    """Return the start of /proc/cpuinfo."""
    try:
        with open("/proc/cpuinfo") as stream:
            return stream.read(8192)
    except OSError:
        return ""


def _started_with(variable: str) -> bool:
    """Whether the variable was set when this process started; True if that is not known."""
    try:
        with open("/proc/self/environ", "rb") as stream:
            start = stream.read().split(b"\0")
    except OSError:
        return True
    return any(entry.startswith(variable.encode() + b"=") for entry in start)
