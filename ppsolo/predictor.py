"""The predictor: predicts with a checkpoint."""

import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import paddle
from paddle.version import full_version as PADDLE_VERSION

from ppsolo.build.network import build_model, build_postprocess
from ppsolo.build.pipeline import build_numpy_postprocess
from ppsolo.checkpoint.load import LoadReport, load_pretrained
from ppsolo.checkpoint.zoo import ZOO, zoo_entry
from ppsolo.config import Config, load_answering_config, load_config, with_names_of_weights
from ppsolo.cpu import default_threads, keep_freed_memory, threads_in_words, use_threads
from ppsolo.errors import ConfigError, PredictionError
from ppsolo.interface import EXPORT_FILE, RAW_OUTPUTS
from ppsolo.legacy.names import DYGRAPH, NATIVE, STATIC
from ppsolo.models.layers import DeformableConv
from ppsolo.models.solov2 import RawPredictions, SOLOv2
from ppsolo.pipeline import Pipeline
from ppsolo.results.postprocess import NOT_FINITE, DetectionArrays, RawArrays

if TYPE_CHECKING:
    from ppsolo.deploy.runtime import ExportedPredictor, NetworkEngine
    from ppsolo.progress import Progress

logger = logging.getLogger(__name__)

Engine = Literal["auto", "dygraph", "onnxruntime", "openvino"]
_ROUNDING = 1e-6  # largest error of a probability in float32, with a margin
ENGINES = ("auto", "dygraph", "onnxruntime", "openvino")


