"""What Paddle Inference is told, and what its passes make of a program: a GPU is not needed for that."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppsolo.build.network import build_postprocess
from ppsolo.config import Config
from ppsolo.deploy.export import export_model
from ppsolo.deploy.graph import PADDLE_3
from ppsolo.deploy.paddle_inference import FLOAT32_OPS, PaddleEngine, PaddleSession, postprocess_outputs
from ppsolo.errors import PredictionError
from ppsolo.models.solov2 import RawPredictions

NETWORK_OPS = {"conv2d", "depthwise_conv2d", "elementwise_add", "add", "relu", "group_norm", "hard_swish", "hardswish"}


def has_floats(values) -> bool:
    def is_float(value: Any) -> bool:
        try:
            return value.dtype in (paddle.float16, paddle.float32)
        except ValueError:  # a list of tensors
            return "f32" in str(value.type())

    return any(is_float(value) for value in values)


def float_operators(program) -> set[str]:
    """The operators of a program that read or give floating-point tensors, without those of Paddle 3's own language."""
    block = program.global_block()
    if PADDLE_3:
        names = {op.name() for op in block.ops if has_floats([*op.results(), *op.operands_source()])}
        return {name.removeprefix("pd_op.") for name in names if not name.startswith("builtin.")}
    variables = {name: block.var(name) for op in block.ops for name in (*op.input_arg_names, *op.output_arg_names)}
    return {
        op.type for op in block.ops if has_floats(variables[n] for n in (*op.input_arg_names, *op.output_arg_names))
    }


def postprocess_program(config: Config, kernel: str):
    """The postprocessing alone, traced."""
    classes, width = config.num_classes, config.model.mask_feature_head.out_channels
    grids = config.model.head.num_grids
    postprocess = build_postprocess(config)
    postprocess.nms_kernel = kernel

    def tensors(name: str, channels: int) -> list[Any]:
        shapes = [[-1, channels, grid, grid] for grid in grids]
        return [paddle.static.data(f"{name}{level}", shape, "float32") for level, shape in enumerate(shapes)]

    paddle.enable_static()
    try:
        program = paddle.static.Program()
        with paddle.static.program_guard(program, paddle.static.Program()):
            features = paddle.static.data("features", [-1, width, -1, -1], "float32")
            postprocess(RawPredictions(tensors("logits", classes), tensors("kernels", width), features))
    finally:
        paddle.disable_static()
    return program


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_all_of_postprocessing_stays_in_float32(tiny_config, kernel):
    operators = float_operators(postprocess_program(tiny_config, kernel))
    assert len(operators) > 20
    assert operators <= FLOAT32_OPS
    assert not FLOAT32_OPS & NETWORK_OPS


needs_cuda_wheel = pytest.mark.skipif(
    PADDLE_3 or not paddle.device.is_compiled_with_cuda(), reason="needs Paddle 2.6 with CUDA; a GPU is not needed"
)


def parsed(file: Path):
    """The block of a model.pdmodel."""
    paddle.enable_static()
    try:
        return paddle.static.Program.parse_from_string(file.read_bytes()).global_block()
    finally:
        paddle.disable_static()


def converted(whole: Path, place: Path, kept: set[str]):
    """What Paddle's pass makes of an export for GPUs in float16, as a block."""
    from paddle import inference

    files = [str(place / name) for name in ("model.pdmodel", "model.pdiparams")]
    inference.convert_to_mixed_precision(
        str(whole / "model.pdmodel"),
        str(whole / "model.pdiparams"),
        *files,
        inference.PrecisionType.Half,
        inference.PlaceType.GPU,
        True,
        kept,
    )
    return parsed(Path(files[0]))


def half_outputs(block) -> dict[str, int]:
    """Operator -> how many of it give float16, casts apart."""
    counts: dict[str, int] = {}
    for op in block.ops:
        names = [name for name in op.output_arg_names if block.has_var(name)]
        if op.type not in ("cast", "feed", "fetch") and any(block.var(name).dtype == paddle.float16 for name in names):
            counts[op.type] = counts.get(op.type, 0) + 1
    return counts


@needs_cuda_wheel
def test_the_pass_leaves_postprocessing_in_float32(exported, tmp_path):
    whole = tmp_path / "whole"
    export_model(exported.model, exported.config, whole, device="gpu", verify_export=False)
    (tmp_path / "half").mkdir()
    without = half_outputs(converted(whole, tmp_path / "half", set()))
    assert without["elementwise_sub"] > 0  # the pass would take it
    half = half_outputs(converted(whole, tmp_path / "half", set(FLOAT32_OPS)))
    assert not set(half) & FLOAT32_OPS
    assert half["conv2d"] == without["conv2d"] > 50  # and the network is in float16


@pytest.mark.skipif(PADDLE_3, reason="TensorRT takes exports of Paddle 2.6")
def test_tensorrt_is_told_all_of_postprocessing(exported, tmp_path):
    program = exported.export.directory / "model.pdmodel"
    outputs = set(postprocess_outputs(program))
    operators = parsed(program).ops
    inside = {op.type for op in operators if outputs & set(op.output_arg_names)}
    outside = {op.type for op in operators if not outputs & set(op.output_arg_names)}
    assert {"elementwise_sub", "less_equal", "top_k_v2", "matmul_v2"} <= inside
    assert "conv2d" in outside - inside and "top_k_v2" not in outside
    export_model(exported.model, exported.config, tmp_path / "net", graph="network", verify_export=False)
    assert postprocess_outputs(tmp_path / "net" / "model.pdmodel") == []


def test_the_first_batch_may_hold_nothing(exported, tmp_path):
    """Tensors without elements have no memory of an earlier batch to lie in."""
    model = copy.deepcopy(exported.model)
    model.head.category.bias.set_value(model.head.category.bias - 50.0)
    export_model(model, exported.config, tmp_path / "quiet", verify_export=False)
    engine = PaddleEngine(PaddleSession(tmp_path / "quiet"))
    found = engine.run(np.zeros([2, 3, 64, 96], np.float32))
    assert found.counts.tolist() == [0, 0] and found.masks.shape == (0, 16, 24)


def test_a_failing_run_is_named(exported):
    session = PaddleSession(exported.export.directory)
    with pytest.raises(PredictionError, match=r"failed on a batch of shape \[1, 2, 64, 64\]: ."):
        session(np.zeros([1, 2, 64, 64], np.float32))
