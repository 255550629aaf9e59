"""Time and kernels of the update after a step: the optimizer with and without `use_multi_tensor`, and the average."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import paddle
from paddle.version import full_version

from ppsolo.build.network import build_model
from ppsolo.cli.shared import say
from ppsolo.config import load_config
from ppsolo.errors import PpsoloError
from ppsolo.models.solov2 import SOLOv2
from ppsolo.training.ema import ExponentialMovingAverage
from ppsolo.training.optim import parameter_groups
from ppsolo.training.run import set_up_cpu

Work = Callable[[], None]


def main() -> int:
    options = _parser().parse_args()
    try:
        config = load_config(options.config, options.override)
    except PpsoloError as error:
        say(f"benchmark_update: error: {error}", sys.stderr)
        return 2
    set_up_cpu()
    paddle.seed(0)
    model = build_model(config)
    place = paddle.device.get_device()
    say(f"{config.name}, {place}, Paddle {full_version}, {len(model.state_dict())} entries, the median of each:")
    for title, works in (
        ("average", {"per entry": average_per_entry(model), "in buffers": ExponentialMovingAverage(model).update}),
        ("optimizer", {"as it is": momentum_step(model), "use_multi_tensor": momentum_step(model, together=True)}),
    ):
        counts = {name: count_kernels(work) for name, work in works.items()}
        for name, seconds in zip(works, median_seconds(list(works.values()), options.repeats), strict=True):
            say(f"{title}, {name}: {1000 * seconds:.1f} ms, {counts[name]} kernels")
    return 0


def average_per_entry(model: SOLOv2, *, decay: float = 0.9) -> Work:
    """The same average with three operations for each entry."""
    averages = {name: paddle.zeros_like(value) for name, value in model.state_dict().items()}

    @paddle.no_grad()
    def update() -> None:
        for name, value in model.state_dict().items():
            averages[name] = averages[name] + (value - averages[name]) * (1.0 - decay)

    return update


def momentum_step(model: SOLOv2, *, together: bool = False) -> Work:
    """A step over the model's groups of parameters with gradients of 0. together: with `use_multi_tensor`."""
    groups = parameter_groups(model)
    optimizer = paddle.optimizer.Momentum(
        learning_rate=0.01,
        parameters=[
            {"params": group.parameters, "learning_rate": group.lr_factor, "weight_decay": group.weight_decay}
            for group in groups
        ],
        use_multi_tensor=together,
    )
    for group in groups:
        for parameter in group.parameters:
            parameter.grad = paddle.zeros_like(parameter)
    return optimizer.step


def count_kernels(work: Work) -> int:
    """Count the kernels that Paddle selects in one call; views, which start none, are left out."""
    work()
    paddle.base.core.clear_low_precision_op_list()
    paddle.set_flags({"FLAGS_low_precision_op_list": 1})
    work()
    paddle.set_flags({"FLAGS_low_precision_op_list": 0})
    calls = paddle.base.core.get_low_precision_op_list()
    return sum(sum(map(int, text.split(","))) for name, text in calls.items() if not name.startswith("flatten"))


def median_seconds(works: Sequence[Work], repeats: int) -> list[float]:
    """Call the works in turn; return the median seconds of each, the device's work included."""
    on_gpu = paddle.device.get_device().startswith("gpu")
    seconds = np.empty([repeats, len(works)])
    for row in seconds:
        for index, work in enumerate(works):
            start = time.perf_counter()
            work()
            if on_gpu:
                paddle.device.synchronize()
            row[index] = time.perf_counter() - start
    return np.median(seconds, axis=0).tolist()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--config", default="solov2_r50_fpn_1x", help="default: %(default)s")
    parser.add_argument("-o", "--override", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
