"""A SOLOv2 model as ONNX, written layer by layer: the network alone, or whole, with instances as its outputs."""

from typing import TYPE_CHECKING

import paddle

import ppsolo
from ppsolo.deploy.onnx_network import network
from ppsolo.deploy.onnx_writer import OnnxWriter
from ppsolo.models.postprocess import SOLOv2Postprocess
from ppsolo.models.solov2 import SOLOv2

if TYPE_CHECKING:
    import onnx


def build_onnx(model: SOLOv2, postprocess: SOLOv2Postprocess | None = None) -> "onnx.ModelProto":
    """The model as an ONNX graph with its weights inside; N, H and W are free, H and W multiples of 32.

    Input: `image` float32 [N, 3, H, W], preprocessed.

    Outputs of the network alone, where `postprocess` is None, as in `RawPredictions`:
        category_logits0..4 float32 [N, C, S, S], kernels0..4 float32 [N, E, S, S],
        mask_features float32 [N, E, H/4, W/4].

    Raises ExportError where the package onnx is missing.
    """
    writer = OnnxWriter()
    from onnx import TensorProto
    from onnx.helper import make_tensor_value_info as value

    image = value("image", TensorProto.FLOAT, ["N", 3, "H", "W"])
    raw = network(writer, "image", model)
    classes, kernels = model.head.category.weight.shape[0], model.head.kernel.weight.shape[0]
    outputs = [
        *(
            value(name, TensorProto.FLOAT, ["N", channels, grid, grid])
            for names, channels in ((raw.category_logits, classes), (raw.kernels, kernels))
            for name, grid in zip(names, model.head.num_grids, strict=True)
        ),
        value(raw.mask_features, TensorProto.FLOAT, ["N", kernels, "H/4", "W/4"]),
    ]
    return writer.model(
        name="solov2",
        inputs=[image],
        outputs=outputs,
        metadata={"ppsolo": ppsolo.__version__, "paddle": paddle.__version__},  # pyright: ignore[reportPrivateImportUsage]
    )
