"""The cores: threads that are really used, and kernels chosen by the maker of the CPU."""

import os
import subprocess
import sys

import pytest

from ppsolo import cpu

AMD = "processor : 0\nvendor_id : AuthenticAMD\nmodel name : AMD EPYC\nflags : fpu sse2 avx2 fma\n\nprocessor : 1\n"


@pytest.mark.parametrize(
    ("cpu_info", "expected"),
    [
        (AMD, "5"),
        (AMD.replace("AuthenticAMD", "HygonGenuine"), "5"),
        (AMD.replace(" fma", " fma avx512f avx512dq avx512bw avx512vl"), "7"),
        (AMD.replace(" fma", " fma avx512f"), "5"),
        (AMD.replace("AuthenticAMD", "GenuineIntel"), None),
        (AMD.replace(" fma", ""), None),
        ("processor : 0\nFeatures : fp asimd\n", None),
        ("", None),
    ],
)
def test_which_cpus_are_told_what_kernels_to_use(cpu_info, expected, monkeypatch):
    monkeypatch.setattr(cpu, "_cpu_info", lambda: cpu_info)
    monkeypatch.delenv("MKL_DEBUG_CPU_TYPE", raising=False)
    cpu.use_vector_products()
    assert os.environ.get("MKL_DEBUG_CPU_TYPE") == expected
    monkeypatch.setenv("MKL_DEBUG_CPU_TYPE", "4")
    cpu.use_vector_products()
    assert os.environ["MKL_DEBUG_CPU_TYPE"] == "4"


@pytest.mark.parametrize(
    ("stated", "at_start", "expected"),
    [
        *[("3", False, 3), ("1", True, 1), ("1", False, 6), (None, False, 6)],
        *[("many", True, 6), ("0", True, 6), ("²", True, 6), ("99999", True, 6), ("9" * 5000, True, 6)],
    ],
)
def test_threads_are_the_users_or_all_cores(stated, at_start, expected, monkeypatch):
    monkeypatch.setattr(cpu, "available_cores", lambda: 6)
    monkeypatch.setattr(cpu, "_started_with", lambda variable: at_start)
    if stated is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", stated)
    assert cpu.default_threads() == expected


BUSY = """
import os, time
import paddle
import ppsolo
from ppsolo.cpu import default_threads, use_threads

def busy():
    threads = {}
    for thread in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{thread}/stat") as stream:
            fields = stream.read().rsplit(")", 1)[1].split()
        threads[thread] = int(fields[11]) + int(fields[12])
    return threads

def work():
    before, matrix, end = busy(), paddle.randn([1000, 1000]), time.process_time() + 0.4
    while time.process_time() < end:
        paddle.matmul(matrix, matrix)
    return sum(ticks - before.get(thread, 0) > 2 for thread, ticks in busy().items())

print(work(), default_threads())
use_threads(2)
print(work())
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts the threads that Linux reports")
def test_paddle_takes_the_threads_that_it_is_told_after_its_import():
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", BUSY], env=environment, capture_output=True, text=True, check=True)
    first, second = done.stdout.split("\n")[-3:-1]
    assert first == f"1 {cpu.available_cores()}"
    assert int(second) == 2
