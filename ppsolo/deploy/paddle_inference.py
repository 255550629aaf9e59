"""Engines with Paddle Inference for graphs of `paddle.jit`, on a CPU or a GPU."""

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import paddle
from paddle import inference
from paddle.version import full_version as PADDLE_VERSION

from ppsolo.atomic import temporary_folder
from ppsolo.cpu import keep_freed_memory, require_bfloat16, threads_in_words
from ppsolo.deploy.device import parse_device
from ppsolo.deploy.graph import PADDLE_3
from ppsolo.deploy.paddledetection import INPUTS
from ppsolo.deploy.paddledetection import OUTPUTS as PADDLEDETECTION_OUTPUTS
from ppsolo.errors import ExportError, PredictionError
from ppsolo.results.postprocess import DetectionArrays
from ppsolo.text import native_reason

PRECISIONS = ("fp32", "fp16", "bf16")
MODEL_FILES = ("model.json", "model.pdmodel")  # of Paddle 3 and 2
WEIGHTS_FILES = ("model.pdiparams", "inference.pdiparams")  # the second name if PaddleX reads them too
# Operators of the postprocessing with floating-point values, by their names in Paddle 2 and Paddle 3. Under fp16 they
# stay float32: float16 rounds scores to 11 bits and overflows at areas of 65,504 pixels.
_IN_BOTH = (
    "cast",
    "clip",
    "concat",
    "elementwise_pow",
    "exp",
    "gather",
    "pool2d",
    "scale",
    "sigmoid",
    "slice",
    "where",
)
_COMPARISONS = ("greater_equal", "greater_than", "less_equal")
_ARITHMETIC_2 = ("elementwise_div", "elementwise_mul", "elementwise_sub", "matmul_v2")
_REDUCTIONS_2 = ("reduce_max", "reduce_min", "reduce_sum", "top_k_v2", "tril_triu")
_SHAPES_2 = (
    "fill_any_like",
    "fill_constant",
    "flatten_contiguous_range",
    "reshape2",
    "shape",
    "transpose2",
    "unsqueeze2",
)
_ARITHMETIC_3 = ("divide", "multiply", "subtract", "matmul", "max", "min", "sum", "topk", "triu")
_SHAPES_3 = ("data", "flatten", "full", "full_like", "reshape", "shape64", "transpose", "unsqueeze")
FLOAT32_OPS = frozenset(_IN_BOTH + _COMPARISONS + _ARITHMETIC_2 + _REDUCTIONS_2 + _SHAPES_2 + _ARITHMETIC_3 + _SHAPES_3)
_GPU_POOL_MB = 500
_TENSORRT_WORKSPACE = 1 << 30
_ONEDNN_OPERATORS = {"conv2d", "depthwise_conv2d", "elementwise_add", "relu", "hard_swish"}  # in Paddle 2
_ONEDNN_SHAPES = 1  # shapes with cached kernels: 0.5 GB each; compiling again takes a tenth of a run


