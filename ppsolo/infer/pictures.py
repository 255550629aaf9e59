"""Prediction for many pictures."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from ppsolo.data.files import image_ids
from ppsolo.data.images import Source, read_ahead, write_image
from ppsolo.data.sources import Picture
from ppsolo.errors import ImageError
from ppsolo.formats.pixel_size import stated_pixel_size
from ppsolo.infer.output import check_output_dir, drawing_paths, file_names
from ppsolo.infer.settings import InferSettings
from ppsolo.infer.summary import InferenceSummary
from ppsolo.outputs import output_folder
from ppsolo.pipeline import Pipeline
from ppsolo.progress import Progress
from ppsolo.results.files.run import RunFiles


def infer_images(
    predictor: Pipeline,
    pictures: Sequence[Picture],
    settings: InferSettings,
    *,
    read: Callable[[Source], Any] | None = None,
    progress: Progress | None = None,
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
    check_output_dir(settings.output_dir, apart_from=[picture.path for picture in pictures if picture.content is None])
    drawings = drawing_paths(settings.output_dir, paths)
    ids, names = image_ids(paths), file_names(paths)
    summary = InferenceSummary()
    with contextlib.ExitStack() as stack:
        stack.enter_context(output_folder(settings.output_dir, "--output_dir"))
        files = stack.enter_context(RunFiles(settings.output_dir, settings.save))
        sources: list[Source] = [picture.path if picture.content is None else picture.content for picture in pictures]
        ahead = stack.enter_context(contextlib.closing(read_ahead(sources, depth=settings.batch_size + 1, read=read)))
        done = 0
        for answered in predictor.stream(_readable(pictures, ahead, settings.batch_size, summary)):
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
                progress(done + summary.unreadable, len(paths))
    return summary


def _readable(
    pictures: Sequence[Picture],
    ahead: Iterator[tuple[Source, np.ndarray | ImageError]],
    batch_size: int,
    summary: InferenceSummary,
) -> Iterator[list[tuple[int, np.ndarray]]]:
    """Batches of (index, image) of the pictures that can be read. The summary gets a line for each other one."""
    indices = iter(range(len(pictures)))
    while batch := list(zip(islice(indices, batch_size), ahead, strict=False)):
        failures = [_failure(pictures[i], error) for i, (_, error) in batch if isinstance(error, ImageError)]
        summary.failures += failures
        summary.unreadable += len(failures)
        yield [(index, image) for index, (_, image) in batch if not isinstance(image, ImageError)]


def _failure(picture: Picture, error: ImageError) -> str:
    """Return a line for an error; an error about a fetched picture lacks its name."""
    return str(error) if picture.content is None else f"{picture.path}: {error}"
