"""Prediction over many pictures or a video: pictures drawn, results written, memory bounded."""

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

# Called with the images done and their number, None where that is not known.
Callback = Callable[[int, int | None], None]


@dataclass(frozen=True)
class InferSettings:
    """What a run of inference leaves.

    Attributes:
        output_dir: where to; it may not hold the pictures to be read.
        draw_threshold: least score drawn. Results hold every instance that postprocessing keeps.
        batch_size: images in one run of the network.
        save: formats of the results, see `RunFiles`.
        pixel_size: micrometres per pixel, for tables; None for what each picture states.
        drawings: whether drawings are written at all.
        text: what a drawing says of each instance: name and score, the score, or nothing.
        color: one colour for each instance or each class; None: instances in pictures, classes in videos.
        save_threshold: least score in results.
        legend: whether drawings list the classes with their colours; this takes color "class".
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
        """Whether the picture itself is used beside what was found in it: for drawings and mean intensities."""
        return self.drawings or not {"csv", "parquet"}.isdisjoint(self.save)

    def draw(
        self,
        instances: Instances,
        image: np.ndarray,
        *,
        color: Literal["class", "instance"],
        track_ids: np.ndarray | None = None,
    ) -> np.ndarray:
        """A copy of the image with its instances; `color` holds where the settings say none."""
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
        """How many of the instances `draw` shows: their score is high enough, and they have pixels."""
        return int((instances.above(self.draw_threshold).areas > 0).sum())


@dataclass(frozen=True)
class StreamLimits:
    """Where reading a video or a stream ends. None: no limit.

    Attributes:
        frames: most frames read.
        seconds: most seconds of running, by the clock.
        timeout: seconds to wait for a stream to open, and for each of its frames.
        reconnect: how often in a row a stream that breaks off is opened again.
    """

    frames: int | None = None
    seconds: float | None = None
    timeout: float = 10.0
    reconnect: int = 3


@dataclass
class InferenceSummary:
    """What an inference run did.

    Attributes:
        images, instances: how many were read and found. drawn: how many of the instances were drawn.
        failures: a line for each picture or video that could not be read, or not be drawn.
        notes: lines that are no failures.
        interrupted: whether the user ended a live stream.
    """

    images: int = 0
    instances: int = 0
    drawn: int = 0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    def count(self, instances: Instances) -> None:
        """Take the instances of one more image into account."""
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
    """Predict on pictures; leave a drawing of each, and the results in the formats that the settings name.

    A picture that cannot be read, or not be drawn, is reported in the summary and the others go on.

    Args:
        predictor: what answers.
        pictures: what to read.
        settings: what to leave.
        read: reads a picture; `read_image` by default. Of a `TiledPipeline` it may give back the path, where the
            settings ask for no pixels: then the picture is read part by part.
        progress: told of every batch.

    Raises:
        ConfigError: `output_dir` holds pictures to be read, or cannot be written to.
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
                    except ImageError as error:  # JPEG ends at 65500 pixels a side
                        summary.failures.append(str(error))
            done += len(answered)
            if progress is not None:
                progress(done + unreadable, len(paths))
    return summary


def _failure(picture: Picture, error: ImageError) -> str:
    """What an error says; the name of what was fetched is not in it."""
    return str(error) if picture.content is None else f"{picture.path}: {error}"


def infer_video(
    predictor: Pipeline,
    video: Video,
    settings: InferSettings,
    *,
    limits: StreamLimits = StreamLimits(),
    progress: Callback | None = None,
) -> InferenceSummary:
    """Predict on every frame of a video or a stream; leave an .mp4 with drawings, and the results.

    The drawn video is as long as its source. Among the results is `predictions.jsonl` where the format coco is asked
    for: a JSON object on each line with `video`, `frame` (from 0), `time` (seconds), `height`, `width` and
    `instances`. The other formats have `image_id`, the number of the frame. Where the video is damaged, the frames
    before that are kept and the summary says so; a drawing that fails stops no results. Ctrl-C ends a live stream.

    Args:
        predictor: what answers.
        video: what to read.
        settings: what to leave.
        limits: where to end, and how long to wait for a stream.
        progress: told of every batch.

    Raises:
        ImageError: the video cannot be opened.
        ConfigError: `output_dir` cannot be written to, or holds the video.
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
    """Batches of frames. The next is decoded while the network works; the reader ends before its video is closed."""
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
    """A frame's results as one line of JSON, in the style of COCO."""
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
    """The file predictions.jsonl, where it is asked for. Of a live stream it grows line by line, and stays."""
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
    """The drawn copy of a video; whatever stops it becomes a line in the summary, and results go on."""

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
            self._summary.failures.append(f"the video is not drawn, results go on: {error}")
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
    """Make the directory; raises ConfigError where that fails, or where it holds a file of `apart_from`."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{output_dir}: cannot be made ({error.strerror}); choose another --output_dir") from None
    if not os.access(output_dir, os.W_OK | os.X_OK):
        raise ConfigError(f"{output_dir}: cannot be written to; choose another --output_dir")
    place = output_dir.resolve()
    for source in apart_from:
        if place in (source.resolve().parent, source.parent.resolve()):
            raise ConfigError(f"{output_dir} holds {source.name}, which is to be read; choose another --output_dir")


def _file_names(paths: Sequence[Path]) -> dict[Path, str]:
    """What results call each picture: its file's name, or its whole path where another file has that name too."""
    count = Counter(path.name for path in paths)
    return {path: path.name if count[path.name] == 1 else path.as_posix() for path in paths}


def _drawing_paths(output_dir: Path, paths: Sequence[Path]) -> list[Path]:
    """A file in output_dir for each picture, with its own name; a second of the same name gets _2, and so on."""
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
