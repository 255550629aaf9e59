"""Facts of the processor, and the kernels of matrix products that fit it.

`import ppsolo` runs this file before anything else, so it imports next to nothing.
"""

import os

_MKL_KERNELS = "MKL_DEBUG_CPU_TYPE"
_AVX2_KERNELS, _AVX512_KERNELS = "5", "7"
_AVX512_FLAGS = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


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