class PaddleSession:
    """A graph in Paddle Inference: takes an image batch, returns the graph's outputs in its order.

    description: runtime, version, device, precision and threads, in one line.
    """

    def __init__(
        self,
        directory: Path,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        threads: int = 1,
        onednn: bool | None = None,
        tensorrt: bool = False,
        tensorrt_shapes: Sequence[tuple[int, int, int]] = (),
    ):
        """Load model.json or model.pdmodel with model.pdiparams from a directory.

        Arguments: see `ppsolo.deploy.load`. Raises ExportError if the request cannot be met on this machine.
        """
        _check_request(device, precision, onednn, tensorrt)
        on_cpu = parse_device(device).kind == "cpu"
        program = next((directory / name for name in MODEL_FILES if (directory / name).is_file()), None)
        if program is None:
            raise ExportError(f"{directory} holds no {' or '.join(MODEL_FILES)}: export again")
        new_program = program.suffix == ".json"
        if onednn is None:
            onednn = precision == "bf16" or (on_cpu and new_program == PADDLE_3)
        if onednn and PADDLE_3 and not new_program:
            raise ExportError(
                f"{program}: with oneDNN, Paddle 3 fails on this file: use fp32 without onednn, or export with Paddle 3"
            )
        if new_program and not PADDLE_3:
            raise ExportError(f"{program} needs Paddle 3, but this is {PADDLE_VERSION}: export again with this version")
        if tensorrt and new_program:
            raise ExportError(f"{program}: TensorRT needs a model.pdmodel: export with Paddle 2.6")
        self._lock = threading.Lock()  # a predictor runs one batch at a time
        self._scratch = contextlib.ExitStack()  # open as long as this session
        if on_cpu:
            keep_freed_memory()
        config = self._config(program, device, precision, threads, onednn)
        if tensorrt:
            ranges = str(self._scratch.enter_context(temporary_folder()) / "shape_ranges.pbtxt")
            self._collect_ranges(self._config(program, device, "fp32", threads, False), ranges, tensorrt_shapes)
            config.enable_tensorrt_engine(
                workspace_size=_TENSORRT_WORKSPACE,
                max_batch_size=max((shape[0] for shape in tensorrt_shapes), default=1),
                min_subgraph_size=60,
                precision_mode=inference.PrecisionType.Half if precision == "fp16" else inference.PrecisionType.Float32,
                use_static=False,
                use_calib_mode=False,
            )
            config.enable_tuned_tensorrt_dynamic_shape(ranges, True)
            if precision == "fp16":
                config.exp_disable_tensorrt_ops(postprocess_outputs(program))
        self._predictor = _create(config, program)
        parts = [f"Paddle Inference {PADDLE_VERSION}", device, precision]
        parts += [threads_in_words(threads)] if on_cpu else []
        parts += [name for name, used in (("oneDNN", config.mkldnn_enabled()), ("TensorRT", tensorrt)) if used]
        self.description = ", ".join(parts)

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """images: float32 [N, 3, H, W], preprocessed, H and W multiples of 32 -> the outputs in order.

        Raises PredictionError if Paddle fails, for example for lack of memory.
        """
        with self._lock:
            return _run(self._predictor, images)

    def _config(self, program: Path, device: str, precision: str, threads: int, onednn: bool) -> inference.Config:
        weights = [file for name in WEIGHTS_FILES if (file := program.with_name(name)).is_file()]
        config = inference.Config(str(program), str(weights[0] if weights else program.with_name(WEIGHTS_FILES[0])))
        config.disable_glog_info()
        config.enable_memory_optim(False)  # it fails in 3.3, and saves little with open sides
        kind, number = parse_device(device)
        if kind == "gpu":
            half = inference.PrecisionType.Half if precision == "fp16" else inference.PrecisionType.Float32
            config.enable_use_gpu(_GPU_POOL_MB, number, half)
            if precision == "fp16":
                # Paddle 3 looks for both forms of a name.
                config.exp_disable_mixed_precision_ops({*FLOAT32_OPS, *(f"pd_op.{name}" for name in FLOAT32_OPS)})
            return config
        config.disable_gpu()
        config.delete_pass("transfer_layout_pass")  # of Paddle 3: its two transposes slow a pooling down
        config.set_cpu_math_library_num_threads(threads)
        if onednn:
            config.enable_mkldnn()
            config.set_mkldnn_cache_capacity(_ONEDNN_SHAPES)
            if PADDLE_3:
                # It would use oneDNN for bilinear resizing, whose kernel cannot read the scale. Other passes place
                # the fused convolutions.
                config.delete_pass("onednn_placement_pass")
            else:
                # Only convolutions and their companions: oneDNN rounds nearest neighbours unlike Paddle.
                config.set_mkldnn_op(_ONEDNN_OPERATORS)
                for name in config.pass_builder().all_passes():
                    if ("mkldnn" in name or "onednn" in name) and "conv" not in name and "placement" not in name:
                        config.delete_pass(name)
            if precision == "bf16":
                config.enable_mkldnn_bfloat16()
        else:
            config.disable_mkldnn()
        return config

    @staticmethod
    def _collect_ranges(config: inference.Config, file: str, shapes: Sequence[tuple[int, int, int]]) -> None:
        """Run a batch of every shape, (N, H, W), so that TensorRT learns the range of each tensor's sides."""
        config.collect_shape_range_info(file)
        predictor = inference.create_predictor(config)
        random = np.random.default_rng(0)
        for batch, height, width in shapes:
            _run(predictor, random.standard_normal((batch, 3, height, width), np.float32))


