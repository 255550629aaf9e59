"""The GPUs that tests may use."""

import paddle
import pytest

GPUS = paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0


def needs_gpus(count: int = 1) -> list[pytest.MarkDecorator]:
    """The marks of tests that need so many GPUs."""
    return [pytest.mark.gpu, pytest.mark.skipif(count > GPUS, reason=f"needs {count} GPU(s), there are {GPUS}")]
