"""The predictor: images in, instances out."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import paddle

from ppsolo.build import build_model, build_postprocess, build_preprocess, category_ids, class_names
from ppsolo.checkpoint.download import Progress, fetch_published
from ppsolo.checkpoint.load import LoadReport, load_arrays, load_weights
from ppsolo.checkpoint.reader import read_checkpoint
from ppsolo.checkpoint.zoo import ZOO, check_manifest, zoo_entry
from ppsolo.config import Config, load_config
from ppsolo.data.images import read_image
from ppsolo.data.preprocess import ImageSize
from ppsolo.errors import CheckpointError, ConfigError
from ppsolo.instances import Instances
from ppsolo.masks import resize_masks
from ppsolo.models.postprocess import Detections
from ppsolo.models.solov2 import SOLOv2

ImageSource = str | os.PathLike[str] | np.ndarray


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
                raise ConfigError(
                    f"{self.config.name} has no weights: give a checkpoint file or a published name (weights=...)"
                )
            model = build_model(self.config)
            self.load_report = _load(model, source, progress)
        self.model = model
        self.model.eval()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        weights: str | os.PathLike[str] | None = None,
        *,
        progress: Progress | None = None,
    ) -> "Predictor":
        """A published system by name, fetched on first use; or a configuration file with its weights."""
        if weights is None and str(name) in ZOO:
            return cls(zoo_entry(str(name)).config, weights=str(name), progress=progress)
        return cls(name, weights=weights, progress=progress)

    @overload
    def __call__(self, images: ImageSource, *, batch_size: int = 4) -> Instances: ...

    @overload
    def __call__(self, images: Sequence[ImageSource], *, batch_size: int = 4) -> list[Instances]: ...

    def __call__(
        self, images: ImageSource | Sequence[ImageSource], *, batch_size: int = 4
    ) -> Instances | list[Instances]:
        """The instances of an image, or of each image of a list.

        Args:
            images: a path or a uint8 [H, W, 3] RGB array; or a list of them, which gives a list.
            batch_size: images to run through the network at once. Only images whose padded sizes agree share
                a forward, since padding changes what the network sees: a batch answers as one by one would.

        Raises:
            ImageError: an image cannot be read; its path is named.
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
        groups: dict[tuple[int, int], list[int]] = {}
        for index, image in enumerate(images):
            groups.setdefault(self._preprocess.padded_size(image.shape[:2]), []).append(index)
        results: dict[int, Instances] = {}
        for members in groups.values():
            inputs, sizes = zip(*(self._preprocess(images[index]) for index in members), strict=True)
            with paddle.no_grad():
                detections = self._postprocess(self.model(paddle.to_tensor(np.stack(inputs))))
            for index, detection, size in zip(members, detections, sizes, strict=True):
                results[index] = self._instances(detection, size)
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


def _load(model: SOLOv2, source: str | os.PathLike[str], progress: Progress | None) -> LoadReport:
    """Load a file, or a published checkpoint by name after checking it against its manifest."""
    if Path(source).exists():
        return load_weights(model, source)
    name = os.fspath(source)
    if name not in ZOO:
        if os.path.basename(name) == name and not Path(name).suffix:
            zoo_entry(name)  # raises, with the nearest published name
        raise CheckpointError(f"{name}: no such file; give a checkpoint file or a published name")
    path = fetch_published(name, progress=progress)
    arrays = read_checkpoint(path)
    check_manifest(arrays, zoo_entry(name), path.name)
    return load_arrays(model, arrays, file_name=path.name)
