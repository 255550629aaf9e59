"""Prediction over many pictures or a video: pictures drawn, results written, memory bounded."""

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from ppsolo.data.files import image_ids
from ppsolo.data.images import read_ahead, write_image
from ppsolo.data.videos import VideoFrames, VideoWriter
from ppsolo.errors import ConfigError, ImageError
from ppsolo.formats.pixel_size import stated_pixel_size
from ppsolo.pipeline import Pipeline
from ppsolo.results.files.run import RunFiles
from ppsolo.results.instances import Instances

# Called with the images done and their number, None where that is not known.
Callback = Callable[[int, int | None], None]


@dataclass
class InferenceSummary:
    """What an inference run did. failures: a line for each picture or video that could not be read, or not be drawn."""

    images: int = 0
    instances: int = 0
    failures: list[str] = field(default_factory=list)

    def count(self, instances: Instances) -> None:
        """Take the instances of one more image into account."""
        self.images += 1
        self.instances += len(instances)


def infer_images(
    predictor: Pipeline,
    paths: Sequence[Path],
    *,
    output_dir: Path,
    draw_threshold: float,
    batch_size: int,
    save: Sequence[str] = (),
    pixel_size: float | None = None,
    progress: Callback | None = None,
) -> InferenceSummary:
    """Predict on picture files; leave a drawing of each, and the results in the formats that `save` names.

    Drawings show instances of at least `draw_threshold`. Results hold every instance that postprocessing keeps, see
    `RunFiles`. A picture that cannot be read, or not be drawn, is reported in the summary and the others go on.
    pixel_size: micrometres per pixel, for tables; None for what each picture states. `progress` is told of every
    batch.
    Raises ConfigError where `output_dir` holds pictures to be read, or cannot be written to.
    """
    make_output_dir(output_dir, apart_from=paths)
    drawings = _drawing_paths(output_dir, paths)
    ids = dict(zip(paths, image_ids(paths), strict=True))
    names = _file_names(paths)
    summary = InferenceSummary()
    with contextlib.ExitStack() as stack:
        files = stack.enter_context(RunFiles(output_dir, save))
        ahead = stack.enter_context(contextlib.closing(read_ahead(paths, depth=batch_size + 1)))

        done = unreadable = 0

        def readable() -> Iterator[list[tuple[Path, np.ndarray]]]:
            nonlocal unreadable
            while batch := list(islice(ahead, batch_size)):
                failures = [str(error) for _, error in batch if isinstance(error, ImageError)]
                summary.failures += failures
                unreadable += len(failures)
                yield [(path, image) for path, image in batch if isinstance(image, np.ndarray)]

        for answered in predictor.stream(readable()):
            for path, image, instances in answered:
                found = instances.results(
                    image=image,
                    image_path=path,
                    image_name=names[path],
                    image_id=ids[path],
                    pixel_size=stated_pixel_size(path) if pixel_size is None and save else pixel_size,
                )
                files.add(found, drawings[path].stem)
                summary.count(instances)
                try:
                    write_image(drawings[path], instances.draw(image, score_threshold=draw_threshold))
                except ImageError as error:  # JPEG ends at 65500 pixels a side
                    summary.failures.append(str(error))
            done += len(answered)
            if progress is not None:
                progress(done + unreadable, len(paths))
    return summary


def infer_video(
    predictor: Pipeline,
    path: Path,
    *,
    output_dir: Path,
    draw_threshold: float,
    batch_size: int,
    save: Sequence[str] = (),
    pixel_size: float | None = None,
    progress: Callback | None = None,
) -> InferenceSummary:
    """Predict on every frame of a video; leave an .mp4 with drawings, and the results in the formats `save`.

    In the results `image_id` is the frame's number from 0 on. Classes keep their colours from frame to frame.
    Where the video is damaged, the frames before that are kept and the summary says so.
    """
    make_output_dir(output_dir, apart_from=[path])
    summary = InferenceSummary()
    with contextlib.ExitStack() as stack:
        frames = stack.enter_context(VideoFrames(path))
        drawing = VideoWriter(output_dir / f"{path.stem}.mp4", fps=frames.fps or 25.0, size=frames.size)
        stack.enter_context(drawing)
        files = stack.enter_context(RunFiles(output_dir, save))
        # The next frames are decoded while the network works; the reader ends before its video is closed.
        reader = stack.enter_context(ThreadPoolExecutor(max_workers=1, thread_name_prefix="video"))
        numbered = enumerate(frames)

        def next_frames() -> list[tuple[int, np.ndarray]]:
            return list(islice(numbered, batch_size))

        def read() -> Iterator[list[tuple[int, np.ndarray]]]:
            coming = reader.submit(next_frames)
            while batch := coming.result():
                coming = reader.submit(next_frames)
                yield batch

        for answered in predictor.stream(read()):
            for number, frame, instances in answered:
                drawing.write(instances.draw(frame, score_threshold=draw_threshold, color_by="class"))
                found = instances.results(image=frame, image_name=path.name, image_id=number, pixel_size=pixel_size)
                files.add(found, f"{path.stem}_{number:06d}")
                summary.count(instances)
            if progress is not None:
                progress(summary.images, frames.frame_count)
        if frames.damage is not None:
            summary.failures.append(frames.damage)
    return summary


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
