"""`ppsolo export`: write a model for static-graph runtimes."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ppsolo.cli.paddledetection import add_refused_flags
from ppsolo.cli.shared import OK, Commands, add_command, add_config, import_paddle, say, say_note
from ppsolo.config import load_answering_config
from ppsolo.errors import ConfigError
from ppsolo.outputs import check_output_folder

if TYPE_CHECKING:
    from ppsolo.models.solov2 import SOLOv2
    from ppsolo.schema import Config

EXAMPLES = """ppsolo export -c solov2_r50_fpn_3x -o weights=solov2_r50_fpn_3x --output_dir output/r50
ppsolo export -c solov2_r50_fpn_3x -o weights=FILE --output_dir output/r50 --format onnx --graph network
ppsolo export -c output/mine/config.yml --output_dir output/mine_int8 --precision int8 --calibrate val.json"""


def add(commands: Commands) -> None:
    """Add the command and its flags to the parser."""
    command = add_command(commands, "export", run, EXAMPLES)
    add_config(command)
    command.add_argument(
        "--output_dir",
        metavar="DIR",
        help="folder of the export; an export in this place is replaced, anything else refused; default: "
        "output_inference/NAME",
    )
    command.add_argument(
        "--format", choices=("paddle", "onnx"), default="paddle", help="the runtime's format, default: %(default)s"
    )
    command.add_argument(
        "--graph",
        choices=("whole", "network"),
        default="whole",
        help="include postprocessing, or output raw predictions; default: %(default)s",
    )
    command.add_argument(
        "--device",
        choices=("cpu", "gpu"),
        default="cpu",
        help="the device that the graph is fastest on; it runs on both, default: %(default)s",
    )
    command.add_argument(
        "--input_shape",
        type=int,
        nargs=4,
        default=(-1, 3, -1, -1),
        metavar=("N", "3", "H", "W"),
        help="sizes of the batches of prepared images; -1 leaves a size open, as the default does but for 3",
    )
    command.add_argument(
        "--verify",
        action="store_true",
        default=True,
        help="compare with the model on drawn scenes, and remove an export that differs (default)",
    )
    _add_quantization(command)
    command.add_argument(
        "--class_thresholds", metavar="FILE", help="a file of `ppsolo eval --find_thresholds` to store in the export"
    )
    command.add_argument(
        "--layout",
        choices=("ppsolo", "paddledetection", "paddlex", "triton"),
        default="ppsolo",
        help="paddledetection: for its deploy scripts; paddlex: for its create_model, one image at a time; triton: "
        "--output_dir is a model repository, and the model a folder in it; default: %(default)s",
    )
    command.add_argument("--exclude_nms", action="store_true", help="the same as --graph network")
    add_refused_flags(command, "export")
    command.add_argument("--no_verify", dest="verify", action="store_false", help="do not compare with the model")


def _add_quantization(command: argparse.ArgumentParser) -> None:
    """Add the flags of int8."""
    command.add_argument(
        "--precision",
        choices=("fp32", "int8"),
        default="fp32",
        help="int8: for OpenVINO on a CPU, needs --calibrate, ignores --format and --graph; default: %(default)s",
    )
    command.add_argument(
        "--calibrate",
        metavar="DIR|JSON",
        help="pictures for int8: a folder, or a COCO file, which also measures mask AP before and after",
    )
    command.add_argument("--calibrate_images", metavar="DIR", help="the pictures of a COCO file --calibrate")
    command.add_argument(
        "--max_drop", type=float, metavar="AP", help="largest loss of mask AP, of 1, default: 0.005, half a point"
    )


def run(options: argparse.Namespace) -> int:
    """Write a model for Paddle Inference or onnxruntime, and verify it."""
    config = load_answering_config(options.config, options.override)
    if options.output_dir is None:
        options.output_dir = "output_inference" if options.layout == "triton" else f"output_inference/{config.name}"
    if options.exclude_nms:
        options.graph = "network"
    if options.class_thresholds is not None:
        from ppsolo.evaluation.thresholds import with_thresholds

        config = with_thresholds(config, options.class_thresholds, note=say_note)
    if options.precision == "fp32" and (options.calibrate, options.max_drop) != (None, None):
        raise ConfigError("--calibrate and --max_drop belong to int8: add --precision int8")
    if options.precision == "int8" and options.calibrate is None:
        raise ConfigError("int8 needs pictures: add --calibrate with a folder or a COCO file")
    import_paddle()
    from ppsolo.deploy.directory import check_place
    from ppsolo.deploy.export import card_of, checkpoint_facts, export_model
    from ppsolo.deploy.triton import triton_name
    from ppsolo.predictor import load_model
    from ppsolo.progress import ProgressBar

    place = Path(options.output_dir)
    place = place / triton_name(config.name) if options.layout == "triton" else place
    check_place(place)  # check now, not after minutes
    check_output_folder(place.parent, "--output_dir")
    with ProgressBar("download", unit="B") as progress:
        model, report = load_model(config, progress=progress.update)
    say(str(report))
    if options.precision == "int8":
        return _export_int8(model, config, options)
    with ProgressBar("verify") as progress:
        written = export_model(
            model,
            config,
            options.output_dir,
            format=options.format,
            graph=options.graph,
            device=options.device,
            layout=options.layout,
            input_shape=options.input_shape,
            checkpoint=checkpoint_facts(str(config.weights)),
            model_card=card_of(str(config.weights)),
            verify_export=options.verify,
            progress=progress.update,
        )
    say(str(written))
    return OK


def _export_int8(model: "SOLOv2", config: "Config", options: argparse.Namespace) -> int:
    """Write a network in int8, and report its loss of accuracy."""
    from ppsolo.deploy.export import card_of, checkpoint_facts
    from ppsolo.deploy.quantize import MAX_DROP, quantize_model
    from ppsolo.evaluation.calibration import calibration_data
    from ppsolo.progress import ProgressBar

    with ProgressBar("evaluate") as progress:
        images, measure = calibration_data(
            config, options.calibrate, image_dir=options.calibrate_images, progress=progress.update
        )
        if measure is None and options.max_drop is not None:
            raise ConfigError("--max_drop needs annotations: give a COCO file as --calibrate, or data.val_annotations")
        written = quantize_model(
            model,
            config,
            options.output_dir,
            images=images,
            measure=measure,
            max_drop=MAX_DROP if options.max_drop is None else options.max_drop,
            checkpoint=checkpoint_facts(str(config.weights)),
            model_card=card_of(str(config.weights)),
        )
    say(str(written))
    return OK
