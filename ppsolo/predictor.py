"""The predictor: images in, instances out."""

import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import paddle
from paddle.version import full_version as PADDLE_VERSION

from ppsolo.build.network import build_model, build_postprocess
from ppsolo.build.pipeline import build_numpy_postprocess
from ppsolo.checkpoint.download import Progress
from ppsolo.checkpoint.load import LoadReport, load_pretrained
from ppsolo.checkpoint.zoo import ZOO, zoo_entry
from ppsolo.config import Config, load_config
from ppsolo.cpu import default_threads, keep_freed_memory, threads_in_words, use_threads
from ppsolo.errors import ConfigError, PredictionError
from ppsolo.interface import RAW_OUTPUTS
from ppsolo.legacy.names import DYGRAPH, NATIVE, STATIC
from ppsolo.models.solov2 import RawPredictions, SOLOv2
from ppsolo.pipeline import Pipeline
from ppsolo.results.postprocess import NOT_FINITE, DetectionArrays, RawArrays

if TYPE_CHECKING:
    from ppsolo.deploy.runtime import NetworkEngine

logger = logging.getLogger(__name__)

Engine = Literal["auto", "dygraph", "onnxruntime", "openvino"]
ENGINES = ("auto", "dygraph", "onnxruntime", "openvino")


class Predictor(Pipeline):
    """A SOLOv2 model with what comes before and after it.

    Attributes:
        config: the resolved configuration.
        model: the network, in eval mode. Whoever takes it may change its weights: where the engine was chosen by
            "auto", dygraph answers from then on.
        description: what runs the network: which runtime, version, device and threads, in one line.
        class_names, category_ids: one per label.
        load_report: what was loaded, None where the model was given.
    """

    def __init__(
        self,
        config: Config | str | Path,
        weights: str | os.PathLike[str] | None = None,
        *,
        model: SOLOv2 | None = None,
        engine: Engine = "auto",
        precision: Literal["fp32", "bf16"] = "fp32",
        threads: int | None = None,
        keep_memory: bool = True,
        progress: Progress | None = None,
    ):
        """Build the model and load its weights.

        Args:
            config: a configuration, its file, or the name of one that comes with ppsolo.
            weights: a checkpoint file or a published name; the configuration's own `weights` if None.
            model: a model that is built and loaded already, in place of `weights`.
            engine: "dygraph", Paddle as the model is written; "onnxruntime" or "openvino", the same computed by another
                runtime on a CPU (`pip install 'ppsolo[onnx]'`, `'ppsolo[openvino]'`), with the weights as they are at
                the first image; "auto", one of the latter where it is installed, no GPU is used and no `model` given.
            precision: "bf16" takes the engine "openvino" and a CPU that has it; it changes results beyond rounding.
            threads: CPU threads of the network; by default what the user set OMP_NUM_THREADS to, else all cores of
                the process.
            keep_memory: let onnxruntime keep what it frees for the next image: a tenth faster, but for images of many
                sizes the process grows. OpenVINO keeps within bounds by itself.
            progress: called with (bytes so far, bytes in all or None) while a published file is fetched.

        Raises:
            ConfigError, CheckpointError, DownloadError: one line that names the thing and the remedy.
            ExportError: the engine is not installed, or cannot compute in this precision.
        """
        if engine not in ENGINES:
            raise ConfigError(f"engine is {engine!r}, choose one of {', '.join(ENGINES)}")
        if precision != "fp32" and engine != "openvino":
            raise ConfigError(f"precision is {precision!r}, which takes engine='openvino'")
        if threads is not None and threads < 1:
            raise ConfigError(f"threads is {threads}, give at least 1")
        super().__init__(config if isinstance(config, Config) else load_config(config))
        self.load_report: LoadReport | None = None
        self._postprocess = build_postprocess(self.config)
        if model is None:
            source = weights if weights is not None else self.config.weights
            if source is None:
                example = self.config.name if self.config.name in ZOO else "FILE"
                raise ConfigError(
                    f"{self.config.name} has no weights: give a checkpoint file or a published name (weights={example})"
                )
            model = build_model(self.config)
            self.load_report = load_pretrained(model, source, progress=progress)
            self._compare_generations(self.load_report)
        self._model = model
        self._model.eval()
        self._automatic = engine == "auto"
        if engine == "auto":
            engine = _best_engine() if self.load_report is not None and _on_cpu() else "dygraph"
        self._engine: Engine = engine
        self._precision = precision
        self._network: NetworkEngine | None = None
        self.threads = threads if threads is not None else default_threads()
        self._keep_memory = keep_memory
        self._host_postprocess = build_numpy_postprocess(self.config, threads=self.threads)

    @property
    def model(self) -> SOLOv2:
        if self._automatic:
            self._engine, self._network = "dygraph", None
        return self._model

    @property
    def description(self) -> str:
        if self._engine != "dygraph":
            return self._network_engine().description
        device = paddle.device.get_device()
        threads = f", {threads_in_words(self.threads)}" if device == "cpu" else ""
        return f"Paddle {PADDLE_VERSION} dygraph, {device}{threads}"

    def _network_engine(self) -> "NetworkEngine":
        """What runs the network in another runtime, made when it is first needed."""
        if self._network is None:
            from ppsolo.deploy.onnx.graph import build_onnx
            from ppsolo.deploy.onnx_runtime import OnnxSession
            from ppsolo.deploy.openvino_runtime import OpenVinoSession
            from ppsolo.deploy.runtime import NetworkEngine

            graph = build_onnx(self._model).SerializeToString()
            if self._engine == "openvino":
                session = OpenVinoSession(graph, RAW_OUTPUTS, precision=self._precision, threads=self.threads)
            else:
                session = OnnxSession(graph, RAW_OUTPUTS, threads=self.threads, keep_memory=self._keep_memory)
            self._network = NetworkEngine(session, self._host_postprocess)
        return self._network

    def _compare_generations(self, report: LoadReport) -> None:
        """Warn where the images are prepared as the other generation does: results are close, but not the same."""
        prepared = DYGRAPH if self.config.preprocess.normalize_first else STATIC
        if report.generation not in (prepared, NATIVE):
            logger.warning(
                "%s is of the generation %s, %s prepares images as %s does: take a configuration of the former",
                report.file,
                report.generation,
                self.config.name,
                prepared,
            )

    @classmethod
    def from_pretrained(
        cls,
        name: Config | str | Path,
        weights: str | os.PathLike[str] | None = None,
        *,
        engine: Engine = "auto",
        precision: Literal["fp32", "bf16"] = "fp32",
        threads: int | None = None,
        keep_memory: bool = True,
        progress: Progress | None = None,
    ) -> "Predictor":
        """A published system by name, fetched on first use; or a configuration file with its weights.

        The other arguments and the errors are those of `Predictor`.
        """
        config = name
        if weights is None and not isinstance(name, Config) and str(name) in ZOO:
            config, weights = zoo_entry(str(name)).config, str(name)
        return cls(
            config,
            weights=weights,
            engine=engine,
            precision=precision,
            threads=threads,
            keep_memory=keep_memory,
            progress=progress,
        )

    def detect(self, batch: np.ndarray) -> DetectionArrays:
        """What is found in prepared images, float32 [N, 3, H, W]; PredictionError where the output is not finite."""
        if self._engine != "dygraph":
            return self._network_engine().run(batch)
        return self.postprocess(self.raw(batch))

    def raw(self, batch: np.ndarray) -> RawPredictions:
        """What the network says of prepared images, float32 [N, 3, H, W], in dygraph whatever the engine."""
        if _on_cpu():
            use_threads(self.threads)
            keep_freed_memory()
        with paddle.no_grad():
            return self._model(paddle.to_tensor(batch))

    def postprocess(self, raw: RawPredictions) -> DetectionArrays:
        """The instances of raw predictions, by thresholds, points NMS and Matrix NMS; errors as for `detect`."""
        if _on_cpu():
            return self._host_postprocess(
                RawArrays(
                    [tensor.numpy() for tensor in raw.category_logits],
                    [tensor.numpy() for tensor in raw.kernels],
                    raw.mask_features.numpy(),
                )
            )
        with paddle.no_grad():
            _check_finite(raw)
            return DetectionArrays(*(tensor.numpy() for tensor in self._postprocess(raw)))


def _on_cpu() -> bool:
    return paddle.device.get_device() == "cpu"


def _best_engine() -> Engine:
    """The fastest on a CPU of those that are installed; all are exact to rounding."""
    if _installed("onnx"):
        if _installed("openvino"):
            return "openvino"
        if _installed("onnxruntime"):
            return "onnxruntime"
    return "dygraph"


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _check_finite(raw: RawPredictions) -> None:
    """A network that computes no numbers has not found nothing: it cannot answer."""
    for tensor in (*raw.category_logits, *raw.kernels, raw.mask_features):
        if not paddle.isfinite(tensor).all().item():
            raise PredictionError(NOT_FINITE)
