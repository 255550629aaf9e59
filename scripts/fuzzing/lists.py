"""Lists of pictures, and the manifests and parts of bulk runs."""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

from fuzzing.target import Target, picture

ENTRY = {"image_id": 0, "category_id": 1, "segmentation": {"size": [12, 16], "counts": "=3`5"}, "score": 0.5}
PART = "part-1of1-000000.jsonl"


def _list(data: bytes, folder: Path) -> None:
    from ppsolo.cli.infer import listed_images
    from ppsolo.data.images import read_image
    from ppsolo.data.sources import Pictures, find_source
    from ppsolo.errors import PpsoloError

    (folder / "a.png").write_bytes(picture())
    (folder / "x.txt").write_bytes(data)
    for found in (lambda: find_source(str(folder / "x.txt")), lambda: listed_images(folder, folder / "x.txt")):
        try:
            source = found()
        except PpsoloError:
            continue
        paths = [one.path for one in source.items] if isinstance(source, Pictures) else source
        for path in paths[:3] if isinstance(paths, list) else []:
            try:
                read_image(path)
            except PpsoloError:
                continue


def _manifest(data: bytes, folder: Path) -> None:
    """The first byte says whether the input is the manifest or a part of the run."""
    from ppsolo.bulk.manifest import Manifest, Shard, open_manifest
    from ppsolo.bulk.merge import merge
    from ppsolo.errors import PpsoloError

    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        is_part = bool(data[:1]) and data[0] % 2 == 1
        (place / "manifest-1of1.json").write_bytes(_manifest_seed() if is_part else data[1:])
        (place / PART).write_bytes(data[1:] if is_part else _part_seed())
        with contextlib.suppress(PpsoloError):
            open_manifest(place, Manifest("m; w", "jsonl", Shard()), resume=True)
        for suffix in ("json", "jsonl", "parquet"):
            merge([place], place / f"x.{suffix}", partial=True)
    finally:
        shutil.rmtree(place)


def _manifest_seed() -> bytes:
    part = {"file": PART, "pictures": 1, "instances": 2, "failures": 0, "paths": "0" * 64}
    shard = {"index": 0, "count": 1}
    run = {"layout": 1, "model": "m; w", "format": "jsonl", "shard": shard, "parts": [part], "whole": True}
    return json.dumps(run).encode()


def _part_seed() -> bytes:
    entries = [{**ENTRY, "bbox": [1.0, 1.0, 2.0, 2.0], "file_name": "a.png"}] * 2
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


TARGETS = {
    "list": Target(
        _list, lambda: [b"a.png\n", b"# a comment\n\na.png\r\n./a.png\n", b"\xef\xbb\xbfa.png\nmissing.png\n"]
    ),
    "manifest": Target(_manifest, lambda: [b"\0" + _manifest_seed(), b"\1" + _part_seed()]),
}