class DygraphNetwork:
    """A model in Paddle, in dygraph, with its postprocessing.

    description: see `ppsolo.pipeline.Pipeline`.
    """

    def __init__(self, model: SOLOv2, config: Config, *, threads: int, keep_memory: bool):
        """model: in eval mode, on Paddle's current device. threads, keep_memory: see `Predictor`."""
        self.model = model
        self._threads = threads
        self._config = config
        self._numpy_postprocess = build_numpy_postprocess(config, threads=threads)
        least = np.float64(max(config.postprocess.score_threshold - _ROUNDING, 0.0))
        with np.errstate(divide="ignore"):
            self._least_logit = float(np.log(least) - np.log1p(-least))  # of a cell that can pass the threshold
        device = paddle.device.get_device()
        self._on_cpu = device == "cpu"
        self.description = f"Paddle {PADDLE_VERSION} dygraph, {device}"
        self.description += f", {threads_in_words(threads)}" if self._on_cpu else ""
        if self._on_cpu and keep_memory:
            keep_freed_memory()

    def run(self, images: np.ndarray) -> DetectionArrays:
        """images: float32 [N, 3, H, W], prepared. Raises PredictionError if the output is not finite.

        On a CPU, kernels and mask features are computed only if a cell can pass the score threshold.
        """
        raw = self.predict(images, self._least_logit if self._on_cpu else None)
        if raw is None:
            scores, labels = np.empty(0, np.float32), np.empty(0, np.int64)
            masks = np.empty((0, images.shape[2] // 4, images.shape[3] // 4), np.float32)
            return DetectionArrays(scores, labels, masks, np.zeros(len(images), np.int64))
        return self.postprocess(raw)

    def predict(self, images: np.ndarray, least_logit: float | None = None) -> RawPredictions | None:
        """Return the raw predictions for prepared images, float32 [N, 3, H, W]. least_logit: see `SOLOv2.forward`."""
        if self._on_cpu:
            use_threads(self._threads)
        with paddle.no_grad():
            return self.model(paddle.to_tensor(images), least_logit)

    def postprocess(self, raw: RawPredictions) -> DetectionArrays:
        """Turn raw predictions into detections by thresholds, points NMS and Matrix NMS. Raises like `run`."""
        if self._on_cpu:
            return self._numpy_postprocess(
                RawArrays(
                    [tensor.numpy() for tensor in raw.category_logits],
                    [tensor.numpy() for tensor in raw.kernels],
                    raw.mask_features.numpy(),
                )
            )
        with paddle.no_grad():
            _check_finite(raw)
            return DetectionArrays(*(tensor.numpy() for tensor in build_postprocess(self._config)(raw)))


class Predictor(Pipeline):
    """Predicts with a checkpoint: takes images, returns instances.

    >>> import numpy as np, ppsolo
    >>> config = ppsolo.load_config("solov2_r50_fpn_1x", ["model.backbone.depth=14", "preprocess.short_side=64"])
    >>> predictor = ppsolo.Predictor(config, model=ppsolo.build_model(config))
    >>> predictor(np.zeros([48, 64, 3], np.uint8)).masks.shape[1:]
    (48, 64)

    Attributes:
        config, class_names, category_ids, description, origin: see `ppsolo.pipeline.Pipeline`.
        load_report: which arrays were loaded; None if a model was given.
        threads: CPU threads of the network.
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
        progress: "Progress | None" = None,
    ):
        """Build the model, load its weights, and convert it if the engine is not Paddle.

        Args:
            config: a configuration, its file, or the name of a shipped one.
            weights: a checkpoint file or a published name; None: the configuration's own `weights`.
            model: a model with weights, instead of `weights`.
            engine: "dygraph": Paddle. "onnxruntime" or "openvino": the same network in another runtime on a CPU
                (`pip install 'ppsolo[onnx]'`, `'ppsolo[openvino]'`), with a copy of the current weights. "auto":
                OpenVINO or else onnxruntime, if one is installed and has every operator of the network, no GPU is used
                and no `model` is given; otherwise "dygraph".
            precision: "bf16" needs engine="openvino" and a CPU with bf16. It changes results by more than rounding.
            threads: CPU threads of the network. Default: OMP_NUM_THREADS if the user set it, else all cores of the
                process.
            keep_memory: keep freed memory in the process for the next image. This is a tenth faster, but with images of
                many sizes the process grows. OpenVINO limits its memory by itself.
            progress: called with (bytes so far, all bytes or None) while a published file is fetched.

        Raises:
            ConfigError, CheckpointError, DownloadError: one line that names the problem and the remedy.
            PredictionError: the weights of `model` are not finite.
            ExportError: the engine is not installed, or lacks this precision.
        """
        _check_options(engine, precision, threads)
        if not isinstance(config, Config):
            config = load_config(config) if weights is not None else load_answering_config(config)
        config = with_names_of_weights(config, weights)
        self.load_report: LoadReport | None = None
        if model is None:
            model, self.load_report = load_model(config, weights, progress=progress)
        else:
            _check_weights(model)
        if engine == "auto":
            on_cpu = paddle.device.get_device() == "cpu"
            engine = _best_engine(model) if self.load_report is not None and on_cpu else "dygraph"
        self.threads = threads if threads is not None else default_threads()
        model.eval()
        self._network: DygraphNetwork | NetworkEngine
        if engine == "dygraph":
            self._network = DygraphNetwork(model, config, threads=self.threads, keep_memory=keep_memory)
        else:
            self._network = _converted(
                model, config, engine=engine, precision=precision, threads=self.threads, keep_memory=keep_memory
            )
        origin = "a given model" if self.load_report is None else str(self.load_report)
        super().__init__(config, description=self._network.description, origin=origin)

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
        progress: "Progress | None" = None,
    ) -> "Predictor | ExportedPredictor":
        """Open a published system by name (fetched on first use), a configuration with its weights, or a directory.

        A directory is an export or a finished run, see `ppsolo.load`. Other arguments and errors: see `Predictor`.
        """
        config = name
        if weights is None and not isinstance(name, Config) and str(name) not in ZOO and Path(name).is_dir():
            if (Path(name) / EXPORT_FILE).is_file():
                from ppsolo.deploy.runtime import load

                runtime: Any = None if engine == "auto" else engine
                return load(name, engine=runtime, precision=precision, threads=threads, keep_memory=keep_memory)
            config, weights = files_of_run(Path(name))
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

    @property
    def dygraph(self) -> DygraphNetwork:
        """The network in Paddle. Raises PredictionError if another runtime computes."""
        if not isinstance(self._network, DygraphNetwork):
            raise PredictionError(
                f"{self.description} computes, not Paddle: use Predictor(..., engine='dygraph') to work with the model"
            )
        return self._network

    @property
    def model(self) -> SOLOv2:
        """The model, in eval mode; changes of its weights take effect at once. Raises like `dygraph`."""
        return self.dygraph.model

    def detect(self, batch: np.ndarray) -> DetectionArrays:
        """See `ppsolo.pipeline.Pipeline.detect`."""
        return self._network.run(batch)


def _check_options(engine: str, precision: str, threads: int | None) -> None:
    if engine not in ENGINES:
        raise ConfigError(f"engine is {engine!r}: choose one of {', '.join(ENGINES)}")
    if precision != "fp32" and engine != "openvino":
        raise ConfigError(f"precision is {precision!r}, which needs engine='openvino'")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}: give at least 1")


def _best_engine(model: SOLOv2) -> Engine:
    from ppsolo.deploy.engines import best_engine

    return best_engine(deformable=any(isinstance(layer, DeformableConv) for layer in model.sublayers()))


def files_of_run(directory: Path) -> tuple[Path, Path]:
    """Return the configuration and the best weights in the directory of a finished run; else the last weights.

    Raises ConfigError if it is neither a run nor an export.
    """
    weights = [directory / name for name in ("best.pdparams", "last.pdparams") if (directory / name).is_file()]
    if not weights or not (directory / "config.yml").is_file():
        raise ConfigError(f"{directory} is neither an export ({EXPORT_FILE}) nor a run (config.yml, best.pdparams)")
    return directory / "config.yml", weights[0]


def load_model(
    config: Config, weights: str | os.PathLike[str] | None = None, *, progress: "Progress | None" = None
) -> tuple[SOLOv2, LoadReport]:
    """Return the model of a configuration with its weights, in eval mode, and which arrays were loaded.

    weights, progress: see `Predictor`. Raises ConfigError, CheckpointError, DownloadError.
    """
    source = weights if weights is not None else config.weights
    if source is None:
        example = config.name if config.name in ZOO else "FILE"
        raise ConfigError(
            f"{config.name} has no weights: give a checkpoint file or a published name (weights={example})"
        )
    model = build_model(config)
    report = load_pretrained(model, source, progress=progress)
    _compare_generations(config, report)
    model.eval()
    return model, report


def _converted(
    model: SOLOv2, config: Config, *, engine: Engine, precision: str, threads: int, keep_memory: bool
) -> "NetworkEngine":
    """Return the network in another runtime, followed by postprocessing in numpy. Raises ExportError."""
    from ppsolo.deploy.onnx.graph import build_onnx
    from ppsolo.deploy.onnx_runtime import OnnxSession
    from ppsolo.deploy.openvino_runtime import OpenVinoSession
    from ppsolo.deploy.runtime import NetworkEngine

    logger.info("converting the network for %s; the first image of each size takes longer", engine)
    start = time.monotonic()
    graph = build_onnx(model).SerializeToString()
    if engine == "openvino":
        session = OpenVinoSession(graph, RAW_OUTPUTS, precision=precision, threads=threads)
    else:
        session = OnnxSession(graph, RAW_OUTPUTS, threads=threads, keep_memory=keep_memory)
    logger.info("converted in %.1f s", time.monotonic() - start)
    return NetworkEngine(session, build_numpy_postprocess(config, threads=threads))


def _compare_generations(config: Config, report: LoadReport) -> None:
    """Warn if images are prepared as in the other generation: results are close, but not the same."""
    prepared = DYGRAPH if config.preprocess.normalize_first else STATIC
    if report.generation not in (prepared, NATIVE):
        logger.warning(
            "%s belongs to the generation %s, but %s prepares images as in %s: use a configuration of %s",
            report.file,
            report.generation,
            config.name,
            prepared,
            report.generation,
        )


def _check_weights(model: SOLOv2) -> None:
    """Raise PredictionError if a weight is not finite; weights from files are checked on loading."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not paddle.isfinite(tensor).all().item():
            raise PredictionError(f"the weights of the given model are not finite ({name}): load or train them again")


def _check_finite(raw: RawPredictions) -> None:
    """Raise PredictionError if a value is not finite: an empty result would be wrong."""
    for tensor in (*raw.category_logits, *raw.kernels, raw.mask_features):
        if not paddle.isfinite(tensor).all().item():
            raise PredictionError(NOT_FINITE)
