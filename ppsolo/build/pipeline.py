"""What stands around the network: preprocessing, postprocessing in numpy, and the classes. Needs no Paddle."""

from ppsolo.data.classes import default_category_ids, default_class_names
from ppsolo.data.images import ImageReader
from ppsolo.data.pixels import PixelSettings
from ppsolo.data.preprocess import Preprocess
from ppsolo.errors import ConfigError, ImageError
from ppsolo.results.postprocess import NumpyPostprocess
from ppsolo.schema import Config


def build_preprocess(config: Config) -> Preprocess:
    """What turns an image into the network's input."""
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
    """What reads pictures, with their values, pages and channels as the configuration says. Raises ConfigError."""
    preprocess = config.preprocess
    try:
        return ImageReader(PixelSettings(preprocess.value_range, preprocess.page, preprocess.channels))
    except ImageError as error:
        raise ConfigError(f"preprocess.{error}") from None


def build_numpy_postprocess(config: Config, *, threads: int = 1) -> NumpyPostprocess:
    """Turns raw predictions as numpy arrays into detections, on the CPU."""
    return NumpyPostprocess(config.postprocess, threads=threads)


def class_names(config: Config) -> tuple[str, ...]:
    """One name per label."""
    return config.class_names or default_class_names(config.num_classes)


def category_ids(config: Config) -> tuple[int, ...]:
    """One COCO category id per label."""
    return config.category_ids or default_category_ids(config.num_classes)
