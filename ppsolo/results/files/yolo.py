"""YOLO's segmentation labels: one line of text per instance."""

from ppsolo.results.files.image_results import ImageResults
from ppsolo.results.polygons import single_ring


def yolo_text(found: ImageResults) -> str:
    """Return a line "class x y x y ..." per instance; x and y are divided by the image's width and height.

    The class is the label, from 0. Cuts without width join the parts and holes of an instance to one ring, as in
    Ultralytics' tools. Instances with an empty mask have no line. Scores are not written, because training labels have
    none.
    """
    height, width = found.size
    lines = []
    for label, rle in zip(found.labels, found.rles, strict=True):
        ring = single_ring(rle)
        if ring:
            places = (f"{v / (height if i % 2 else width):.6f}" for i, v in enumerate(ring))
            lines.append(f"{label} {' '.join(places)}\n")
    return "".join(lines)


def yolo_bytes(found: ImageResults) -> bytes:
    """Return `yolo_text` as UTF-8."""
    return yolo_text(found).encode()
