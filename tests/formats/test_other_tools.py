"""Files as CVAT, Label Studio, Pascal VOC, COCO tools, labelme and YOLO tools write them, made here by hand."""

import base64
import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import pytest
from truth import Pictured, compare, made_truth

from ppsolo.data.images import write_image
from ppsolo.errors import DatasetError
from ppsolo.formats.label_studio import decode_brush
from ppsolo.formats.pascal_voc import VOC_CLASSES, voc_color
from ppsolo.formats.recognition import read_folder
from ppsolo.results.rle import decode_mask, encode_mask, read_segmentation


@pytest.fixture
def truth(tmp_path) -> list[Pictured]:
    """Four pictures of blobs, in the folder `set/images`."""
    folder = tmp_path / "set" / "images"
    folder.mkdir(parents=True)
    return made_truth(folder)


@pytest.fixture
def folder(truth, tmp_path) -> Path:
    return tmp_path / "set"


def everything_is_there(truth, read, least: float = 1.0) -> None:
    found = compare(truth, read)
    assert found.counts[0] == found.counts[1] > 0 and found.holes > 0 and found.classes_kept
    assert found.worst >= least


def row_runs(mask: np.ndarray) -> list[int]:
    """Run lengths along the rows, starting outside, as CVAT counts them."""
    flat = np.concatenate([[False], mask.ravel(), [not mask.ravel()[-1]]])
    return np.diff(np.flatnonzero(np.diff(flat.astype(int))), prepend=0).tolist()


def cvat_xml(truth: list[Pictured]) -> ElementTree.Element:
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for number, (path, instances) in enumerate(truth):
        height, width = (str(side) for side in instances.size)
        image = ElementTree.SubElement(root, "image", id=str(number), name=path.name, width=width, height=height)
        for name, mask, box in zip(instances.names, instances.masks, instances.boxes.astype(int), strict=True):
            x1, y1, x2, y2 = box.tolist()
            runs = ", ".join(map(str, row_runs(mask[y1:y2, x1:x2])))
            place = {"left": str(x1), "top": str(y1), "width": str(x2 - x1), "height": str(y2 - y1)}
            ElementTree.SubElement(image, "mask", label=name, rle=runs, **place)
    return root


def test_cvat_masks(truth, folder):
    ElementTree.ElementTree(cvat_xml(truth)).write(folder / "annotations.xml", encoding="utf-8")
    everything_is_there(truth, read_folder(folder))


def test_cvat_shapes_and_groups(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((100, 100, 3), np.uint8))
    (tmp_path / "annotations.xml").write_text(
        """<annotations><version>1.1</version><image id="0" name="a.png" width="100" height="100">
        <polygon label="cell" points="10,10;20,10;20,20;10,20" group_id="3"/>
        <polygon label="cell" points="30,10;40,10;40,20;30,20" group_id="3"/>
        <box label="cell" xtl="50" ytl="10" xbr="60" ybr="30"/>
        <ellipse label="dog" cx="70" cy="70" rx="20" ry="10" rotation="90"/>
        <polyline label="dog" points="1,1;2,2"/>
        </image></annotations>"""
    )
    read = read_folder(tmp_path)
    two, box, ellipse = read.images[0].objects
    masks = [decode_mask(read_segmentation(one.segmentation, (100, 100))) for one in (two, box, ellipse)]
    assert [mask.sum() for mask in masks[:2]] == [200, 200]
    assert masks[2].sum() == pytest.approx(np.pi * 200, rel=0.02) and masks[2][50:90, 65:75].mean() > 0.9
    assert read.class_names == ("cell", "dog") and "polyline left out" in read.notes[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('<mask label="a" left="0" top="0" width="3" height="2" rle="1,2"/>', "do not fill"),
        ('<polygon label="a" points="1,2;x"/>', "polygon cannot be read"),
        ('<box label="a" xtl="1"/>', "box cannot be read"),
    ],
)
def test_broken_cvat_shapes_are_named(tmp_path, content, words):
    write_image(tmp_path / "a.png", np.zeros((10, 10, 3), np.uint8))
    (tmp_path / "a.xml").write_text(
        f'<annotations><version>1.1</version><image name="a.png" width="10" height="10">{content}</image></annotations>'
    )
    with pytest.raises(DatasetError, match=rf"a\.png: .*{words}"):
        read_folder(tmp_path)


