"""The predictor: images in, instances out."""

import logging
import os
from pathlib import Path

import numpy as np
import paddle

from ppsolo.build import build_model, build_postprocess
from ppsolo.checkpoint.download import Progress
from ppsolo.checkpoint.load import LoadReport, load_pretrained
from ppsolo.checkpoint.zoo import ZOO, zoo_entry
from ppsolo.config import Config, load_config
from ppsolo.errors import ConfigError, PredictionError
from ppsolo.legacy.names import DYGRAPH, NATIVE, STATIC
from ppsolo.models.solov2 import RawPredictions, SOLOv2
from ppsolo.pipeline import DetectionArrays, Pipeline

logger = logging.getLogger(__name__)


class Predictor(Pipeline):
    """A SOLOv2 model with what comes before and after it.

    Attributes:
        config: the resolved configuration.
        model: the network, in eval mode.
        class_names, category_ids: one per label.
        load_report: what was loaded, None where the model was given.
    """

    def __init__(
        self,
        config: Config | str | Path,
        weights: str | os.PathLike[str] | None = None,
        *,
        model: SOLOv2 | None = None,
        progress: Progress | None = None,
    ):
        """Build the model and load its weights.

        Args:
            config: a configuration, its file, or the name of one that comes with ppsolo.
            weights: a checkpoint file or a published name; the configuration's own `weights` if None.
            model: a model that is built and loaded already, in place of `weights`.
            progress: called with (bytes so far, bytes in all or None) while a published file is fetched.

        Raises:
            ConfigError, CheckpointError, DownloadError: one line that names the thing and the remedy.
        """
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
        self.model = model
        self.model.eval()

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
        progress: Progress | None = None,
    ) -> "Predictor":
        """A published system by name, fetched on first use; or a configuration file with its weights."""
        if weights is None and not isinstance(name, Config) and str(name) in ZOO:
            return cls(zoo_entry(str(name)).config, weights=str(name), progress=progress)
        return cls(name, weights=weights, progress=progress)

    def detect(self, batch: np.ndarray) -> DetectionArrays:
        """What is found in prepared images, float32 [N, 3, H, W]; PredictionError where the output is not finite."""
        with paddle.no_grad():
            raw = self.model(paddle.to_tensor(batch))
            _check_finite(raw)
            return DetectionArrays(*(tensor.numpy() for tensor in self._postprocess(raw)))


def _check_finite(raw: RawPredictions) -> None:
    """A network that computes no numbers has not found nothing: it cannot answer."""
    for tensor in (*raw.category_logits, *raw.kernels, raw.mask_features):
        if not paddle.isfinite(tensor).all().item():
            raise PredictionError("the network's output is not finite: check its weights and preprocess.mean and std")