def postprocess_outputs(program: Path) -> list[str]:
    """Return the names of the tensors that a model.pdmodel's postprocessing computes; empty without postprocessing."""
    # `paddle.static.Program` reads it only in static mode, which is global for the process.
    description = paddle.base.core.ProgramDesc(program.read_bytes())
    block = description.block(0)
    operators = [block.op(index) for index in range(block.op_size())]
    # In a whole graph, isfinite is applied to the network's outputs and to nothing else.
    known = {name for op in operators if op.type() == "isfinite_v2" for name in op.input_arg_names()}
    outputs: list[str] = []
    for op in operators:
        if op.type() != "fetch" and not known.isdisjoint(op.input_arg_names()):
            known.update(op.output_arg_names())
            outputs += op.output_arg_names()
    return outputs


class PaddleEngine:
    """The whole model with postprocessing. description: see `PaddleSession`."""

    def __init__(self, session: PaddleSession):
        self._session = session
        self.description = session.description

    def run(self, images: np.ndarray) -> DetectionArrays:
        """images: float32 [N, 3, H, W], preprocessed, H and W multiples of 32 -> their instances."""
        outputs = self._session(images)
        if len(outputs) == len(PADDLEDETECTION_OUTPUTS):
            masks_first = outputs[0].ndim == 3  # by Paddle 3: see `paddledetection.OUTPUTS`
            count, labels, scores = outputs[1:4] if masks_first else outputs[:3]
            masks = outputs[4]
            return DetectionArrays(scores, labels, masks, count.astype(np.int64))
        return DetectionArrays(*outputs)


def _run(predictor: inference.Predictor, images: np.ndarray) -> list[np.ndarray]:
    # ppsolo does not use the full-size masks of a graph for PaddleDetection: give them one cell.
    one = np.ones((1, 2), np.float32)
    given = {"image": images, "im_shape": one, "scale_factor": one}
    for name in predictor.get_input_names():
        handle = predictor.get_input_handle(name)
        handle.reshape(list(given[name].shape))
        handle.copy_from_cpu(np.ascontiguousarray(given[name], np.float32))
    try:
        predictor.run()
    except Exception as error:  # Paddle raises many kinds of errors from C++
        shape = list(images.shape)
        raise PredictionError(f"Paddle Inference failed on a batch of shape {shape}: {native_reason(error)}") from error
    return [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]


def _create(config: inference.Config, program: Path) -> inference.Predictor:
    try:
        predictor = inference.create_predictor(config)
    except Exception as error:  # Paddle raises many kinds of errors from C++
        raise ExportError(f"{program} cannot be loaded by Paddle {PADDLE_VERSION}: {native_reason(error)}") from None
    if predictor.get_input_names() != ["image"] and sorted(predictor.get_input_names()) != sorted(INPUTS):
        raise ExportError(f"{program} is not ppsolo's: its inputs are {predictor.get_input_names()}, not 'image'")
    return predictor


def _check_request(device: str, precision: str, onednn: bool | None, tensorrt: bool) -> None:
    kind, number = parse_device(device)
    if precision not in PRECISIONS:
        raise ExportError(f"precision is {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if kind == "gpu" and not paddle.device.is_compiled_with_cuda():
        raise ExportError("this Paddle has no CUDA: install paddlepaddle-gpu, or use device='cpu'")
    if kind == "gpu" and number >= paddle.device.cuda.device_count():
        raise ExportError(
            f"device is {device!r}, but this process sees {paddle.device.cuda.device_count()} GPUs: use another "
            "number, set CUDA_VISIBLE_DEVICES, or use device='cpu'"
        )
    if tensorrt and kind != "gpu":
        raise ExportError("TensorRT runs on a GPU: add device='gpu'")
    if precision == "fp16" and kind != "gpu":
        raise ExportError("fp16 runs on a GPU: add device='gpu', or use precision='fp32'")
    if precision == "bf16":
        if kind != "cpu" or onednn is False:
            raise ExportError("bf16 runs on a CPU through oneDNN: use device='cpu', onednn=True")
        require_bfloat16()
