"""Export: writes a model for Paddle Inference or as ONNX into a directory with its description, and verifies it."""

import dataclasses
import logging
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

import paddle
from paddle import nn
from paddle.version import full_version as PADDLE_VERSION

from ppsolo.atomic import temporary_folder
from ppsolo.build.network import build_postprocess
from ppsolo.checkpoint.download import fetch_published
from ppsolo.checkpoint.sources import find_weights
from ppsolo.checkpoint.zoo import ZOO
from ppsolo.config import Config
from ppsolo.cpu import default_threads
from ppsolo.data.preprocess import DIVISOR
from ppsolo.deploy.directory import (
    PADDLEX_STEM,
    TRITON_CONFIG,
    TRITON_ONNX,
    Device,
    ExportInfo,
    Format,
    Graph,
    Layout,
    TensorInfo,
    checksums,
    file_sha256,
    new_directory,
    write_info,
    write_paddlex_config,
)
from ppsolo.deploy.graph import PADDLE_3, NetworkGraph, WholeGraph, adapt_to_cpu, fold_norms
from ppsolo.deploy.paddle_inference import PaddleSession
from ppsolo.deploy.paddledetection import OUTPUTS, PaddleDetectionGraph, PaddleXGraph
from ppsolo.deploy.reference import computing_on, model_on, verification_device
from ppsolo.deploy.runtime import ONNX_FILE, load
from ppsolo.deploy.triton import triton_config, triton_name
from ppsolo.deploy.verify import Progress, Verification, verify
from ppsolo.errors import ExportError
from ppsolo.interface import RAW_OUTPUTS
from ppsolo.models.solov2 import SOLOv2
from ppsolo.text import needed_package
from ppsolo.version import __version__

logger = logging.getLogger(__name__)

CARD = "model_card.md"
OPEN_SHAPE = (-1, 3, -1, -1)
PADDLEDETECTION_INPUTS = (
    TensorInfo("im_shape", "float32", (1, 2), "height and width of the image after the resize"),
    TensorInfo("scale_factor", "float32", (1, 2), "scale factors of height and width"),
)
_PADDLEDETECTION = {
    "segm": TensorInfo("segm", "uint8", ("M", "height", "width"), "masks at the size of the original image"),
    "bbox_num": TensorInfo("bbox_num", "int32", (1,), "instances, M"),
    "label": TensorInfo("label", "int64", ("M",), "classes, counted from 0"),
    "score": TensorInfo("score", "float32", ("M",), "best first"),
    "masks": TensorInfo("masks", "float32", ("M", "H / 4", "W / 4"), "probabilities on the padded input, at stride 4"),
}
PADDLEDETECTION_OUTPUTS = tuple(_PADDLEDETECTION[name] for name in OUTPUTS)


class Export(NamedTuple):
    """The result of an export. verification: None if there was none."""

    directory: Path
    info: ExportInfo
    verification: Verification | None

    def __repr__(self) -> str:
        return f"Export({str(self.directory)!r}: {self.info.format}, {self.info.graph} graph)"

    def __str__(self) -> str:
        files = ", ".join(self.info.files)
        found = f"verified, {self.verification}" if self.verification else "not verified"
        return f"{self.directory}: {files}; {found}"


def export_model(
    model: SOLOv2,
    config: Config,
    directory: str | os.PathLike[str],
    *,
    format: Format = "paddle",
    graph: Graph = "whole",
    input_shape: Sequence[int] = OPEN_SHAPE,
    device: Device = "cpu",
    layout: Layout = "ppsolo",
    checkpoint: dict[str, str] | None = None,
    model_card: Path | None = None,
    verify_export: bool = True,
    progress: Progress | None = None,
) -> Export:
    """Write `model` into `directory`; the model itself is not changed.

    Args:
        model: built from `config`, with its weights.
        directory: appears whole or not at all. An export in this place is replaced; anything else is refused.
        format: "paddle" for Paddle Inference (of this version of Paddle or a later one), "onnx" for onnxruntime.
        graph: "whole", images to instances, or "network", images to raw predictions.
        input_shape: N, 3, H, W of the prepared images; -1 leaves a side open.
        device: "cpu" or "gpu": the graph has the fastest operators for it, and runs on both.
        layout: "ppsolo"; "paddledetection" for its deploy tools or "paddlex" for its `create_model`: a whole Paddle
            graph for one image at a time, with masks of the image's size; or "triton": `directory` becomes a model
            repository with a whole ONNX graph, in a folder named like the configuration.
        checkpoint: "file" and "sha256" of the weights, to be recorded.
        model_card: a file to copy into the export.
        verify_export: compare the export with the model; an export beyond the bounds is removed.
        progress: called with the number of images compared, and of all.

    Raises:
        ExportError: the shape or the place is refused, or the verification failed.
    """
    shape = _checked_shape(input_shape)
    _check_choices(format, graph, device)
    directory = Path(directory)
    if layout != "ppsolo":
        format, shape = _of_layout(layout, format, graph, shape)
    if layout == "triton":
        directory = directory / triton_name(config.name)
    model.eval()
    logger.info("writing the %s graph for %s", graph, "Paddle Inference" if format == "paddle" else "onnxruntime")
    with new_directory(directory) as place:
        _write(model, config, format, graph, shape, device, place, layout=layout, name=directory.name)
        if model_card is not None:
            shutil.copyfile(model_card, place / CARD)
        info = _info(config, format, graph, shape, device, place, layout=layout, checkpoint=checkpoint or {})
        write_info(place, info)
        verification = None
        if verify_export:
            verification = _verify(model, info, device, place, progress)
            if not verification.trusted:
                raise ExportError(f"the export failed its verification and was not kept: {verification}")
            info = dataclasses.replace(info, verified=str(verification))
            write_info(place, info)
    return Export(directory, info, verification)


