"""The predictor: images in, instances out."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import paddle

from ppsolo.build import build_model, build_postprocess, build_preprocess, category_ids, class_names
from ppsolo.checkpoint.download import Progress
from ppsolo.checkpoint.load import LoadReport, load_pretrained
from ppsolo.checkpoint.zoo import ZOO, zoo_entry
from ppsolo.config import Config, load_config
from ppsolo.data.images import Source, read_image
from ppsolo.data.preprocess import ImageSize
from ppsolo.errors import ConfigError, PredictionError
from ppsolo.instances import Instances
from ppsolo.legacy.names import DYGRAPH, NATIVE, STATIC
from ppsolo.masks import resize_masks
from ppsolo.models.postprocess import Detections
from ppsolo.models.solov2 import RawPredictions, SOLOv2

logger = logging.getLogger(__name__)


class Predictor:
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
        self.config = config if isinstance(config, Config) else load_config(config)
        self.class_names = class_names(self.config)
        self.category_ids = category_ids(self.config)
        self.load_report: LoadReport | None = None
        self._preprocess = build_preprocess(self.config)
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

    @overload
    def __call__(self, images: Source, *, batch_size: int = 4) -> Instances: ...

    @overload
    def __call__(self, images: Sequence[Source], *, batch_size: int = 4) -> list[Instances]: ...

    def __call__(self, images: Source | Sequence[Source], *, batch_size: int = 4) -> Instances | list[Instances]:
        """The instances of an image, or of each image of a list.

        Args:
            images: a path or a uint8 [H, W, 3] RGB array; or a list of them, which gives a list.
            batch_size: images to run through the network at once. Only images whose padded sizes agree share
                a forward, since padding changes what the network sees: a batch answers as one by one would.

        Raises:
            ImageError: an image cannot be read; its path is named.
            PredictionError: the network's output is not finite.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, it must be at least 1")
        if isinstance(images, str | os.PathLike | np.ndarray):
            return self._predict([read_image(images)])[0]
        results = []
        for start in range(0, len(images), batch_size):
            results += self._predict([read_image(image) for image in images[start : start + batch_size]])
        return results

    def _predict(self, images: list[np.ndarray]) -> list[Instances]:
        """uint8 RGB images -> their instances, one forward for each padded size that occurs."""
        inputs, sizes = zip(*map(self._preprocess, images), strict=True)
        groups: dict[tuple[int, int], list[int]] = {}
        for index, size in enumerate(sizes):
            groups.setdefault(size.padded, []).append(index)
        results: dict[int, Instances] = {}
        for members in groups.values():
            with paddle.no_grad():
                raw = self.model(paddle.to_tensor(np.stack([inputs[index] for index in members])))
                _check_finite(raw)
                detections = self._postprocess(raw)
            for index, detection in zip(members, detections, strict=True):
                results[index] = self._instances(detection, sizes[index])
        return [results[index] for index in range(len(images))]

    def _instances(self, detections: Detections, size: ImageSize) -> Instances:
        return Instances(
            rles=resize_masks(
                detections.masks.numpy(),
                resized=size.resized,
                original=size.original,
                threshold=self.config.postprocess.mask_threshold,
            ),
            scores=detections.scores.numpy(),
            labels=detections.labels.numpy(),
            size=size.original,
            class_names=self.class_names,
            category_ids=self.category_ids,
        )


def _check_finite(raw: RawPredictions) -> None:
    """A network that computes no numbers has not found nothing: it cannot answer."""
    for tensor in (*raw.category_logits, *raw.kernels, raw.mask_features):
        if not paddle.isfinite(tensor).all().item():
            raise PredictionError("the network's output is not finite: check its weights and preprocess.mean and std")
