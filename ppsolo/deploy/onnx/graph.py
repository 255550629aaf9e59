"""Writes a SOLOv2 model as ONNX, layer by layer: the network alone, or with postprocessing."""

from typing import TYPE_CHECKING, cast, get_args

from paddle.version import full_version as PADDLE_VERSION

from ppsolo.deploy.directory import Device
from ppsolo.deploy.onnx.network import RawNames, network
from ppsolo.deploy.onnx.postprocess import postprocess as write_postprocess
from ppsolo.deploy.onnx.writer import OnnxWriter
from ppsolo.models.postprocess import SOLOv2Postprocess
from ppsolo.models.solov2 import SOLOv2, SOLOv2Head
from ppsolo.version import __version__

if TYPE_CHECKING:
    import onnx


def build_onnx(
    model: SOLOv2, postprocess: SOLOv2Postprocess | None = None, *, device: Device = "cpu"
) -> "onnx.ModelProto":
    """Return the model as an ONNX graph with its weights; N, H and W are free, H and W multiples of 32.

    Input: `image` float32 [N, 3, H, W], preprocessed.

    Outputs with `postprocess`, as in `Detections`: `scores` float32 [M], `labels` int64 [M],
    `masks` float32 [M, H/4, W/4], `counts` int64 [N]. Every count is -1 if the network's output is not finite.

    Outputs without `postprocess`, as in `RawPredictions`: `category_logits0` to `4` float32 [N, C, S, S],
    `kernels0` to `4` float32 [N, E, S, S], `mask_features` float32 [N, E, H/4, W/4].

    device: "cpu" or "gpu": the graph is fast on this device, and runs on both.

    The graph's name is `solov2` or `solov2_network`; its metadata hold the versions of ppsolo and Paddle.

    Raises ExportError if the package onnx is missing.
    """
    if device not in get_args(Device):
        raise ValueError(f"device is {device!r}: choose one of {', '.join(get_args(Device))}")
    writer = OnnxWriter(device)
    raw = network(writer, "image", model)
    head = cast(SOLOv2Head, model.head)
    if postprocess:
        write_postprocess(writer, raw, postprocess, head.num_grids)
        outputs = detection_outputs(writer)
    else:
        outputs = raw_outputs(writer, raw, head)
    return writer.model(
        name="solov2" if postprocess else "solov2_network",
        inputs=[writer.value("image", writer.types.FLOAT, ["N", 3, "H", "W"])],
        outputs=outputs,
        metadata={"ppsolo": __version__, "paddle": PADDLE_VERSION},
    )


def raw_outputs(writer: OnnxWriter, raw: RawNames, head: SOLOv2Head) -> list["onnx.ValueInfoProto"]:
    """Describe the outputs of the network alone."""
    classes, kernels = head.category.weight.shape[0], head.kernel.weight.shape[0]
    return [
        *(
            writer.value(name, writer.types.FLOAT, ["N", channels, grid, grid])
            for names, channels in ((raw.category_logits, classes), (raw.kernels, kernels))
            for name, grid in zip(names, head.num_grids, strict=True)
        ),
        writer.value(raw.mask_features, writer.types.FLOAT, ["N", kernels, "H/4", "W/4"]),
    ]


def detection_outputs(writer: OnnxWriter) -> list["onnx.ValueInfoProto"]:
    """Describe the outputs of the whole model."""
    return [
        writer.value("scores", writer.types.FLOAT, ["M"]),
        writer.value("labels", writer.types.INT64, ["M"]),
        writer.value("masks", writer.types.FLOAT, ["M", "H/4", "W/4"]),
        writer.value("counts", writer.types.INT64, ["N"]),
    ]