def brush(mask: np.ndarray) -> list[int]:
    """Encode a mask as Label Studio does: long runs as a repeated value, the rest value by value."""
    values = np.repeat(np.where(mask, 255, 0).ravel(), 4)
    bits: list[str] = [f"{len(values):032b}", f"{7:05b}", *(f"{width - 1:04b}" for width in (3, 4, 8, 16))]
    at = 0
    while at < len(values):
        same = 1
        while at + same < len(values) and values[at + same] == values[at] and same < 2**16:
            same += 1
        if same > 8:
            bits.append(f"1{3:02b}{same - 1:016b}{values[at]:08b}")
            at += same
        else:
            chunk = values[at : at + 6]
            bits.append(f"0{0:02b}{len(chunk) - 1:03b}" + "".join(f"{value:08b}" for value in chunk))
            at += len(chunk)
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def test_label_studio_brushes(truth, folder):
    tasks = []
    for number, (path, instances) in enumerate(truth):
        height, width = instances.size
        results = [
            {
                "type": "brushlabels",
                "original_width": width,
                "original_height": height,
                "value": {"format": "rle", "rle": brush(mask), "brushlabels": [name]},
            }
            for name, mask in zip(instances.names, instances.masks, strict=True)
        ]
        data = {"image": f"/data/upload/1/1a2b3c4d-{path.name.replace(' ', '%20')}"}
        tasks.append({"id": number, "data": data, "annotations": [{"result": results}]})
    (folder / "export.json").write_text(json.dumps(tasks))
    everything_is_there(truth, read_folder(folder))


def test_label_studio_shapes_and_choices(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((50, 100, 3), np.uint8))
    size = {"original_width": 100, "original_height": 50}
    rectangle = {"x": 50, "y": 20, "width": 20, "height": 40, "rotation": 0, "rectanglelabels": ["cell"]}
    ellipse = {"x": 20, "y": 50, "radiusX": 10, "radiusY": 40, "rotation": 0, "ellipselabels": ["cell"]}
    polygon = {"points": [[0, 0], [10, 0], [10, 20], [0, 20]], "polygonlabels": ["dog"]}
    results = [
        {"type": "rectanglelabels", "value": rectangle, **size},
        {"type": "ellipselabels", "value": ellipse, **size},
        {"type": "polygonlabels", "value": polygon, **size},
        {"type": "choices", "value": {"choices": ["good"]}},
    ]
    task = {"id": 5, "data": {"image": "/data/local-files/?d=somewhere/a.png"}, "annotations": [{"result": results}]}
    (tmp_path / "tasks.json").write_text(json.dumps([task]), encoding="utf-16")
    read = read_folder(tmp_path)
    areas = [decode_mask(read_segmentation(o.segmentation, (50, 100))).sum() for o in read.images[0].objects]
    assert areas[0] == 400 and areas[1] == pytest.approx(np.pi * 200, rel=0.05) and areas[2] == 100
    assert "choices" in read.notes[0]


def test_broken_brushes_are_refused():
    whole = brush(np.eye(6, 8, dtype=bool))
    assert np.array_equal(decode_brush(whole, (6, 8)) >= 128, np.eye(6, 8, dtype=bool))
    for data, size in ((whole, (8, 8)), (whole[:-3], (6, 8)), ([], (6, 8))):
        with pytest.raises(ValueError, match="brush mask"):
            decode_brush(data, size)


