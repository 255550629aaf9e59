"""A very small system for scripts that look for faults, leaks and disorder around the network."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

CONFIG = "compact"
NETWORK: dict[str, Any] = {
    "num_classes": 3,
    "model.backbone": {"width": 8, "norm_groups": 4},
    "model.norm_groups": 4,
    "model.neck.channels": 16,
    "model.mask_feature_head": {"mid_channels": 8, "out_channels": 8},
    "model.head": {"channels": 16, "num_convs": 2, "num_grids": [8, 6, 4, 3, 2]},
    "preprocess": {"short_side": 48, "long_side": 96},
}
SYSTEM: dict[str, Any] = {**NETWORK, "postprocess.max_instances": 20}


def overrides(values: dict[str, Any]) -> list[str]:
    """Return the arguments for `-o` on a command line."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def write_weights(file: Path) -> list[str]:
    """Write random weights that find something in every picture; return arguments for a command that uses them."""
    import paddle

    from ppsolo import build_model, load_config, save_weights

    paddle.seed(1)
    model = build_model(load_config(CONFIG, SYSTEM))
    for layer in (model.head.category, model.head.kernel):
        paddle.nn.initializer.Normal(0.0, 0.6)(layer.weight)
    save_weights(model, file)
    return ["-c", CONFIG, "-o", *overrides({**SYSTEM, "weights": str(file)})]


def main() -> int:
    """Write the weights, and print the arguments for a command that uses them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="file to write, e.g. small.pdparams")
    sys.stdout.write(shlex.join(write_weights(parser.parse_args().file.absolute())) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
