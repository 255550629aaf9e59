"""The pipeline around a network: reads, prepares and batches images, and turns detections into instances."""

import copy
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar, cast, overload

import numpy as np

from ppsolo.build.pipeline import build_preprocess, build_reader, category_ids, class_names
from ppsolo.config import Config
from ppsolo.data.images import Source
from ppsolo.data.preprocess import ImageSize
from ppsolo.errors import PredictionError
from ppsolo.results.instances import Instances
from ppsolo.results.postprocess import DetectionArrays
from ppsolo.results.resize import resize_masks
from ppsolo.text import counted

if TYPE_CHECKING:
    from ppsolo.data.tiles import Tiling

Key = TypeVar("Key")
AnyPipeline = TypeVar("AnyPipeline", bound="Pipeline")


class Pipeline(ABC):
    """Takes images and returns instances. A subclass runs the network in `detect`.

    One image goes through four steps: `read`, `prepare`, `detect`, `finish`.

    Attributes:
        config: the resolved configuration.
        class_names, category_ids: one per label.
        description: the runtime, its version, device, precision and threads, in one line.
        origin: where the weights come from, in one line.
        identity: SHA-256 of an export's files; "" where there is no export.
        read: reads a picture with the configured `preprocess.value_range`, `page` and `channels`.
        prepare: uint8 [H, W, 3] RGB -> the input of the network, resized, normalised and padded, and its sizes.
    """

    def __init__(self, config: Config, *, description: str, origin: str, identity: str = ""):
        self._set_config(config)
        self.description = description
        self.origin = origin
        self.identity = identity
        self.read = build_reader(config)
        self.prepare = build_preprocess(config)
        self._tiling: Tiling | None = None
        self._process = os.getpid()

    def adapted(self: AnyPipeline, config: Config) -> AnyPipeline:
        """Return the same network with the class names, category ids and class thresholds of `config`."""
        other = copy.copy(self)
        other._set_config(config)
        return other

    def _set_config(self, config: Config) -> None:
        self.config = config
        self.class_names = class_names(config)
        self.category_ids = category_ids(config)
        self._class_thresholds = np.array(config.postprocess.class_thresholds, np.float32)

    @property
    def tiling(self) -> "Tiling | None":
        """The tiles that every picture is cut into; None: pictures are predicted whole."""
        return self._tiling

    def __repr__(self) -> str:
        classes = counted(len(self.class_names), "class")
        return f"{type(self).__name__}({self.config.name}: {classes}; {self.description})"

    @abstractmethod
    def detect(self, batch: np.ndarray) -> DetectionArrays:
        """Return the detections in prepared images, float32 [N, 3, H, W], H and W multiples of 32.

        Raises PredictionError if the network's output is not finite.
        """

    @overload
    def __call__(
        self, images: Source, *, batch_size: int = 4, tile: int | None = None, overlap: int | None = None
    ) -> Instances: ...

    @overload
    def __call__(
        self, images: Sequence[Source], *, batch_size: int = 4, tile: int | None = None, overlap: int | None = None
    ) -> list[Instances]: ...

    def __call__(
        self,
        images: Source | Sequence[Source],
        *,
        batch_size: int = 4,
        tile: int | None = None,
        overlap: int | None = None,
    ) -> Instances | list[Instances]:
        """Return the instances of an image, or of each image in a list.

        Args:
            images: anything that `ppsolo.read_image` takes, for example a path or a uint8 [H, W, 3] RGB array. A list
                or tuple of images gives a list.
            batch_size: images per run of the network. Only images with equal padded sizes share a run, because padding
                changes the input. So a batch gives the same results as its images one by one.
            tile: cut each image into squares of so many pixels, predict on each, and join the objects at the seams. Use
                it for large pictures with small objects. A TIFF is then read part by part.
            overlap: pixels that neighbouring tiles share; default: 128, or half a tile if that is less. Use at least
                the size of most objects.

        Raises:
            ImageError: an image cannot be read; the message has its path.
            PredictionError: the network's output is not finite, or this is a fork of the process that made the
            predictor. ConfigError: `tile` and `overlap` do not fit together.
        """
        self._check_process()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: give at least 1")
        tiling = self._tiling
        if tile is not None or overlap is not None:
            from ppsolo.data.tiles import checked_tiling

            tiling = checked_tiling(tile, overlap)
        sources = images if isinstance(images, list | tuple) else [cast(Source, images)]
        results: list[Instances] = []
        for start in range(0, len(sources), batch_size):
            batch = sources[start : start + batch_size]
            if tiling:
                results += [self.predict_tiles(image, tiling, batch_size) for image in batch]
            else:
                results += [self.finish(*one) for one in self._detect([self.read(image) for image in batch])]
        return results if sources is images else results[0]

    def predict_tiles(self, image: Source, tiling: "Tiling", batch_size: int = 4) -> Instances:
        """Return the instances of one image, tile by tile; see `__call__`. Memory depends on the tile size."""
        from ppsolo.data.windows import open_windows
        from ppsolo.results.seams import SeamJoiner

        with open_windows(image, settings=self.read.settings) as windows:
            places = iter(tiling.places(windows.size))
            batches = iter(lambda: [(place, windows.read(*place)) for place in islice(places, batch_size)], [])
            joiner = SeamJoiner(windows.size, class_names=self.class_names, category_ids=self.category_ids)
            for answered in self.stream(batches):
                for (top, left, _, _), _, instances in answered:
                    joiner.add(instances, top=top, left=left)
        return joiner.instances()

    def stream(
        self, batches: Iterable[Sequence[tuple[Key, np.ndarray]]]
    ) -> Iterator[list[tuple[Key, np.ndarray, Instances]]]:
        """Yield the instances of batch after batch of images; each image carries a key.

        A thread computes the next batch while the caller works with this one, so one more batch is in memory. Raises
        the errors of `__call__`.

        Args:
            batches: lists of (key, image). A key is any name for the image; it is returned with the instances. Images
                are uint8 [H, W, 3] RGB.
        """
        self._check_process()
        ahead: deque[tuple[Sequence[tuple[Key, np.ndarray]], Future[list[tuple[DetectionArrays, ImageSize]]]]] = deque()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="network") as network:
            for batch in batches:
                ahead.append((batch, network.submit(self._detect, [image for _, image in batch])))
                if len(ahead) > 1:
                    yield self._answer(*ahead.popleft())
            while ahead:
                yield self._answer(*ahead.popleft())

    def _check_process(self) -> None:
        """Raise PredictionError in a forked process: it lacks the runtime's threads and would wait forever."""
        if os.getpid() != self._process:
            raise PredictionError(
                "this predictor belongs to the process that made it and does not work in a forked one: start processes "
                "with multiprocessing.get_context('spawn'), and make a predictor in each"
            )

    def finish(self, detections: DetectionArrays, size: ImageSize) -> Instances:
        """Turn the detections of one image into instances with masks at the original size.

        Instances below the threshold of their class are dropped (`postprocess.class_thresholds`).
        """
        if len(self._class_thresholds):
            kept = detections.scores >= self._class_thresholds[detections.labels]
            scores, labels, masks = (array[kept] for array in detections[:3])
            detections = DetectionArrays(scores, labels, masks, np.array([kept.sum()]))
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

    def _detect(self, images: Sequence[np.ndarray]) -> list[tuple[DetectionArrays, ImageSize]]:
        """Return the detections of each image. The network runs once for each padded size."""
        prepared = [self.prepare(image) for image in images]
        groups: dict[tuple[int, int], list[int]] = {}
        for index, (_, size) in enumerate(prepared):
            groups.setdefault(size.padded, []).append(index)
        results: dict[int, DetectionArrays] = {}
        for members in groups.values():
            detections = self.detect(np.stack([prepared[index].image for index in members]))
            results |= zip(members, detections.images(), strict=True)
        return [(results[index], size) for index, (_, size) in enumerate(prepared)]

    def _answer(
        self,
        batch: Sequence[tuple[Key, np.ndarray]],
        detected: "Future[list[tuple[DetectionArrays, ImageSize]]]",
    ) -> list[tuple[Key, np.ndarray, Instances]]:
        """Return the batch with its instances, once the network is done."""
        pairs = zip(batch, detected.result(), strict=True)
        return [(key, image, self.finish(detections, size)) for (key, image), (detections, size) in pairs]


