"""Builds preprocessing, postprocessing in numpy, and the classes of a configuration. Needs no Paddle."""

from ppsolo.data.classes import default_category_ids, default_class_names
from ppsolo.data.images import ImageReader
from ppsolo.data.pixels import PixelSettings
from ppsolo.data.preprocess import Preprocess
from ppsolo.errors import ConfigError, ImageError
from ppsolo.results.postprocess import NumpyPostprocess
from ppsolo.schema import Config


def build_preprocess(config: Config) -> Preprocess:
    """Return the preprocessing from an image to the network's input."""
    preprocess = config.preprocess
    return Preprocess(
        short_side=preprocess.short_side,
        long_side=preprocess.long_side,
        mean=preprocess.mean,
        std=preprocess.std,
        normalize_first=preprocess.normalize_first,
        round_sides=preprocess.round_sides,
    )


def build_reader(config: Config) -> ImageReader:
    """Return a function that reads pictures, with values, pages and channels as configured. Raises ConfigError."""
    preprocess = config.preprocess
    try:
        return ImageReader(PixelSettings(preprocess.value_range, preprocess.page, preprocess.channels))
    except ImageError as error:
        raise ConfigError(f"preprocess.{error}") from None


def build_numpy_postprocess(config: Config, *, threads: int = 1) -> NumpyPostprocess:
    """Return the postprocessing in numpy, on the CPU."""
    return NumpyPostprocess(config.postprocess, threads=threads)


def class_names(config: Config) -> tuple[str, ...]:
    """Return one name per label."""
    return config.class_names or default_class_names(config.num_classes)


def category_ids(config: Config) -> tuple[int, ...]:
    """Return one COCO category id per label."""
    return config.category_ids or default_category_ids(config.num_classes)
