"""Describes the machine of a measurement: hardware, versions, and the speed of its matrix product."""

import importlib.metadata
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from ppsolo.cpu import cpu_facts, default_threads, keep_freed_memory
from ppsolo.processes import end_with_starter, uninterrupted

PRODUCT = (2048, 2304, 8192)  # rows, inner, columns
PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "numpy", "opencv-python", "pycocotools", "onnxruntime", "openvino")


def machine() -> dict[str, Any]:
    """Processor, cores, default number of kernel threads, memory, load, and the versions of the main packages."""
    facts = {
        "processor": cpu_facts().get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": default_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": os.getloadavg()[0],
    }
    installed = {found.metadata["Name"]: found.version for found in importlib.metadata.distributions()}
    versions = {name: installed[name] for name in PACKAGES if name in installed}
    return {**facts, "versions": {"python": platform.python_version(), **versions}}


def matrix_product(size: tuple[int, int, int] = PRODUCT, repeats: int = 5) -> dict[str, float]:
    """Speed of a large float32 matrix product on the CPU, the best of `repeats`, in 10^9 operations per second.

    A multiply-add is two operations. "numpy" and "paddle" use different libraries; one may be slow on a processor that
    it does not know.
    """
    import paddle

    paddle.device.set_device("cpu")
    keep_freed_memory()
    rows, inner, columns = size
    random = np.random.default_rng(0)
    left, right = random.random((rows, inner), np.float32), random.random((inner, columns), np.float32)
    out = np.empty((rows, columns), np.float32)
    operands = paddle.to_tensor(left), paddle.to_tensor(right)
    products = {"numpy": lambda: np.matmul(left, right, out=out), "paddle": lambda: paddle.matmul(*operands)}
    speeds = {}
    for name, product in products.items():
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            product()
            seconds.append(time.perf_counter() - start)
        speeds[name] = 2 * rows * inner * columns / min(seconds) / 1e9
    return speeds


def in_new_process(function: Callable[..., Any], threads: int, *arguments: Any) -> Any:
    """Call the function in a fresh process with `threads` kernel threads, and return its result.

    The peak memory of the process is then that of the function. Raises the function's exception.
    """
    variables = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_starter) as pool:
            with uninterrupted():
                asked = pool.submit(function, *arguments)
            return asked.result()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
