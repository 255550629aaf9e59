"""Finds a weights file by a path, a stem without suffix, or an https address."""

import os
import re
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

from ppsolo.checkpoint.zoo import zoo_entry
from ppsolo.errors import CheckpointError, ConfigError, DownloadError

if TYPE_CHECKING:
    from ppsolo.progress import Progress

SUFFIXES = (".pdparams", ".pdema", ".safetensors", ".tar")
_SCHEMES = ("https",)
_CHECKSUM = re.compile(r"sha256=([0-9a-fA-F]{64})")


def is_address(source: str) -> bool:
    """Whether `source` is a network address and not a path."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", source) is not None


def with_checksum(source: str, sha256: str) -> str:
    """Add the required checksum of the file to the https address `source`. Raises ConfigError."""
    if not is_address(source):
        raise ConfigError(f"--sha256 is for weights from an https address, not for {source}")
    if not _CHECKSUM.fullmatch(f"sha256={sha256}"):
        raise ConfigError(f"--sha256 {sha256}: give 64 hexadecimal digits, as sha256sum prints them")
    return f"{source.partition('#')[0]}#sha256={sha256.lower()}"


def find_weights(source: str | os.PathLike[str], *, progress: "Progress | None" = None) -> Path:
    """Return the weights file that `source` names; an address is fetched on first use.

    Args:
        source: a file or a folder of variables; a stem, such as `output/mine/best` for `output/mine/best.pdparams`; or
            an https address, which may end with `#sha256=...`. A fetched file lies in the folder of weights, under the
            name of its server; its checksum is recorded there.
        progress: called with (bytes so far, all bytes or None) while a file is fetched.

    Raises:
        CheckpointError: there is no such file.
        ConfigError: a single word that is not a published name; the message has the nearest name.
        DownloadError: the address cannot be fetched, or does not begin with https.
    """
    name = os.fspath(source)
    if is_address(name):
        return _fetched(name, progress)
    if os.path.lexists(name):
        return Path(name)
    for suffix in SUFFIXES:
        if os.path.isfile(name + suffix):
            return Path(name + suffix)
    if os.path.basename(name) == name and not Path(name).suffix:
        zoo_entry(name)  # raises ConfigError with the nearest published name
    tried = "" if Path(name).suffix in SUFFIXES else f" (nor {Path(name).name}.pdparams)"
    raise CheckpointError(
        f"{name}: no such file{tried}; give a checkpoint file, its stem, an https address or a published name"
    )


def _fetched(address: str, progress: "Progress | None") -> Path:
    from ppsolo.checkpoint.download import download, weights_directory

    url, _, fragment = address.partition("#")
    checksum = _CHECKSUM.fullmatch(fragment)
    if fragment and checksum is None:
        raise DownloadError(f"{address}: what follows '#' must be sha256= and 64 hexadecimal digits")
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        raise DownloadError(f"{url} is not a valid address; give one that begins with https://") from None
    if parts.scheme not in _SCHEMES:
        raise DownloadError(
            f"{url}: weights are fetched over https only; give an https address, or fetch them yourself"
        )
    if parts.query or parts.username:
        raise DownloadError(f"{parts.hostname}: an address with a query or a user is not kept; fetch the file yourself")
    # The path of the address becomes folders, so that files of the same name do not collide.
    folders = [re.sub(r"[^A-Za-z0-9._-]", "_", part) for part in (parts.netloc, *parts.path.split("/"))]
    folders = [part for part in folders if part.strip(".")]
    if len(folders) < 2:
        raise DownloadError(f"{url} names no file; give the whole address of the weights")
    sha256 = checksum[1] if checksum else None
    return download(url, weights_directory().joinpath(*folders), progress=progress, sha256=sha256)