@pytest.mark.parametrize("with_names", [False, True])
def test_pascal_voc(truth, folder, with_names):
    (folder / "images").rename(folder / "JPEGImages")
    for name in ("SegmentationObject", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    names = ("cell", "Würstchen") if with_names else ("cat", "dog")
    for path, instances in truth:
        colors = np.zeros((2, *instances.size, 3), np.uint8)
        for i, (label, mask) in enumerate(zip(instances.labels, instances.masks, strict=True), start=1):
            kind = label + 1 if with_names else VOC_CLASSES.index(names[label]) + 1
            colors[:, mask] = [rgb(i)[::-1]], [rgb(kind)[::-1]]
        for name, picture in zip(("SegmentationObject", "SegmentationClass"), colors, strict=True):
            cv2.imwrite(str(folder / name / f"{path.stem}.png"), picture)
    if with_names:
        lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
        lines += [f"{name}:{','.join(map(str, rgb(i)))}::" for i, name in enumerate(names, start=1)]
        (folder / "labelmap.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text(f"{truth[0].path.stem}\n")
    read = read_folder(folder)
    found = compare(truth, read)
    assert found.counts[0] == found.counts[1] and found.worst == 1.0 and found.holes > 0
    assert set(read.class_names) == set(names) and (found.classes_kept or not with_names)


def rgb(index: int) -> tuple[int, int, int]:
    color = voc_color(index)
    return color >> 16, color >> 8 & 255, color & 255


def coco_file(truth: list[Pictured]) -> dict:
    images, annotations = [], []
    for number, (path, instances) in enumerate(truth):
        height, width = instances.size
        images.append({"id": number, "file_name": path.name, "height": height, "width": width})
        for entry in instances.to_coco(number):
            del entry["score"]
            annotations.append({**entry, "id": len(annotations), "iscrowd": 0})
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "Würstchen"}, {"id": 3, "name": "unused"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def test_coco_with_texts_for_ids_and_masks_that_cvat_marks(truth, folder):
    content = coco_file(truth)
    for entry in content["annotations"]:
        entry |= {"image_id": str(entry["image_id"]), "iscrowd": 1, "attributes": {"occluded": False}}
    for entry in content["images"]:
        entry["file_name"] = f"somewhere\\else\\{entry['file_name']}"
    (folder / "instances_default.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    read = read_folder(folder)
    everything_is_there(truth, read)
    assert read.class_names == ("cell", "Würstchen") and any("iscrowd" in note for note in read.notes)


def test_coco_crowds_stay_crowds(truth, folder):
    content = coco_file(truth)
    content["annotations"][0]["iscrowd"] = 1
    (folder / "instances.json").write_text(json.dumps(content))
    assert [one.crowd for one in read_folder(folder).images[0].objects] == [True, False, False]


def test_coco_files_of_several_parts(truth, folder):
    for split, some in (("train", truth[:3]), ("valid", truth[3:])):
        (folder / split).mkdir()
        for path, _ in some:
            path.rename(folder / split / path.name)
        (folder / split / "_annotations.coco.json").write_text(json.dumps(coco_file(some)))
    (folder / "images").rmdir()
    read = read_folder(folder)
    assert [image.split for image in read.images] == ["train"] * 3 + ["val"]
    everything_is_there(truth, read)


def test_coco_rings_flat_short_and_missing(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((10, 10, 3), np.uint8))
    square = [1, 1, 5, 1, 5, 5, 1, 5]
    segmentations = [square, [square, [1, 1, 2, 2]], [], None, [[1, 2]]]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": "10.0", "width": 10}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "segmentation": segmentation}
            for i, segmentation in enumerate(segmentations)
        ],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    read = read_folder(tmp_path)
    assert [one.segmentation for one in read.images[0].objects] == [[square], [square]]
    assert any("2 x annotation without an outline" in note for note in read.notes)
    assert any("2 x outline of fewer than three points" in note for note in read.notes)
    content["annotations"][0]["segmentation"] = {"size": [3, 3], "counts": "xx"}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="annotation 0: its outline cannot be read"):
        read_folder(tmp_path)


def test_labelme_masks_circles_and_what_has_no_area(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((60, 60, 3), np.uint8))
    mask = np.ones((4, 6), np.uint8)
    mask[0, 0] = 0
    png = base64.b64encode(cv2.imencode(".png", mask)[1].tobytes()).decode()
    shapes = [
        {"label": "a", "shape_type": "mask", "points": [[3, 5], [8, 8]], "mask": png, "group_id": None},
        {"label": "a", "shape_type": "circle", "points": [[30, 30], [40, 30]]},
        {"label": "b", "shape_type": "rectangle", "points": [[50, 20], [45, 10]]},
        {"label": "b", "shape_type": "point", "points": [[1, 1]]},
        {"label": "b", "shape_type": "polygon", "points": [[1, 1], [2, 2]]},
    ]
    (tmp_path / "a.json").write_text(
        json.dumps({"imagePath": "C:\\photos\\a.png", "imageData": None, "shapes": shapes})
    )
    read = read_folder(tmp_path)
    masks = [decode_mask(read_segmentation(one.segmentation, (60, 60))) for one in read.images[0].objects]
    assert masks[0][5:9, 3:9].astype(int).tolist() == mask.tolist() and masks[0].sum() == 23
    assert masks[1].sum() == pytest.approx(np.pi * 100, rel=0.02)
    assert masks[2].sum() == 50 and len(masks) == 3
    assert any("'point'" in note for note in read.notes) and any("fewer than three" in note for note in read.notes)
    shapes[0]["points"] = "x"
    (tmp_path / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": shapes}))
    with pytest.raises(DatasetError, match=r"a\.json: a shape 'mask' cannot be read"):
        read_folder(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"no picture is found for its 1 labelme file \(first: a\.json\)"):
        read_folder(tmp_path)


def test_yolo_scores_boxes_and_pictures_without_labels(tmp_path):
    (tmp_path / "train" / "images").mkdir(parents=True)
    (tmp_path / "train" / "labels").mkdir()
    for name in "ab":
        write_image(tmp_path / "train" / "images" / f"{name}.png", np.zeros((50, 100, 3), np.uint8))
    label = tmp_path / "train" / "labels" / "a.txt"
    label.write_text("1 0.1 0.2 0.3 0.2 0.3 0.6 0.1 0.6 0.9\n0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("names: [cat, dog]\n")
    read = read_folder(tmp_path)
    assert read.class_names == ("cat", "dog") and [len(image.objects) for image in read.images] == [1, 0]
    assert read.images[0].objects[0].segmentation == [[10, 10, 30, 10, 30, 30, 10, 30]]
    assert read.images[0].split == "train"
    assert any("box" in note for note in read.notes) and any("without a label file" in note for note in read.notes)
    assert not any("named by its number" in note for note in read.notes)
    (tmp_path / "data.yaml").unlink()
    read = read_folder(tmp_path)
    assert read.class_names == ("class 0", "class 1")
    assert any("put the names into classes.txt" in note and "class 1" in note for note in read.notes)
    label.write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DatasetError, match="have boxes or nothing"):
        read_folder(tmp_path)


def test_dsb_folders_and_binary_masks(truth, folder, tmp_path):
    for path, instances in truth:
        place = tmp_path / "stage1" / path.stem
        (place / "images").mkdir(parents=True)
        (place / "masks").mkdir()
        shutil.copyfile(path, place / "images" / path.name)
        for i, mask in enumerate(instances.masks):
            cv2.imwrite(str(place / "masks" / f"{i:x}ab.png"), np.where(mask, 255, 0).astype(np.uint8))
    read = read_folder(tmp_path / "stage1", class_name="nucleus")
    found = compare(truth, read)
    assert found.counts[0] == found.counts[1] and found.worst == 1.0
    assert read.format == "instance_masks" and read.class_names == ("nucleus",)

    (folder / "masks").mkdir()
    for path, _ in truth:
        mask = np.zeros((60, 80), np.uint8)
        mask[5:20, 5:20] = mask[30:40, 30:60] = 255
        cv2.imwrite(str(folder / "masks" / f"{path.stem}_mask.png"), mask)
    read = read_folder(folder)
    assert [len(image.objects) for image in read.images] == [2] * 4
    assert any("each connected part" in note for note in read.notes)


@pytest.mark.parametrize("layout", ["label_maps", "instance_masks"])
def test_masks_fit_their_pictures_and_what_has_no_partner_is_noted(tmp_path, layout):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in "abc":
        write_image(tmp_path / "images" / f"{name}.png", np.zeros((20, 30, 3), np.uint8))
    mask = np.zeros((20, 30), np.uint8)
    mask[4:9, 5:10] = 1
    files = [tmp_path / "masks" / (f"{name}.png" if layout == "label_maps" else f"{name}/1.png") for name in "ab"]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file), mask)
    read = read_folder(tmp_path)
    assert (read.format, len(read.images)) == (layout, 2)
    assert any("without a mask" in note and "images/c.png" in note for note in read.notes)
    cv2.imwrite(str(files[0]), mask[:10])
    with pytest.raises(DatasetError, match=r"this mask is 10 x 30, its picture .*a\.png 20 x 30 \(height x width\)"):
        read_folder(tmp_path)


