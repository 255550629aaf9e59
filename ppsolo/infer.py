"""Prediction for many pictures or a video: writes drawings and results in bounded memory."""

import contextlib
import dataclasses
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np

from ppsolo.atomic import atomic_writer
from ppsolo.data.files import image_ids
from ppsolo.data.images import Source, read_ahead, write_image
from ppsolo.data.sources import Picture, Video
from ppsolo.data.videos import Frame, VideoFrames, VideoWriter
from ppsolo.errors import ConfigError, ImageError
from ppsolo.formats.pixel_size import stated_pixel_size
from ppsolo.pipeline import Pipeline
from ppsolo.results.files.coco import coco_entries
from ppsolo.results.files.run import RunFiles
from ppsolo.results.instances import Instances
from ppsolo.tracking import Tracker

# Called with (images done, all images); the second is None if not known.
Callback = Callable[[int, int | None], None]


@dataclass(frozen=True)
class InferSettings:
    """What a run of inference writes.

    Attributes:
        output_dir: the folder to write to; it may not hold the pictures to read.
        draw_threshold: least score of drawn instances. Results hold every instance that postprocessing keeps.
        batch_size: images per run of the network.
        save: formats of the results, see `RunFiles`.
        pixel_size: micrometres per pixel, for tables; None: the value in each picture.
        drawings: whether to write drawings.
        text: label of a drawn instance: name and score, the score, or nothing.
        color: one colour per instance or per class; None: per instance in pictures, per class in videos.
        save_threshold: least score in results.
        legend: whether drawings list the classes with their colours; needs color "class".
        track: whether objects of a video get numbers, see `ppsolo.tracking.Tracker`.
    """

    output_dir: Path
    draw_threshold: float = 0.5
    batch_size: int = 1
    save: Sequence[str] = ()
    pixel_size: float | None = None
    drawings: bool = True
    text: Literal["labels", "scores", "none"] = "labels"
    color: Literal["class", "instance"] | None = None
    legend: bool = False
    save_threshold: float = 0.0
    track: bool = False

    @property
    def needs_pixels(self) -> bool:
        """Whether the picture's pixels are needed after prediction: for drawings and mean intensities."""
        return self.drawings or not {"csv", "parquet"}.isdisjoint(self.save)

    def draw(
        self,
        instances: Instances,
        image: np.ndarray,
        *,
        color: Literal["class", "instance"],
        track_ids: np.ndarray | None = None,
    ) -> np.ndarray:
        """Draw the instances on a copy of the image; `color` is used if the settings have none."""
        return instances.draw(
            image,
            score_threshold=self.draw_threshold,
            color_by=self.color or color,
            write_labels=self.text != "none",
            write_names=False if self.text == "scores" else None,
            legend=self.legend,
            track_ids=track_ids,
        )

    def count_drawn(self, instances: Instances) -> int:
        """Count the instances that `draw` shows: those with a sufficient score and at least one pixel."""
        return int((instances.above(self.draw_threshold).areas > 0).sum())


@dataclass(frozen=True)
class StreamLimits:
    """When to stop reading a video or a stream. None: no limit.

    Attributes:
        frames: most frames to read.
        seconds: most seconds to run.
        timeout: seconds to wait for a stream to open, and for each of its frames.
        reconnect: how many times in a row to open a broken stream again.
    """

    frames: int | None = None
    seconds: float | None = None
    timeout: float = 10.0
    reconnect: int = 3


@dataclass
class InferenceSummary:
    """The result of an inference run.

    Attributes:
        images, instances: numbers of images read and instances found. drawn: number of drawn instances.
        failures: a line for each picture or video that could not be read or drawn.
        notes: other lines for the user.
        interrupted: whether the user ended a live stream.
    """

    images: int = 0
    instances: int = 0
    drawn: int = 0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    def count(self, instances: Instances) -> None:
        """Add the instances of one more image."""
        self.images += 1
        self.instances += len(instances)


