"""Models of others in a benchmark: ONNX files and exports of PaddleDetection; only their run is timed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppsolo.benchmark.sides import TOTAL, Side, picture, timed
from ppsolo.cpu import threads_in_words
from ppsolo.errors import ConfigError
from ppsolo.text import native_reason


class OnnxRunner:
    """Times an ONNX model that takes the prepared picture; only its run counts."""

    facts: Mapping[str, Any] = {}

    def __init__(self, side: Side):
        """Raises ConfigError if onnxruntime cannot load the file."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = side.threads
        try:
            self._session = onnxruntime.InferenceSession(side.name, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common base class
            raise ConfigError(
                f"{side.name}: onnxruntime {onnxruntime.__version__} cannot load it ({native_reason(error)})"
            ) from None
        inputs = self._session.get_inputs()
        kinds = {value.name: "image" if len(value.shape) == 4 else value.name for value in inputs}
        self._feeds = _peer_inputs(side, kinds)
        self.description = (
            f"{Path(side.name).name} in onnxruntime {onnxruntime.__version__}, {threads_in_words(side.threads)}"
        )

    def run(self) -> dict[str, float]:
        return {TOTAL: timed(lambda: self._session.run(None, self._feeds))[0]}


class PaddleDetectionRunner:
    """Times an export of PaddleDetection in Paddle Inference, set up as in its deploy script; only its run counts."""

    facts: Mapping[str, Any] = {}

    def __init__(self, side: Side):
        """Raises ConfigError if Paddle cannot load the directory."""
        import paddle
        from paddle import inference
        from paddle.version import full_version

        # On some broken files Paddle ends the process; then it prints no trace of its kernels.
        paddle.disable_signal_handler()

        directory = Path(side.name)
        program = next(path for path in (directory / "model.json", directory / "model.pdmodel") if path.is_file())
        config = inference.Config(str(program), str(directory / "model.pdiparams"))
        config.disable_gpu()
        config.disable_mkldnn()
        config.disable_glog_info()
        if full_version.startswith("2."):  # with Paddle 3 its graph fails
            config.enable_memory_optim()
        config.set_cpu_math_library_num_threads(side.threads)
        try:
            self._predictor = inference.create_predictor(config)
        except Exception as error:  # Paddle raises many kinds of errors from C++
            raise ConfigError(f"{program}: Paddle {full_version} cannot load it ({native_reason(error)})") from None
        kinds = {name: name for name in self._predictor.get_input_names()}
        for name, values in _peer_inputs(side, kinds).items():
            self._predictor.get_input_handle(name).copy_from_cpu(values)
        self.description = f"{directory.name} in Paddle Inference {full_version}, {threads_in_words(side.threads)}"

    def run(self) -> dict[str, float]:
        return {TOTAL: timed(self._predictor.run)[0]}


def _peer_inputs(side: Side, kinds: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Inputs of a peer for the prepared picture. They must be real: the number of instances decides the work.

    kinds: input name of the peer -> input name of PaddleDetection. Raises ConfigError for an unknown input.
    """
    from ppsolo.build.pipeline import build_preprocess

    image, size = build_preprocess(side.config)(picture(side))
    scale = np.divide(size.resized, size.original)
    rows = {"image": image, "im_shape": np.array(size.resized), "scale_factor": scale}
    unknown = [name for name, kind in kinds.items() if kind not in rows]
    if unknown:
        raise ConfigError(f"unknown inputs {', '.join(unknown)}: known are an image, im_shape and scale_factor")
    return {name: np.stack([rows[kind]] * side.batch).astype(np.float32) for name, kind in kinds.items()}
