"""Compare the speed of int8, float32 and bfloat16 in OpenVINO, from photo to instances, with random weights.

In fp32 and in int8 equally many cells pass the threshold. The masks of random weights are large and ragged: a trained
network needs less time for its masks.

python scripts/benchmark_int8.py --images FOLDER --systems solov2_r50_fpn_3x --output output/int8.json
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ppsolo import build_model, load_config, save_weights
from ppsolo.benchmark.prediction import benchmark
from ppsolo.benchmark.sides import TOTAL, Side
from ppsolo.build.pipeline import build_preprocess
from ppsolo.cpu import default_threads, has_bfloat16
from ppsolo.data.files import find_images
from ppsolo.data.images import read_image
from ppsolo.deploy.openvino_runtime import OpenVinoSession
from ppsolo.deploy.quantize import quantize_model
from ppsolo.deploy.runtime import OPENVINO_FILE
from ppsolo.evaluation.report import write_report
from ppsolo.interface import LEVELS, RAW_OUTPUTS
from ppsolo.models.solov2 import SOLOv2

AIMS = {"solov2_r50_fpn_3x": 0.40, "solov2_mobilenetv3_fpn_448_3x": 0.45, "solov2_r50_enhance_coco": 0.60}
SPREAD = 0.05  # spread of the last layers' weights, so that cells differ
CANDIDATES = 450  # pairs of cell and class above the threshold in the timed picture, as in benchmark_postprocess.py


def measure(system: str, images: list[Path], *, calibrated: int, repeats: int, threads: int) -> dict[str, Any]:
    """Return the median seconds of each precision, and the ratio to float32, in one run."""
    with tempfile.TemporaryDirectory(prefix="ppsolo-") as scratch:
        weights, directory = Path(scratch) / "seeded.pdparams", Path(scratch) / "int8"
        config = load_config(system, {"weights": str(weights)})
        paddle.seed(0)
        model = build_model(config)
        for layer in (model.head.category, model.head.kernel):
            paddle.nn.initializer.Normal(0.0, SPREAD)(layer.weight)
        model.eval()
        preprocess = build_preprocess(config)
        prepared = [np.asarray(preprocess(read_image(path))[0]) for path in images[:calibrated]]
        timed, threshold = prepared[0][None], config.postprocess.score_threshold
        with paddle.no_grad():
            exact = model(paddle.to_tensor(timed)).category_logits
        set_candidates(model, [level.numpy() for level in exact], threshold)
        save_weights(model, weights)
        quantize_model(model, config, directory, images=prepared, measure=None)
        session = OpenVinoSession(directory / OPENVINO_FILE, RAW_OUTPUTS, threads=threads, quantized=True)
        set_candidates(model, session(timed)[:LEVELS], threshold)
        quantize_model(model, config, directory, images=prepared, measure=None)  # the same with another bias
        side = {"config": config, "image": str(images[0]), "threads": threads}
        sides = [Side("openvino", **side), Side(str(directory), **side)]
        names = ["fp32", "int8"]
        if has_bfloat16():
            sides += [Side("openvino-bf16", **side), Side(str(directory), **side, precision="bf16")]
            names += ["bf16", "int8 and bf16"]
        report = benchmark(sides, repeats=repeats, warm_up=1)
    medians = [result["seconds"][TOTAL]["median"] for result in report["sides"]]
    ratios = {name: median / medians[0] for name, median in zip(names, medians, strict=True)}
    return {"system": system, "aim": AIMS.get(system), "ratio_to_fp32": ratios, **report}


def set_candidates(model: SOLOv2, levels: Sequence[np.ndarray], threshold: float) -> None:
    """Shift the category logits so that CANDIDATES pairs of cell and class pass the threshold.

    levels: the category logits of the picture to be timed, in one of the precisions.
    """
    values = np.sort(np.concatenate([level.ravel() for level in levels]))
    shift = np.float32(np.log(threshold / (1 - threshold)) - values[-CANDIDATES])
    model.head.category.bias.set_value(model.head.category.bias.numpy() + shift)


def main() -> int:
    """Measure the systems one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of photographs; the first one is timed")
    parser.add_argument("--systems", nargs="+", default=list(AIMS), metavar="NAME", help="default: %(default)s")
    parser.add_argument(
        "--calibrated", type=int, default=4, metavar="N", help="photographs for calibration, default: %(default)s"
    )
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="default: %(default)s")
    parser.add_argument("--output", default="output/int8.json", metavar="FILE", help="default: %(default)s")
    options = parser.parse_args()
    images = list(find_images(options.images).images)
    reports = []
    for system in options.systems:
        reports.append(
            measure(
                system,
                images,
                calibrated=options.calibrated,
                repeats=options.repeats,
                threads=default_threads(),
            )
        )
        for name, ratio in reports[-1]["ratio_to_fp32"].items():
            sys.stdout.write(f"{system} {name}: {ratio:.3f} of fp32\n")
        sys.stdout.flush()
        write_report(reports, options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
