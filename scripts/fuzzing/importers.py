"""What `ppsolo import-data` reads: one target per format, from the folder to the data set that is written."""

import base64
import functools
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.annotations import coco_seeds
from fuzzing.target import Target, mask, picture

# Where the input lies, by format. A byte before the input chooses among them; all other places hold good files.
PLACES: Mapping[str, tuple[str, ...]] = {
    "coco": ("a.json",),
    "labelme": ("a.json",),
    "cvat": ("a.xml",),
    "label_studio": ("a.json",),
    "yolo": ("a.txt", "data.yaml", "classes.txt"),
    "voc": ("SegmentationObject/a.png", "SegmentationClass/a.png", "labelmap.txt", "ImageSets/Segmentation/val.txt"),
    "label_maps": ("masks/a.png",),
    "instance_masks": ("a/masks/1.png", "a/masks/2_dog.png"),
}
# Label Studio's bytes of a mask of 12 x 16 pixels: 768 values of 8 bits, repeated in one run.
BRUSH = np.packbits(
    [int(bit) for bit in f"{768:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}1{3:02b}{767:016b}{255:08b}"]
).tolist()


def _run(data: bytes, folder: Path, *, format: str) -> None:
    from ppsolo.formats.dataset import check_classes, training_config, write_dataset
    from ppsolo.formats.recognition import read_folder
    from ppsolo.formats.split import divide

    places = PLACES[format]
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        source = place / "source"
        which = places[data[0] % len(places)] if data else places[0]
        for name, content in {**_good_files(format), which: data[1:]}.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(content)
        dataset = read_folder(source, format)
        check_classes(dataset)
        parts = divide(dataset.images, val_share=0.0)
        written = write_dataset(parts, dataset.class_names, place / "written")
        training_config(written, ["solov2_r50_fpn_3x"], None).encode()
    finally:
        shutil.rmtree(place)


def _groups(data: bytes, folder: Path) -> None:
    from ppsolo.formats.split import read_groups

    (folder / "x.csv").write_bytes(data)
    read_groups(folder / "x.csv", "group")


@functools.cache
def _good_files(format: str) -> dict[str, bytes]:
    files = {"1.png" if format == "coco" else "a.png": picture()}
    if format == "yolo":
        files |= {"a.txt": b"0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.5 0.5 0.9 0.5 0.9 0.9\n"}
    if format == "voc":
        files = {"JPEGImages/a.png": picture(), "SegmentationObject/a.png": mask(), "SegmentationClass/a.png": mask()}
    if format == "instance_masks":
        files = {"a/images/a.png": picture(), "a/masks/1.png": mask()}
    return files


def _seeds(*, format: str) -> list[bytes]:
    bodies: Mapping[str, list[bytes]] = {
        "coco": coco_seeds(),
        "labelme": _labelme(),
        "cvat": [_CVAT],
        "label_studio": _label_studio(),
        "yolo": [b"0 0.1 0.1 0.5 0.1 0.5 0.5\n", b"names: {0: a, 1: b}\ntrain: .\n", b"a\nb\n", b"0 0.5 0.5 0.2 0.2"],
        "voc": [mask(), picture(), b"a:128,0,0::\nb:0,128,0::\n", b"a\n"],
        "label_maps": [mask(), picture(), picture(".tif"), picture(".bmp")],
        "instance_masks": [mask(), picture()],
    }
    return [bytes([which]) + body for which in range(len(PLACES[format])) for body in bodies[format]]


def _labelme() -> list[bytes]:
    points = [[1, 1], [6, 1], [6, 6]]
    encoded = base64.b64encode(mask()).decode()
    shapes: list[dict[str, Any]] = [
        {"label": "a", "points": points, "shape_type": "polygon", "group_id": None},
        {"label": "a", "points": points, "shape_type": "polygon", "group_id": 1},
        {"label": "a", "points": [[2, 2], [5, 5]], "shape_type": "mask", "mask": encoded, "group_id": 1},
        {"label": "b", "points": [[2, 2], [5, 5]], "shape_type": "rectangle", "group_id": 2},
        {"label": "b", "points": [[4, 4], [6, 4]], "shape_type": "circle", "group_id": 2},
    ]
    content = {"version": "5", "imagePath": "a.png", "imageHeight": 12, "imageWidth": 16, "imageData": None}
    several = [shapes, shapes[:1], shapes[1:3]]
    return [json.dumps({**content, "shapes": some}).encode() for some in several]


def _label_studio() -> list[bytes]:
    size = {"original_width": 16, "original_height": 12}
    box = {"x": 10, "y": 10, "width": 30, "height": 40, "rotation": 10, "rectanglelabels": ["a"]}
    ellipse = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "rotation": 0, "ellipselabels": ["b"]}
    polygon = {"points": [[10, 10], [50, 10], [50, 60]], "polygonlabels": ["a"]}
    brush = {"format": "rle", "rle": BRUSH, "brushlabels": ["b"]}
    results = [
        {"type": kind, "value": value, **size}
        for kind, value in (
            ("rectanglelabels", box),
            ("ellipselabels", ellipse),
            ("polygonlabels", polygon),
            ("brushlabels", brush),
        )
    ]
    task = {"id": 1, "data": {"image": "/data/upload/1/1a2b-a.png"}}
    annotation = {"result": results, "was_cancelled": False, "updated_at": "2024-01-01"}
    tasks = [{**task, "annotations": [annotation]}], [{**task, "completions": [annotation, {"result": []}]}]
    return [json.dumps(one).encode() for one in tasks]


_CVAT = b"""<annotations><version>1.1</version><meta><job><labels><label><name>a</name></label></labels></job></meta>
<image id="0" name="a.png" width="16" height="12" subset="train">
<polygon label="a" points="1,1;6,1;6,6" group_id="3"/><polygon label="a" points="8,1;9,1;9,6" group_id="3"/>
<mask label="a" left="1" top="1" width="3" height="2" rle="1,2,3" group_id="4"/>
<box label="b" xtl="5" ytl="1" xbr="9" ybr="3" group_id="4"/>
<ellipse label="b" cx="7" cy="7" rx="2" ry="1" rotation="90"/></image></annotations>"""

TARGETS = {
    f"import-{name}": Target(functools.partial(_run, format=name), functools.partial(_seeds, format=name))
    for name in PLACES
}
TARGETS["import-groups"] = Target(
    _groups, lambda: [b"file_name,group\na.png,1\nb.png,2\n", b"file_name;group\na;1\n", b'"x, y",group\n"a\nb",2\n']
)
