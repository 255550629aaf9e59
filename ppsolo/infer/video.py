"""Prediction for the frames of a video or a stream."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TextIO

import numpy as np

from ppsolo.atomic import atomic_writer, naming
from ppsolo.data.sources import Video
from ppsolo.data.videos import Frame, VideoFrames, VideoWriter
from ppsolo.errors import ImageError
from ppsolo.infer.live import FrameBatches
from ppsolo.infer.output import LONGEST_STEM, check_output_dir
from ppsolo.infer.settings import NO_LIMITS, InferSettings, StreamLimits
from ppsolo.infer.summary import InferenceSummary
from ppsolo.outputs import output_folder
from ppsolo.pipeline import Pipeline
from ppsolo.progress import Progress
from ppsolo.results.files.coco import coco_entries
from ppsolo.results.files.image_results import ImageResults
from ppsolo.results.files.run import RunFiles
from ppsolo.results.instances import Instances
from ppsolo.text import cut_name, json_text
from ppsolo.tracking import Tracker


def infer_video(
    predictor: Pipeline,
    video: Video,
    settings: InferSettings,
    *,
    limits: StreamLimits = NO_LIMITS,
    progress: Progress | None = None,
) -> InferenceSummary:
    """Predict on every frame of a video or a stream; write an .mp4 with drawings, and results.

    The drawn video is as long as its source. The format coco writes `predictions.jsonl`: one JSON object per line with
    `video`, `frame` (from 0), `time` (seconds), `height`, `width` and `instances`. In the other formats, `image_id` is
    the number of the frame. If the video is damaged, the frames before the damage are kept and the summary says so. If
    drawing fails, results continue. Ctrl-C and SIGTERM end a live stream. For a live stream, the newest frames are
    predicted; the summary counts the skipped ones.

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
    check_output_dir(settings.output_dir, apart_from=[video.source] if isinstance(video.source, Path) else [])
    summary = InferenceSummary()
    with contextlib.ExitStack() as stack:
        stack.enter_context(output_folder(settings.output_dir, "--output_dir"))
        reconnect = 0 if isinstance(video.source, Path) else limits.reconnect
        frames = stack.enter_context(VideoFrames(video.source, timeout=limits.timeout, reconnect=reconnect))
        stem = cut_name(Path(video.name).stem, LONGEST_STEM)
        tracker = Tracker(frame_rate=frames.drawing_rate()) if settings.track else None
        drawing = stack.enter_context(_VideoDrawing(settings, stem, frames, summary))
        files = stack.enter_context(RunFiles(settings.output_dir, settings.save))
        lines = stack.enter_context(_frame_lines(settings, live=frames.live))
        batches = stack.enter_context(FrameBatches(frames, limits, batch_size=settings.batch_size))
        try:
            for answered in predictor.stream([(frame, frame.image) for frame in batch] for batch in batches):
                for frame, _, instances in answered:
                    ids = tracker.update(instances) if tracker is not None else None
                    files.add(_results(video.name, frame, instances, ids, settings), f"{stem}_{frame.number:06d}")
                    if lines is not None:
                        lines.write(_frame_line(video.name, frame, instances, ids))
                    summary.count(instances)
                    drawing.add(frame, instances, ids)
                if lines is not None and frames.live:
                    lines.flush()
                if progress is not None:
                    progress(summary.images, frames.frame_count)
        except KeyboardInterrupt as interruption:
            if not frames.live:
                raise
            summary.interruption = interruption
        summary.skipped = batches.skipped
        summary.failures += filter(None, [frames.damage])
        summary.notes += filter(None, [frames.note])
    return summary


def _results(
    name: str, frame: Frame, instances: Instances, track_ids: np.ndarray | None, settings: InferSettings
) -> ImageResults:
    """Return what is saved of a frame: its instances, its number and its time."""
    found = instances.above(settings.save_threshold).results(
        image=frame.image, image_name=name, image_id=frame.number, pixel_size=settings.pixel_size
    )
    if track_ids is not None:
        found = dataclasses.replace(found, track_ids=track_ids[instances.scores >= settings.save_threshold])
    return dataclasses.replace(found, extra={"frame": frame.number, "time": round(frame.time, 6)})


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
    return json_text(content) + "\n"


@contextlib.contextmanager
def _frame_lines(settings: InferSettings, *, live: bool) -> Iterator[TextIO | None]:
    """Yield the file predictions.jsonl, if wanted. For a live stream it grows line by line and is always kept."""
    path = settings.output_dir / "predictions.jsonl"
    if "coco" not in settings.save:
        yield None
    elif live:
        with naming(path), path.open("w", encoding="utf-8") as stream:
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