class TiledPipeline(Pipeline):
    """A pipeline that predicts every image tile by tile; otherwise it equals the given pipeline."""

    def __init__(self, pipeline: Pipeline, tiling: "Tiling"):
        """tiling: see `ppsolo.data.tiles.checked_tiling`."""
        tiles = f"tiles of {tiling.size} pixels, overlap {tiling.overlap}"
        super().__init__(
            pipeline.config,
            description=f"{pipeline.description}; {tiles}",
            origin=pipeline.origin,
            identity=pipeline.identity,
        )
        self.read = pipeline.read
        self._pipeline, self._tiling = pipeline, tiling

    def detect(self, batch: np.ndarray) -> DetectionArrays:
        """See `Pipeline.detect`."""
        return self._pipeline.detect(batch)

    def stream(
        self, batches: Iterable[Sequence[tuple[Key, np.ndarray]]]
    ) -> Iterator[list[tuple[Key, np.ndarray, Instances]]]:
        """See `Pipeline.stream`. An image may also be a path: then only parts of the file are in memory."""
        for batch in batches:
            yield [(key, image, self(image)) for key, image in batch]

    def predict_tiles(self, image: Source, tiling: "Tiling", batch_size: int = 4) -> Instances:
        """See `Pipeline.predict_tiles`."""
        return self._pipeline.predict_tiles(image, tiling, batch_size)