def _check_choices(format: str, graph: str, device: str) -> None:
    """Raise ExportError for an argument that is not one of its choices."""
    chosen = (
        ("format", format, ("paddle", "onnx")),
        ("graph", graph, get_args(Graph)),
        ("device", device, get_args(Device)),
    )
    for name, value, choices in chosen:
        if value not in choices:
            raise ExportError(f"{name} is {value!r}: choose {' or '.join(map(repr, choices))}")


def _of_layout(
    layout: Layout, format: Format, graph: Graph, shape: tuple[int, int, int, int]
) -> tuple[Format, tuple[int, int, int, int]]:
    """The format and the input shape that another tool's layout takes. Raises ExportError."""
    if layout == "triton":
        if graph != "whole":
            raise ExportError("--layout triton needs a whole ONNX graph: omit --graph")
        return "onnx", shape
    if (format, graph) != ("paddle", "whole"):
        raise ExportError(f"--layout {layout} needs a whole Paddle graph: omit --format and --graph")
    return format, (1, *shape[1:])


def _info(
    config: Config,
    format: Format,
    graph: Graph,
    shape: tuple[int, int, int, int],
    device: Device,
    place: Path,
    *,
    layout: Layout,
    checkpoint: dict[str, str],
) -> ExportInfo:
    """What an export says of itself before it is verified."""
    return ExportInfo(
        format=format,
        graph=graph,
        config=config,
        input_shape=shape,
        inputs=(input_info(shape), *(PADDLEDETECTION_INPUTS if layout == "paddledetection" else ())),
        outputs=PADDLEDETECTION_OUTPUTS if layout == "paddledetection" else output_infos(config, graph),
        checkpoint=checkpoint,
        ppsolo=__version__,
        paddle=PADDLE_VERSION,
        verified=None,
        files=checksums(place),
        device=device,
    )


def card_of(weights: str | os.PathLike[str]) -> Path | None:
    """Return the model card that training wrote next to the weights."""
    card = Path(weights).parent / CARD
    return card if Path(weights).is_file() and card.is_file() else None


def checkpoint_facts(weights: str) -> dict[str, str]:
    """ "file" and "sha256" of a checkpoint: a file, or a published name whose file was fetched."""
    path = fetch_published(weights) if weights in ZOO else find_weights(weights)
    return {"file": path.name, "sha256": file_sha256(path)}


def _verify(model: SOLOv2, info: ExportInfo, device: Device, place: Path, progress: Progress | None) -> Verification:
    """Compare the export in `place` with the model. The heads of a whole graph get a graph of their own."""
    config, shape = info.config, info.input_shape
    here = verification_device(device, info.format)
    with temporary_folder() as scratch:
        network = place
        if info.graph == "whole":
            network = scratch
            if info.format == "onnx":
                _write_onnx(model, config, "network", shape, device, network / ONNX_FILE)
            else:
                _write_paddle(model, config, "network", shape, device, network)
        if info.format == "onnx":
            from ppsolo.deploy.onnx_runtime import OnnxSession

            heads = OnnxSession(network / ONNX_FILE, RAW_OUTPUTS, device=here)
        else:
            heads = PaddleSession(network, device=here, threads=default_threads())
        with computing_on(here):
            detect = load(place, device=here).detect
            return verify(model_on(here, model), config, shape, heads=heads, detect=detect, progress=progress)


def _write(
    model: SOLOv2,
    config: Config,
    format: Format,
    graph: Graph,
    shape: Sequence[int],
    device: Device,
    place: Path,
    *,
    layout: Layout,
    name: str,
) -> None:
    """Write the files of a model in its layout; `name` is its name in Triton."""
    if layout == "triton":
        (place / TRITON_ONNX).parent.mkdir()
        _write_onnx(model, config, graph, shape, device, place / TRITON_ONNX)
        tensors = (input_info(shape),), output_infos(config, graph)
        (place / TRITON_CONFIG).write_text(triton_config(name, shape, *tensors), encoding="utf-8")
    elif format == "onnx":
        _write_onnx(model, config, graph, shape, device, place / ONNX_FILE)
    elif layout == "paddlex":
        _write_for_paddlex(model, config, shape, device, place)
    else:
        _write_paddle(model, config, graph, shape, device, place, layout=layout)