def infer_images(
    predictor: Pipeline,
    pictures: Sequence[Picture],
    settings: InferSettings,
    *,
    read: Callable[[Source], Any] | None = None,
    progress: Callback | None = None,
) -> InferenceSummary:
    """Predict on pictures; write a drawing of each, and results in the formats of the settings.

    If a picture cannot be read or drawn, the summary says so, and the others continue.

    Args:
        predictor: runs the model.
        pictures: the pictures to read.
        settings: what to write.
        read: reads a picture; `read_image` by default. For a `TiledPipeline` it may return the path if the settings
            need no pixels: then the picture is read part by part.
        progress: called after every batch.

    Raises:
        ConfigError: `output_dir` holds pictures to read, or is not writable.
    """
    paths = [picture.path for picture in pictures]
    make_output_dir(settings.output_dir, apart_from=[picture.path for picture in pictures if picture.content is None])
    drawings = _drawing_paths(settings.output_dir, paths)
    ids, names = image_ids(paths), _file_names(paths)
    indices = iter(range(len(pictures)))
    summary = InferenceSummary()
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(RunFiles(settings.output_dir, settings.save))
        sources: list[Source] = [picture.path if picture.content is None else picture.content for picture in pictures]
        ahead = stack.enter_context(contextlib.closing(read_ahead(sources, depth=settings.batch_size + 1, read=read)))
        done = unreadable = 0

        def readable() -> Iterator[list[tuple[int, np.ndarray]]]:
            nonlocal unreadable
            while batch := list(zip(islice(indices, settings.batch_size), ahead, strict=False)):
                failures = [_failure(pictures[i], error) for i, (_, error) in batch if isinstance(error, ImageError)]
                summary.failures += failures
                unreadable += len(failures)
                yield [(index, image) for index, (_, image) in batch if not isinstance(image, ImageError)]

        for answered in predictor.stream(readable()):
            for index, image, instances in answered:
                path, size = paths[index], settings.pixel_size
                found = instances.above(settings.save_threshold).results(
                    image=image if isinstance(image, np.ndarray) else None,
                    image_path=path,
                    image_name=names[path],
                    image_id=ids[index],
                    pixel_size=stated_pixel_size(path) if size is None and settings.save else size,
                )
                files.add(found, drawings[index].stem)
                summary.count(instances)
                if settings.drawings:
                    try:
                        write_image(drawings[index], settings.draw(instances, image, color="instance"))
                        summary.drawn += settings.count_drawn(instances)
                    except ImageError as error:  # JPEG allows at most 65500 pixels a side
                        summary.failures.append(str(error))
            done += len(answered)
            if progress is not None:
                progress(done + unreadable, len(paths))
    return summary


def _failure(picture: Picture, error: ImageError) -> str:
    """Return a line for an error; an error about a fetched picture lacks its name."""
    return str(error) if picture.content is None else f"{picture.path}: {error}"


def infer_video(
    predictor: Pipeline,
    video: Video,
    settings: InferSettings,
    *,
    limits: StreamLimits = StreamLimits(),
    progress: Callback | None = None,
) -> InferenceSummary:
    """Predict on every frame of a video or a stream; write an .mp4 with drawings, and results.

    The drawn video is as long as its source. The format coco writes `predictions.jsonl`: one JSON object per line with
    `video`, `frame` (from 0), `time` (seconds), `height`, `width` and `instances`. In the other formats, `image_id` is
    the number of the frame. If the video is damaged, the frames before the damage are kept and the summary says so. If
    drawing fails, results continue. Ctrl-C ends a live stream.

    Args:
        predictor: runs the model.
        video: the video to read.
        settings: what to write.
        limits: when to stop, and how long to wait for a stream.
        progress: called after every batch.

    Raises:
        ImageError: the video cannot be opened.
        ConfigError: `output_dir` is not writable, or holds the video.
    """
    file = video.source if isinstance(video.source, Path) else None
    make_output_dir(settings.output_dir, apart_from=[] if file is None else [file])
    summary = InferenceSummary()
    with contextlib.ExitStack() as stack:
        reconnect = 0 if file is not None else limits.reconnect
        frames = stack.enter_context(VideoFrames(video.source, timeout=limits.timeout, reconnect=reconnect))
        stem = Path(video.name).stem
        tracker = Tracker(frame_rate=frames.drawing_rate()) if settings.track else None
        drawing = stack.enter_context(_VideoDrawing(settings, stem, frames, summary))
        files = stack.enter_context(RunFiles(settings.output_dir, settings.save))
        lines = stack.enter_context(_frame_lines(settings, live=frames.live))
        try:
            for answered in predictor.stream(_frames_ahead(frames, limits, settings.batch_size, stack)):
                for frame, _, instances in answered:
                    ids = tracker.update(instances) if tracker is not None else None
                    found = instances.above(settings.save_threshold).results(
                        image=frame.image, image_name=video.name, image_id=frame.number, pixel_size=settings.pixel_size
                    )
                    if ids is not None:
                        found = dataclasses.replace(found, track_ids=ids[instances.scores >= settings.save_threshold])
                    times = {"frame": frame.number, "time": round(frame.time, 6)}
                    files.add(dataclasses.replace(found, extra=times), f"{stem}_{frame.number:06d}")
                    if lines is not None:
                        lines.write(_frame_line(video.name, frame, instances, ids))
                    summary.count(instances)
                    drawing.add(frame, instances, ids)
                if lines is not None and frames.live:
                    lines.flush()
                if progress is not None:
                    progress(summary.images, frames.frame_count)
        except KeyboardInterrupt:
            if not frames.live:
                raise
            summary.interrupted = True
        summary.failures += [frames.damage] if frames.damage is not None else []
        summary.notes += [frames.note] if frames.note is not None else []
    return summary


