"""The errors of ppsolo for wrong input; each has a message of one line."""

from ppsolo.text import one_line, without_users

LONGEST_MESSAGE = 1000


class PpsoloError(Exception):
    """Base of every error that a user can correct; `str(error)` is one line with the problem and the remedy.

    Messages quote names from files and servers. They are cleaned: no line breaks, no terminal escapes, no endless
    words, no passwords of addresses.
    """

    def __init__(self, message: str):
        message = without_users(message)
        if len(message) > LONGEST_MESSAGE:
            message = f"{message[: LONGEST_MESSAGE // 2]} ... {message[-LONGEST_MESSAGE // 2 :]}"
        super().__init__(one_line(message))


class ConfigError(PpsoloError):
    """A configuration file, key, value or override is not valid."""


class CheckpointError(PpsoloError):
    """A weights file cannot be read, is damaged or wrong, or does not fit the model."""


class ImageError(PpsoloError):
    """An image or video cannot be read."""


class PredictionError(PpsoloError):
    """A network's output cannot be used."""


class DatasetError(PpsoloError):
    """An annotation file or data set is not valid."""


class TrainingError(PpsoloError):
    """A training run cannot start or continue."""


class DownloadError(PpsoloError):
    """A published file could not be fetched, or the fetched file is wrong."""


class UnavailableError(DownloadError):
    """A published file is missing and cannot be fetched now; a wrong file is a plain DownloadError."""


class ExportError(PpsoloError):
    """A model cannot be exported, or an export cannot be loaded or failed its verification."""
