"""A bulk run: predicts on a list of pictures part by part, and can be resumed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np

from ppsolo.atomic import atomic_writer
from ppsolo.bulk.manifest import Manifest, Part, ResultsFormat, Shard, open_manifest, paths_digest
from ppsolo.bulk.parts import Entry, check_format, entries_of, json_line, write_part
from ppsolo.bulk.settings import settings_of
from ppsolo.data.images import read_ahead
from ppsolo.errors import ConfigError, ImageError
from ppsolo.outputs import output_folder
from ppsolo.pipeline import Pipeline
from ppsolo.progress import Progress

PART_PICTURES = 1000
MOST_EXAMPLES = 20  # lines about unreadable pictures; all are in the failures files
ALL = Shard()


@dataclass
class BulkSummary:
    """The result of a bulk run in this process.

    Attributes:
        pictures, instances: numbers of this call, without the work of earlier calls.
        failures: how many more pictures could not be read.
        skipped: pictures that an earlier call finished.
        stopped: whether it was asked to stop before the end of the list.
        examples: lines about the first pictures that could not be read.
    """

    pictures: int = 0
    instances: int = 0
    failures: int = 0
    skipped: int = 0
    stopped: bool = False
    examples: list[str] = field(default_factory=list)

    def add(self, part: "_PartMaker") -> None:
        """Add the numbers of a part."""
        self.pictures += part.done - len(part.failures)
        self.instances += len(part.entries)
        self.failures += len(part.failures)
        self.stopped = part.stopped
        self.examples += [str(failure["error"]) for failure in part.failures][: MOST_EXAMPLES - len(self.examples)]


def run_bulk(
    predictor: Pipeline,
    paths: Iterable[str],
    output_dir: Path,
    *,
    format: ResultsFormat = "jsonl",
    shard: Shard = ALL,
    resume: bool = False,
    batch_size: int = 1,
    part_pictures: int = PART_PICTURES,
    stop: Callable[[], bool] = lambda: False,
    progress: Progress | None = None,
) -> BulkSummary:
    """Predict on every picture of a list and write the results in parts; the list is read step by step.

    Each part is a file that appears whole. Then the manifest records that its pictures are done. So a killed run loses
    at most the pictures of one part, and a run that is asked to stop loses nothing.

    Args:
        predictor: runs the model.
        paths: the pictures of all shards, in order; to resume, pass the same list, or one with more at its end.
        output_dir: for the parts `part-1of1-000000.jsonl`, ..., the manifest, and `failures-...` with the unreadable
            pictures. Several shards may share it.
        format: "jsonl", a JSON object for each instance, as in `predictions.json`; or "parquet".
        shard: the share of this process.
        resume: resume the run in `output_dir`; parts whose files are missing are made again.
        batch_size: images per run of the network. With 1, every bit of a result depends only on its picture.
        part_pictures: pictures per part.
        stop: asked after every batch.
        progress: called after every batch.

    Raises:
        ConfigError: the directory has another run, or one with other settings, or the list has changed.
    """
    check_format(format)
    with output_folder(output_dir, "--output_dir"):
        manifest = open_manifest(output_dir, _fresh(predictor, format, shard), resume=resume)
        own, summary = _own(paths, shard), BulkSummary(skipped=manifest.pictures)

        def predict(wanted: Iterable[tuple[int, str]]) -> _PartMaker:
            part = _PartMaker(predictor, batch_size, stop)
            for done in part.predict(wanted):
                if progress is not None:
                    progress(summary.pictures + summary.failures + done, None)
            return part

        for number, lost in _skip(own, manifest, output_dir):
            _make_again(output_dir, manifest, number, predict(lost), summary)
            if summary.stopped:
                return summary
        if manifest.whole and (first := next(own, None)) is not None:  # the list has grown
            own, manifest.whole = chain([first], own), False
        while not (manifest.whole or summary.stopped):
            part = predict(islice(own, part_pictures))
            if part.done:
                manifest.parts.append(_write_part(output_dir, manifest.part_name(), part, format))
            manifest.whole = len(part.places) < part_pictures and not part.stopped
            manifest.write(output_dir)
            summary.add(part)
    return summary


def _fresh(predictor: Pipeline, format: ResultsFormat, shard: Shard) -> Manifest:
    model = f"{predictor.config.name}; {predictor.origin}"
    return Manifest(model, format, shard, settings=settings_of(predictor))


def _make_again(output_dir: Path, manifest: Manifest, number: int, part: "_PartMaker", summary: BulkSummary) -> None:
    """Put a part whose file was missing in its place; if it is not whole, only note that the run was stopped."""
    old = manifest.parts[number]
    if part.done < old.pictures:
        summary.stopped = True
        return
    manifest.parts[number] = _write_part(output_dir, old.file, part, manifest.format)
    manifest.write(output_dir)
    summary.add(part)
    summary.skipped -= old.pictures


class _PartMaker:
    """Makes one part in memory. done: number of its pictures so far, unreadable ones included."""

    def __init__(self, predictor: Pipeline, batch_size: int, stop: Callable[[], bool]):
        self._predictor, self._batch_size, self._stop = predictor, batch_size, stop
        self.places: list[tuple[int, str]] = []  # taken from the list; some may not be predicted yet
        self.entries: list[Entry] = []
        self.failures: list[Entry] = []
        self.done = 0
        self.stopped = False

    def predict(self, wanted: Iterable[tuple[int, str]]) -> Iterator[int]:
        """Predict on pictures, given as (place in the list, path); yield the number done after each batch."""
        ends: deque[tuple[int, list[Entry]]] = deque()

        def paths() -> Iterator[str]:
            for place in wanted:
                self.places.append(place)
                yield place[1]

        def batches(ahead: Iterator[tuple[str, np.ndarray | ImageError]]) -> Iterator[list[tuple[int, np.ndarray]]]:
            first = 0
            while batch := list(islice(ahead, self._batch_size)):
                numbered = [(first + i, image) for i, (_, image) in enumerate(batch)]
                first += len(batch)
                ends.append(
                    (first, [self._failure(i, error) for i, error in numbered if isinstance(error, ImageError)])
                )
                yield [(i, image) for i, image in numbered if not isinstance(image, ImageError)]

        with closing(read_ahead(paths(), depth=self._batch_size + 1, read=self._predictor.read)) as ahead:
            for answered in self._predictor.stream(batches(ahead)):
                for number, _, instances in answered:
                    index, path = self.places[number]
                    self.entries += entries_of(instances, image_id=index, file_name=path)
                self.done, failures = ends.popleft()
                self.failures += failures
                yield self.done
                if self._stop():
                    self.stopped = True
                    return

    def _failure(self, number: int, error: ImageError) -> Entry:
        index, path = self.places[number]
        return {"image_id": index, "file_name": path, "error": str(error)}


def _write_part(output_dir: Path, name: str, part: _PartMaker, format: ResultsFormat) -> Part:
    """Write a part and its failures; the manifest comes afterwards, so every part in a manifest exists."""
    write_part(output_dir / name, part.entries, format)
    file = output_dir / f"failures-{Path(name).stem.removeprefix('part-')}.jsonl"
    if part.failures:
        with atomic_writer(file, "w") as stream:
            stream.writelines(json_line(failure) for failure in part.failures)
    else:
        file.unlink(missing_ok=True)  # of an earlier attempt
    paths = paths_digest([path for _, path in part.places[: part.done]])
    return Part(name, part.done, len(part.entries), len(part.failures), paths)


def _own(paths: Iterable[str], shard: Shard) -> Iterator[tuple[int, str]]:
    """Yield the pictures of a shard, each with its place in the whole list."""
    return ((i, path) for i, path in enumerate(paths) if i % shard.count == shard.index)


def _skip(
    own: Iterator[tuple[int, str]], manifest: Manifest, output_dir: Path
) -> Iterator[tuple[int, list[tuple[int, str]]]]:
    """Skip the pictures of finished parts; yield the number and the pictures of each part whose file is missing.

    Raises ConfigError if the list has changed.
    """
    for number, part in enumerate(manifest.parts):
        places = list(islice(own, part.pictures))
        if paths_digest([path for _, path in places]) != part.paths:
            raise ConfigError(f"{output_dir}: {part.file} has other pictures; give the same list, or another directory")
        if not (output_dir / part.file).is_file():
            yield number, places