def _write_paddle(
    model: SOLOv2,
    config: Config,
    graph: Graph,
    shape: Sequence[int],
    device: Device,
    place: Path,
    *,
    layout: Layout = "ppsolo",
) -> None:
    """Write model.json (Paddle 3) or model.pdmodel (Paddle 2), and model.pdiparams; for PaddleX, inference.*."""
    folded = fold_norms(model)
    if device == "cpu" and PADDLE_3:
        adapt_to_cpu(folded)
    spec = [paddle.static.InputSpec([side if side > 0 else None for side in shape], "float32", "image")]
    layer: nn.Layer
    if layout in ("paddledetection", "paddlex"):
        kind = PaddleXGraph if layout == "paddlex" else PaddleDetectionGraph
        layer = kind(folded, build_postprocess(config), config.postprocess.mask_threshold)
        spec += [paddle.static.InputSpec([1, 2], "float32", name) for name in ("im_shape", "scale_factor")]
    elif graph == "network":
        layer = NetworkGraph(folded)
    else:
        layer = WholeGraph(folded, build_postprocess(config))
    layer.eval()
    stem = PADDLEX_STEM if layout == "paddlex" else "model"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about details that tracing does not need
        paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(place / stem))
    (place / f"{stem}.pdiparams.info").unlink(missing_ok=True)  # parameter names, for training only


def _write_for_paddlex(model: SOLOv2, config: Config, shape: Sequence[int], device: Device, place: Path) -> None:
    """Write inference.* for PaddleX, and model.* with the same weights for ppsolo, which resizes masks itself."""
    _write_paddle(model, config, "whole", shape, device, place)
    _write_paddle(model, config, "whole", shape, device, place, layout="paddlex")
    ours, theirs = (place / f"{stem}.pdiparams" for stem in ("model", PADDLEX_STEM))
    if file_sha256(ours) == file_sha256(theirs):
        ours.unlink()
    write_paddlex_config(place, config, shape)


def _write_onnx(model: SOLOv2, config: Config, graph: Graph, shape: Sequence[int], device: Device, file: Path) -> None:
    try:
        import onnx
    except ImportError as error:
        raise ExportError(f"this needs {needed_package(error, 'onnx', 'onnx')}") from None
    from ppsolo.deploy.onnx.graph import build_onnx

    proto = build_onnx(model, build_postprocess(config) if graph == "whole" else None, device=device)
    for dimension, side in zip(proto.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        if side > 0:
            dimension.dim_value = side
    onnx.save(proto, str(file))


def _checked_shape(shape: Sequence[int]) -> tuple[int, int, int, int]:
    given = " ".join(map(str, shape))
    if len(shape) != 4 or shape[1] != 3:
        raise ExportError(f"--input_shape {given}: give N 3 H W, with -1 for open sides")
    if any(side != -1 and side < 1 for side in shape):
        raise ExportError(f"--input_shape {given}: sides must be -1 or at least 1")
    if any(side > 0 and side % DIVISOR for side in shape[2:]):
        raise ExportError(f"--input_shape {given}: H and W must be multiples of {DIVISOR}, or -1")
    return (shape[0], shape[1], shape[2], shape[3])


def input_info(shape: Sequence[int]) -> TensorInfo:
    """Describe the input: prepared images of this shape; -1 is an open side."""
    names = ("N", "3", "H", "W")
    sides = tuple(side if side > 0 else name for side, name in zip(shape, names, strict=True))
    return TensorInfo("image", "float32", sides, "prepared RGB images, H and W multiples of 32")


def output_infos(config: Config, graph: Graph) -> tuple[TensorInfo, ...]:
    """Describe the outputs in the order of the graph; engines find them by position."""
    features = config.model.mask_feature_head.out_channels
    if graph == "whole":
        return (
            TensorInfo("scores", "float32", ("M",), "scores of all instances, image by image, the best first"),
            TensorInfo("labels", "int64", ("M",), "classes, counted from 0"),
            TensorInfo("masks", "float32", ("M", "H / 4", "W / 4"), "probabilities on the padded input, at stride 4"),
            TensorInfo("counts", "int64", ("N",), "instances of each image, their sum is M; -1: output not finite"),
        )
    grids = enumerate(config.model.head.num_grids)
    logits = [
        TensorInfo(f"category_logits{level}", "float32", ("N", config.num_classes, grid, grid), "before the sigmoid")
        for level, grid in grids
    ]
    kernels = [
        TensorInfo(f"kernels{level}", "float32", ("N", features, grid, grid), "a 1x1 mask kernel for every cell")
        for level, grid in enumerate(config.model.head.num_grids)
    ]
    masks = TensorInfo(
        "mask_features", "float32", ("N", features, "H / 4", "W / 4"), "features that kernels are applied to"
    )
    return (*logits, *kernels, masks)
