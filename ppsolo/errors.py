"""The errors that ppsolo raises for a user's input, each with a one-line message."""

from ppsolo.text import one_line

LONGEST_MESSAGE = 1000


class PpsoloError(Exception):
    """Base of every error that a user can mend; `str(error)` is one line naming the thing and the remedy.

    Names come from files and servers: line breaks, terminal escapes and endless words do not reach the terminal.
    """

    def __init__(self, message: str):
        if len(message) > LONGEST_MESSAGE:
            message = f"{message[: LONGEST_MESSAGE // 2]} ... {message[-LONGEST_MESSAGE // 2 :]}"
        super().__init__(one_line(message))


class ConfigError(PpsoloError):
    """A configuration file, key, value or override is not valid."""


class CheckpointError(PpsoloError):
    """A weights file cannot be read, is not what it claims, or does not fit the model."""


class ImageError(PpsoloError):
    """An image or video cannot be read."""


class PredictionError(PpsoloError):
    """A network's output cannot be used."""


class DatasetError(PpsoloError):
    """An annotation file or data set is not valid."""


class TrainingError(PpsoloError):
    """A training run cannot start where it should, or cannot go on."""


class DownloadError(PpsoloError):
    """A published file could not be fetched, or what arrived is not what was expected."""


class UnavailableError(DownloadError):
    """A published file is not here and cannot be fetched now; what is here and wrong is a plain DownloadError."""


class ExportError(PpsoloError):
    """A model cannot be exported, or an exported one cannot be loaded or trusted."""
