"""Prediction over many pictures or a video: pictures drawn, results written, memory bounded."""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from ppsolo.atomic import atomic_writer
from ppsolo.data.images import image_ids, read_ahead, write_image
from ppsolo.data.videos import VideoFrames, VideoWriter
from ppsolo.errors import ImageError
from ppsolo.instances import Instances
from ppsolo.predictor import Predictor

# Called with the images done and their number, None where that is not known.
Callback = Callable[[int, int | None], None]


@dataclass
class InferenceSummary:
    """What an inference run did. failures: one line for each picture that could not be read."""

    images: int = 0
    instances: int = 0
    failures: list[str] = field(default_factory=list)


class ResultsFile:
    """A COCO results file that grows entry by entry and appears under its name only when it is whole."""

    def __init__(self, path: Path):
        self._separator = "[\n"
        self._ending = contextlib.ExitStack()
        self._stream = self._ending.enter_context(atomic_writer(path, "w"))
        self._ending.push(self._end_list)

    def write(self, entries: Sequence[dict]) -> None:
        """Append results; each is one JSON object on a line of its own."""
        for entry in entries:
            self._stream.write(self._separator + json.dumps(entry))
            self._separator = ",\n"

    def __enter__(self) -> "ResultsFile":
        return self

    def __exit__(self, exception_type, exception, traceback) -> None:
        self._ending.__exit__(exception_type, exception, traceback)

    def _end_list(self, exception_type: type | None, *_: object) -> None:
        if exception_type is None:
            self._stream.write("[]\n" if self._separator == "[\n" else "\n]\n")


def infer_images(
    predictor: Predictor,
    paths: Sequence[Path],
    *,
    output_dir: Path,
    draw_threshold: float,
    batch_size: int,
    save_results: bool,
    progress: Callback | None = None,
) -> InferenceSummary:
    """Predict on picture files; leave a drawing of each and, on request, `predictions.json`.

    Drawings show instances of at least `draw_threshold`; results hold every instance that postprocessing
    keeps. A picture that cannot be read is reported in the summary and the others go on.
    `progress` is told of every batch.
    Raises ImageError where `output_dir` holds pictures to be read, or cannot be written to.
    """
    _prepare(output_dir, paths)
    drawings = _drawing_paths(output_dir, paths)
    ids = dict(zip(paths, image_ids(paths), strict=True))
    summary = InferenceSummary()
    with contextlib.ExitStack() as stack:
        results = stack.enter_context(_results(output_dir)) if save_results else None
        ahead = stack.enter_context(contextlib.closing(read_ahead(paths, depth=batch_size + 1)))
        while batch := list(islice(ahead, batch_size)):
            readable = [(path, image) for path, image in batch if isinstance(image, np.ndarray)]
            summary.failures += [str(error) for _, error in batch if isinstance(error, ImageError)]
            predictions = predictor([image for _, image in readable], batch_size=batch_size)
            for (path, image), instances in zip(readable, predictions, strict=True):
                write_image(drawings[path], instances.above(draw_threshold).draw(image))
                if results is not None:
                    results.write(_entries(instances, image_id=ids[path], file_name=path.name))
                summary.images += 1
                summary.instances += len(instances)
            if progress is not None:
                progress(summary.images + len(summary.failures), len(paths))
    return summary


def infer_video(
    predictor: Predictor,
    path: Path,
    *,
    output_dir: Path,
    draw_threshold: float,
    batch_size: int,
    save_results: bool,
    progress: Callback | None = None,
) -> InferenceSummary:
    """Predict on every frame of a video; leaves an .mp4 with drawings and, on request, `predictions.json`.

    In the results `image_id` is the frame's number from 0 on.
    """
    _prepare(output_dir, [path])
    summary = InferenceSummary()
    with contextlib.ExitStack() as stack:
        frames = stack.enter_context(VideoFrames(path))
        drawing = VideoWriter(output_dir / f"{path.stem}.mp4", fps=frames.fps or 25.0, size=frames.size)
        stack.enter_context(drawing)
        results = stack.enter_context(_results(output_dir)) if save_results else None
        while batch := list(islice(frames, batch_size)):
            for frame, instances in zip(batch, predictor(batch, batch_size=batch_size), strict=True):
                drawing.write(instances.above(draw_threshold).draw(frame))
                if results is not None:
                    results.write(_entries(instances, image_id=summary.images, file_name=path.name))
                summary.images += 1
                summary.instances += len(instances)
            if progress is not None:
                progress(summary.images, frames.frame_count)
    return summary


def _prepare(output_dir: Path, sources: Sequence[Path]) -> None:
    """Make the directory; refuse one that holds what is about to be read."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"{output_dir}: cannot be made ({error.strerror}); choose another --output_dir") from None
    if not os.access(output_dir, os.W_OK | os.X_OK):
        raise ImageError(f"{output_dir}: cannot be written to; choose another --output_dir")
    place = output_dir.resolve()
    for source in sources:
        if source.resolve().parent == place:
            raise ImageError(f"{output_dir} holds {source.name}, which is to be read; choose another --output_dir")


def _results(output_dir: Path) -> ResultsFile:
    return ResultsFile(output_dir / "predictions.json")


def _entries(instances: Instances, *, image_id: int, file_name: str) -> list[dict]:
    return [{**entry, "file_name": file_name} for entry in instances.to_coco(image_id)]


def _drawing_paths(output_dir: Path, paths: Sequence[Path]) -> dict[Path, Path]:
    """A file in output_dir for each picture, with its own name; a second of the same name gets _2, and so on."""
    taken: set[str] = set()
    drawings = {}
    for path in paths:
        suffix = path.suffix if path.suffix.lower() in (".png", ".jpg", ".jpeg") else ".png"
        name, count = path.stem + suffix, 1
        while name.casefold() in taken:
            count += 1
            name = f"{path.stem}_{count}{suffix}"
        taken.add(name.casefold())
        drawings[path] = output_dir / name
    return drawings
