"""Times the three postprocesses (Paddle, numpy, ONNX) in turn on the same random predictions."""

import argparse
import sys

from ppsolo.benchmark.postprocess import benchmark_postprocess
from ppsolo.config import load_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--config", default="solov2_r50_fpn_1x", help="default: %(default)s")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1216), metavar=("H", "W"), help="size of the input")
    parser.add_argument(
        "--candidates", type=int, default=450, help="candidates above the threshold, default: %(default)s"
    )
    parser.add_argument("--repeats", type=int, default=9, help="rounds to measure, default: %(default)s")
    options = parser.parse_args()
    seconds = benchmark_postprocess(
        load_config(options.config), tuple(options.size), candidates=options.candidates, repeats=options.repeats
    )
    for name, value in seconds.items():
        sys.stdout.write(f"{name}: {1000 * value:.0f} ms, {value / seconds['numpy']:.2f} times numpy\n")


if __name__ == "__main__":
    main()
