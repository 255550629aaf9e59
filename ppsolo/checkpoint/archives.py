"""The ImageNet archives of PaddlePaddle 1.x: one raw variable per file, in a tar or in a folder.

Own code reads the tar: after the first file, `tarfile` takes a damaged header for the end of the archive.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ppsolo.checkpoint.checked_file import BFLOAT16, Source, open_source, problem, quoted

TAR_BLOCK = 512

_MAX_DESCRIPTION = 1024
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ([^=\n]{1,100})=")
_MAX_EXTENSION = 1 << 16
_MAX_ENTRIES = 10_000  # published archives have a few hundred

# Paddle's numbers of data types in a variable's description
_DTYPES = {
    0: "|b1",
    1: "<i2",
    2: "<i4",
    3: "<i8",
    4: "<f2",
    5: "<f4",
    6: "<f8",
    20: "|u1",
    21: "|i1",
    22: BFLOAT16,
}


@dataclass(frozen=True, slots=True)
class _Member:
    """One entry of a tar; the source is positioned at its content. `kind`: the type letter of the tar header."""

    name: str
    kind: bytes
    size: int

    @property
    def padding(self) -> int:
        return -self.size % TAR_BLOCK


def is_tar_block(block: bytes) -> bool:
    """Whether 512 bytes are a tar header, by their checksum."""
    if len(block) != TAR_BLOCK:
        return False
    stored = re.fullmatch(rb" *([0-7]{1,7})[ \0]*", block[148:156])
    return stored is not None and int(stored[1], 8) == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def read_tar(source: Source) -> dict[str, np.ndarray]:
    """Return all variables of a tar in its order; hidden files are skipped, nothing is written to disk.

    Files must be at the top or in one folder. Raises CheckpointError for links, devices, sparse files, paths that leave
    the archive, duplicate names, and files that are not raw variables.
    """
    weights: dict[str, np.ndarray] = {}
    folders: set[str] = set()
    for member in _members(source):
        parts = _parts(source, member.name)
        if not parts:
            raise source.fail(
                f"holds a file under {quoted(member.name)}, which names none; get it from a source you trust"
            )
        *folder, name = parts
        if name.startswith("."):
            source.skip(member.size + member.padding)
            continue
        if name in weights:
            raise source.fail(f"holds {quoted(name)} twice; give an archive with every variable once")
        folders.add("/".join(folder))
        if len(folder) > 1 or len(folders) > 1:
            raise source.fail("holds several folders; give an archive of one folder with a file per variable")
        weights[name] = read_variable(source, name, member.size)
        source.skip(member.padding)
    return weights


def read_folder(path: str) -> dict[str, np.ndarray]:
    """Return all variables of an unpacked archive by name; hidden files are skipped.

    Raises CheckpointError for links, folders, devices, and files that are not raw variables.
    """
    try:
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    except OSError as error:
        raise problem(path, f"the folder cannot be read ({error.strerror}); check its permissions") from None
    weights = {}
    for name in names:
        inner = os.path.join(path, name)
        if os.path.isdir(inner) or os.path.splitext(name)[1] in (".pdparams", ".safetensors", ".tar"):
            raise problem(path, f"is a folder; give the weights themselves, perhaps {quoted(name)} in it")
        with open_source(inner, follow_link=False) as source:
            weights[name] = read_variable(source, name, source.size)
    return weights


def read_variable(source: Source, name: str, size: int) -> np.ndarray:
    """Read the raw variable in the next `size` bytes.

    Format: u32 version 0, u64 number of sequence levels 0, u32 version 0, i32 n, n bytes of protobuf TensorDesc, then
    the values.
    """
    source.require(size)
    start = source.take(20) if size >= 20 else b""
    length = int.from_bytes(start[16:], "little")
    if start[:16] != bytes(16) or not 0 < length <= min(_MAX_DESCRIPTION, size - 20):
        raise source.fail(
            f"{quoted(name)} is not a raw paddle variable; give a folder or .tar with one variable per file, "
            "or the weights file itself"
        )
    dtype, shape = _description(source, name, source.take(length))
    return source.array(name, dtype, shape, size - 20 - length)


def _description(source: Source, name: str, description: bytes) -> tuple[str, tuple[int, ...]]:
    """Read type and shape of a TensorDesc: field 1 is the type, each field 2 is one side, or all sides packed."""
    dtype, shape, rest = -1, [], description
    try:
        while rest:
            tag, value, rest = rest[0], *_varint(rest[1:])
            if tag == 0x08:
                dtype = value
            elif tag == 0x10:
                shape.append(value)
            elif tag == 0x12:
                packed, rest = rest[:value], rest[value:]
                while packed:
                    side, packed = _varint(packed)
                    shape.append(side)
            else:
                raise ValueError(f"field {tag}")
    except ValueError as error:
        raise source.damaged(f"the description of {quoted(name)} is not understood ({error})") from None
    if dtype not in _DTYPES:
        raise source.fail(f"holds {quoted(name)} as type {dtype}, not as plain numbers; give float32 weights")
    return _DTYPES[dtype], tuple(shape)


def _varint(data: bytes) -> tuple[int, bytes]:
    """Split off the protobuf number at the start of `data`; return it and the rest. ValueError if it does not end."""
    value = 0
    for index, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, data[index + 1 :]
    raise ValueError("a number does not end")


def _members(source: Source) -> Iterator[_Member]:
    """Yield the files of a tar; the caller must read content and padding of each before the next."""
    longer_name, entries = "", 0
    while any(block := source.take(TAR_BLOCK)):
        entries += 1
        if entries > _MAX_ENTRIES:
            raise source.fail(
                f"has more than {_MAX_ENTRIES} entries, more than weights need; unpack it, give the folder"
            )
        member = _header(source, block)
        if member.kind in b"xgL":
            extension = _extension(source, member)
            longer_name = extension or longer_name
            continue
        member = _Member(name=longer_name or member.name, kind=member.kind, size=member.size)
        longer_name = ""
        if member.kind == b"5" or member.name.endswith("/"):
            _parts(source, member.name)
            source.skip(member.size + member.padding)
        elif member.kind in b"0\0":
            yield member
        else:
            raise source.fail(
                f"holds {quoted(member.name)}, a link, device or other special entry; "
                "give an archive of plain files from a source that you trust"
            )


def _header(source: Source, block: bytes) -> _Member:
    if not is_tar_block(block):
        raise source.damaged("a tar header has the wrong checksum")
    size = re.fullmatch(rb" *([0-7]{1,12})[ \0]*", block[124:136])
    if size is None:
        raise source.damaged("a tar header has no usable size")
    name = _until_nul(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = _until_nul(block[345:500]) + b"/" + name
    return _Member(name=_decoded(source, name), kind=block[156:157], size=int(size[1], 8))


def _extension(source: Source, member: _Member) -> str:
    """Return the name that an extension header (pax 'x' and 'g', GNU 'L') gives to the next file, or ''."""
    if member.size > _MAX_EXTENSION:
        raise source.damaged("a tar extension header is too long")
    content = source.take(member.size)
    source.skip(member.padding)
    if member.kind == b"L":
        return _decoded(source, _until_nul(content))
    name, at = "", 0
    while at < len(content):
        record = _PAX_RECORD.match(content, at)
        end = at + int(record[1]) if record else 0
        if record is None or not record.end() < end <= len(content):
            raise source.damaged("a tar extension header is not understood")
        key, value = record[2], content[record.end() : end - 1]
        if key == b"size" or key.startswith(b"GNU.sparse"):
            raise source.fail("is a tar of sparse or huge files; unpack it and give the folder")
        if key == b"path" and member.kind == b"x":
            name = _decoded(source, value)
        at = end
    return name


def _parts(source: Source, name: str) -> list[str]:
    """Split a member's path, which must stay inside the archive, into its parts."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise source.fail(f"holds the path {quoted(name)}, which leaves the archive; get it from a source you trust")
    return parts


def _until_nul(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _decoded(source: Source, name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise source.damaged("a file name of the tar is not UTF-8") from None