def _frames_ahead(
    frames: VideoFrames, limits: StreamLimits, batch_size: int, stack: contextlib.ExitStack
) -> Iterator[list[tuple[Frame, np.ndarray]]]:
    """Yield batches of frames. A thread decodes the next batch meanwhile; it ends before the video is closed."""
    reader = stack.enter_context(ThreadPoolExecutor(max_workers=1, thread_name_prefix="video"))
    end = None if limits.seconds is None else time.monotonic() + limits.seconds

    def next_frames() -> list[tuple[Frame, np.ndarray]]:
        batch: list[tuple[Frame, np.ndarray]] = []
        while len(batch) < batch_size and (end is None or time.monotonic() < end):
            frame = frames.read()
            if frame is None or (limits.frames is not None and frame.number >= limits.frames):
                break
            batch.append((frame, frame.image))
        return batch

    coming = reader.submit(next_frames)
    while batch := coming.result():
        coming = reader.submit(next_frames)
        yield batch


def _frame_line(name: str, frame: Frame, instances: Instances, track_ids: np.ndarray | None) -> str:
    """Return a frame's results as one line of JSON, similar to COCO."""
    entries = coco_entries(dataclasses.replace(instances.results(image_id=frame.number), track_ids=track_ids))
    shown = [
        {**{key: value for key, value in entry.items() if key != "image_id"}, "category_name": class_name}
        for entry, class_name in zip(entries, instances.names, strict=True)
    ]
    content = {
        "video": name,
        "frame": frame.number,
        "time": round(frame.time, 6),
        "height": instances.size[0],
        "width": instances.size[1],
        "instances": shown,
    }
    return json.dumps(content, ensure_ascii=False) + "\n"


@contextlib.contextmanager
def _frame_lines(settings: InferSettings, *, live: bool) -> Iterator[TextIO | None]:
    """Yield the file predictions.jsonl, if wanted. For a live stream it grows line by line and is always kept."""
    path = settings.output_dir / "predictions.jsonl"
    if "coco" not in settings.save:
        yield None
    elif live:
        with path.open("w", encoding="utf-8") as stream:
            yield stream
    else:
        with atomic_writer(path, "w") as stream:
            yield stream


class _VideoDrawing:
    """The drawn copy of a video; an error while drawing becomes a line in the summary, and results continue."""

    def __init__(self, settings: InferSettings, stem: str, frames: VideoFrames, summary: InferenceSummary):
        self._settings, self._summary = settings, summary
        self._writer: VideoWriter | None = None
        if settings.drawings:
            path = settings.output_dir / f"{stem}.mp4"
            with self._reported():
                self._writer = VideoWriter(path, fps=frames.drawing_rate(), size=frames.size)

    def add(self, frame: Frame, instances: Instances, track_ids: np.ndarray | None) -> None:
        """Draw a frame at its time."""
        if self._writer is not None:
            with self._reported():
                color: Literal["class", "instance"] = "class" if track_ids is None else "instance"
                drawn = self._settings.draw(instances, frame.image, color=color, track_ids=track_ids)
                self._writer.write_at(drawn, frame.time)
                self._summary.drawn += self._settings.count_drawn(instances)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (ImageError, OSError) as error:
            self._summary.failures.append(f"the video is not drawn, results continue: {error}")
            if self._writer is not None:
                self._writer.discard()
                self._writer = None

    def __enter__(self) -> "_VideoDrawing":
        return self

    def __exit__(self, exception_type: type[BaseException] | None, exception: object, traceback: object) -> None:
        if self._writer is None:
            return
        if exception_type is None:
            with self._reported():
                self._writer.close()
        else:
            self._writer.discard()


def make_output_dir(output_dir: Path, *, apart_from: Sequence[Path] = ()) -> None:
    """Create the directory. Raises ConfigError if that fails, or if it holds a file of `apart_from`."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{output_dir}: cannot be created ({error.strerror}); choose another --output_dir") from None
    if not os.access(output_dir, os.W_OK | os.X_OK):
        raise ConfigError(f"{output_dir}: is not writable; choose another --output_dir")
    place = output_dir.resolve()
    for source in apart_from:
        if place in (source.resolve().parent, source.parent.resolve()):
            raise ConfigError(f"{output_dir} holds {source.name}, which is an input; choose another --output_dir")


def _file_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name each picture in results: its file name, or its whole path if another file has the same name."""
    count = Counter(path.name for path in paths)
    return {path: path.name if count[path.name] == 1 else path.as_posix() for path in paths}


def _drawing_paths(output_dir: Path, paths: Sequence[Path]) -> list[Path]:
    """Choose a file in output_dir for each picture, with its own name; a second one of that name gets _2, and so on."""
    taken: set[str] = set()
    drawings = []
    for path in paths:
        suffix = path.suffix if path.suffix.lower() in (".png", ".jpg", ".jpeg") else ".png"
        name, count = path.stem + suffix, 1
        while name.casefold() in taken:
            count += 1
            name = f"{path.stem}_{count}{suffix}"
        taken.add(name.casefold())
        drawings.append(output_dir / name)
    return drawings
