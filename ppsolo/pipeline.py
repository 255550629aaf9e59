"""What stands around the network: images are read, prepared and batched; what is detected becomes instances."""

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import overload

import numpy as np

from ppsolo.build.pipeline import build_preprocess, category_ids, class_names
from ppsolo.config import Config
from ppsolo.data.images import Source, read_image
from ppsolo.data.preprocess import ImageSize
from ppsolo.results.instances import Instances
from ppsolo.results.postprocess import DetectionArrays
from ppsolo.results.resize import resize_masks


class Pipeline(ABC):
    """Images in, instances out, around a network that a subclass runs in `detect`.

    Attributes:
        config: the resolved configuration.
        class_names, category_ids: one per label.
    """

    def __init__(self, config: Config):
        self.config = config
        self.class_names = class_names(config)
        self.category_ids = category_ids(config)
        self._preprocess = build_preprocess(config)

    @abstractmethod
    def detect(self, batch: np.ndarray) -> DetectionArrays:
        """What the network finds in prepared images, float32 [N, 3, H, W] with H and W multiples of 32."""

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

    def stream(self, batches: Iterable[Sequence[np.ndarray]]) -> Iterator[list[Instances]]:
        """The instances of each batch of uint8 [H, W, 3] RGB arrays, one batch after the other.

        While the caller works with those of one batch, the network computes the next, in a thread of its own: one
        batch more is held. Raises as a call does.
        """
        ahead: deque[Future[list[tuple[DetectionArrays, ImageSize]]]] = deque()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="network") as network:
            for batch in batches:
                ahead.append(network.submit(self._detect, batch))
                if len(ahead) > 1:
                    yield self._finish(ahead.popleft().result())
            while ahead:
                yield self._finish(ahead.popleft().result())

    def _predict(self, images: Sequence[np.ndarray]) -> list[Instances]:
        """uint8 RGB images -> their instances."""
        return self._finish(self._detect(images))

    def _detect(self, images: Sequence[np.ndarray]) -> list[tuple[DetectionArrays, ImageSize]]:
        """What is found in each image, by one forward for each padded size that occurs."""
        prepared = [self._preprocess(image) for image in images]
        groups: dict[tuple[int, int], list[int]] = {}
        for index, (_, size) in enumerate(prepared):
            groups.setdefault(size.padded, []).append(index)
        results: dict[int, DetectionArrays] = {}
        for members in groups.values():
            detections = self.detect(np.stack([prepared[index][0] for index in members]))
            results |= zip(members, detections.images(), strict=True)
        return [(results[index], size) for index, (_, size) in enumerate(prepared)]

    def _finish(self, found: list[tuple[DetectionArrays, ImageSize]]) -> list[Instances]:
        return [self._instances(detections, size) for detections, size in found]

    def _instances(self, detections: DetectionArrays, size: ImageSize) -> Instances:
        return Instances(
            rles=resize_masks(
                detections.masks,
                resized=size.resized,
                original=size.original,
                threshold=self.config.postprocess.mask_threshold,
            ),
            scores=detections.scores,
            labels=detections.labels,
            size=size.original,
            class_names=self.class_names,
            category_ids=self.category_ids,
        )