def test_yolo_names_a_wrong_line_and_takes_numbers_as_text(tmp_path):
    for name in "abc":
        write_image(tmp_path / f"{name}.png", np.zeros((50, 100, 3), np.uint8))
        (tmp_path / f"{name}.txt").write_text("0 0.1 0.2 0.3 0.2 0.3 0.6\n")
    (tmp_path / "data.yaml").write_text("names: {'0': cat}\n")
    assert read_folder(tmp_path).class_names == ("cat",)
    (tmp_path / "b.txt").write_text("0 10 20 30 20 30 60\n")
    with pytest.raises(DatasetError, match=r"b\.txt, line 1: not a YOLO label .*shares of width and height"):
        read_folder(tmp_path)


def test_masks_of_16_bits_and_photographs(tmp_path):
    write_image(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8))
    ids = np.zeros((40, 40), np.uint16)
    ids[:5, :5], ids[10:20, 10:20] = 300, 65535
    cv2.imwrite(str(tmp_path / "a_cp_masks.tif"), ids)
    (image,) = read_folder(tmp_path).images
    assert [one.segmentation for one in image.objects] == [
        {"size": [40, 40], "counts": encode_mask(ids == value)["counts"].decode()} for value in (300, 65535)
    ]
    (tmp_path / "a_cp_masks.tif").unlink()
    write_image(tmp_path / "a_mask.png", np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8))
    with pytest.raises(DatasetError, match="a photograph, not a mask"):
        read_folder(tmp_path)
